package policy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// logSoftmax in float64, of all logits or of ids alone.
func referenceLogSoftmax(z []float64, temperature float64, ids []int32) []float64 {
	var logp []float64
	sum := 0.0
	for _, id := range ids {
		sum += math.Exp(z[id] / temperature)
	}
	for _, id := range ids {
		logp = append(logp, z[id]/temperature-math.Log(sum))
	}
	return logp
}

func TestInspectAgreesWithReference(t *testing.T) {
	for name, c := range tinyModels {
		for k, temperature := range map[int]float64{3: 0.6, c.VocabSize: 1, 1000: 1.7} {
			t.Run(fmt.Sprintf("%s, top %d", name, k), func(t *testing.T) {
				w := tinyWeights(c, 7)
				rows := raggedRows(c, 3)
				e := newTestEngine(t, c, w)
				got, err := e.Inspect(context.Background(), rows, temperature, InspectOptions{TopK: k, Hidden: true})
				if err != nil {
					t.Fatal(err)
				}
				scored, err := e.Score(context.Background(), rows, temperature)
				if err != nil {
					t.Fatal(err)
				}
				ref := newReference(c, w)
				for i, r := range rows {
					if diff := gocmp.Diff(scored[i], Scored{got[i].LogProbs, got[i].Entropies}); diff != "" {
						t.Errorf("row %d (-score +inspect):\n%s", i, diff)
					}
					sequence := append(slices.Clone(r.Prompt), r.Completion...)
					logits, hidden := ref.logits(sequence), ref.hidden(sequence)
					var want struct {
						ids, chosen                []int32
						probs, normSquared, hidden []float64
					}
					for j, sampled := range r.Completion {
						z, h := logits[len(r.Prompt)-1+j], hidden[len(r.Prompt)-1+j]
						ids := make([]int32, c.VocabSize)
						for v := range ids {
							ids[v] = int32(v)
						}
						slices.SortFunc(ids, func(a, b int32) int { return cmp.Compare(z[b], z[a]) })
						ids = ids[:min(k, c.VocabSize)]
						if !slices.Contains(ids, sampled) {
							ids[k-1] = sampled
						}
						want.ids = append(want.ids, ids...)
						want.chosen = append(want.chosen, int32(slices.Index(ids, sampled)))
						for _, lp := range referenceLogSoftmax(z, temperature, ids) {
							want.probs = append(want.probs, math.Exp(lp))
						}
						sum := 0.0
						for _, x := range h {
							want.hidden = append(want.hidden, x/temperature)
							sum += x / temperature * x / temperature
						}
						want.normSquared = append(want.normSquared, sum)
					}
					if !slices.Equal(got[i].IDs, want.ids) || !slices.Equal(got[i].Chosen, want.chosen) {
						t.Errorf("row %d: support %v at %v, want %v at %v", i, got[i].IDs, got[i].Chosen, want.ids, want.chosen)
					}
					closeTo(t, fmt.Sprintf("row %d probabilities", i), got[i].Probs, want.probs, 1e-5)
					closeTo(t, fmt.Sprintf("row %d hidden", i), got[i].Hidden, want.hidden, 1e-4)
					closeTo(t, fmt.Sprintf("row %d norms", i), got[i].NormSquared, want.normSquared, 1e-3)
				}
			})
		}
	}
}

func TestInspectedSupport(t *testing.T) {
	for _, test := range []struct {
		logits  []float64
		k       int
		sampled int32
		ids     []int32
		chosen  int
	}{
		{[]float64{1, 3, 2, 0}, 2, 2, []int32{1, 2}, 1},
		{[]float64{1, 3, 2, 0}, 2, 0, []int32{1, 0}, 1},
		{[]float64{1, 3, 2, 0}, 1, 3, []int32{3}, 0},
		{[]float64{1, 3, 2, 0}, 4, 3, []int32{1, 2, 0, 3}, 3},
		{[]float64{5, 5, 5, 5}, 3, 1, []int32{0, 1, 2}, 1},
		{[]float64{5, 5, 5, 5}, 3, 3, []int32{0, 1, 3}, 2},
		{[]float64{0, 7, 0, 7}, 3, 3, []int32{1, 3, 0}, 1},
		{[]float64{2}, 1, 0, []int32{0}, 0},
	} {
		ids := likeliest(make([]int32, len(test.logits)), test.logits, test.k, test.sampled)
		if !slices.Equal(ids, test.ids) || slices.Index(ids, test.sampled) != test.chosen {
			t.Errorf("top %d of %v with %d: %v, want %v", test.k, test.logits, test.sampled, ids, test.ids)
		}
	}
}

