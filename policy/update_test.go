package policy

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newTestTrainer(t testing.TB, s *State) *Trainer {
	t.Helper()
	b, err := OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	trainer, err := NewTrainer(b, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trainer.Close)
	return trainer
}

// testSamples are ragged samples whose ratios lie on both sides of the clip
// range, clear of its bounds: columns of old log-probs exist for two in three.
func testSamples(t testing.TB, c Config, w Weights, temperature float64) []Sample {
	rng := rand.New(rand.NewPCG(5, 5))
	ref := newReference(c, w)
	var samples []Sample
	for i, r := range raggedRows(c, 3) {
		logprobs, _ := ref.score(r.Prompt, r.Completion, temperature)
		s := Sample{Prompt: r.Prompt, Completion: r.Completion}
		for j, lp := range logprobs {
			s.Advantages = append(s.Advantages, float32(rng.NormFloat64()))
			s.RefLogProbs = append(s.RefLogProbs, float32(lp+0.3*rng.NormFloat64()))
			s.OldLogProbs = append(s.OldLogProbs, float32(lp-[]float64{-0.5, -0.1, 0, 0.1, 0.6}[j%5]))
			s.Mask = append(s.Mask, float32([]float64{1, 0, 1, 0.5}[j%4]))
		}
		if i%3 == 0 {
			s.OldLogProbs = nil
		}
		if i%4 == 0 {
			s.Mask = nil
		}
		samples = append(samples, s)
	}
	return samples
}

// scaleKL gives scales from 0 to 2 to all samples but every third.
func scaleKL(samples []Sample) {
	for i := range samples {
		if i%3 == 2 {
			continue
		}
		samples[i].KLScales = make([]float32, len(samples[i].Completion))
		for t := range samples[i].KLScales {
			samples[i].KLScales[t] = []float32{0.5, 2, 0, 1}[(i+t)%4]
		}
	}
}

// referenceLoss is the loss of a mini-batch as Update documents it. frozen are
// the log-probs that take the place of missing old ones.
func referenceLoss(c Config, w Weights, samples []Sample, frozen [][]float64, l Learning) float64 {
	ref := newReference(c, w)
	low, high := l.ClipRange()
	perSequence := make([]float64, len(samples))
	masses := make([]float64, len(samples))
	for i, s := range samples {
		logprobs, _ := ref.score(s.Prompt, s.Completion, l.Temperature)
		for t, lp := range logprobs {
			old, a, m := frozen[i][t], float64(s.Advantages[t]), 1.0
			if s.OldLogProbs != nil {
				old = float64(s.OldLogProbs[t])
			}
			if s.Mask != nil {
				m = float64(s.Mask[t])
			}
			ratio := math.Exp(lp - old)
			token := -math.Min(ratio*a, math.Max(low, math.Min(high, ratio))*a)
			if l.Beta > 0 {
				d := float64(s.RefLogProbs[t]) - lp
				scale := 1.0
				if s.KLScales != nil {
					scale = float64(s.KLScales[t])
				}
				token += l.Beta * scale * (math.Exp(d) - d - 1)
			}
			perSequence[i] += m * token
			masses[i] += m
		}
	}
	sum, mass := 0.0, 0.0
	for i := range samples {
		switch {
		case l.LossType == LossGRPO && masses[i] > 0:
			sum += perSequence[i] / masses[i] / float64(len(samples))
		case l.LossType == LossGRPO:
		case l.LossType == LossDrGRPO:
			sum += perSequence[i] / float64(len(samples)*l.MaxCompletionLength)
		default:
			sum += perSequence[i]
			mass += masses[i]
		}
	}
	if mass > 0 {
		sum /= mass
	}
	return sum
}

