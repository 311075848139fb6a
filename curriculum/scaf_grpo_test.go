package curriculum

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

const scaffold = "scaf-grpo.scaffold"

// late is a step after the exemption.
var late = datasets.Env{Step: 50, Steps: 100}

// The worked steps of 9+1+1+1+1 are 10;11;12;13. Four levels share the first three.
func ExampleResponder_scafGRPO() {
	r := &Response{Problems: sums(), NumGenerations: 8, Next: 1, Attempts: []Attempts{
		{Group: 0, Row: 3, Origin: OriginOriginal, Correct: make([]bool, 8)}, // all wrong
	}}
	calls := []datasets.Call{{Stage: "scaf-grpo.scaffold", Params: []byte(`{"source":"procedural"}`)}}
	if err := datasets.Run(Responders(), calls, r, datasets.Env{Step: 20, Steps: 100}); err != nil {
		fmt.Println(err)
	}
	for _, p := range r.Proposals {
		fmt.Println("group", p.Group, "try", p.FirstSample, p.Origin, p.HintLevel, p.Prompt, p.Prefill)
	}
	// Output:
	// group 0 try 8 hinted 9 9+1+1+1+1= 10;
	// group 0 try 9 hinted 10 9+1+1+1+1= 10;11;
	// group 0 try 10 hinted 11 9+1+1+1+1= 10;11;12;
}

// written is a set of problems with hint columns of four parts.
func written(n int) *Problems {
	p := &Problems{Solution: make([]string, n), Steps: make([][]string, n)}
	for i := range n {
		p.Prompt, p.Answer = append(p.Prompt, fmt.Sprint("Problem ", i)), append(p.Answer, "none")
		p.Knowledge = append(p.Knowledge, []string{"k1", "k2", "k3", "k4"})
		p.Planning = append(p.Planning, []string{"p1", "p2", "p3", "p4"})
		p.Breakdown = append(p.Breakdown, []string{"s1", "s2", "s3", "s4"})
	}
	return p
}

// Within a tier parts add up; tiers do not mix; a tier that is left out keeps its
// numbers, whatever the order in which tiers are named.
func TestScaffoldColumns(t *testing.T) {
	r := &Response{Problems: written(1), NumGenerations: 8, Attempts: []Attempts{group(4, 0, 0, 8)}}
	got := respond(t, scaffold, "", r, late)
	var levels, samples []int32
	for _, p := range got {
		levels, samples = append(levels, p.HintLevel), append(samples, p.FirstSample)
	}
	if d := cmp.Diff([]int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, levels); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int32{8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, samples); d != "" {
		t.Error(d)
	}
	want := Proposal{Group: 4, Row: 0, Prompt: "Problem 0\n\nPlanning Hints:\np1\np2\np3", Origin: OriginHinted, HintLevel: 7, FirstSample: 14, Tries: 1}
	if d := cmp.Diff(want, got[6]); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]float64{"scaffold/groups": 1, "scaffold/proposals": 12, "scaffold/too_long": 0, "scaffold/no_hint": 0, "scaffold/exempt": 0}, r.Metrics); d != "" {
		t.Error(d)
	}

	released := respond(t, scaffold, `{"tiers":["solution","knowledge"]}`, r, late)
	if len(released) != 8 || released[3].HintLevel != 4 || released[4].HintLevel != 9 {
		t.Fatalf("without planning: %+v", released)
	}
	for i, full := range append(got[:4:4], got[8:]...) {
		full.FirstSample = int32(8 + i)
		if d := cmp.Diff(full, released[i]); d != "" {
			t.Errorf("level %d is another without planning: %s", full.HintLevel, d)
		}
	}
}

