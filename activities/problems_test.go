package activities

import (
	"fmt"
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

// A set says itself which rows are for what; what it does not say is held out of the
// training rows.
func TestPartition(t *testing.T) {
	const n = 400
	table := func(split func(i int) string) *datasets.Table {
		var ids, empty, splits []string
		for i := range n {
			ids, empty = append(ids, fmt.Sprint("p", i)), append(empty, "")
			if split != nil {
				splits = append(splits, split(i))
			}
		}
		columns := []datasets.Data{
			datasets.ProblemID.Of(ids), datasets.Source.Of(empty), datasets.Prompt.Of(ids), datasets.Answer.Of(ids), datasets.Solution.Of(empty),
			datasets.Verifier.Of(empty), datasets.Level.Of(make([]int32, n)), datasets.Steps.Of(datasets.MakeLists(make([][]string, n))),
		}
		if split != nil {
			columns = append(columns, datasets.Split.Of(splits))
		}
		problems, err := datasets.NewTable(memory.DefaultAllocator, datasets.KindProblems, datasets.Lineage{Stage: "test"}, columns...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(problems.Release)
		return problems
	}
	hashed := partition(table(nil))
	for _, name := range []string{TableTest, TableValidation} {
		if k := len(hashed[name]); k < n/32 || k > n/8 {
			t.Errorf("%d of %d rows for %s, want about a sixteenth", k, n, name)
		}
	}
	third := partition(table(func(i int) string { return []string{"train", "test", "other"}[i%3] }))
	if k := len(third[TableTest]); k != n/3 {
		t.Errorf("%d test rows, want %d", k, n/3)
	}
	whole := partition(table(func(i int) string { return []string{"train", "test", "validation", "train"}[i%4] }))
	if got := [3]int{len(whole[TableTrain]), len(whole[TableTest]), len(whole[TableValidation])}; got != [3]int{n / 2, n / 4, n / 4} {
		t.Errorf("rows for train, test and validation: %v", got)
	}
	for what, rows := range map[string]map[string][]int32{"hashed": hashed, "without validation": third, "whole": whole} {
		seen := map[int32]bool{}
		for _, name := range []string{TableTrain, TableTest, TableValidation} {
			for _, i := range rows[name] {
				if seen[i] {
					t.Errorf("%s: row %d is in two of them", what, i)
				}
				if seen[i] = true; what == "without validation" && (i%3 == 2 || (name == TableTest) != (i%3 == 1)) {
					t.Errorf("%s: row %d is for %s", what, i, name)
				}
			}
		}
		if what == "hashed" && len(seen) != n {
			t.Errorf("%d of %d rows are for something", len(seen), n)
		}
	}
}
