package policy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"golang.org/x/sync/errgroup"

	"github.com/gradus-rl/gradus/datasets"
)

// Sample is one completion to learn from. Every column has one value per token
// of the completion.
type Sample struct {
	Prompt, Completion []int32
	// OldLogProbs are those of the policy that drew the completion; nil: the
	// policy as it is at each optimizer step, so that every ratio is 1
	// (supervised warm-up, or a single on-policy step).
	OldLogProbs []float32
	RefLogProbs []float32 // those of the reference policy; may be nil when beta is 0
	Advantages  []float32
	Mask        []float32 // weight of the token in the loss, 0 or 1 as a rule; nil: all 1
	// KLScales are factors of beta, at least 0: the KL term scaled by difficulty
	// of CLPO (arXiv:2509.25004). nil: all 1.
	KLScales []float32
}

// active is the sum of the sample's mask.
func (s Sample) active() float64 {
	if s.Mask == nil {
		return float64(len(s.Completion))
	}
	sum := 0.0
	for _, m := range s.Mask {
		sum += float64(m)
	}
	return sum
}

// mask is the weight of token t.
func (s Sample) mask(t int) float64 {
	if s.Mask == nil {
		return 1
	}
	return float64(s.Mask[t])
}

// UpdateMetrics describe one Update. Means over tokens count active tokens,
// weighted by the mask; what comes per optimizer step is averaged over steps
// unless said otherwise.
type UpdateMetrics struct {
	Loss            float64 `json:"loss"`
	GradNorm        float64 `json:"grad_norm"`         // before clipping
	LearningRate    float64 `json:"learning_rate"`     // of the last step
	Entropy         float64 `json:"entropy"`           // mean over tokens, nats, at the learning temperature
	KL              float64 `json:"kl"`                // mean k3 to the reference over tokens, whatever their KLScales; 0 without a reference
	ClipRatioLow    float64 `json:"clip_ratio_low"`    // share of tokens clipped from below: ρ < 1−ε and A < 0
	ClipRatioHigh   float64 `json:"clip_ratio_high"`   // share of tokens clipped from above: ρ > 1+ε_high and A > 0
	ClipRatioRegion float64 `json:"clip_ratio_region"` // share of either
	RatioMean       float64 `json:"ratio_mean"`        // of ρ over tokens
	RatioMax        float64 `json:"ratio_max"`         // greatest ρ of an active token
	Tokens          int64   `json:"tokens"`            // active tokens trained on, each pass counted
	ComputedTokens  int64   `json:"computed_tokens"`   // prompt and completion tokens of the samples, each pass counted
	Padding         float64 `json:"padding"`           // share of padding among the tokens of the graphs
	Steps           int64   `json:"steps"`             // optimizer steps taken
}

// Trainer holds a policy and its optimizer and improves them. It serves one
// goroutine at a time.
type Trainer struct {
	backend *Backend
	state   State
	shards  []*shard

	checkpointed bool      // the shards' graphs compute layers again
	resident     *resident // what is on the devices of a backend that fuses, from the first update on; else nil
}

// shard is a device that computes a part of a gradient.
type shard struct {
	device    device
	gradients [2]*program // by whether prompts are padded
}

// NewTrainer starts from a state, which it copies. Resuming from a saved state
// continues bit by bit as if there had been no interruption.
func NewTrainer(b *Backend, s *State) (*Trainer, error) {
	if err := s.Config.Validate(); err != nil {
		return nil, err
	}
	t := &Trainer{backend: b, state: *s}
	_, order := s.learnt()
	for _, w := range []struct {
		name  string
		w     *Weights
		order func([]Tensor) (Weights, error)
	}{{"weights", &t.state.Weights, s.Config.Arrange}, {"first moments", &t.state.Moments1, order}, {"second moments", &t.state.Moments2, order}} {
		if *w.w == nil && w.w != &t.state.Weights {
			*w.w = t.state.trained().Zeros()
			continue
		}
		arranged, err := w.order(*w.w)
		if err != nil {
			return nil, fmt.Errorf("new trainer: %s: %w", w.name, err)
		}
		*w.w = arranged.Clone()
	}
	t.state.Adapter = s.Adapter.clone()
	return t, nil
}

