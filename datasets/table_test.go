package datasets_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

func TestTable(t *testing.T) {
	mem := checked(t)
	lineage := datasets.Lineage{Stage: "import", Version: 2, Params: []byte(`{"b":1,"a":[1.50,"<"]}`), Inputs: []string{"i"}, Seed: math.MaxUint64, Step: 3, Scope: "run"}
	table, err := datasets.NewTable(mem, datasets.KindProblems, lineage,
		datasets.Verifier.Of([]string{"", "exact"}),
		datasets.ProblemID.Of([]string{"p0", "p1"}), datasets.Source.Of([]string{"s", "s"}), datasets.Level.Of([]int32{0, 7}),
		datasets.Prompt.Of([]string{"naïve?", ""}), datasets.Answer.Of([]string{"日本", "2"}), datasets.Solution.Of([]string{"", "x"}),
		datasets.Steps.OfSlices([][]string{nil, {"one", "", "three"}}))
	noError(t, err)
	defer table.Release()

	equal(t, "rows", 2, table.Rows())
	equal(t, "kind", datasets.KindProblems, table.Kind())
	equal(t, "level", []int32{0, 7}, datasets.Level.Get(table))
	equal(t, "answer", []string{"日本", "2"}, datasets.Answer.Get(table))
	equal(t, "prompt", []string{"naïve?", ""}, datasets.Prompt.Get(table))
	steps := datasets.Steps.Get(table)
	equal(t, "list rows", 2, steps.Len())
	equal(t, "empty list", []string{}, steps.Row(0))
	equal(t, "list", []string{"one", "", "three"}, steps.Row(1))
	equal(t, "has", []bool{true, false}, []bool{table.Has("level"), table.Has("reward")})
	got, err := table.Lineage()
	noError(t, err)
	equal(t, "lineage key", lineage.Key(), got.Key())
	equal(t, "params", `{"a":[1.50,"<"],"b":1}`, string(got.Params))

	other, err := table.WithLineage(datasets.Lineage{Stage: "other"})
	noError(t, err)
	defer other.Release()
	got, err = other.Lineage()
	noError(t, err)
	equal(t, "stage", "other", got.Stage)
	equal(t, "shared rows", []int32{0, 7}, datasets.Level.Get(other))
}

func TestNumbersAreNotCopied(t *testing.T) {
	table := scores(t, checked(t), 1, 0, 1)
	defer table.Release()
	a, b := datasets.Reward.Get(table), datasets.Reward.Get(table)
	if &a[0] != &b[0] {
		t.Error("two reads give two copies")
	}
}

// Strings are copies: they outlive the table.
func TestStringsAreCopied(t *testing.T) {
	table := scores(t, checked(t), 1, 0)
	verdicts := datasets.Verdict.Get(table)
	table.Release()
	equal(t, "verdicts", []string{"correct", "wrong"}, verdicts)
}

func TestOptionalColumn(t *testing.T) {
	mem := checked(t)
	columns := []datasets.Data{
		datasets.Group.Of([]int32{0}), datasets.Sample.Of([]int32{0}), datasets.ProblemID.Of([]string{"p"}), datasets.Origin.Of([]string{"original"}),
		datasets.Parent.Of([]string{""}), datasets.HintLevel.Of([]int32{0}), datasets.PolicyVersion.Of([]string{"v"}), datasets.Reward.Of([]float64{1}),
		datasets.Advantage.Of([]float64{.5}), datasets.Kept.Of([]bool{true}), datasets.Reason.Of([]string{""}), datasets.TokensKept.Of([]int32{3}),
	}
	without, err := datasets.NewTable(mem, datasets.KindSelections, datasets.Lineage{}, columns...)
	noError(t, err)
	defer without.Release()
	if _, err := datasets.TokenReasons.Lookup(without); err == nil || !strings.Contains(err.Error(), `no column "token_reasons"`) {
		t.Errorf("look up an absent column: %v", err)
	}
	with, err := datasets.NewTable(mem, datasets.KindSelections, datasets.Lineage{}, append(columns, datasets.TokenReasons.OfSlices([][]int32{{0, 2, 0}}))...)
	noError(t, err)
	defer with.Release()
	equal(t, "reasons", []int32{0, 2, 0}, datasets.TokenReasons.Get(with).Row(0))
	equal(t, "kept", []bool{true}, datasets.Kept.Get(with))
	if _, err := datasets.Concat(mem, with, without); err == nil {
		t.Error("concat of different columns: no error")
	}
}

