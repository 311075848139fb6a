//go:build onnx

package policy

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ONNX Runtime must agree with the pure Go backend on log-probs, gradients and
// greedy completions, and give the same bits twice.
func TestONNXAgreesWithGo(t *testing.T) {
	ctx := context.Background()
	for name, c := range tinyModels {
		t.Run(name, func(t *testing.T) {
			w := tinyWeights(c, 5)
			l := DefaultLearning()
			l.Beta = 0.1
			samples := testSamples(t, c, w, 1)
			if name == "grouped" {
				scaleKL(samples)
			}
			type result struct {
				scored      []Scored
				inspected   []Inspected
				divergence  [][]float32
				completions []Completion
				gradient    Weights
				adapter     Weights
			}
			compute := func(spec string) (r result) {
				b, err := OpenBackend(spec)
				if err != nil {
					t.Fatal(err)
				}
				e, err := NewEngine(b, c)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				if err := e.Load(w); err != nil {
					t.Fatal(err)
				}
				if r.scored, err = e.Score(ctx, raggedRows(c, 3), 0.8); err != nil {
					t.Fatal(err)
				}
				if r.inspected, err = e.Inspect(ctx, raggedRows(c, 3), 0.8, InspectOptions{TopK: 4, Hidden: true}); err != nil {
					t.Fatal(err)
				}
				if r.divergence, err = e.Divergence(ctx, raggedRows(c, 3), r.inspected, 0.8); err != nil {
					t.Fatal(err)
				}
				if r.completions, err = e.Generate(ctx, repeatedPrompts(raggedRows(c, 3), 2), Sampling{TopP: 1, MaxCompletionLength: 12}, nil); err != nil {
					t.Fatal(err)
				}
				trainer, err := NewTrainer(b, &State{Config: c, Weights: w})
				if err != nil {
					t.Fatal(err)
				}
				defer trainer.Close()
				if err := trainer.open(l.Shards); err != nil {
					t.Fatal(err)
				}
				if r.gradient, err = trainer.gradient(ctx, &State{Config: c, Weights: w}, samples, l, &metrics{}); err != nil {
					t.Fatal(err)
				}
				s := &State{Config: c, Weights: w, Adapter: tinyAdapter(c, loraLearning())}
				adapted, err := NewTrainer(b, s)
				if err != nil {
					t.Fatal(err)
				}
				defer adapted.Close()
				if err := adapted.open(l.Shards); err != nil {
					t.Fatal(err)
				}
				if r.adapter, err = adapted.gradient(ctx, s, samples, l, &metrics{}); err != nil {
					t.Fatal(err)
				}
				return r
			}
			want, got, again := compute("go"), compute("onnx"), compute("onnx")
			for i := range want.scored {
				closeTo(t, fmt.Sprintf("row %d log-probs", i), got.scored[i].LogProbs, widen(want.scored[i].LogProbs), 2e-5)
				closeTo(t, fmt.Sprintf("row %d entropies", i), got.scored[i].Entropies, widen(want.scored[i].Entropies), 2e-5)
			}
			for i, w := range want.inspected {
				g := got.inspected[i]
				if diff := cmp.Diff([][]int32{w.IDs, w.Chosen}, [][]int32{g.IDs, g.Chosen}); diff != "" {
					t.Errorf("row %d support (-go +onnx):\n%s", i, diff)
				}
				closeTo(t, fmt.Sprintf("row %d probabilities", i), g.Probs, widen(w.Probs), 2e-5)
				closeTo(t, fmt.Sprintf("row %d hidden", i), g.Hidden, widen(w.Hidden), 1e-4)
				closeTo(t, fmt.Sprintf("row %d divergence", i), got.divergence[i], make([]float64, len(w.Chosen)), 1e-13)
			}
			for i := range want.completions {
				if diff := cmp.Diff(want.completions[i].IDs, got.completions[i].IDs); diff != "" {
					t.Errorf("row %d (-go +onnx):\n%s", i, diff)
				}
			}
			for i := range want.gradient {
				closeTo(t, want.gradient[i].Name, got.gradient[i].Data, widen(want.gradient[i].Data), 1e-5)
			}
			for i := range want.adapter {
				closeTo(t, want.adapter[i].Name, got.adapter[i].Data, widen(want.adapter[i].Data), 1e-4)
			}
			if diff := cmp.Diff(got, again, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("twice on onnx:\n%s", diff)
			}
		})
	}
}
