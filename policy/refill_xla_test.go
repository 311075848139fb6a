//go:build xla

package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// refillModel is small, has several heads of each kind, and ends now and then.
func refillModel() (Config, Weights) {
	c := tinyModels["grouped"]
	c.NumHiddenLayers, c.EOSTokenID = 2, TokenIDs{1}
	return c, tinyWeights(c, 5)
}

// placesFor bounds keys and values on the device for the test to so many tokens.
func placesFor(t *testing.T, c Config, tokens int) {
	old := deviceCacheFloats
	t.Cleanup(func() { deviceCacheFloats = old })
	deviceCacheFloats = tokens * c.cache(batch{prompts: 1, prefix: 1})
}

// Rows that follow one another in few places are generated as the pure Go backend does,
// and as in one batch.
func TestResidentRowsFollowOneAnother(t *testing.T) {
	ctx := context.Background()
	c, w := refillModel()
	reference, device := newTestEngine(t, c, w), newEngineOn(t, pluginOfCPU(t), c, w)
	rng := rand.New(rand.NewPCG(4, 4))
	rows := func(samples int, lengths ...int) (prompts []Prompt) {
		for _, n := range lengths {
			ids := randomIDs(rng, c, n)
			for range samples {
				prompts = append(prompts, Prompt{IDs: ids, Stream: rng.Uint64()})
			}
		}
		return prompts
	}
	for name, test := range map[string]struct {
		prompts []Prompt
		s       Sampling
		tokens  int // of the cache
		watched bool
	}{
		// The ring of keys and values is gone round several times, and grows meanwhile.
		"groups": {rows(8, 40, 17, 33, 20, 64, 18, 34, 40, 21, 50), Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 150}, 4 * (64 + 2*288), false},
		// Of three padded lengths, in two batches.
		"lengths": {rows(2, 1, 5, 9, 17, 3, 30, 33, 60, 16, 40, 12, 2, 65, 8, 20, 7), Sampling{Temperature: 0.8, TopP: 1, MaxCompletionLength: 30}, 5 * (64 + 96), false},
		"greedy":  {rows(1, 9, 3, 16, 2, 8, 8, 11, 5, 1, 14, 13, 7), Sampling{TopP: 1, MaxCompletionLength: 30}, 5 * (16 + 96), false},
		// Logits come to the host.
		"of few":  {rows(5, 9, 5, 14, 2), Sampling{Temperature: 1.2, TopK: 3, TopP: 0.9, MaxCompletionLength: 12}, 3 * (16 + 2*48), false},
		"watched": {rows(1, 9, 9, 1, 12, 9, 16, 9, 3, 2, 9, 4, 9), Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 20}, 4 * (16 + 96), true},
		// One prompt whose rows are too many, and one place.
		"one prompt": {rows(11, 9), Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 12}, 2 * (16 + 48), false},
		"one place":  {rows(3, 9, 4), Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 12}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			generate := func(e *Engine) []Completion {
				prompts := slices.Clone(test.prompts)
				for i := range prompts {
					if left := 1 + i*7%11; test.watched && i%3 > 0 {
						prompts[i].Watch = func(int32, float32, []float32) bool { left--; return left > 0 }
					}
				}
				done := 0
				completions, err := e.Generate(ctx, prompts, test.s, func(n, total int) {
					if n <= done || total != len(test.prompts) {
						t.Errorf("progress %d of %d after %d", n, total, done)
					}
					done = n
				})
				if err != nil || done != len(test.prompts) {
					t.Fatalf("%d of %d rows are done: %v", done, len(test.prompts), err)
				}
				return completions
			}
			whole, want := generate(device), generate(reference)
			placesFor(t, c, test.tokens)
			device.drawn, device.computed = 0, 0
			got := generate(device)
			t.Logf("%d of %d places computed were taken", device.drawn, device.computed)
			if diff := cmp.Diff(got, generate(device)); diff != "" {
				t.Errorf("same call, other bits:\n%s", diff)
			}
			for i, g := range got {
				for what, w := range map[string]Completion{"pure Go": want[i], "one batch": whole[i]} {
					if diff := cmp.Diff(w.IDs, g.IDs); diff != "" || w.FinishReason != g.FinishReason {
						t.Errorf("row %d, %s and %s (-%s +it):\n%s", i, w.FinishReason, g.FinishReason, what, diff)
						continue
					}
					closeTo(t, fmt.Sprintf("row %d, %s, log-probs", i, what), g.LogProbs, widen(w.LogProbs), 2e-5)
					closeTo(t, fmt.Sprintf("row %d, %s, entropies", i, what), g.Entropies, widen(w.Entropies), 2e-5)
				}
			}
		})
	}
}

// What ends a generation ends it also when rows wait, and the engine goes on.
func TestResidentRowsThatWaitEnd(t *testing.T) {
	c, w := refillModel()
	e := newEngineOn(t, pluginOfCPU(t), c, w)
	placesFor(t, c, 4*(16+96))
	prompts, s := repeatedPrompts(raggedRows(c, 3)[:3], 8), Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 20}
	want := must(e.Generate(t.Context(), prompts, s, nil))
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := e.Generate(ctx, prompts, s, func(int, int) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	if diff := cmp.Diff(want, must(e.Generate(t.Context(), prompts, s, nil))); diff != "" {
		t.Errorf("after it, other bits:\n%s", diff)
	}
	broken := w.Clone()
	for _, x := range broken {
		for i := range x.Data {
			x.Data[i] *= 1e30
		}
	}
	if err := e.Load(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Generate(t.Context(), prompts, s, nil); !errors.Is(err, ErrNotFinite) {
		t.Errorf("not finite: error %v", err)
	}
}