// A list shorter or longer than the levels is dealt out evenly, blank parts are
// left out, and of equal texts the lowest level stays.
func TestScaffoldPartsDealtOut(t *testing.T) {
	for _, c := range []struct {
		parts []string
		want  []string // "level: number of parts"
	}{
		{[]string{"a"}, []string{"1: 1"}},
		{[]string{"a", "b"}, []string{"1: 1", "3: 2"}},
		{[]string{"a", " ", "b", ""}, []string{"1: 1", "3: 2"}},
		{[]string{"a", "b", "c"}, []string{"1: 1", "2: 2", "3: 3"}},
		{[]string{"a", "b", "c", "d", "e", "f"}, []string{"1: 2", "2: 3", "3: 5", "4: 6"}},
		{nil, nil},
	} {
		p := written(1)
		p.Knowledge[0] = c.parts
		r := &Response{Problems: p, NumGenerations: 1, Attempts: []Attempts{group(0, 0, 0, 1)}}
		var got []string
		for _, q := range respond(t, scaffold, `{"tiers":["knowledge"]}`, r, late) {
			_, hints, _ := strings.Cut(q.Prompt, "Knowledge Hints:\n")
			got = append(got, fmt.Sprintf("%d: %d", q.HintLevel, len(strings.Split(hints, "\n"))))
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%q: %s", c.parts, d)
		}
		if r.Metrics["scaffold/no_hint"] != map[bool]float64{true: 1}[c.want == nil] {
			t.Errorf("%q: metrics %v", c.parts, r.Metrics)
		}
	}
}

// Only groups of the original problem without any success are tried, and not those
// of a problem whose rewrite had one.
func TestScaffoldChoosesGroups(t *testing.T) {
	rewrite := func(number, row int32, right int, origin string) Attempts {
		a := group(number, row, right, 4)
		a.Origin = origin
		return a
	}
	r := &Response{Problems: written(7), NumGenerations: 4, Attempts: []Attempts{
		group(0, 0, 0, 4),                           // tried
		group(1, 1, 1, 4),                           // had a success
		group(2, 2, 0, 4),                           // rescued by 7
		group(3, 3, 0, 4),                           // tried, as 8 failed, too
		group(4, 4, 0, 0),                           // was not rolled out
		group(5, 5, 0, 4),                           // rescued by 9
		group(6, 0, 4, 4),                           // the same problem as 0 in a group of its own
		rewrite(7, 2, 1, OriginSimplified),          //
		rewrite(8, 3, 0, OriginSimplified),          //
		rewrite(9, 5, 4, OriginDiversified),         //
		rewrite(10, 6, 0, OriginSimplified),         // never tried: not the original
		rewrite(11, 6, 0, OriginRequest),            //
		{Group: 12, Row: 6, Origin: OriginOriginal}, // empty
	}}
	var groups []int32
	for _, p := range respond(t, scaffold, `{"tiers":["planning"]}`, r, late) {
		groups = append(groups, p.Group)
	}
	if d := cmp.Diff([]int32{0, 3}, slices.Compact(groups)); d != "" {
		t.Error(d)
	}
	if r.Metrics["scaffold/groups"] != 2 || r.Metrics["scaffold/proposals"] != 8 {
		t.Errorf("metrics %v", r.Metrics)
	}
}

// The first 15 of 100 steps go without hints; with no plan of steps none do.
func TestScaffoldExemption(t *testing.T) {
	for _, c := range []struct {
		step, steps int
		exemption   float64
		want        bool
	}{
		{0, 100, 0.15, true}, {14, 100, 0.15, true}, {15, 100, 0.15, false}, {0, 100, 0, false},
		{99, 100, 1, true}, {0, 1, 0.15, true}, {0, 0, 0.15, false}, {2, 20, 0.15, true}, {4, 20, 0.15, false},
	} {
		r := &Response{Problems: written(2), NumGenerations: 1, Attempts: []Attempts{group(0, 0, 0, 1), group(1, 1, 1, 1)}}
		got := respond(t, scaffold, fmt.Sprintf(`{"exemption":%v}`, c.exemption), r, datasets.Env{Step: c.step, Steps: c.steps})
		if (len(got) == 0) != c.want || r.Metrics["scaffold/exempt"] != map[bool]float64{true: 1}[c.want] {
			t.Errorf("%+v: %d proposals, metrics %v", c, len(got), r.Metrics)
		}
	}
}

