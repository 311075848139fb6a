package activities

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.temporal.io/sdk/testsuite"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/reward"
)

// Each part of a reward is a column, beside those of verifiers that have no such part, and reasons are counted.
func TestScoreKeepsPartsAndReasons(t *testing.T) {
	store := datasets.NewMemory()
	plan, err := json.Marshal(recipes.Plan{Verifier: `{"verifier": "composite", "terms": [{"name": "correct", "verify": "math"}, {"name": "tools", "weight": -0.25, "count": "<call>"}]}`})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := datasets.SaveBlob(t.Context(), store, plan)
	if err != nil {
		t.Fatal(err)
	}
	in := ScoreInput{Run: Run{ID: "run", Plan: ref}}
	in.Round.Proposals = saved(t, store, datasets.KindProposals,
		datasets.Group.Of([]int32{0, 1}), datasets.ProblemID.Of([]string{"a", "b"}), datasets.ProblemIndex.Of([]int32{0, 1}), datasets.Level.Of([]int32{1, 1}),
		datasets.Prompt.Of([]string{"1+1=", "2+2="}), datasets.Answer.Of([]string{"2", "4"}), datasets.Verifier.Of([]string{"", "exact"}),
		datasets.Origin.Of([]string{"original", "original"}), datasets.Parent.Of([]string{"", ""}), datasets.HintLevel.Of([]int32{0, 0}),
		datasets.NumGenerations.Of([]int32{2, 1}), datasets.FirstSample.Of([]int32{0, 0}), datasets.Prefill.Of([]string{"", ""}), datasets.Purpose.Of([]string{"", ""}))
	none, logs := datasets.MakeLists([][]int32{{}, {}, {}}), datasets.MakeLists([][]float32{{}, {}, {}})
	in.Round.Rollouts = []datasets.Ref{saved(t, store, datasets.KindRollouts,
		datasets.Group.Of([]int32{0, 0, 1}), datasets.Sample.Of([]int32{0, 1, 0}), datasets.ProblemID.Of([]string{"a", "a", "b"}), datasets.Level.Of([]int32{1, 1, 1}),
		datasets.Origin.Of([]string{"", "", ""}), datasets.Parent.Of([]string{"", "", ""}), datasets.HintLevel.Of([]int32{0, 0, 0}), datasets.PolicyVersion.Of([]string{"", "", ""}),
		datasets.PromptIDs.Of(none), datasets.CompletionIDs.Of(none), datasets.LogProbs.Of(logs), datasets.Entropies.Of(logs),
		datasets.Completion.Of([]string{`<call> <call> \boxed{2}`, `\boxed{2 = }`, "4"}), datasets.FinishReason.Of([]string{"stop", "stop", "stop"}))}

	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	a := &Activities{Store: store, Scorer: &reward.Scorer{}}
	env.RegisterActivity(a.Score)
	value, err := env.ExecuteActivity(a.Score, in)
	if err != nil {
		t.Fatal(err)
	}
	var out Output
	if err := value.Get(&out); err != nil {
		t.Fatal(err)
	}
	scores, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, out.Tables[TableScores])
	if err != nil {
		t.Fatal(err)
	}
	defer scores.Release()
	nan := math.NaN()
	for name, want := range map[string][]float64{"correct": {1, 0, nan}, "tools": {2, 0, nan}} {
		if got := datasets.RewardPart(name).Get(scores); !cmp.Equal(got, want, cmpopts.EquateNaNs()) {
			t.Errorf("part %s: %v, want %v", name, got, want)
		}
	}
	if got, want := datasets.Reward.Get(scores), []float64{0.5, 0, 1}; !cmp.Equal(got, want) {
		t.Errorf("rewards %v, want %v", got, want)
	}
	if got, want := datasets.VerdictReason.Get(scores), []string{"", "unparsable", ""}; !cmp.Equal(got, want) {
		t.Errorf("reasons %q, want %q", got, want)
	}
	if out.Metrics["verifier/reason/unparsable"] != 1 {
		t.Errorf("metrics %v", out.Metrics)
	}
}

func saved(t *testing.T, store datasets.Store, kind string, columns ...datasets.Data) datasets.Ref {
	t.Helper()
	table, err := datasets.NewTable(memory.DefaultAllocator, kind, datasets.Lineage{Stage: "test"}, columns...)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	ref, err := datasets.Save(t.Context(), store, table)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