func TestNewTableRefuses(t *testing.T) {
	mem := checked(t)
	reward, verdict, extracted := datasets.Reward.Of([]float64{1}), datasets.Verdict.Of([]string{"correct"}), datasets.Extracted.Of([]string{"1"})
	for _, c := range []struct {
		name    string
		kind    string
		columns []datasets.Data
		want    string
	}{
		{"kind", "score/1", nil, `kind "score/1" is not known: want one of problems/1`},
		{"no columns", datasets.KindScores, nil, `column "reward" is missing`},
		{"missing", datasets.KindScores, []datasets.Data{reward, verdict}, `column "extracted" is missing`},
		{"unknown", datasets.KindScores, []datasets.Data{reward, verdict, extracted, datasets.Level.Of([]int32{1})}, `no column "level"`},
		{"twice", datasets.KindScores, []datasets.Data{reward, verdict, extracted, reward}, `"reward" is given twice`},
		{"length", datasets.KindScores, []datasets.Data{reward, verdict, datasets.Extracted.Of([]string{"1", "2"})}, `column "extracted" has 2 rows, want 1`},
		{"type", datasets.KindScores, []datasets.Data{verdict, extracted, datasets.Column[int32]{Name: "reward"}.Of([]int32{1})}, `column "reward" is int32, want float64`},
		{"list", datasets.KindScores, []datasets.Data{verdict, extracted, datasets.ListColumn[int32]{Name: "reward"}.OfSlices([][]int32{{1}})}, `column "reward" is list<`},
		{"UTF-8", datasets.KindScores, []datasets.Data{reward, verdict, datasets.Extracted.Of([]string{"\xff"})}, `column "extracted": row 0 is not valid UTF-8`},
	} {
		table, err := datasets.NewTable(mem, c.kind, datasets.Lineage{}, c.columns...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		if err == nil {
			table.Release()
		}
	}
	if _, err := datasets.NewTable(mem, datasets.KindScores, datasets.Lineage{Params: []byte("{")}, reward, verdict, extracted); err == nil || !strings.Contains(err.Error(), "params") {
		t.Errorf("bad params: error %v", err)
	}
}

// Offsets come from callers, too.
func TestListOffsetsAreChecked(t *testing.T) {
	mem := checked(t)
	whole := rollouts(t, mem, 1, 1)
	defer whole.Release()
	for _, offsets := range [][]int32{{0, 4}, {-1, 3}, {2, 1}} {
		bad := datasets.Lists[string]{Values: []string{"a", "b", "c"}, Offsets: offsets}
		table, err := datasets.NewTable(mem, datasets.KindProblems, datasets.Lineage{}, datasets.Steps.Of(bad),
			datasets.ProblemID.Of([]string{""}), datasets.Source.Of([]string{""}), datasets.Level.Of([]int32{0}), datasets.Prompt.Of([]string{""}),
			datasets.Answer.Of([]string{""}), datasets.Solution.Of([]string{""}), datasets.Verifier.Of([]string{""}))
		if err == nil || !strings.Contains(err.Error(), `"steps"`) {
			t.Errorf("offsets %v: error %v", offsets, err)
		}
		if err == nil {
			table.Release()
		}
	}
}

func TestGetPanicsOnMisuse(t *testing.T) {
	table := scores(t, checked(t), 1)
	defer table.Release()
	for name, get := range map[string]func(){
		"absent": func() { datasets.Level.Get(table) },
		"type":   func() { datasets.Column[float32]{Name: "reward"}.Get(table) },
		"list":   func() { datasets.ListColumn[float32]{Name: "reward"}.Get(table) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			get()
		}()
	}
}

func TestJoin(t *testing.T) {
	mem := checked(t)
	a, b := rollouts(t, mem, 3, 1), scores(t, mem, 1, 0, .5)
	defer a.Release()
	defer b.Release()
	joined, err := datasets.Join(a, b)
	noError(t, err)
	defer joined.Release()
	equal(t, "kind", "rollouts/1+scores/1", joined.Kind())
	equal(t, "reward", []float64{1, 0, .5}, datasets.Reward.Get(joined))
	equal(t, "completion", datasets.Completion.Get(a), datasets.Completion.Get(joined))
	lineage, err := joined.Lineage()
	noError(t, err)
	equal(t, "lineage", datasets.Lineage{}, lineage)
	if _, err := datasets.Encode(joined); err == nil {
		t.Error("a joined table was encoded")
	}
	short := scores(t, mem, 1)
	defer short.Release()
	for name, tables := range map[string][]*datasets.Table{"none": nil, "twice": {b, b}, "length": {a, short}} {
		if _, err := datasets.Join(tables...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestConcatAndTake(t *testing.T) {
	mem := checked(t)
	parts := []*datasets.Table{rollouts(t, mem, 5, 1), rollouts(t, mem, 0, 2), rollouts(t, mem, 7, 3)}
	whole, err := datasets.Concat(mem, parts...)
	noError(t, err)
	defer whole.Release()
	equal(t, "rows", 12, whole.Rows())
	equal(t, "group", slices.Concat(datasets.Group.Get(parts[0]), datasets.Group.Get(parts[2])), datasets.Group.Get(whole))
	for i := range 7 {
		equal(t, "log-probs", datasets.LogProbs.Get(parts[2]).Row(i), datasets.LogProbs.Get(whole).Row(5+i))
	}

	// Taking the rows of each part gives the part back, byte for byte.
	first := 0
	for _, part := range parts {
		rows := make([]int32, part.Rows())
		for i := range rows {
			rows[i] = int32(first + i)
		}
		first += part.Rows()
		got, err := datasets.Take(mem, whole, rows)
		noError(t, err)
		equal(t, "bytes of a part", encode(t, part), encode(t, got))
		got.Release()
		part.Release()
	}

	twice, err := datasets.Take(mem, whole, []int32{11, 0, 11})
	noError(t, err)
	defer twice.Release()
	ids, all := datasets.ProblemID.Get(twice), datasets.ProblemID.Get(whole)
	equal(t, "rows taken", []string{all[11], all[0], all[11]}, ids)
	for _, rows := range [][]int32{{-1}, {12}} {
		if _, err := datasets.Take(mem, whole, rows); err == nil {
			t.Errorf("take %v: no error", rows)
		}
	}
	other := scores(t, mem, 1)
	defer other.Release()
	if _, err := datasets.Concat(mem, whole, other); err == nil {
		t.Error("concat of two kinds: no error")
	}
	if _, err := datasets.Concat(mem); err == nil {
		t.Error("concat of nothing: no error")
	}
}

// encode is the table's bytes, lineage aside.
func encode(t testing.TB, table *datasets.Table) []byte {
	t.Helper()
	plain, err := table.WithLineage(datasets.Lineage{})
	noError(t, err)
	defer plain.Release()
	data, err := datasets.Encode(plain)
	noError(t, err)
	return data
}

// Every kind declares each column once, and makes a table without rows.
func TestKinds(t *testing.T) {
	for _, k := range datasets.Kinds() {
		names := map[string]bool{}
		for _, c := range k.Columns {
			if names[c.String()] {
				t.Errorf("%s declares %q twice", k.Name, c)
			}
			names[c.String()] = true
		}
		for _, name := range k.Optional {
			if !names[name] {
				t.Errorf("%s: optional column %q is not declared", k.Name, name)
			}
		}
	}
}

func TestReleaseByAnotherOwner(t *testing.T) {
	table := scores(t, checked(t), 1)
	table.Retain()
	table.Release()
	equal(t, "reward", []float64{1}, datasets.Reward.Get(table))
	table.Release()
}

func BenchmarkColumnGet(b *testing.B) {
	table := rollouts(b, memory.DefaultAllocator, 1000, 1)
	b.Run("int32", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			datasets.Group.Get(table)
		}
	})
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			datasets.LogProbs.Get(table)
		}
	})
	b.Run("string", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			datasets.Completion.Get(table)
		}
	})
}
