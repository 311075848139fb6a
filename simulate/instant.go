package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/reward"
)

// Instant is an [activities.Backend] that computes in no time: what it generates,
// scores and learns is made of the bits of all that it is given, and of nothing
// else. A wrong input of any kind, a weight, a token, a mask, the order of a batch,
// shows in every weight from then on. It stands in for the language model where
// what surrounds it is examined; policies are stored as ever.
type Instant struct {
	// Watch, if not nil, is told of every call, and may be called concurrently.
	Watch func(Call)
}

// Call is one call that an engine or a trainer of [Instant] answered.
type Call struct {
	Weights  uint64          // digest of the weights that it was computed with
	Prompts  []policy.Prompt // of Generate
	Sampling policy.Sampling // of Generate
	Samples  []policy.Sample // of Update
	Step     int64           // of Update: optimizer steps taken before
	Fresh    bool            // of Update: all moments were 0
}

// Open is for [activities.NewPoliciesOn]; the backend that a plan names makes no difference.
func (i *Instant) Open(string) (activities.Backend, error) { return i, nil }

// NewEngine implements [activities.Backend].
func (i *Instant) NewEngine(c policy.Config) (activities.Engine, error) {
	return &instantEngine{Instant: i, config: c}, c.Validate()
}

// NewTrainer implements [activities.Backend].
func (i *Instant) NewTrainer(s *policy.State) (activities.Trainer, error) {
	t := &instantTrainer{Instant: i, state: copied(s)}
	if s.Moments1 == nil {
		t.state.Moments1, t.state.Moments2 = s.Weights.Zeros(), s.Weights.Zeros()
	}
	return t, nil
}

func (i *Instant) told(c Call) {
	if i.Watch != nil {
		i.Watch(c)
	}
}

// digest is a running 64-bit hash: words are folded in by multiplication and shift.
type digest uint64

func (d *digest) word(x uint64) {
	h := (uint64(*d) ^ x) * 0x9E3779B97F4A7C15
	*d = digest(h ^ h>>29)
}

func (d *digest) float(x float64) { d.word(math.Float64bits(x)) }

func (d *digest) ints(xs []int32) {
	d.word(uint64(len(xs)))
	for _, x := range xs {
		d.word(uint64(uint32(x)))
	}
}

// floats tells nil from empty.
func (d *digest) floats(xs []float32) {
	if xs == nil {
		d.word(1 << 40)
		return
	}
	d.word(uint64(len(xs)))
	for _, x := range xs {
		d.word(uint64(math.Float32bits(x)))
	}
}

func (d *digest) text(s string) {
	d.word(uint64(len(s)))
	for i := range len(s) {
		d.word(uint64(s[i]))
	}
}

// unit is a number from [0, 1) that the digest and i determine.
func (d digest) unit(i int) float64 {
	d.word(uint64(i))
	d.word(0x5851F42D4C957F2D)
	return float64(d>>11) / (1 << 53)
}

// digestOf is the digest of weights.
func digestOf(w policy.Weights) uint64 {
	var d digest
	for _, t := range w {
		d.text(t.Name)
		d.floats(t.Data)
	}
	return uint64(d)
}

type instantEngine struct {
	*Instant
	config  policy.Config
	weights digest
	loaded  bool
}

var errNoWeights = errors.New("no weights loaded")

func (e *instantEngine) Load(w policy.Weights) error {
	for i, want := range e.config.Layout() {
		if i >= len(w) || w[i].Name != want.Name || !slices.Equal(w[i].Shape, want.Shape) {
			return fmt.Errorf("load: the weights are not of the model's shape: want %s %v", want.Name, want.Shape)
		}
	}
	e.weights, e.loaded = digest(digestOf(w)), true
	return nil
}

func (e *instantEngine) Close() { e.loaded = false }

