package activities

import (
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// Data names its verifier and does not set it: settings could run programs.
func TestProblemsMayNotSetVerifiers(t *testing.T) {
	for verifier, want := range map[string]string{
		"numeric": "", "": "",
		`{"verifier":"code","unconfined":true}`: `problem "p1": verifier {"verifier":"code","unconfined":true} has settings`,
	} {
		store := datasets.NewMemory()
		problems, err := datasets.NewTable(memory.DefaultAllocator, datasets.KindProblems, datasets.Lineage{Stage: "test"},
			datasets.ProblemID.Of([]string{"p1"}), datasets.Source.Of([]string{"test"}), datasets.Prompt.Of([]string{"1+1="}), datasets.Answer.Of([]string{"2"}),
			datasets.Solution.Of([]string{""}), datasets.Verifier.Of([]string{verifier}), datasets.Level.Of([]int32{1}), datasets.Steps.Of(datasets.MakeLists([][]string{{}})))
		if err != nil {
			t.Fatal(err)
		}
		defer problems.Release()
		ref, err := datasets.Save(t.Context(), store, problems)
		if err != nil {
			t.Fatal(err)
		}
		a := &Activities{Store: store}
		if _, err := a.problems(t.Context(), ref); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("verifier %q: %v, want %q", verifier, err, want)
		}
	}
}
