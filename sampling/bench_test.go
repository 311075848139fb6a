package sampling

import (
	"context"
	"errors"
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

// The workloads of Bench, and the same with rewards that are continuous.
func BenchmarkSelect(b *testing.B) {
	for _, w := range workloads() {
		for _, rewards := range []string{"binary", "continuous"} {
			b.Run(w.name+"/"+rewards, func(b *testing.B) {
				batch, err := w.prepare(rewards == "continuous")
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					b.StopTimer()
					batch.reset()
					b.StartTimer()
					if err := w.run(batch, datasets.Env{}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)*float64(w.items(batch))/b.Elapsed().Seconds(), "items/s")
			})
		}
	}
}

func TestBenchStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Bench(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