// Model is the shape of the policy, and its tokenizer.
func (t *Trainer) Model() (Config, *Tokenizer) { return t.state.Config, t.state.Tokenizer }

// State is a copy of the policy and its optimizer as they are now, or an error of
// the device that has them. Weights that have an adapter are shared and must not be
// written to.
func (t *Trainer) State() (*State, error) {
	if err := t.fetch(); err != nil {
		return nil, fmt.Errorf("fetch the policy from its device: %w", err)
	}
	return t.state.copy(), nil
}

// copy shares weights that have an adapter, which nobody changes.
func (s State) copy() *State {
	if s.Adapter = s.Adapter.clone(); s.Adapter == nil { // with one, nobody changes the weights
		s.Weights = s.Weights.Clone()
	}
	s.Moments1, s.Moments2 = s.Moments1.Clone(), s.Moments2.Clone()
	return &s
}

// Close frees the devices. The Trainer must not be used afterwards.
func (t *Trainer) Close() {
	t.leave()
	for _, s := range t.shards {
		s.device.Finalize()
	}
	t.shards = nil
}

// Update takes num_iterations passes over the batch, in mini-batches of
// consecutive samples, with one AdamW step each. The loss of a mini-batch of S
// samples is
//
//	Σ_i Σ_t w_it·m_it·(ℓ_it + β·s_it·k3_it),   w_it = 1/(S·Σ_t m_it)   grpo
//	                                                 1/Σ_it m_it       bnpo, dapo
//	                                                 1/(S·L_max)       dr_grpo
//
// with ℓ the clipped objective, k3 the KL estimate, s its scale, m the mask. The whole
// mini-batch is the unit of normalisation, so shards and memory-bounded parts
// change nothing but rounding, and bnpo is dapo. grpo counts samples with an
// empty mask in S.
//
// A context that ends, or a loss, gradient or result that is not finite, is an
// error that leaves the state as it was before the call. After another error of a
// device the Trainer must be closed.
func (t *Trainer) Update(ctx context.Context, samples []Sample, l Learning) (UpdateMetrics, error) {
	if err := l.Validate(); err != nil {
		return UpdateMetrics{}, err
	}
	if len(samples) == 0 {
		return UpdateMetrics{}, errors.New("update: no samples")
	}
	for i, s := range samples {
		if err := t.state.Config.validateSample(s, l); err != nil {
			return UpdateMetrics{}, fmt.Errorf("update: sample %d: %w", i, err)
		}
	}
	if err := t.settle(l); err != nil {
		return UpdateMetrics{}, fmt.Errorf("update: %w", err)
	}
	size := l.MiniBatchSize
	if size == 0 {
		size = len(samples)
	}
	var parts [][]Sample
	for range l.NumIterations {
		parts = slices.AppendSeq(parts, slices.Chunk(samples, size))
	}
	update := t.update
	if t.backend.fused {
		update = t.updateResident
	}
	m, err := update(ctx, parts, l)
	if err != nil {
		return UpdateMetrics{}, fmt.Errorf("update: optimizer step %d of %d: %w", m.Steps+1, len(parts), err)
	}
	return m.report(), nil
}

// settle makes sure that there are an adapter and devices as the settings want them.
func (t *Trainer) settle(l Learning) error {
	if l.GradientCheckpointing && !t.backend.fused {
		return fmt.Errorf("gradient_checkpointing needs the xla backend, not %s", t.backend)
	}
	if fresh := t.state.Adapter == nil && l.LoRARank > 0; fresh || l.GradientCheckpointing != t.checkpointed {
		if err := t.fetch(); err != nil {
			return err
		}
		t.Close() // the graphs there are learn all weights, or keep other things
	}
	if err := t.state.adapt(l); err != nil {
		return err
	}
	t.checkpointed = l.GradientCheckpointing
	n := l.Shards
	if t.backend.fused { // its devices compute all of them
		n = 1
	}
	return t.open(n)
}

