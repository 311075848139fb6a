package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Workload is a model and a batch to measure: prompts of equal length, each
// with several completions of equal length.
type Workload struct {
	Config                         Config
	Prompts, Samples               int
	PromptLength, CompletionLength int
}

// Workloads are what Bench measures: "small", the model of 870 thousand weights
// with 64 sequences of 64 tokens, "demo", the model and batch of the demo, and
// the shapes of Qwen2.5 with random weights and 64 completions.
func Workloads() map[string]Workload {
	return map[string]Workload{
		"small": {Config{VocabSize: 64, HiddenSize: 128, IntermediateSize: 384, NumHiddenLayers: 4, NumAttentionHeads: 4, NumKeyValueHeads: 4,
			MaxPositionEmbeddings: 256, RMSNormEps: 1e-6, RopeTheta: 10000}, 64, 1, 32, 32},
		"demo": {Config{VocabSize: 16, HiddenSize: 64, IntermediateSize: 128, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 4,
			MaxPositionEmbeddings: 32, RMSNormEps: 1e-6, RopeTheta: 1000}, 32, 8, 10, 10},
		"qwen2.5-0.5b": {Config{VocabSize: 151936, HiddenSize: 896, IntermediateSize: 4864, NumHiddenLayers: 24, NumAttentionHeads: 14, NumKeyValueHeads: 2,
			MaxPositionEmbeddings: 32768, RMSNormEps: 1e-6, RopeTheta: 1e6, TieWordEmbeddings: true}, 64, 1, 256, 256},
		"qwen2.5-1.5b": {Config{VocabSize: 151936, HiddenSize: 1536, IntermediateSize: 8960, NumHiddenLayers: 28, NumAttentionHeads: 12, NumKeyValueHeads: 2,
			MaxPositionEmbeddings: 32768, RMSNormEps: 1e-6, RopeTheta: 1e6, TieWordEmbeddings: true}, 64, 1, 256, 256},
	}
}

// Figures are tokens per second: Update counts prompt and completion tokens of
// every sequence, Sample counts generated tokens.
type Figures struct{ Update, Sample float64 }

// Bench measures a workload with two gradient shards and with two engines side
// by side: the best of rounds after one that warms up.
func Bench(ctx context.Context, b *Backend, w Workload, rounds int) (Figures, error) {
	var best Figures
	trainer, err := NewTrainer(b, &State{Config: w.Config, Weights: NewWeights(w.Config, 1)})
	if err != nil {
		return best, err
	}
	defer trainer.Close()
	engines, release, err := w.engines(b, 2)
	if err != nil {
		return best, err
	}
	defer release()
	for round := range rounds + 1 {
		update, err := seconds(func() error { return w.update(ctx, trainer, uint64(round)) })
		if err != nil {
			return best, err
		}
		sample, err := seconds(func() error {
			_, err := w.sample(ctx, engines, w.rows(uint64(round)))
			return err
		})
		if err != nil {
			return best, err
		}
		if round > 0 {
			rows := float64(w.Prompts * w.Samples)
			best.Update = max(best.Update, rows*float64(w.PromptLength+w.CompletionLength)/update)
			best.Sample = max(best.Sample, rows*float64(w.CompletionLength)/sample)
		}
	}
	return best, nil
}

func seconds(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

// rows draws a batch: prompts and their rows, samples of a prompt together.
func (w Workload) rows(seed uint64) []Prompt {
	rng := rand.New(rand.NewPCG(seed, 1))
	var rows []Prompt
	for range w.Prompts {
		ids := w.draw(rng, w.PromptLength)
		for range w.Samples {
			rows = append(rows, Prompt{IDs: ids, Stream: rng.Uint64()})
		}
	}
	return rows
}

func (w Workload) draw(rng *rand.Rand, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(w.Config.VocabSize))
	}
	return ids
}

// update takes one step on a batch.
func (w Workload) update(ctx context.Context, t *Trainer, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 2))
	var samples []Sample
	for _, p := range w.rows(seed) {
		s := Sample{Prompt: p.IDs, Completion: w.draw(rng, w.CompletionLength)}
		for range s.Completion {
			s.Advantages = append(s.Advantages, float32(rng.NormFloat64()))
		}
		samples = append(samples, s)
	}
	l := DefaultLearning()
	l.LearningRate = 1e-3
	_, err := t.Update(ctx, samples, l)
	return err
}

// engines opens n engines with the same weights.
func (w Workload) engines(b *Backend, n int) (engines []*Engine, release func(), err error) {
	release = func() {
		for _, e := range engines {
			e.Close()
		}
	}
	for range n {
		e, err := NewEngine(b, w.Config)
		if err != nil {
			release()
			return nil, nil, err
		}
		engines = append(engines, e)
		if err := e.Load(NewWeights(w.Config, 1)); err != nil {
			release()
			return nil, nil, err
		}
	}
	return engines, release, nil
}

// sample generates a batch, its rows shared out among the engines.
func (w Workload) sample(ctx context.Context, engines []*Engine, rows []Prompt) ([]Completion, error) {
	drawn := make([][]Completion, len(engines))
	size := (w.Prompts + len(engines) - 1) / len(engines) * w.Samples
	work, ctx := errgroup.WithContext(ctx)
	for i, part := range slices.Collect(slices.Chunk(rows, size)) {
		work.Go(func() error {
			completions, err := engines[i].Generate(ctx, part, Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: w.CompletionLength}, nil)
			if err == nil && len(completions[0].IDs) != w.CompletionLength {
				err = fmt.Errorf("completion of %d tokens, want %d", len(completions[0].IDs), w.CompletionLength)
			}
			drawn[i] = completions
			return err
		})
	}
	err := work.Wait()
	return slices.Concat(drawn...), err
}
