package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// reference is the decoder written down directly, one sequence at a time in
// float64, from the descriptions of the architectures and not from the graph.
type reference struct {
	c Config
	w map[string][]float32
}

func newReference(c Config, w Weights) reference {
	r := reference{c, map[string][]float32{}}
	for _, t := range w {
		r.w[t.Name] = t.Data
	}
	return r
}

func (r reference) linear(name string, x []float64) []float64 {
	w := r.w[name+".weight"]
	y := make([]float64, len(w)/len(x))
	for i := range y {
		for j, v := range x {
			y[i] += float64(w[i*len(x)+j]) * v
		}
		if b, ok := r.w[name+".bias"]; ok {
			y[i] += float64(b[i])
		}
	}
	return y
}

func (r reference) norm(name string, x []float64) []float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v / math.Sqrt(sum/float64(len(x))+r.c.RMSNormEps) * float64(r.w[name+".weight"][i])
	}
	return y
}

// stretched is a frequency as Llama 3.1 scales it.
func (r reference) stretched(f float64) float64 {
	s := r.c.RopeScaling
	wavelength := 2 * math.Pi / f
	switch old := s.OriginalMaxPositionEmbeddings; {
	case s.RopeType == "" || wavelength < old/s.HighFreqFactor:
		return f
	case wavelength > old/s.LowFreqFactor:
		return f / s.Factor
	default:
		smooth := (old/wavelength - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
		return (1-smooth)*f/s.Factor + smooth*f
	}
}

// heads is x, every head of it normalized where the architecture does so.
func (r reference) heads(name string, x []float64) []float64 {
	if r.c.ModelType != Qwen3 {
		return x
	}
	var y []float64
	for h := range len(x) / r.c.HeadDim() {
		y = append(y, r.norm(name, x[h*r.c.HeadDim():(h+1)*r.c.HeadDim()])...)
	}
	return y
}

// rotary is x·cos + rotate_half(x)·sin on every head.
func (r reference) rotary(x []float64, position int) []float64 {
	dh := r.c.HeadDim()
	y := make([]float64, len(x))
	cos, sin := make([]float64, dh), make([]float64, dh)
	for i := range dh {
		sin[i], cos[i] = math.Sincos(float64(position) * r.stretched(1/math.Pow(r.c.RopeTheta, float64(2*(i%(dh/2)))/float64(dh))))
	}
	for h := 0; h < len(x); h += dh {
		for i := range dh {
			turned := x[h+(i+dh/2)%dh]
			if i < dh/2 {
				turned = -turned
			}
			y[h+i] = x[h+i]*cos[i] + turned*sin[i]
		}
	}
	return y
}

// hidden is what the LM head reads at every position of a sequence.
func (r reference) hidden(ids []int32) [][]float64 {
	d, dh := r.c.HiddenSize, r.c.HeadDim()
	group := r.c.NumAttentionHeads / r.c.NumKeyValueHeads
	x := make([][]float64, len(ids))
	for t, id := range ids {
		for _, v := range r.w["model.embed_tokens.weight"][int(id)*d : (int(id)+1)*d] {
			x[t] = append(x[t], float64(v))
		}
	}
	for l := range r.c.NumHiddenLayers {
		block := fmt.Sprintf("model.layers.%d.", l)
		var q, k, v [][]float64
		for t := range x {
			h := r.norm(block+"input_layernorm", x[t])
			q = append(q, r.rotary(r.heads(block+"self_attn.q_norm", r.linear(block+"self_attn.q_proj", h)), t))
			k = append(k, r.rotary(r.heads(block+"self_attn.k_norm", r.linear(block+"self_attn.k_proj", h)), t))
			v = append(v, r.linear(block+"self_attn.v_proj", h))
		}
		for t := range x {
			mixed := make([]float64, r.c.NumAttentionHeads*dh)
			for head := range r.c.NumAttentionHeads {
				own, shared := head*dh, head/group*dh
				p, total := make([]float64, t+1), 0.0
				for u := range p {
					for i := range dh {
						p[u] += q[t][own+i] * k[u][shared+i]
					}
					p[u] = math.Exp(p[u] / math.Sqrt(float64(dh)))
					total += p[u]
				}
				for u := range p {
					for i := range dh {
						mixed[own+i] += p[u] / total * v[u][shared+i]
					}
				}
			}
			for i, y := range r.linear(block+"self_attn.o_proj", mixed) {
				x[t][i] += y
			}
			h := r.norm(block+"post_attention_layernorm", x[t])
			gate, up := r.linear(block+"mlp.gate_proj", h), r.linear(block+"mlp.up_proj", h)
			for i, g := range gate {
				up[i] *= g / (1 + math.Exp(-g))
			}
			for i, y := range r.linear(block+"mlp.down_proj", up) {
				x[t][i] += y
			}
		}
	}
	for t := range x {
		x[t] = r.norm("model.norm", x[t])
	}
	return x
}

// logits of every position of a sequence.
func (r reference) logits(ids []int32) [][]float64 {
	head := "lm_head"
	if r.c.TieWordEmbeddings {
		head = "model.embed_tokens"
	}
	x := r.hidden(ids)
	for t := range x {
		x[t] = r.linear(head, x[t])
	}
	return x
}

// score is what Engine.Score must return for a row.
func (r reference) score(prompt, completion []int32, temperature float64) (logprobs, entropies []float64) {
	logits := r.logits(append(append([]int32{}, prompt...), completion...))
	for t, id := range completion {
		z := logits[len(prompt)-1+t]
		sum, entropy := 0.0, 0.0
		for _, l := range z {
			sum += math.Exp(l / temperature)
		}
		for _, l := range z {
			lp := l/temperature - math.Log(sum)
			entropy -= math.Exp(lp) * lp
		}
		logprobs = append(logprobs, z[id]/temperature-math.Log(sum))
		entropies = append(entropies, entropy)
	}
	return logprobs, entropies
}

// tinyModels are small models, one per architecture that differs in the graph.
var tinyModels = map[string]Config{
	"untied":    {VocabSize: 11, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 4, MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, RopeTheta: 1000},
	"tied":      {VocabSize: 11, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 2, NumKeyValueHeads: 2, MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, RopeTheta: 1000, TieWordEmbeddings: true},
	"grouped":   {VocabSize: 13, HiddenSize: 24, IntermediateSize: 20, NumHiddenLayers: 3, NumAttentionHeads: 6, NumKeyValueHeads: 2, MaxPositionEmbeddings: 512, RMSNormEps: 1e-5, RopeTheta: 10000},
	"one layer": {VocabSize: 7, HiddenSize: 8, IntermediateSize: 12, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 1, MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, RopeTheta: 100},
	"qwen3":     {ModelType: Qwen3, VocabSize: 11, HiddenSize: 12, IntermediateSize: 20, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadWidth: 6, MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, RopeTheta: 1000},
	"llama": {ModelType: Llama, VocabSize: 11, HiddenSize: 16, IntermediateSize: 20, NumHiddenLayers: 2, NumAttentionHeads: 2, NumKeyValueHeads: 1, MaxPositionEmbeddings: 512, RMSNormEps: 1e-5, RopeTheta: 500,
		RopeScaling: RopeScaling{RopeType: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 64}},
}

// tinyWeights are random in every element, norms and biases included, so that
// no path is multiplied by 0 or 1.
func tinyWeights(c Config, seed uint64) Weights {
	w := NewWeights(c, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, t := range w {
		if len(t.Shape) == 1 {
			for i := range t.Data {
				t.Data[i] += float32(0.3 * rng.NormFloat64())
			}
		}
	}
	return w
}

// randomIDs draws n tokens.
func randomIDs(rng *rand.Rand, c Config, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(c.VocabSize))
	}
	return ids
}