// update is Update where the state lives in the host's memory.
func (t *Trainer) update(ctx context.Context, parts [][]Sample, l Learning) (metrics, error) {
	next := *t.state.copy()
	var m metrics
	for _, part := range parts {
		if err := t.optimizerStep(ctx, &next, part, l, &m); err != nil {
			return m, err
		}
	}
	t.state = next
	return m, nil
}

// validateSample checks one sample against the model and the settings.
func (c Config) validateSample(s Sample, l Learning) error {
	if err := c.validate(s.Prompt, s.Completion, len(s.Completion)); err != nil {
		return err
	}
	if l.Beta > 0 && s.RefLogProbs == nil {
		return fmt.Errorf("no reference log-probs, want them for beta %v", l.Beta)
	}
	for _, column := range []struct {
		name     string
		values   []float32
		optional bool
		least    float64
	}{
		{"advantages", s.Advantages, false, math.Inf(-1)},
		{"old log-probs", s.OldLogProbs, true, math.Inf(-1)},
		{"reference log-probs", s.RefLogProbs, true, math.Inf(-1)},
		{"mask", s.Mask, true, 0},
		{"KL scales", s.KLScales, true, 0},
	} {
		if column.optional && column.values == nil {
			continue
		}
		if len(column.values) != len(s.Completion) {
			return fmt.Errorf("%d %s for %d completion tokens", len(column.values), column.name, len(s.Completion))
		}
		for i, x := range column.values {
			if !finite(float64(x)) || float64(x) < column.least {
				return fmt.Errorf("%s: value %d is %v", column.name, i, x)
			}
		}
	}
	return nil
}

// ErrNotFinite is the error of an update or a generation whose figures became NaN
// or infinite.
var ErrNotFinite = errors.New("not finite")

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// open makes sure that there are n shards, or one for each device of a backend where it
// has several.
func (t *Trainer) open(n int) error {
	for len(t.shards) < n {
		devices, err := t.backend.open()
		if err != nil {
			return err
		}
		s := &shard{device: devices[0]}
		d := t.backend.decoder(t.state.Config, true)
		d.checkpointed = t.checkpointed
		a := t.state.Adapter
		slots := len(d.slots())
		for i, padded := range []bool{false, true} {
			s.gradients[i], err = newProgram(s.device, "gradients", func(inputs []*graph.Node) []*graph.Node {
				if !d.fused {
					return d.gradients(inputs, slots, a, padded)
				}
				return d.accumulated(inputs, slots, a, padded)
			})
			if err != nil {
				return err
			}
		}
		t.shards = append(t.shards, s)
		for _, other := range devices[1:] {
			t.shards = append(t.shards, &shard{other, [2]*program{s.gradients[0].on(other), s.gradients[1].on(other)}})
		}
	}
	return nil
}

// optimizerStep updates s by one mini-batch.
func (t *Trainer) optimizerStep(ctx context.Context, s *State, samples []Sample, l Learning, m *metrics) error {
	gradient, err := t.gradient(ctx, s, samples, l, m)
	if err != nil {
		return err
	}
	norm := gradient.norm()
	scale, err := l.clip(norm)
	if err != nil {
		return err
	}
	rate := l.Rate(s.Step)
	s.Step++
	if err := s.adamW(gradient, scale, rate, l); err != nil {
		return err
	}
	m.step(norm, rate)
	return nil
}