// Generate draws a completion of every prompt from its stream, and from nothing of
// it where sampling is greedy.
func (e *instantEngine) Generate(ctx context.Context, prompts []policy.Prompt, s policy.Sampling, progress func(done, total int)) ([]policy.Completion, error) {
	if !e.loaded {
		return nil, errNoWeights
	}
	e.told(Call{Weights: uint64(e.weights), Prompts: prompts, Sampling: s})
	out := make([]policy.Completion, len(prompts))
	for i, p := range prompts {
		if n := len(p.IDs) + s.MaxCompletionLength; n > e.config.MaxPositionEmbeddings {
			return nil, fmt.Errorf("row %d: %d tokens in a context of %d", i, n, e.config.MaxPositionEmbeddings)
		}
		d := e.weights
		d.ints(p.IDs)
		d.float(s.Temperature)
		d.float(s.TopP)
		d.word(uint64(s.TopK))
		if s.Temperature > 0 {
			d.word(p.Stream)
		}
		c := policy.Completion{FinishReason: policy.FinishLength}
		for t := range s.MaxCompletionLength {
			token := int32(d.unit(t) * float64(e.config.VocabSize))
			c.IDs = append(c.IDs, token)
			if token == e.config.EOSTokenID[0] || d.unit(-1-t) < 0.3 {
				c.IDs[t], c.FinishReason = e.config.EOSTokenID[0], policy.FinishStop
				break
			}
		}
		scored := e.row(policy.Row{Prompt: p.IDs, Completion: c.IDs}, temperature(s))
		c.LogProbs, c.Entropies = scored.LogProbs, scored.Entropies
		out[i] = c
	}
	if progress != nil {
		progress(len(out), len(out))
	}
	return out, ctx.Err()
}

// temperature is the one that log-probabilities of what s draws are taken at.
func temperature(s policy.Sampling) float64 {
	if s.Temperature == 0 {
		return 1
	}
	return s.Temperature
}

func (e *instantEngine) Score(ctx context.Context, rows []policy.Row, temperature float64) ([]policy.Scored, error) {
	if !e.loaded {
		return nil, errNoWeights
	}
	out := make([]policy.Scored, len(rows))
	for i, r := range rows {
		out[i] = e.row(r, temperature)
	}
	return out, ctx.Err()
}

// row scores each token by what stands before it.
func (e *instantEngine) row(r policy.Row, temperature float64) policy.Scored {
	return scoreOf(uint64(e.weights), r, temperature)
}

func scoreOf(weights uint64, r policy.Row, temperature float64) policy.Scored {
	d := digest(weights)
	d.ints(r.Prompt)
	d.float(temperature)
	s := policy.Scored{LogProbs: make([]float32, len(r.Completion)), Entropies: make([]float32, len(r.Completion))}
	for t, id := range r.Completion {
		d.word(uint64(uint32(id)))
		s.LogProbs[t], s.Entropies[t] = float32(-3*d.unit(0)), float32(2*d.unit(1))
	}
	return s
}

func (e *instantEngine) Inspect(ctx context.Context, rows []policy.Row, temperature float64, o policy.InspectOptions) ([]policy.Inspected, error) {
	if !e.loaded {
		return nil, errNoWeights
	}
	k := min(o.TopK, e.config.VocabSize)
	out := make([]policy.Inspected, len(rows))
	for i, r := range rows {
		s := e.row(r, temperature)
		seen := policy.Inspected{LogProbs: s.LogProbs, Entropies: s.Entropies}
		for t := range r.Completion {
			d := digest(math.Float32bits(s.LogProbs[t]))
			d.word(uint64(e.weights))
			first, sum, norm := int32(d.unit(0)*float64(e.config.VocabSize)), 0.0, 0.0
			for j := range k {
				seen.IDs = append(seen.IDs, (first+int32(j))%int32(e.config.VocabSize))
				p := math.Exp(-float64(j) * (0.5 + d.unit(1)))
				sum += p
				seen.Probs = append(seen.Probs, float32(p))
			}
			for j := range k {
				seen.Probs[t*k+j] /= float32(sum)
			}
			seen.Chosen = append(seen.Chosen, int32(d.unit(2)*float64(k)))
			for j := range e.config.HiddenSize {
				h := float32(2*d.unit(3+j) - 1)
				norm += float64(h) * float64(h)
				if o.Hidden {
					seen.Hidden = append(seen.Hidden, h)
				}
			}
			seen.NormSquared = append(seen.NormSquared, float32(norm))
		}
		out[i] = seen
	}
	return out, ctx.Err()
}

func (e *instantEngine) Divergence(ctx context.Context, rows []policy.Row, before []policy.Inspected, temperature float64) ([][]float32, error) {
	if !e.loaded {
		return nil, errNoWeights
	}
	out := make([][]float32, len(rows))
	for i, r := range rows {
		d := digest(len(before[i].IDs))
		d.floats(before[i].Probs)
		s := e.row(r, temperature)
		for t := range r.Completion {
			d.word(uint64(math.Float32bits(s.LogProbs[t])))
			out[i] = append(out[i], float32(d.unit(t)))
		}
	}
	return out, ctx.Err()
}

