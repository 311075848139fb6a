package sampling

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/gradus-rl/gradus/datasets"
)

// Measurement is how fast a selection runs on one core.
type Measurement struct {
	Name      string  // "select/token-topk"
	PerSecond float64 // items: completions, tokens or rows
}

// Bench measures the stages whose cost grows with the batch, each as a whole on a
// prepared batch, the best of several rounds on one core:
//
//	select/max-variance-group  completions  d3s.samples within the groups, 4 of 8
//	select/max-variance-batch  completions  d3s.samples across the batch, a quarter
//	select/token-topk          tokens       d3s.tokens, a fifth
//	select/group-advantage     rows         grpo.advantage
//	select/capo-sgd            tokens       capo.mask, model sgd, a support of 50
//
// The data come from a fixed seed. Completions are 2²⁰ in groups of 8 with
// binary rewards: every group has a pass rate of its own, uniform in [0, 1], so
// that two groups of nine are flat, as for a policy whose problems are of all
// difficulties. Their advantages are those of grpo.advantage on these rewards.
// Token entropies are exponential with mean 0.4 nats, 8192 completions of 512
// tokens; CAPO's tokens are 2¹⁷.
func Bench(ctx context.Context) ([]Measurement, error) {
	const rounds = 15
	var out []Measurement
	for _, w := range workloads() {
		b, err := w.prepare(false)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		best := math.Inf(1)
		for range rounds {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			b.reset()
			start := time.Now()
			if err := w.run(b, datasets.Env{}); err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			best = min(best, time.Since(start).Seconds())
		}
		out = append(out, Measurement{w.name, float64(w.items(b)) / best})
	}
	return out, nil
}

// workload is a stage with its parameters and the batch it is measured on.
type workload struct {
	name    string
	prepare func(continuous bool) (*Batch, error) // continuous: of rewards uniform in [0, 1)
	run     func(*Batch, datasets.Env) error
	items   func(*Batch) int
}

func workloads() []workload {
	const completions = 1 << 20
	group, batch, capo := sampleDefaults, sampleDefaults, capoDefaults
	group.Cross, batch.Intra, capo.Model = false, false, "sgd"
	scored := func(continuous bool) (*Batch, error) { return benchBatch(completions, 0, continuous) }
	rows := func(b *Batch) int { return len(b.Reward) }
	return []workload{
		{"select/max-variance-group", scored, group.selectSamples, rows},
		{"select/max-variance-batch", scored, batch.selectSamples, rows},
		{"select/token-topk", func(continuous bool) (*Batch, error) { return benchBatch(1<<13, 512, continuous) }, tokenDefaults.selectTokens, (*Batch).numTokens},
		{"select/group-advantage", scored, grpoDefaults.advantage, rows},
		{"select/capo-sgd", func(continuous bool) (*Batch, error) {
			b, err := benchBatch(1<<10, 128, continuous)
			if err == nil {
				b.Curvature = benchCurvature(b, 50)
			}
			return b, err
		}, capo.mask, (*Batch).numTokens},
	}
}

// benchBatch is n completions of so many tokens each, with their advantages.
func benchBatch(n, tokens int, continuous bool) (*Batch, error) {
	const size = 8
	rng := rand.New(rand.NewPCG(1, 2))
	offsets, reward, lengths := []int32{0}, make([]float64, n), make([]int32, n)
	for i := range n {
		lengths[i] = int32(tokens)
	}
	for lo := 0; lo < n; lo += size {
		passRate := rng.Float64()
		for i := lo; i < lo+size; i++ {
			if reward[i] = rng.Float64(); !continuous {
				reward[i] = float64(toInt(reward[i] < passRate))
			}
		}
		offsets = append(offsets, int32(lo+size))
	}
	b, err := NewBatch(offsets, reward, lengths)
	if err != nil {
		return nil, err
	}
	for i := range b.Entropy {
		b.Entropy[i] = make([]float32, tokens)
		for t := range b.Entropy[i] {
			b.Entropy[i][t] = float32(0.4 * rng.ExpFloat64())
		}
	}
	return b, grpoDefaults.advantage(b, datasets.Env{})
}

// benchCurvature is random distributions over a support of k tokens.
func benchCurvature(b *Batch, k int) *Curvature {
	rng := rand.New(rand.NewPCG(3, 4))
	c := &Curvature{LearningRate: 1e-3, K: k}
	for _, n := range b.Tokens {
		probs, chosen, norms := make([]float32, int(n)*k), make([]int32, n), make([]float32, n)
		for t := range chosen {
			sum := float32(0)
			support := probs[t*k : (t+1)*k]
			for j := range support {
				support[j] = float32(rng.ExpFloat64())
				sum += support[j]
			}
			for j := range support {
				support[j] /= sum
			}
			chosen[t], norms[t] = int32(rng.IntN(k)), 30*rng.Float32()
		}
		c.Probs, c.Chosen, c.NormSquared = append(c.Probs, probs), append(c.Chosen, chosen), append(c.NormSquared, norms)
	}
	return c
}

// reset forgets every decision.
func (b *Batch) reset() {
	clear(b.Reason)
	clear(b.TokenReason)
}

func (b *Batch) numTokens() int {
	n := 0
	for _, tokens := range b.Tokens {
		n += int(tokens)
	}
	return n
}