// Every weight tensor's gradient, along random directions and along single
// elements, must be the slope of the loss of the independent forward pass.
func TestGradientIsSlopeOfReferenceLoss(t *testing.T) {
	for name, c := range tinyModels {
		for i, lossType := range losses {
			l := DefaultLearning()
			l.LossType, l.EpsilonHigh, l.Shards = lossType, 0.28, 1+i%3
			l.Beta = []float64{0, 0.2}[i%2]
			l.Temperature = []float64{1, 0.7}[i/2]
			t.Run(fmt.Sprintf("%s %s", name, lossType), func(t *testing.T) {
				w := tinyWeights(c, 7)
				samples := testSamples(t, c, w, l.Temperature)
				samples = slices.Concat(samples[1:2], samples[3:6], samples[7:9], samples[12:])
				if lossType == LossDrGRPO { // bnpo has a KL term without scales
					scaleKL(samples)
				}
				trainer := newTestTrainer(t, &State{Config: c, Weights: w})
				if err := trainer.open(l.Shards); err != nil {
					t.Fatal(err)
				}
				var m metrics
				gradient, err := trainer.gradient(context.Background(), &State{Config: c, Weights: w}, samples, l, &m)
				if err != nil {
					t.Fatal(err)
				}
				frozen := make([][]float64, len(samples))
				for i, s := range samples {
					frozen[i], _ = newReference(c, w).score(s.Prompt, s.Completion, l.Temperature)
				}
				if want := referenceLoss(c, w, samples, frozen, l); math.Abs(m.Loss-want) > 1e-5 {
					t.Errorf("loss %v, want %v", m.Loss, want)
				}
				rng := rand.New(rand.NewPCG(1, 1))
				for k, tensor := range w {
					original := slices.Clone(tensor.Data)
					for trial := range 2 {
						direction := make([]float64, len(original))
						if trial == 0 {
							for j := range direction {
								direction[j] = rng.NormFloat64() / math.Sqrt(float64(len(direction)))
							}
						} else {
							direction[rng.IntN(len(direction))] = 1
						}
						const h = 2e-3
						var side [2]float64
						moved := make([]float64, len(original)) // what float32 made of the step
						for n, sign := range []float64{1, -1} {
							for j := range original {
								tensor.Data[j] = original[j] + float32(sign*h*direction[j])
								moved[j] += sign * float64(tensor.Data[j])
							}
							side[n] = referenceLoss(c, w, samples, frozen, l)
						}
						copy(tensor.Data, original)
						slope, predicted := side[0]-side[1], 0.0
						for j, g := range gradient[k].Data {
							predicted += float64(g) * moved[j]
						}
						if math.Abs(slope-predicted) > 2*h*(1e-4+2e-3*math.Abs(slope/(2*h))) {
							t.Errorf("%s, trial %d: slope %v, gradient says %v", tensor.Name, trial, slope/(2*h), predicted/(2*h))
						}
					}
				}
			})
		}
	}
}