// Sequential search tries level after level, skips what does not fit, stops at the
// first success and ends when levels do.
func TestScaffoldSequential(t *testing.T) {
	const params = `{"search":"sequential","tiers":["knowledge","solution"]}`
	p := written(2)
	p.Knowledge[0][1] = strings.Repeat("long ", 100) // levels 2, 3 and 4 of problem 0
	r := &Response{Problems: p, NumGenerations: 2, MaxPrompt: 100, Attempts: []Attempts{group(0, 0, 0, 2), group(1, 1, 0, 2)}}
	tried := map[int32][]int32{}
	for {
		got := respond(t, scaffold, params, r, late)
		if len(got) == 0 {
			break
		}
		for _, q := range got {
			a := &r.Attempts[q.Group]
			if int(q.FirstSample) != len(a.Correct) || q.Tries != 1 {
				t.Errorf("turn %d: try %d after %d", r.Turn, q.FirstSample, len(a.Correct))
			}
			a.Hints, a.Correct = append(a.Hints, q.HintLevel), append(a.Correct, q.Group == 1 && q.HintLevel == 3)
			tried[q.Group] = append(tried[q.Group], q.HintLevel)
		}
		if r.Turn++; r.Turn > 20 {
			t.Fatal("the search does not end")
		}
	}
	if d := cmp.Diff(map[int32][]int32{0: {1, 9, 10, 11, 12}, 1: {1, 2, 3}}, tried); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]float64{"scaffold/groups": 2, "scaffold/proposals": 8, "scaffold/too_long": 3, "scaffold/no_hint": 0, "scaffold/exempt": 0}, r.Metrics); d != "" {
		t.Error(d)
	}

	// Parallel search knows one turn.
	r = &Response{Problems: p, NumGenerations: 2, Turn: 1, Attempts: []Attempts{group(0, 0, 0, 2)}}
	if got := respond(t, scaffold, "", r, late); len(got) != 0 {
		t.Errorf("turn 1 of the parallel search: %+v", got)
	}
}

// A group whose every level is too long is counted by its levels and left alone.
func TestScaffoldTooLong(t *testing.T) {
	r := &Response{Problems: sums(), NumGenerations: 1, MaxPrompt: 11, Attempts: []Attempts{group(0, 0, 0, 1), group(1, 3, 0, 1)}}
	got := respond(t, scaffold, `{"source":"procedural"}`, r, late)
	if len(got) != 1 || got[0].Prompt+got[0].Prefill != "1+2+3+4=3;" {
		t.Errorf("%+v", got)
	}
	if r.Metrics["scaffold/too_long"] != 4 || r.Metrics["scaffold/groups"] != 1 || r.Metrics["scaffold/no_hint"] != 0 {
		t.Errorf("metrics %v", r.Metrics)
	}
}

// hinted is "level: hint" of each level for one problem.
func hinted(t *testing.T, source, prompt, answer, solution string, steps ...string) []string {
	p := &Problems{Prompt: []string{prompt}, Answer: []string{answer}, Solution: []string{solution}, Steps: [][]string{steps}}
	r := &Response{Problems: p, NumGenerations: 1, Attempts: []Attempts{group(0, 0, 0, 1)}}
	var out []string
	for _, q := range respond(t, scaffold, `{"source":"`+source+`"}`, r, late) {
		text := q.Prefill
		if source != HintsProcedural {
			_, text, _ = strings.Cut(q.Prompt, prompt+"\n\nSolution Hints:\n")
		}
		out = append(out, fmt.Sprintf("%d: %s", q.HintLevel, text))
	}
	return out
}