// clip is the factor that bounds a gradient of that norm.
func (l Learning) clip(norm float64) (float64, error) {
	switch {
	case !finite(norm):
		return 0, fmt.Errorf("the gradient norm is %v: %w", norm, ErrNotFinite)
	case l.MaxGradNorm > 0 && norm > l.MaxGradNorm:
		return l.MaxGradNorm / norm, nil
	}
	return 1, nil
}

// gradient is the gradient of one mini-batch's loss. Shards compute their
// parts at the same time; the parts are summed in the shards' order.
func (t *Trainer) gradient(ctx context.Context, s *State, samples []Sample, l Learning, m *metrics) (Weights, error) {
	c := t.state.Config
	d := newDivided(c, samples, l, 0)
	sums := make([]Weights, l.Shards)
	losses := make([]float64, l.Shards)
	work, ctx := errgroup.WithContext(ctx)
	for i, shard := range t.shards[:l.Shards] {
		work.Go(func() error {
			sums[i] = s.trained().Zeros()
			if len(d.parts[i]) == 0 {
				return nil
			}
			slots := c.slots()
			inputs, err := upload(shard.device, slots, s.Weights)
			if err != nil {
				return err
			}
			if s.Adapter != nil {
				slots = c.adapterSlots(s.Adapter)
				adapter, err := upload(shard.device, slots, s.Adapter.Weights)
				inputs = append(inputs, adapter...)
				if err != nil {
					return err
				}
			}
			defer release(inputs...)
			for _, b := range d.parts[i] {
				datasets.Progress(ctx)
				if err := ctx.Err(); err != nil {
					return err
				}
				loss, gradients, err := shard.compute(d, b, nil, inputs, l)
				if err != nil {
					return err
				}
				losses[i] += loss
				err = accumulate(sums[i], slots, gradients)
				release(gradients...)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	loss := 0.0
	for i := range losses {
		loss += losses[i]
		if i > 0 {
			sums[0].add(sums[i])
		}
	}
	if !finite(loss) {
		return nil, fmt.Errorf("the loss is %v: %w", loss, ErrNotFinite)
	}
	d.count(m, loss, l)
	return sums[0], nil
}

// divided is a mini-batch, cut for the shards, and what is known of its tokens.
type divided struct {
	config     Config
	samples    []Sample
	lengths    []int             // of the completions
	units      []float64         // by sample: the weight of a unit of its mask in the loss
	parts      [][]batch         // by shard, or by device
	statistics []tokenStatistics // by sample
}

// newDivided cuts as microBatches does.
func newDivided(c Config, samples []Sample, l Learning, devices int) *divided {
	all := groups(len(samples), func(i int) ([]int32, int) { return samples[i].Prompt, len(samples[i].Completion) })
	lengths := make([]int, len(samples))
	for i, s := range samples {
		lengths[i] = len(s.Completion)
	}
	return &divided{c, samples, lengths, tokenWeights(samples, l), c.microBatches(all, lengths, l, devices), make([]tokenStatistics, len(samples))}
}

// count adds the mini-batch to the metrics.
func (d *divided) count(m *metrics, loss float64, l Learning) {
	for _, b := range slices.Concat(d.parts...) {
		m.padded += b.tokens()
		m.used += b.used(d.lengths)
	}
	m.batch(d.samples, d.statistics, loss, l)
}

// deal gives groups to shards, the costliest first and always to the shard
// with the least work.
func deal(all []group, shards int) [][]group {
	cost := func(g group) int { return len(g.prompt) + len(g.rows)*max(1, g.longest) }
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int { return cost(b) - cost(a) })
	parts, work := make([][]group, shards), make([]int, shards)
	for _, g := range sorted {
		least := 0
		for i := range work {
			if work[i] < work[least] {
				least = i
			}
		}
		parts[least] = append(parts[least], g)
		work[least] += cost(g)
	}
	return parts
}

// tokenWeights is the weight of one unit of mask in the loss, by sample.
func tokenWeights(samples []Sample, l Learning) []float64 {
	weights := make([]float64, len(samples))
	total := 0.0
	for _, s := range samples {
		total += s.active()
	}
	for i, s := range samples {
		var unit float64
		switch l.LossType {
		case LossGRPO:
			unit = float64(len(samples)) * s.active()
		case LossDrGRPO:
			unit = float64(len(samples)) * float64(l.MaxCompletionLength)
		default:
			unit = total
		}
		if unit > 0 { // a sample without active tokens has no loss
			weights[i] = 1 / unit
		}
	}
	return weights
}

// tokenStatistics is what the policy gave to the tokens of a sample.
type tokenStatistics struct{ logprobs, entropies []float32 }

// compute computes one batch, fills in its samples' statistics and returns its loss
// and its gradient, a tensor per slot, added to sum where that is not nil. sum is gone
// then.
func (s *shard) compute(d *divided, b batch, sum, weights []*tensors.Tensor, l Learning) (float64, []*tensors.Tensor, error) {
	samples := d.samples
	u := &uploads{device: s.device}
	defer func() { release(u.list...) }()
	padded := d.config.batchTensors(u, b, l.Temperature, func(i int) ([]int32, []int32) {
		return samples[i].Prompt, samples[i].Completion
	})
	n := b.columns()
	columns := make([][]float32, 4) // old, reference, advantage, weight
	for i := range columns {
		columns[i] = make([]float32, n)
	}
	missing := float32(math.NaN())
	for i := range n {
		columns[0][i], columns[1][i] = missing, missing
	}
	b.eachRow(func(i, at int) {
		copy(columns[0][at:], samples[i].OldLogProbs)
		if l.Beta > 0 {
			copy(columns[1][at:], samples[i].RefLogProbs)
		}
		copy(columns[2][at:], samples[i].Advantages)
		for t := range samples[i].Completion {
			columns[3][at+t] = float32(d.units[i] * samples[i].mask(t))
		}
	})
	for _, column := range columns {
		put(u, column, 1, n)
	}
	low, high := l.ClipRange()
	put(u, []float32{float32(low)})
	put(u, []float32{float32(high)})
	if l.Beta > 0 && slices.ContainsFunc(samples, func(s Sample) bool { return s.KLScales != nil }) {
		put(u, scaledBeta(b, samples, l.Beta), 1, n)
	} else {
		put(u, []float32{float32(l.Beta)})
	}
	if u.err != nil {
		return 0, sum, u.err
	}
	out, err := s.gradients[index(padded)].consume(sum, slices.Concat(weights, u.list))
	if err != nil {
		return 0, nil, err
	}
	defer release(out[:3]...)
	var values [3][]float32
	for i := range values {
		if values[i], err = read(out[i]); err != nil {
			return 0, out[3:], err
		}
	}
	b.eachRow(func(i, from int) {
		to := from + len(samples[i].Completion)
		d.statistics[i] = tokenStatistics{values[1][from:to], values[2][from:to]}
	})
	return float64(values[0][0]), out[3:], nil
}

// scaledBeta is beta times the scale of every token of a batch.
func scaledBeta(b batch, samples []Sample, beta float64) []float32 {
	column := slices.Repeat([]float32{float32(beta)}, b.columns())
	b.eachRow(func(i, at int) {
		for t, scale := range samples[i].KLScales {
			column[at+t] = float32(beta * float64(scale))
		}
	})
	return column
}

// add adds o to w.
func (w Weights) add(o Weights) {
	for i := range w {
		for j, x := range o[i].Data {
			w[i].Data[j] += x
		}
	}
}

// norm is the Euclidean norm of all elements together.
func (w Weights) norm() float64 {
	sum := 0.0
	for _, t := range w {
		for _, x := range t.Data {
			sum += float64(x) * float64(x)
		}
	}
	return math.Sqrt(sum)
}

// adamW takes one step of AdamW (arXiv:1711.05101) with gradient g·scale; s.Step
// is t, already counted:
//
//	m ← β1·m + (1−β1)·g        v ← β2·v + (1−β2)·g²
//	w ← w − rate·(m/(1−β1ᵗ) / (√(v/(1−β2ᵗ)) + ε) + decay·w)
//
// Vectors (norms and biases) do not decay.
func (s *State) adamW(gradient Weights, scale, rate float64, l Learning) error {
	b1, b2 := float32(l.AdamBeta1), float32(l.AdamBeta2)
	correction1 := 1 - math.Pow(l.AdamBeta1, float64(s.Step))
	correction2 := 1 - math.Pow(l.AdamBeta2, float64(s.Step))
	stepSize, root := float32(rate/correction1), float32(1/math.Sqrt(correction2))
	epsilon, factor := float32(l.AdamEpsilon), float32(scale)
	for i, t := range s.trained() {
		keep := float32(1)
		if len(t.Shape) > 1 {
			keep = float32(1 - rate*l.WeightDecay)
		}
		w, m, v := t.Data, s.Moments1[i].Data, s.Moments2[i].Data
		for j, g := range gradient[i].Data {
			g *= factor
			m[j] = b1*m[j] + (1-b1)*g
			v[j] = b2*v[j] + (1-b2)*g*g
			w[j] = keep*w[j] - stepSize*m[j]/(float32(math.Sqrt(float64(v[j])))*root+epsilon)
			if x := float64(w[j]); !finite(x) {
				return fmt.Errorf("%s: element %d becomes %v: %w", t.Name, j, x, ErrNotFinite)
			}
		}
	}
	return nil
}

// metrics gathers UpdateMetrics.
type metrics struct {
	UpdateMetrics
	weight       float64 // sum of masks
	padded, used int     // tokens of the graphs, with padding and without
}

// batch adds a mini-batch's tokens.
func (m *metrics) batch(samples []Sample, statistics []tokenStatistics, loss float64, l Learning) {
	m.Loss += loss
	low, high := l.ClipRange()
	for i, s := range samples {
		m.ComputedTokens += int64(len(s.Prompt) + len(s.Completion))
		for t, logprob := range statistics[i].logprobs {
			w := s.mask(t)
			if w == 0 {
				continue
			}
			m.Tokens++
			m.weight += w
			m.Entropy += w * float64(statistics[i].entropies[t])
			ratio := 1.0
			if s.OldLogProbs != nil {
				ratio = math.Exp(float64(logprob) - float64(s.OldLogProbs[t]))
			}
			m.RatioMean += w * ratio
			m.RatioMax = max(m.RatioMax, ratio)
			if ratio < low && s.Advantages[t] < 0 {
				m.ClipRatioLow += w
			}
			if ratio > high && s.Advantages[t] > 0 {
				m.ClipRatioHigh += w
			}
			if s.RefLogProbs != nil {
				d := float64(s.RefLogProbs[t]) - float64(logprob)
				m.KL += w * (math.Exp(d) - d - 1)
			}
		}
	}
}

// step adds an optimizer step.
func (m *metrics) step(norm, rate float64) {
	m.GradNorm += norm
	m.LearningRate = rate
	m.Steps++
}

// report turns sums into means.
func (m *metrics) report() UpdateMetrics {
	r := m.UpdateMetrics
	r.ClipRatioRegion = r.ClipRatioLow + r.ClipRatioHigh
	for _, perToken := range []*float64{&r.Entropy, &r.KL, &r.ClipRatioLow, &r.ClipRatioHigh, &r.ClipRatioRegion, &r.RatioMean} {
		if m.weight > 0 {
			*perToken /= m.weight
		}
	}
	r.Padding = float64(m.padded-m.used) / float64(max(1, m.padded))
	r.Loss /= float64(r.Steps)
	r.GradNorm /= float64(r.Steps)
	return r
}
