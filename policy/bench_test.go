package policy

import (
	"context"
	"os"
	"slices"
	"testing"
)

// benchBackend is the backend benchmarks run on: GRADUS_BENCH_BACKEND, or go.
func benchBackend(b *testing.B) *Backend {
	backend, err := OpenBackend(os.Getenv("GRADUS_BENCH_BACKEND"))
	if err != nil {
		b.Fatal(err)
	}
	return backend
}

func BenchmarkUpdate(b *testing.B) {
	for _, name := range []string{"small", "demo"} {
		w := Workloads()[name]
		b.Run(name, func(b *testing.B) {
			trainer, err := NewTrainer(benchBackend(b), &State{Config: w.Config, Weights: NewWeights(w.Config, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer trainer.Close()
			if err := w.update(context.Background(), trainer, 0); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := w.update(context.Background(), trainer, 1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(w.Prompts*w.Samples*(w.PromptLength+w.CompletionLength)*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	for _, name := range []string{"small", "demo"} {
		w := Workloads()[name]
		b.Run(name, func(b *testing.B) {
			engines, release, err := w.engines(benchBackend(b), 2)
			if err != nil {
				b.Fatal(err)
			}
			defer release()
			if _, err := w.sample(context.Background(), engines, w.rows(0)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := w.sample(context.Background(), engines, w.rows(1)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(w.Prompts*w.Samples*w.CompletionLength*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// What it gains where the device has memory of its own (XLA with shared_buffers=false)
// that waiting prompts take the places of finished rows: generating 32 prompts, eight
// rows of each, when about 64 rows fit, against generating those that fit one batch
// after the other. Rows end by chance at each token. Both by turns; occupied are the
// places of a step with a row that had not finished.
func BenchmarkRefill(b *testing.B) {
	for _, lengths := range []struct {
		name        string
		ends, limit int // end tokens among the 64, and the longest completion
	}{{"mean 32 of 256", 2, 256}, {"mean 55 of 128", 1, 128}} {
		b.Run(lengths.name, func(b *testing.B) {
			w := Workload{Config{VocabSize: 64, HiddenSize: 512, IntermediateSize: 2048, NumHiddenLayers: 4, NumAttentionHeads: 8, NumKeyValueHeads: 2,
				MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, RopeTheta: 10000}, 32, 8, 32, 0}
			for id := range lengths.ends {
				w.Config.EOSTokenID = append(w.Config.EOSTokenID, int32(id))
			}
			engines, release, err := w.engines(benchBackend(b), 1)
			if err != nil {
				b.Fatal(err)
			}
			defer release()
			e := engines[0]
			if e.resident == nil {
				b.Skip("the backend has no memory of its own")
			}
			defer func(n int) { deviceCacheFloats = n }(deviceCacheFloats)
			deviceCacheFloats = 8 * w.Config.cache(batch{prompts: 1, samples: 8, prefix: 32, completion: 32 + lengths.limit})
			s := Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: lengths.limit}
			var took [2]float64
			var drawn, computed [2]int
			turn := func(i int, seed uint64) {
				rows := w.rows(seed)
				parts := [][]Prompt{rows}
				if i == 1 {
					parts = slices.Collect(slices.Chunk(rows, 8*8))
				}
				e.drawn, e.computed = 0, 0
				seconds, err := seconds(func() error {
					for _, part := range parts {
						if _, err := e.Generate(context.Background(), part, s, nil); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				took[i], drawn[i], computed[i] = took[i]+seconds, drawn[i]+e.drawn, computed[i]+e.computed
			}
			for seed := range uint64(2) { // nearly all shapes are compiled
				turn(0, seed)
				turn(1, seed)
			}
			took, drawn, computed = [2]float64{}, [2]int{}, [2]int{}
			seed := uint64(0)
			for b.Loop() {
				turn(0, seed)
				turn(1, seed)
				seed = (seed + 1) % 2
			}
			for i, name := range []string{"refilled", "batches"} {
				b.ReportMetric(float64(drawn[i])/took[i], name+"-tokens/s")
				b.ReportMetric(float64(drawn[i])/float64(computed[i]), name+"-occupied")
			}
			b.ReportMetric(float64(drawn[0])/took[0]/(float64(drawn[1])/took[1]), "gain")
		})
	}
}
