package policy

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScoreAgreesWithReference(t *testing.T) {
	for name, c := range tinyModels {
		for _, temperature := range []float64{1, 0.6} {
			t.Run(fmt.Sprintf("%s at %v", name, temperature), func(t *testing.T) {
				w := tinyWeights(c, 7)
				rows := raggedRows(c, 3)
				scored, err := newTestEngine(t, c, w).Score(context.Background(), rows, temperature)
				if err != nil {
					t.Fatal(err)
				}
				ref := newReference(c, w)
				for i, r := range rows {
					logprobs, entropies := ref.score(r.Prompt, r.Completion, temperature)
					closeTo(t, fmt.Sprintf("row %d log-probs", i), scored[i].LogProbs, logprobs, 1e-4)
					closeTo(t, fmt.Sprintf("row %d entropies", i), scored[i].Entropies, entropies, 1e-4)
				}
			})
		}
	}
}

// prompts repeats rows' prompts n times each, with a stream of its own per row.
func repeatedPrompts(rows []Row, n int) []Prompt {
	var prompts []Prompt
	for i, r := range rows {
		for j := range n {
			prompts = append(prompts, Prompt{IDs: r.Prompt, Stream: uint64(1000*i + j)})
		}
	}
	return prompts
}

func TestGenerateAgreesWithScore(t *testing.T) {
	eos := int32(2)
	for name, c := range tinyModels {
		for _, s := range []Sampling{
			{Temperature: 1, TopP: 1, MaxCompletionLength: 40},
			{Temperature: 0.7, TopP: 0.9, TopK: 5, MaxCompletionLength: 17},
		} {
			t.Run(fmt.Sprintf("%s at %v", name, s.Temperature), func(t *testing.T) {
				c := c
				c.EOSTokenID = TokenIDs{eos} // drawn now and then, so that batches are compacted
				e := newTestEngine(t, c, tinyWeights(c, 5))
				prompts := repeatedPrompts(raggedRows(c, 4), 3)
				done := 0
				completions, err := e.Generate(context.Background(), prompts, s, func(n, total int) {
					if n <= done || total != len(prompts) {
						t.Errorf("progress %d of %d after %d", n, total, done)
					}
					done = n
				})
				if err != nil {
					t.Fatal(err)
				}
				if done != len(prompts) {
					t.Errorf("progress ended at %d, want %d", done, len(prompts))
				}
				rows := make([]Row, len(prompts))
				for i, r := range completions {
					rows[i] = Row{prompts[i].IDs, r.IDs}
					last := len(r.IDs) - 1
					for t2, id := range r.IDs {
						if id == eos && t2 != last {
							t.Fatalf("row %d goes on after its end token: %v", i, r.IDs)
						}
					}
					if stopped := r.IDs[last] == eos; stopped != (r.FinishReason == FinishStop) ||
						!stopped && (len(r.IDs) != s.MaxCompletionLength || r.FinishReason != FinishLength) {
						t.Errorf("row %d ends with %q after %v", i, r.FinishReason, r.IDs)
					}
				}
				scored, err := e.Score(context.Background(), rows, s.Temperature)
				if err != nil {
					t.Fatal(err)
				}
				for i, r := range completions {
					closeTo(t, fmt.Sprintf("row %d log-probs", i), r.LogProbs, widen(scored[i].LogProbs), 2e-5)
					closeTo(t, fmt.Sprintf("row %d entropies", i), r.Entropies, widen(scored[i].Entropies), 2e-5)
				}
			})
		}
	}
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// Greedy decoding with the cache must choose what a full recomputation of the
// sequence by the reference chooses.
func TestGreedyAgreesWithReference(t *testing.T) {
	for name, c := range tinyModels {
		t.Run(name, func(t *testing.T) {
			w := tinyWeights(c, 11)
			ref := newReference(c, w)
			rng := rand.New(rand.NewPCG(1, 2))
			var prompts []Prompt
			for _, n := range []int{1, 4, 12} {
				prompts = append(prompts, Prompt{IDs: randomIDs(rng, c, n)})
			}
			got, err := newTestEngine(t, c, w).Generate(context.Background(), prompts, Sampling{TopP: 1, MaxCompletionLength: 20}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range prompts {
				sequence := append([]int32{}, p.IDs...)
				for range 20 {
					logits := ref.logits(sequence)
					best, z := 0, logits[len(logits)-1]
					for v := range z {
						if z[v] > z[best] {
							best = v
						}
					}
					sequence = append(sequence, int32(best))
				}
				if diff := cmp.Diff(sequence[len(p.IDs):], got[i].IDs); diff != "" {
					t.Errorf("row %d (-reference +cached):\n%s", i, diff)
				}
			}
		})
	}
}

func TestGenerateDependsOnTheRowAlone(t *testing.T) {
	c := tinyModels["grouped"]
	eos := int32(1)
	c.EOSTokenID = TokenIDs{eos}
	e := newTestEngine(t, c, tinyWeights(c, 5))
	s := Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 24}
	prompts := repeatedPrompts(raggedRows(c, 9), 2)
	generate := func(prompts []Prompt) []Completion {
		t.Helper()
		completions, err := e.Generate(context.Background(), prompts, s, nil)
		if err != nil {
			t.Fatal(err)
		}
		return completions
	}
	all := generate(prompts)
	if diff := cmp.Diff(all, generate(prompts)); diff != "" {
		t.Errorf("same call, other bits:\n%s", diff)
	}
	order := rand.New(rand.NewPCG(3, 3)).Perm(len(prompts))
	shuffled := make([]Prompt, len(prompts))
	for i, j := range order {
		shuffled[i] = prompts[j]
	}
	for i, r := range generate(shuffled) {
		if diff := cmp.Diff(all[order[i]].IDs, r.IDs); diff != "" {
			t.Errorf("row %d in another order:\n%s", order[i], diff)
		}
	}
	for i, p := range prompts[:5] {
		if diff := cmp.Diff(all[i].IDs, generate([]Prompt{p})[0].IDs); diff != "" {
			t.Errorf("row %d alone:\n%s", i, diff)
		}
	}
}

// Two engines on two goroutines must neither hang nor disturb each other.
func TestEnginesSideBySide(t *testing.T) {
	c := tinyModels["untied"]
	w := tinyWeights(c, 5)
	s := Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 16}
	prompts := repeatedPrompts(raggedRows(c, 9), 2)
	results := make(chan []Completion)
	for range 2 {
		e := newTestEngine(t, c, w)
		go func() {
			r, err := e.Generate(context.Background(), prompts, s, nil)
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
	}
	if diff := cmp.Diff(<-results, <-results); diff != "" {
		t.Errorf("engines differ:\n%s", diff)
	}
}

func TestEngineErrors(t *testing.T) {
	c := tinyModels["untied"]
	e := newTestEngine(t, c, tinyWeights(c, 5))
	b, err := OpenBackend("")
	if err != nil {
		t.Fatal(err)
	}
	empty, err := NewEngine(b, c)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	s := Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 8}
	generate := func(e *Engine, ctx context.Context, ids []int32, s Sampling) error {
		_, err := e.Generate(ctx, []Prompt{{IDs: ids}}, s, nil)
		return err
	}
	score := func(prompt, completion []int32, temperature float64) error {
		_, err := e.Score(context.Background(), []Row{{prompt, completion}}, temperature)
		return err
	}
	broken := tinyWeights(c, 5)
	broken[0].Data[3] = float32(math.Inf(1))
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"no weights":      {generate(empty, context.Background(), []int32{1}, s), "no weights"},
		"cancelled":       {generate(e, cancelled, []int32{1}, s), "context canceled"},
		"empty prompt":    {generate(e, context.Background(), nil, s), "row 0: prompt is empty"},
		"long prompt":     {generate(e, context.Background(), make([]int32, 505), s), "context of 512"},
		"unknown token":   {generate(e, context.Background(), []int32{1, 11}, s), "token 1 is 11, want 0 to 10"},
		"bad sampling":    {generate(e, context.Background(), []int32{1}, Sampling{Temperature: -1, TopP: 1, MaxCompletionLength: 1}), "temperature is -1"},
		"bad temperature": {score([]int32{1}, []int32{1}, 0), "temperature is 0"},
		"bad completion":  {score([]int32{1}, []int32{-1}, 1), "token 0 is -1"},
		"long completion": {score(make([]int32, 500), make([]int32, 13), 1), "context of 512"},
		"NaN in weights":  {e.Load(broken), "embed_tokens"},
		"missing tensor":  {e.Load(broken[1:]), "missing"},
	} {
		if test.err == nil || !strings.Contains(test.err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, test.err, test.want)
		}
	}
}

func TestOpenBackendErrors(t *testing.T) {
	for spec, want := range map[string]string{"cuda": "want go, onnx or xla", "go:fast": "no options"} {
		if _, err := OpenBackend(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", spec, err, want)
		}
	}
}
