package datasets_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// checked is an allocator that fails the test when something is not released.
func checked(t testing.TB) memory.Allocator {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t testing.TB, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// scores builds a small table.
func scores(t testing.TB, mem memory.Allocator, rewards ...float64) *datasets.Table {
	t.Helper()
	verdicts, extracted := make([]string, len(rewards)), make([]string, len(rewards))
	for i, r := range rewards {
		verdicts[i] = map[bool]string{true: "correct", false: "wrong"}[r > 0]
		extracted[i] = fmt.Sprint("é", i)
	}
	table, err := datasets.NewTable(mem, datasets.KindScores, datasets.Lineage{Stage: "score", Version: 1},
		datasets.Reward.Of(rewards), datasets.Verdict.Of(verdicts), datasets.Extracted.Of(extracted))
	noError(t, err)
	return table
}

// rollouts builds a table with all types of list columns, of n rows that depend on seed.
func rollouts(t testing.TB, mem memory.Allocator, n int, seed uint64) *datasets.Table {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	numbers := func(most int32) []int32 {
		v := make([]int32, n)
		for i := range v {
			v[i] = rng.Int32N(most)
		}
		return v
	}
	texts := func(form string, most int) []string {
		v := make([]string, n)
		for i := range v {
			v[i] = fmt.Sprintf(form, rng.IntN(most))
		}
		return v
	}
	prompts, completions := make([][]int32, n), make([][]int32, n)
	logProbs, entropies := make([][]float32, n), make([][]float32, n)
	for i := range n {
		for range 20 + rng.IntN(20) {
			prompts[i] = append(prompts[i], rng.Int32N(100))
		}
		for range rng.IntN(65) {
			completions[i] = append(completions[i], rng.Int32N(100))
			logProbs[i] = append(logProbs[i], -rng.Float32())
			entropies[i] = append(entropies[i], rng.Float32())
		}
	}
	table, err := datasets.NewTable(mem, datasets.KindRollouts, datasets.Lineage{Stage: "rollout", Version: 1, Seed: seed},
		datasets.FinishReason.Of(texts("stop%.0d", 1)), // any order of columns will do
		datasets.Group.Of(numbers(100)), datasets.Sample.Of(numbers(8)), datasets.ProblemID.Of(texts("problem-%d", 1000)),
		datasets.Level.Of(numbers(10)), datasets.Origin.Of(texts("original%.0d", 1)), datasets.Parent.Of(texts("p%d", 9)),
		datasets.HintLevel.Of(numbers(3)), datasets.PolicyVersion.Of(texts("policy-%d", 1)),
		datasets.PromptIDs.OfSlices(prompts), datasets.CompletionIDs.OfSlices(completions),
		datasets.LogProbs.OfSlices(logProbs), datasets.Entropies.OfSlices(entropies), datasets.Completion.Of(texts("so the answer is %d", 1e6)))
	noError(t, err)
	return table
}