// Hints from the worked solution never have its last step, and none that tells the
// answer as text.
func TestScaffoldFromSolution(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []string
		want []string
	}{
		{"steps", hinted(t, "solution", "How many?", "40", "", "a", "b", "c", "d", "40"), []string{"9: a", "10: a\nb", "11: a\nb\nc", "12: a\nb\nc\nd"}},
		{"the answer comes early", hinted(t, "solution", "How many?", "40", "", "a", "b", "It is 40", "c", "40"), []string{"9: a", "11: a\nb"}},
		{"the prompt has it", hinted(t, "solution", "Is it 40?", "40", "", "a", "It is 40", "40"), []string{"9: a", "11: a\nIt is 40"}},
		{"one step", hinted(t, "solution", "How many?", "40", "", "40"), nil},
		{"lines", hinted(t, "solution", "How many?", "40", "One line. Of two.\n\nAnother.\nSo 40."), []string{"9: One line. Of two.", "11: One line. Of two.\nAnother."}},
		{"sentences", hinted(t, "solution", "How many?", "40", "Take 3.5 of it. Is that all? It is 40."), []string{"9: Take 3.5 of it.", "11: Take 3.5 of it.\nIs that all?"}},
		{"nothing", hinted(t, "solution", "How many?", "40", ""), nil},
		{"work", hinted(t, "procedural", "2+3+4=", "9", "5;9", "5;", "9"), []string{"9: 5;"}},
		{"work in words", hinted(t, "procedural", "How many?", "9", "", "2 and 3 are 5", "5 and 4 are 9"), []string{"9: 2 and 3 are 5\n"}},
		{"work may pass the answer", hinted(t, "procedural", "9+1-1=", "9", "10;9;9", "10;", "9;", "9"), []string{"9: 10;", "11: 10;9;"}},
		{"no work", hinted(t, "procedural", "How many?", "9", "It is 9."), nil},
	} {
		if d := cmp.Diff(c.want, c.got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// Whatever the number of steps and parts: levels rise, each hint begins with the one
// before, all begin the solution, and none is all of it.
func TestScaffoldPrefixes(t *testing.T) {
	for n := 2; n <= 15; n++ {
		steps := make([]string, n)
		for i := range steps {
			steps[i] = fmt.Sprint(i, ";")
		}
		solution := strings.Join(steps, "")
		for parts := 1; parts <= 6; parts++ {
			r := &Response{
				Problems:       &Problems{Prompt: []string{"?"}, Answer: []string{"x"}, Solution: []string{solution}, Steps: [][]string{steps}},
				NumGenerations: 1, Attempts: []Attempts{group(0, 0, 0, 1)},
			}
			got := respond(t, scaffold, fmt.Sprintf(`{"source":"procedural","parts":%d}`, parts), r, late)
			if len(got) != min(parts, n-1) {
				t.Errorf("%d steps in %d parts: %d levels", n, parts, len(got))
			}
			before, level := "", int32(2*parts)
			for _, p := range got {
				if p.HintLevel <= level || p.HintLevel > int32(3*parts) || len(p.Prefill) <= len(before) || !strings.HasPrefix(p.Prefill, before) ||
					!strings.HasPrefix(solution, p.Prefill) || p.Prefill == solution {
					t.Errorf("%d steps in %d parts: level %d gives %q after %q", n, parts, p.HintLevel, p.Prefill, before)
				}
				before, level = p.Prefill, p.HintLevel
			}
			if want := strings.TrimSuffix(solution, steps[n-1]); before != want {
				t.Errorf("%d steps in %d parts: the last level is %q, want %q", n, parts, before, want)
			}
		}
	}
}

// Parameters given once do not change the defaults of the next run.
func TestScaffoldDefaultsStay(t *testing.T) {
	if _, err := Scaffold.Bind(json.RawMessage(`{"tiers":["solution"]}`)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(Scaffold.Defaults, any(scaffoldDefaults())) {
		t.Errorf("the defaults are %+v", Scaffold.Defaults)
	}
	r := &Response{Problems: written(1), NumGenerations: 1, Attempts: []Attempts{group(0, 0, 0, 1)}}
	if got := respond(t, scaffold, "", r, late); len(got) != 12 {
		t.Errorf("%d levels by default", len(got))
	}
}
