//go:build onnx || xla

package policy

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// agreesWithGo wants a backend to agree with the pure Go one on log-probs, gradients,
// updates and greedy completions, and to give the same bits twice. What is learnt is
// learnt as l has it, with a reference.
func agreesWithGo(t *testing.T, spec string, l Learning, models ...string) {
	ctx := context.Background()
	for _, name := range models {
		c, ok := tinyModels[name]
		if !ok {
			t.Fatalf("no model %s", name)
		}
		t.Run(name, func(t *testing.T) {
			w := tinyWeights(c, 5)
			l := l
			l.Beta, l.Shards, l.MiniBatchSize, l.LearningRate = 0.1, 1, 3, 1e-3
			samples := testSamples(t, c, w, 1)
			if name == "grouped" {
				scaleKL(samples)
			}
			type result struct {
				scored      []Scored
				inspected   []Inspected
				divergence  [][]float32
				completions []Completion // greedy
				drawn       []Completion
				few         []Completion // of few likely tokens
				gradient    Weights
				adapter     Weights
				updated     Weights
				metrics     UpdateMetrics
			}
			compute := func(spec string, l Learning) (r result) {
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
				if diff := cmp.Diff(r.scored, must(e.Score(ctx, raggedRows(c, 3), 0.8))); diff != "" {
					t.Errorf("scored twice:\n%s", diff)
				}
				if r.inspected, err = e.Inspect(ctx, raggedRows(c, 3), 0.8, InspectOptions{TopK: 4, Hidden: true}); err != nil {
					t.Fatal(err)
				}
				if r.divergence, err = e.Divergence(ctx, raggedRows(c, 3), r.inspected, 0.8); err != nil {
					t.Fatal(err)
				}
				for to, s := range map[*[]Completion]Sampling{
					&r.completions: {TopP: 1, MaxCompletionLength: 12},
					&r.drawn:       {Temperature: 0.8, TopP: 1, MaxCompletionLength: 70}, // beyond one cache
					&r.few:         {Temperature: 1.2, TopK: 3, TopP: 0.9, MaxCompletionLength: 5},
				} {
					if *to, err = e.Generate(ctx, repeatedPrompts(raggedRows(c, 3), 2), s, nil); err != nil {
						t.Fatal(err)
					}
				}
				train := func(s *State) *Trainer {
					trainer, err := NewTrainer(b, s)
					if err != nil {
						t.Fatal(err)
					}
					if err := trainer.settle(l); err != nil {
						t.Fatal(err)
					}
					return trainer
				}
				trainer := train(&State{Config: c, Weights: w})
				defer trainer.Close()
				r.gradient = gradientOf(t, trainer, samples, l)
				if diff := cmp.Diff(r.gradient, gradientOf(t, trainer, samples, l)); diff != "" {
					t.Errorf("the gradient twice:\n%s", diff)
				}
				referred := slices.Clone(samples)
				for i := range referred { // an update wants a reference of all
					if s := &referred[i]; s.RefLogProbs == nil {
						s.RefLogProbs = slices.Repeat([]float32{-1}, len(s.Completion))
					}
				}
				if r.metrics, err = trainer.Update(ctx, referred, l); err != nil {
					t.Fatal(err)
				}
				r.updated = must(trainer.State()).Weights
				l.LoRARank, l.LoRAAlpha = 2, 3
				with := train(&State{Config: c, Weights: w, Adapter: tinyAdapter(c, l)})
				defer with.Close()
				r.adapter = gradientOf(t, with, samples, l)
				return r
			}
			plain := l
			plain.GradientCheckpointing = false
			want, got := compute("go", plain), compute(spec, l)
			for i := range want.scored {
				closeTo(t, fmt.Sprintf("row %d log-probs", i), got.scored[i].LogProbs, widen(want.scored[i].LogProbs), 2e-5)
				closeTo(t, fmt.Sprintf("row %d entropies", i), got.scored[i].Entropies, widen(want.scored[i].Entropies), 2e-5)
			}
			for i, w := range want.inspected {
				g := got.inspected[i]
				if diff := cmp.Diff([][]int32{w.IDs, w.Chosen}, [][]int32{g.IDs, g.Chosen}); diff != "" {
					t.Errorf("row %d support (-go +it):\n%s", i, diff)
				}
				closeTo(t, fmt.Sprintf("row %d probabilities", i), g.Probs, widen(w.Probs), 2e-5)
				closeTo(t, fmt.Sprintf("row %d hidden", i), g.Hidden, widen(w.Hidden), 1e-4)
				closeTo(t, fmt.Sprintf("row %d divergence", i), got.divergence[i], make([]float64, len(w.Chosen)), 1e-13)
			}
			for what, both := range map[string][2][]Completion{"greedy": {want.completions, got.completions}, "drawn": {want.drawn, got.drawn}, "of few": {want.few, got.few}} {
				for i, w := range both[0] {
					g := both[1][i]
					if diff := cmp.Diff(w.IDs, g.IDs); diff != "" || w.FinishReason != g.FinishReason {
						t.Errorf("%s, row %d, %s and %s (-go +it):\n%s", what, i, w.FinishReason, g.FinishReason, diff)
						continue
					}
					closeTo(t, fmt.Sprintf("%s, row %d log-probs", what, i), g.LogProbs, widen(w.LogProbs), 2e-5)
					closeTo(t, fmt.Sprintf("%s, row %d entropies", what, i), g.Entropies, widen(w.Entropies), 2e-5)
				}
			}
			for i := range want.gradient {
				closeTo(t, want.gradient[i].Name, got.gradient[i].Data, widen(want.gradient[i].Data), 1e-5)
			}
			for i := range want.adapter {
				closeTo(t, want.adapter[i].Name, got.adapter[i].Data, widen(want.adapter[i].Data), 1e-4)
			}
			for i := range want.updated { // Adam's steps are of a size whatever the gradient's: where that is almost 0, rounding decides
				closeTo(t, want.updated[i].Name+" updated", got.updated[i].Data, widen(want.updated[i].Data), 2e-3)
			}
			if diff := cmp.Diff(want.metrics, got.metrics, cmpopts.EquateApprox(1e-3, 1e-4), cmpopts.IgnoreFields(UpdateMetrics{}, "Padding")); diff != "" {
				t.Errorf("metrics (-go +it):\n%s", diff)
			}
		})
	}
}

// gradientOf is the gradient of a mini-batch as a trainer that has settled computes it.
func gradientOf(t *testing.T, trainer *Trainer, samples []Sample, l Learning) Weights {
	ctx := context.Background()
	if !trainer.backend.fused {
		return must(trainer.gradient(ctx, &trainer.state, samples, l, &metrics{}))
	}
	if trainer.resident == nil {
		if err := trainer.inhabit(); err != nil {
			t.Fatal(err)
		}
	}
	sum, _, err := trainer.residentGradient(ctx, newDivided(trainer.state.Config, samples, l, len(trainer.shards)), l)
	if err != nil {
		t.Fatal(err)
	}
	gradient := trainer.state.trained().Zeros()
	if err := accumulate(gradient, trainer.resident.slots, sum); err != nil {
		t.Fatal(err)
	}
	return gradient
}