func TestInspectHidesStates(t *testing.T) {
	c := tinyModels["untied"]
	got, err := newTestEngine(t, c, tinyWeights(c, 5)).Inspect(context.Background(), raggedRows(c, 3)[:1], 1, InspectOptions{TopK: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Hidden != nil || len(got[0].NormSquared) != 3 {
		t.Errorf("%d numbers of hidden states and %d norms, want 0 and 3", len(got[0].Hidden), len(got[0].NormSquared))
	}
}

// The divergence of one policy from another is that of their distributions
// over the support, each renormalised, and over the vocabulary it is all of it.
func TestDivergenceAgreesWithReference(t *testing.T) {
	ctx := context.Background()
	c := tinyModels["grouped"]
	before, after := tinyWeights(c, 7), tinyWeights(c, 7)
	for i := range after {
		for j := range after[i].Data {
			after[i].Data[j] *= 1 + 0.01*float32(i%5+j%3-3)
		}
	}
	const temperature = 0.8
	rows := raggedRows(c, 3)
	e := newTestEngine(t, c, before)
	for _, k := range []int{1, 4, c.VocabSize} {
		if err := e.Load(before); err != nil {
			t.Fatal(err)
		}
		inspected, err := e.Inspect(ctx, rows, temperature, InspectOptions{TopK: k})
		if err != nil {
			t.Fatal(err)
		}
		same, err := e.Divergence(ctx, rows, inspected, temperature)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Load(after); err != nil {
			t.Fatal(err)
		}
		moved, err := e.Divergence(ctx, rows, inspected, temperature)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			sequence := append(slices.Clone(r.Prompt), r.Completion...)
			z0, z1 := newReference(c, before).logits(sequence), newReference(c, after).logits(sequence)
			var want []float64
			for j := range r.Completion {
				if same[i][j] < 0 || same[i][j] > 1e-13 {
					t.Errorf("top %d, row %d, token %d: the same policy differs by %v", k, i, j, same[i][j])
				}
				if moved[i][j] < 0 {
					t.Errorf("top %d, row %d, token %d: divergence %v is negative", k, i, j, moved[i][j])
				}
				at, ids := len(r.Prompt)-1+j, inspected[i].IDs[j*k:][:k]
				p, q := referenceLogSoftmax(z0[at], temperature, ids), referenceLogSoftmax(z1[at], temperature, ids)
				sum := 0.0
				for n := range p {
					sum += math.Exp(p[n]) * (p[n] - q[n])
				}
				want = append(want, sum)
			}
			closeTo(t, fmt.Sprintf("top %d, row %d", k, i), moved[i], want, 1e-6)
		}
	}
}

func TestDivergenceByHand(t *testing.T) { divergenceByHand(t, newTestEngine) }

// A policy whose head is 0 is uniform, so KL(p ‖ now) = Σ p·log(p·K).
func divergenceByHand(t *testing.T, newEngine func(testing.TB, Config, Weights) *Engine) {
	c := tinyModels["untied"]
	w := tinyWeights(c, 5)
	clear(w[len(w)-1].Data)
	e := newEngine(t, c, w)
	rows := []Row{{[]int32{1}, []int32{2, 3}}, {[]int32{1}, nil}, {[]int32{1}, []int32{4}}}
	got, err := e.Divergence(context.Background(), rows, []Inspected{
		{IDs: []int32{2, 0, 7, 3}, Probs: []float32{0.75, 0.25, 1, 0}},
		{},
		{IDs: []int32{4}, Probs: []float32{1}},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]float64{{0.75*math.Log(1.5) + 0.25*math.Log(0.5), math.Ln2}, {}, {0}} {
		closeTo(t, fmt.Sprintf("row %d", i), got[i], want, 1e-7)
	}
}

func TestInspectErrors(t *testing.T) {
	c := tinyModels["untied"]
	e := newTestEngine(t, c, tinyWeights(c, 5))
	huge := newTestEngine(t, c, tinyWeights(c, 5))
	overflowing := tinyWeights(c, 5)
	for j := range overflowing[len(overflowing)-1].Data {
		overflowing[len(overflowing)-1].Data[j] = math.MaxFloat32
	}
	if err := huge.Load(overflowing); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	inspect := func(e *Engine, ctx context.Context, temperature float64, k int) error {
		_, err := e.Inspect(ctx, []Row{{[]int32{1}, []int32{2, 3}}}, temperature, InspectOptions{TopK: k})
		return err
	}
	divergence := func(before ...Inspected) error {
		_, err := e.Divergence(context.Background(), []Row{{[]int32{1}, []int32{2, 3}}}, before, 1)
		return err
	}
	two, four := []float32{1, 1}, []float32{1, 0, 1, 0}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"no support":      {inspect(e, context.Background(), 1, 0), "inspect: top_k is 0, want at least 1"},
		"bad temperature": {inspect(e, context.Background(), 0, 1), "inspect: temperature is 0"},
		"cancelled":       {inspect(e, cancelled, 1, 1), "inspect: context canceled"},
		"no distribution": {inspect(huge, context.Background(), 1, 1), "row 0, token 0: the logits are no distribution"},
		"missing row":     {divergence(), "divergence: 0 inspected completions for 1 rows"},
		"no ids":          {divergence(Inspected{}), "row 0: supports of 0 ids"},
		"ragged ids":      {divergence(Inspected{IDs: []int32{1, 2, 3}, Probs: []float32{1, 1, 1}}), "supports of 3 ids"},
		"too many ids":    {divergence(Inspected{IDs: make([]int32, 24), Probs: make([]float32, 24)}), "supports of 24 ids"},
		"ids alone":       {divergence(Inspected{IDs: []int32{1, 2, 3, 4}, Probs: two}), "4 ids and 2 probabilities"},
		"unknown token":   {divergence(Inspected{IDs: []int32{1, 2, 3, 11}, Probs: four}), "token 11, want 0 to 10"},
	} {
		if test.err == nil || !strings.Contains(test.err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, test.err, test.want)
		}
	}
}