// raggedRows has groups of several sizes and lengths, a prompt of one token, an
// empty completion, and repeated prompts far apart.
func raggedRows(c Config, seed uint64) []Row {
	rng := rand.New(rand.NewPCG(seed, 2))
	var prompts [][]int32
	for _, n := range []int{1, 2, 5, 9, 9, 23, 40} {
		prompts = append(prompts, randomIDs(rng, c, n))
	}
	var rows []Row
	for i, n := range []int{3, 0, 1, 7, 12, 2, 30, 5, 5, 5, 18, 9, 1} {
		rows = append(rows, Row{prompts[i*3%len(prompts)], randomIDs(rng, c, n)})
	}
	return rows
}

func newTestEngine(t testing.TB, c Config, w Weights) *Engine { return newEngineOn(t, "go", c, w) }

// newEngineOn is an engine of a backend with weights loaded.
func newEngineOn(t testing.TB, spec string, c Config, w Weights) *Engine {
	t.Helper()
	b, err := OpenBackend(spec)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(b, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if err := e.Load(w); err != nil {
		t.Fatal(err)
	}
	return e
}

// closeTo fails unless two columns agree.
func closeTo(t *testing.T, what string, got []float32, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !(math.Abs(float64(got[i])-want[i]) <= tolerance) {
			t.Errorf("%s: value %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}
