package exchange

import (
	"cmp"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// Problems lays a problem set out as another trainer reads it; the caller releases
// the record. difficulty, which may be nil, is a table of pass rates by problem: a
// run's curriculum state, or a difficulty map.
//
// For verl: data_source, prompt (a chat), ability, reward_model {style,
// ground_truth} and extra_info {split, index, problem, level, verifier, …}. For TRL:
// prompt (a chat or a text) and, as columns that reach the reward functions, answer,
// solution, problem, source, level, verifier.
//
// Where pass rates are known, pass_rate, difficulty and weight stand beside (for verl
// in extra_info), null for problems that were not tried:
//
//	difficulty = 100·(1 − p)   AdaRFT's scale (arXiv:2504.05520)
//	weight     = 4·p·(1 − p)   the variance of a binary reward, 1 at p = ½
//
// p is the pass rate of the table, or the mean of its posterior where it has one.
func Problems(mem memory.Allocator, t, difficulty *datasets.Table, o Options) (arrow.Record, error) {
	if t.Kind() != datasets.KindProblems {
		return nil, fmt.Errorf("lay out for %s: a table of %s, want %s", o.Layout, t.Kind(), datasets.KindProblems)
	}
	id, source, level := datasets.ProblemID.Get(t), datasets.Source.Get(t), datasets.Level.Get(t)
	prompt, answer, verifier := datasets.Prompt.Get(t), datasets.Answer.Get(t), datasets.Verifier.Get(t)
	extra := []column{
		texts("problem", func(i int) string { return id[i] }), ints("level", func(i int) int32 { return level[i] }),
		texts("verifier", func(i int) string { return verifier[i] }),
	}
	rates, err := passRates(t, difficulty)
	if err != nil {
		return nil, err
	}
	if rates != nil {
		rate := func(f func(p float64) float64) func(i int) (float64, bool) {
			return func(i int) (float64, bool) {
				p, ok := rates[id[i]]
				return f(p), ok
			}
		}
		extra = append(extra,
			maybe("pass_rate", rate(func(p float64) float64 { return p })),
			maybe("difficulty", rate(func(p float64) float64 { return 100 * (1 - p) })),
			maybe("weight", rate(func(p float64) float64 { return 4 * p * (1 - p) })))
	}
	asked := chat("prompt", "user", func(i int) string { return prompt[i] })
	switch o.Layout {
	case TRL:
		if o.Plain {
			asked = texts("prompt", func(i int) string { return prompt[i] })
		}
		solution := datasets.Solution.Get(t)
		return build(mem, t.Rows(), append([]column{
			asked, texts("answer", func(i int) string { return answer[i] }),
			texts("solution", func(i int) string { return solution[i] }), texts("source", func(i int) string { return source[i] }),
		}, extra...)), nil
	case Verl:
		split := splits(t, o.Split)
		return build(mem, t.Rows(), []column{
			texts("data_source", func(i int) string { return source[i] }), asked, texts("ability", func(int) string { return o.Ability }),
			object("reward_model", texts("style", func(int) string { return "rule" }), texts("ground_truth", func(i int) string { return answer[i] })),
			object("extra_info", append([]column{texts("split", split), scalar("index", arrow.PrimitiveTypes.Int64, func(i int) int64 { return int64(i) })}, extra...)...),
		}), nil
	}
	return nil, fmt.Errorf("layout %q: want %s or %s", o.Layout, TRL, Verl)
}

// splits is the split of each row: the table's own, or the one named.
func splits(t *datasets.Table, name string) func(i int) string {
	name = cmp.Or(name, "train")
	if values, err := datasets.Split.Lookup(t); err == nil {
		return func(i int) string { return cmp.Or(values[i], name) }
	}
	return func(int) string { return name }
}

// passRates is the pass rate of each problem that was tried, by the table of
// difficulties, or else by the problem set itself; nil where neither has any.
func passRates(t, difficulty *datasets.Table) (map[string]float64, error) {
	if difficulty == nil {
		if !t.Has(datasets.PassRate.Name) {
			return nil, nil
		}
		difficulty = t
	}
	id, err := datasets.ProblemID.Lookup(difficulty)
	if err != nil {
		return nil, fmt.Errorf("difficulty: %w", err)
	}
	rate, err := datasets.PassRate.Lookup(difficulty)
	if err != nil {
		return nil, fmt.Errorf("difficulty: %w", err)
	}
	attempts, err := datasets.Attempts.Lookup(difficulty)
	if err != nil {
		return nil, fmt.Errorf("difficulty: %w", err)
	}
	var alpha, beta []float64
	if difficulty.Has(datasets.PosteriorAlpha.Name) && difficulty.Has(datasets.PosteriorBeta.Name) {
		alpha, beta = datasets.PosteriorAlpha.Get(difficulty), datasets.PosteriorBeta.Get(difficulty)
	}
	rates := map[string]float64{}
	for i := range id {
		if attempts[i] == 0 {
			continue
		}
		rates[id[i]] = rate[i]
		if alpha != nil {
			rates[id[i]] = alpha[i] / (alpha[i] + beta[i])
		}
	}
	return rates, nil
}