type instantTrainer struct {
	*Instant
	state policy.State
}

func copied(s *policy.State) policy.State {
	c := *s
	c.Weights, c.Moments1, c.Moments2 = s.Weights.Clone(), s.Moments1.Clone(), s.Moments2.Clone()
	return c
}

func (t *instantTrainer) Model() (policy.Config, *policy.Tokenizer) {
	return t.state.Config, t.state.Tokenizer
}

func (t *instantTrainer) State() (*policy.State, error) { s := copied(&t.state); return &s, nil }

func (t *instantTrainer) Close() {}

// Update moves every weight and moment by what the whole input determines.
func (t *instantTrainer) Update(ctx context.Context, samples []policy.Sample, l policy.Learning) (policy.UpdateMetrics, error) {
	if err := errors.Join(ctx.Err(), l.Validate()); err != nil {
		return policy.UpdateMetrics{}, err
	}
	if len(samples) == 0 {
		return policy.UpdateMetrics{}, errors.New("update: no samples")
	}
	s := &t.state
	d := digest(digestOf(s.Weights))
	fresh := !slices.ContainsFunc(s.Moments1, func(m policy.Tensor) bool {
		return slices.ContainsFunc(m.Data, func(x float32) bool { return x != 0 })
	})
	t.told(Call{Weights: uint64(d), Samples: samples, Step: s.Step, Fresh: fresh})
	rate := l.Rate(s.Step)
	if l.LRSchedulerType == policy.SchedulerConstant {
		l.MaxSteps = 0 // on which nothing of such an update depends
	}
	d.text(fmt.Sprintf("%+v", l))
	d.word(uint64(s.Step))
	for i, sample := range samples {
		if len(sample.Advantages) != len(sample.Completion) || sample.Mask != nil && len(sample.Mask) != len(sample.Completion) {
			return policy.UpdateMetrics{}, fmt.Errorf("update: sample %d: want a value for each token", i)
		}
		if l.Beta > 0 && len(sample.RefLogProbs) != len(sample.Completion) {
			return policy.UpdateMetrics{}, fmt.Errorf("update: sample %d: no reference log-probs, want them for beta %v", i, l.Beta)
		}
		d.ints(sample.Prompt)
		d.ints(sample.Completion)
		for _, column := range [][]float32{sample.OldLogProbs, sample.RefLogProbs, sample.Advantages, sample.Mask, sample.KLScales} {
			d.floats(column)
		}
	}
	at := 0
	for i, w := range s.Weights {
		for j := range w.Data {
			g := float32(d.unit(at) - 0.5)
			at++
			m1, m2 := &s.Moments1[i].Data[j], &s.Moments2[i].Data[j]
			*m1, *m2 = 0.9**m1+0.1*g, 0.95**m2+0.05*g*g
			w.Data[j] += 1e-2 * (*m1 + *m2)
		}
	}
	s.Step += int64(l.NumIterations)
	return policy.UpdateMetrics{Loss: d.unit(-1), GradNorm: d.unit(-2), LearningRate: rate, Entropy: d.unit(-3), KL: d.unit(-4), RatioMean: 1, RatioMax: 1}, nil
}

// Coin is a verifier that finds two answers of five right, by the bits of the
// completion and of the answer: what [Instant] writes is no attempt at the problem.
type Coin string

// Lookup is for [reward.Scorer]: a Coin in the place of each verifier there is.
func Lookup(name string) (reward.Verifier, error) {
	if _, err := reward.ByName(name); err != nil {
		return nil, err
	}
	return Coin(name), nil
}

// Verify implements [reward.Verifier].
func (c Coin) Verify(_ context.Context, completion, answer string) (reward.Verdict, error) {
	var d digest
	d.text(string(c))
	d.text(completion)
	d.text(answer)
	v := reward.Verdict{Outcome: reward.Wrong, Extracted: completion[:min(2, len(completion))]}
	switch u := d.unit(0); {
	case u < 0.4:
		v.Reward, v.Outcome = 1, reward.Correct
	case u < 0.45:
		v.Outcome, v.Extracted = reward.NoAnswer, ""
	}
	return v, nil
}