// The normaliser is the mini-batch's: shards change rounding only, and the
// same number of shards changes nothing at all.
func TestShardsChangeRoundingOnly(t *testing.T) {
	c := tinyModels["grouped"]
	w := tinyWeights(c, 7)
	l := DefaultLearning()
	samples := testSamples(t, c, w, 1)
	gradient := func(shards int) Weights {
		trainer := newTestTrainer(t, &State{Config: c, Weights: w})
		if err := trainer.open(shards); err != nil {
			t.Fatal(err)
		}
		l := l
		l.Shards = shards
		g, err := trainer.gradient(context.Background(), &State{Config: c, Weights: w}, samples, l, &metrics{})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	one := gradient(1)
	for _, shards := range []int{2, 3, 20} { // 20: more shards than rows
		g := gradient(shards)
		for i := range g {
			closeTo(t, fmt.Sprintf("%d shards, %s", shards, g[i].Name), g[i].Data, widen(one[i].Data), 1e-6)
		}
		if diff := cmp.Diff(g, gradient(shards)); diff != "" {
			t.Errorf("%d shards twice:\n%s", shards, diff)
		}
	}
}

// Hand-computed losses: a policy over 2 tokens with uniform predictions, so
// that every log-prob is −ln 2.
func TestLossByHand(t *testing.T) {
	c := Config{VocabSize: 2, HiddenSize: 4, IntermediateSize: 4, NumHiddenLayers: 1, NumAttentionHeads: 1, NumKeyValueHeads: 1, MaxPositionEmbeddings: 16, RMSNormEps: 1e-6, RopeTheta: 100}
	w := NewWeights(c, 1)
	clear(w[len(w)-1].Data) // lm_head
	half := float32(-math.Ln2)
	double := half - float32(math.Ln2) // old probability 1/4: ρ = 2
	samples := []Sample{
		{Prompt: []int32{1}, Completion: []int32{0, 1}, Advantages: []float32{1, 1}, OldLogProbs: []float32{half, double}},
		{Prompt: []int32{1}, Completion: []int32{0, 0, 1, 1}, Advantages: []float32{-1, -1, -1, -1}, OldLogProbs: []float32{double, half, half, half}, Mask: []float32{1, 1, 0, 0}},
	}
	// ℓ: row 0: −1, −1.2 (clipped at 1.2); row 1: +2 (not clipped: A < 0), +1, masked, masked.
	// k3 with reference probability 1/4 (ref − logp = −ln 2): ½ + ln 2 − 1.
	k3 := 0.5 + math.Ln2 - 1
	for _, test := range []struct {
		lossType string
		beta     float64
		scales   []float32 // of the first sample
		want     float64
	}{
		{LossGRPO, 0, nil, ((-1-1.2)/2 + (2.0+1)/2) / 2},
		{LossDAPO, 0, nil, (-1 - 1.2 + 2 + 1) / 4},
		{LossBNPO, 0, nil, (-1 - 1.2 + 2 + 1) / 4},
		{LossDrGRPO, 0, nil, (-1 - 1.2 + 2 + 1) / (2 * 5)},
		{LossDAPO, 0.5, nil, (-1-1.2+2+1)/4 + 0.5*k3},
		{LossDAPO, 0.5, []float32{3, 0.5}, (-1-1.2+2+1)/4 + 0.5*k3*(3+0.5+1+1)/4},
		{LossGRPO, 0.5, []float32{3, 0.5}, ((-1-1.2)/2+(2.0+1)/2)/2 + 0.5*k3*((3+0.5)/2+(1+1)/2)/2},
		{LossDAPO, 0, []float32{3, 0.5}, (-1 - 1.2 + 2 + 1) / 4},
	} {
		l := DefaultLearning()
		l.LossType, l.Beta, l.MaxCompletionLength, l.LearningRate = test.lossType, test.beta, 5, 0
		batch := slices.Clone(samples)
		batch[0].KLScales = test.scales
		if test.beta > 0 {
			batch[0].RefLogProbs = []float32{double, double}
			batch[1].RefLogProbs = []float32{double, double, half, half}
		}
		m, err := newTestTrainer(t, &State{Config: c, Weights: w}).Update(context.Background(), batch, l)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(m.Loss-test.want) > 1e-6 {
			t.Errorf("%s, beta %v: loss %v, want %v", test.lossType, test.beta, m.Loss, test.want)
		}
		want := UpdateMetrics{Loss: m.Loss, GradNorm: m.GradNorm, Entropy: math.Ln2, ClipRatioHigh: 0.25, ClipRatioRegion: 0.25,
			RatioMean: 1.5, RatioMax: 2, Tokens: 4, ComputedTokens: 8, Steps: 1,
			Padding: 0.4} // 2 and 4 completion tokens in two rows of 4, each with a prompt stream of 1
		if test.beta > 0 {
			want.KL = k3
		}
		round := cmp.Transformer("round", func(x float64) float64 { return math.Round(x*1e5) / 1e5 })
		if diff := cmp.Diff(want, m, round); diff != "" {
			t.Errorf("%s metrics (-want +got):\n%s", test.lossType, diff)
		}
	}
}

// Scales of 1 are no scales, bit by bit.
func TestKLScalesOfOneChangeNothing(t *testing.T) {
	c := tinyModels["tied"]
	w := tinyWeights(c, 7)
	l := DefaultLearning()
	l.Beta, l.LearningRate = 0.2, 1e-2
	update := func(scale float32) Weights {
		samples := testSamples(t, c, w, 1)[2:6]
		if scale > 0 {
			for _, i := range []int{0, 3} {
				samples[i].KLScales = slices.Repeat([]float32{scale}, len(samples[i].Completion))
			}
		}
		trainer := newTestTrainer(t, &State{Config: c, Weights: w})
		if _, err := trainer.Update(context.Background(), samples, l); err != nil {
			t.Fatal(err)
		}
		return must(trainer.State()).Weights
	}
	none := update(0)
	if diff := cmp.Diff(none, update(1)); diff != "" {
		t.Errorf("(-none +ones):\n%s", diff)
	}
	if cmp.Equal(none, update(2)) {
		t.Error("scales of 2 change nothing")
	}
}

// One AdamW step against the formula in float64.
func TestAdamW(t *testing.T) {
	l := DefaultLearning()
	l.WeightDecay = 0.1
	s := &State{
		Weights:  Weights{{"matrix", []int{1, 2}, []float32{1, -2}}, {"vector", []int{1}, []float32{3}}},
		Moments1: Weights{{"matrix", []int{1, 2}, []float32{0.1, 0}}, {"vector", []int{1}, []float32{0}}},
		Moments2: Weights{{"matrix", []int{1, 2}, []float32{0.2, 0}}, {"vector", []int{1}, []float32{0}}},
		Step:     3,
	}
	g := Weights{{"matrix", nil, []float32{1, -4}}, {"vector", nil, []float32{2}}}
	step := func(w, m, v, g, decay float64) float64 {
		m, v = 0.9*m+0.1*g, 0.999*v+0.001*g*g
		return w - 0.01*(m/(1-math.Pow(0.9, 3))/(math.Sqrt(v/(1-math.Pow(0.999, 3)))+1e-8)+decay*w)
	}
	want := []float64{step(1, 0.1, 0.2, 0.5, 0.1), step(-2, 0, 0, -2, 0.1), step(3, 0, 0, 1, 0)}
	if err := s.adamW(g, 0.5, 0.01, l); err != nil {
		t.Fatal(err)
	}
	closeTo(t, "matrix", s.Weights[0].Data, want[:2], 1e-6)
	closeTo(t, "vector", s.Weights[1].Data, want[2:], 1e-6)
}

// copyTask is a batch of supervised samples: the completion repeats the prompt.
func copyTask(c Config, n int, seed uint64) []Sample {
	rng := rand.New(rand.NewPCG(seed, 8))
	var samples []Sample
	for range n {
		ids := randomIDs(rng, c, 3)
		samples = append(samples, Sample{Prompt: append(ids, 0), Completion: ids, Advantages: []float32{1, 1, 1}})
	}
	return samples
}

func TestUpdateLearns(t *testing.T) {
	for _, name := range []string{"untied", "tied"} {
		c := tinyModels[name]
		trainer := newTestTrainer(t, &State{Config: c, Weights: NewWeights(c, 3)})
		l := DefaultLearning()
		l.LearningRate = 1e-2
		surprise := func() float64 {
			e := newTestEngine(t, c, must(trainer.State()).Weights)
			var rows []Row
			for _, s := range copyTask(c, 64, 99) {
				rows = append(rows, Row{s.Prompt, s.Completion})
			}
			scored, err := e.Score(context.Background(), rows, 1)
			if err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for _, s := range scored {
				for _, lp := range s.LogProbs {
					sum -= float64(lp) / float64(3*len(rows))
				}
			}
			return sum
		}
		before := surprise()
		for i := range uint64(150) {
			if _, err := trainer.Update(context.Background(), copyTask(c, 32, i), l); err != nil {
				t.Fatal(err)
			}
		}
		if after := surprise(); after > 0.6*before {
			t.Errorf("%s: nats per token %v before, %v after", name, before, after)
		}
	}
}

// Four updates straight are two updates, a save, a load, and two more, bit by
// bit, also with more than one shard, pass and mini-batch.
func TestResumeIsBitwise(t *testing.T) {
	c := tinyModels["grouped"]
	tokenizer, err := NewCharTokenizer("0123456789")
	if err != nil {
		t.Fatal(err)
	}
	c.VocabSize = tokenizer.Size()
	w := tinyWeights(c, 4)
	l := DefaultLearning()
	l.LearningRate, l.Shards, l.NumIterations, l.MiniBatchSize, l.WeightDecay = 1e-2, 2, 2, 5, 0.1
	samples := testSamples(t, c, w, 1)
	update := func(trainer *Trainer, n int) {
		t.Helper()
		for range n {
			if _, err := trainer.Update(context.Background(), samples, l); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := &State{Config: c, Tokenizer: tokenizer, Weights: w}
	straight := newTestTrainer(t, start)
	update(straight, 4)
	first := newTestTrainer(t, start)
	update(first, 2)
	path := t.TempDir() + "/policy"
	if err := WriteDir(path, must(first.State())); err != nil {
		t.Fatal(err)
	}
	saved, err := ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	second := newTestTrainer(t, saved)
	update(second, 2)
	want, got := must(straight.State()), must(second.State())
	want.Tokenizer, got.Tokenizer = nil, nil
	want.Config = got.Config // a folder's config.json names the tokenizer's special tokens
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-straight +resumed):\n%s", diff)
	}
	if want.Step != 4*2*3 { // 13 samples are 3 mini-batches
		t.Errorf("%d optimizer steps, want 24", want.Step)
	}
}

func TestUpdateFailsWhole(t *testing.T) {
	c := tinyModels["untied"]
	w := tinyWeights(c, 4)
	good := testSamples(t, c, w, 1)[4]
	change := func(f func(s *Sample, l *Learning)) ([]Sample, Learning) {
		s, l := good, DefaultLearning()
		l.LearningRate = 1e-2
		s.Advantages, s.Mask = slices.Clone(s.Advantages), slices.Clone(s.Mask)
		f(&s, &l)
		return []Sample{good, s}, l
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		f    func(s *Sample, l *Learning)
		want string
	}{
		"cancelled":         {cancelled, func(*Sample, *Learning) {}, "context canceled"},
		"empty prompt":      {nil, func(s *Sample, _ *Learning) { s.Prompt = nil }, "sample 1: prompt is empty"},
		"short column":      {nil, func(s *Sample, _ *Learning) { s.Advantages = s.Advantages[1:] }, "advantages for"},
		"missing column":    {nil, func(s *Sample, _ *Learning) { s.Advantages = nil }, "0 advantages"},
		"missing reference": {nil, func(s *Sample, l *Learning) { s.RefLogProbs, l.Beta = nil, 0.1 }, "want them for beta"},
		"NaN advantage":     {nil, func(s *Sample, _ *Learning) { s.Advantages[2] = float32(math.NaN()) }, "value 2 is NaN"},
		"negative mask":     {nil, func(s *Sample, _ *Learning) { s.Mask = slices.Repeat([]float32{-1}, len(s.Completion)) }, "mask: value 0 is -1"},
		"short scales":      {nil, func(s *Sample, _ *Learning) { s.KLScales = []float32{1} }, "1 KL scales for"},
		"negative scale":    {nil, func(s *Sample, _ *Learning) { s.KLScales = slices.Repeat([]float32{-1}, len(s.Completion)) }, "KL scales: value 0 is -1"},
		"infinite scale": {nil, func(s *Sample, _ *Learning) {
			s.KLScales = slices.Repeat([]float32{float32(math.Inf(1))}, len(s.Completion))
		}, "KL scales: value 0 is +Inf"},
		"bad settings":   {nil, func(_ *Sample, l *Learning) { l.LossType = "ppo" }, "loss_type"},
		"loss overflows": {nil, func(s *Sample, _ *Learning) { s.OldLogProbs = slices.Repeat([]float32{-300}, len(s.Completion)) }, "the loss is"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := test.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			trainer := newTestTrainer(t, &State{Config: c, Weights: w})
			samples, l := change(test.f)
			if name == "loss overflows" {
				for i := range samples[1].Advantages {
					samples[1].Advantages[i] = -1
				}
			}
			if _, err := trainer.Update(ctx, samples, l); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if diff := cmp.Diff(w, must(trainer.State()).Weights); diff != "" || must(trainer.State()).Step != 0 {
				t.Errorf("the state changed:\n%s", diff)
			}
		})
	}
	if _, err := newTestTrainer(t, &State{Config: c, Weights: w}).Update(context.Background(), nil, DefaultLearning()); err == nil {
		t.Error("an update without samples succeeds")
	}
}
