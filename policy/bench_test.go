package policy

import (
	"context"
	"os"
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
			if err := w.sample(context.Background(), engines, 0); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := w.sample(context.Background(), engines, 1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(w.Prompts*w.Samples*w.CompletionLength*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
