package prepare

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// set is a problem set of prompts with their answers, named a, b, c, …
func set(t *testing.T, rows ...[3]string) *Set {
	t.Helper()
	n := len(rows)
	ids, prompts, answers := make([]string, n), make([]string, n), make([]string, n)
	for i, r := range rows {
		ids[i], prompts[i], answers[i] = r[0], r[1], r[2]
	}
	table, err := datasets.NewTable(memory.DefaultAllocator, datasets.KindProblems, datasets.Lineage{Stage: "test"},
		datasets.ProblemID.Of(ids), datasets.Source.Of(make([]string, n)), datasets.Level.Of(make([]int32, n)), datasets.Prompt.Of(prompts),
		datasets.Answer.Of(answers), datasets.Solution.Of(make([]string, n)), datasets.Steps.OfSlices(make([][]string, n)), datasets.Verifier.Of(make([]string, n)))
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet(table)
	table.Release()
	t.Cleanup(func() { s.Release() })
	return s
}

func do(t *testing.T, s *Set, stage, params string) *Set {
	t.Helper()
	if err := s.Run(datasets.Call{Stage: stage, Params: []byte(params)}); err != nil {
		t.Fatal(err)
	}
	return s
}

func ids(s *Set) []string { return datasets.ProblemID.Get(s.Problems) }

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"Tom's 3.5 kg, 1,000 m!": "Tom|s|3.5|kg|1,000|m",
		"2+2=":                   "2|+|2|=",
		`$\frac{1}{2}$`:          `\|frac|{|1|}|{|2|}`,
		"ﬁve  x²\tÉté":           "five|x2|Été",
		"":                       "",
	} {
		normal, ws := words(nil, text)
		var got []string
		for _, w := range ws {
			got = append(got, normal[w.lo:w.hi])
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q, want %s", text, got, want)
		}
	}
	if textHash("The CAT; sat.") != textHash("the cat sat") || textHash("3+4") == textHash("3-4") || textHash("é") != textHash("e\u0301") {
		t.Error("case, punctuation and Unicode forms are no difference, symbols are")
	}
}

func TestNormalise(t *testing.T) {
	for text, want := range map[string]string{
		"a  b \r\n\r\n\r\n\r\n c\u00a0 d\u200b\n": "a b\n\n c d",
		"e\u0301":           "é",
		"\ufeff  \n x ":     "x",
		"if a:\n\treturn b": "if a:\n\treturn b",
		"x²":                "x²",
	} {
		s := do(t, set(t, [3]string{"a", text, "1"}), "normalise", `{}`)
		if got := datasets.Prompt.Get(s.Problems)[0]; got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	s := do(t, set(t, [3]string{"a", "x", "1"}, [3]string{"b", " \n", "1"}), "normalise", `{}`)
	if d := cmp.Diff([]string{"a"}, ids(s)); d != "" || s.Dropped["empty"] != 1 || s.Figures["changed"] != 1 {
		t.Errorf("%s %v %v", d, s.Dropped, s.Figures)
	}
}

// {ab, bc, cd} and {bc, cd, de} have 2 of 4 shingles in common.
func TestJaccard(t *testing.T) {
	p := Deduplicate{Shingle: 2}
	for _, c := range []struct {
		a, b string
		want float64
	}{
		{"a b c d", "b c d e", 2.0 / 4}, {"a b c d", "A, b: c d.", 1}, {"a b", "c d", 0}, {"a b a b a b", "a b", 1.0 / 2}, {"", "", 0}, {"a", "a", 1},
	} {
		if got := Jaccard(p.shingles(nil, c.a), p.shingles(nil, c.b)); got != c.want {
			t.Errorf("%q, %q: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

// By hand: 5x+1 of 3 and 10 is 16 and 51, 7x+2 is 23 and 72; the second set's 2
// gives 11 and 16.
func TestMinHash(t *testing.T) {
	got := make([]uint64, 2)
	minHash(got, []uint64{10, 3}, []uint64{5, 7}, []uint64{1, 2})
	if d := cmp.Diff([]uint64{16, 23}, got); d != "" {
		t.Error(d)
	}
	minHash(got, []uint64{10, 2, 3}, []uint64{5, 7}, []uint64{1, 2})
	if d := cmp.Diff([]uint64{11, 16}, got); d != "" {
		t.Error(d)
	}
	// The share of functions with the same least value estimates Jaccard's index.
	const n, shared, own = 8192, 600, 200 // 600 of 1000
	a, b := coefficients(n)
	rng := rand.New(rand.NewPCG(1, 2))
	var one, two []uint64
	for range shared {
		x := rng.Uint64()
		one, two = append(one, x), append(two, x)
	}
	for range own {
		one, two = append(one, rng.Uint64()), append(two, rng.Uint64())
	}
	first, second, equal := make([]uint64, n), make([]uint64, n), 0
	minHash(first, one, a, b)
	minHash(second, two, a, b)
	for i := range first {
		if first[i] == second[i] {
			equal++
		}
	}
	if got := float64(equal) / n; math.Abs(got-0.6) > 5*math.Sqrt(0.6*0.4/n) {
		t.Errorf("estimate %v of 0.6", got)
	}
}

// At J = 0.8 and 128 hashes, bands of 6 are missed by (1 − 0.8^6)^21 = 0.0017 of
// the pairs, bands of 7 by (1 − 0.8^7)^18 = 0.0144.
func TestBands(t *testing.T) {
	for threshold, want := range map[float64]int{0.8: 6, 1: 128, 0.1: 1} {
		if got := (Deduplicate{Threshold: threshold, Hashes: 128}).rows(); got != want {
			t.Errorf("threshold %v: bands of %d, want %d", threshold, got, want)
		}
	}
}

const story = "Tom has a red box with %s apples in it and gives some of them to his sister who lives in the old house by the river near the mill and the bridge, how many are left?"

func TestDeduplicate(t *testing.T) {
	rows := [][3]string{
		{"d", fmt.Sprintf(story, "nine"), "5"},
		{"b", fmt.Sprintf(story, "NINE") + "!", "5"}, // the words of d
		{"c", fmt.Sprintf(story, "ten"), "5"},        // nearly
		{"f", fmt.Sprintf(story, "two"), "7"},        // nearly, with another answer
		{"e", fmt.Sprintf(story, "two"), "8"},        // the words of f
		{"a", "What is 2+2?", "4"},
		{"g", "What is 2-2?", "4"},
	}
	s := do(t, set(t, rows...), "deduplicate", `{}`)
	if d := cmp.Diff([]string{"b", "e", "a", "g"}, ids(s)); d != "" {
		t.Error(d)
	}
	// 37 words have 35 shingles; the number is part of three: 32 of 38 are shared.
	found := func(s *Set) (out []string) {
		for _, m := range s.Matches {
			out = append(out, fmt.Sprintf("%s %s %s %.4f", m.ID, m.Reason, m.Other, m.Similarity))
		}
		return out
	}
	want := []string{"d exact b 1.0000", fmt.Sprintf("c near b %.4f", 32.0/38), "f exact e 1.0000"}
	if d := cmp.Diff(want, found(s)); d != "" {
		t.Error(d)
	}
	if s.Dropped[ReasonExact] != 2 || s.Dropped[ReasonNear] != 1 || s.Figures["answers_differ"] != 1 {
		t.Errorf("%v %v", s.Dropped, s.Figures)
	}
	s = do(t, set(t, rows...), "deduplicate", `{"same_answer":false,"drop":false}`)
	if d := cmp.Diff([]string{"b", "", "b", "b", "b", "", ""}, datasets.NearDuplicateOf.Get(s.Problems)); d != "" || len(ids(s)) != 7 {
		t.Error(d)
	}
	if s = do(t, set(t, rows...), "deduplicate", `{"near":false}`); len(found(s)) != 2 {
		t.Errorf("%v", found(s))
	}
	if s = do(t, set(t, rows...), "deduplicate", `{"threshold":0.85}`); len(found(s)) != 2 {
		t.Errorf("%v", found(s))
	}
}

// corpus is problems of which some repeat others with a word changed.
func corpus(n int) [][3]string {
	rng := rand.New(rand.NewPCG(3, 4))
	out := make([][3]string, n)
	for i := range out {
		if i > 10 && rng.IntN(3) == 0 {
			ws := strings.Fields(out[rng.IntN(i)][1])
			for range rng.IntN(3) {
				ws[rng.IntN(len(ws))] = fmt.Sprint("w", rng.IntN(5000))
			}
			out[i] = [3]string{fmt.Sprint("p", i), strings.Join(ws, " "), "1"}
			continue
		}
		ws := make([]string, 20+rng.IntN(60))
		for k := range ws {
			ws[k] = fmt.Sprint("w", rng.IntN(5000))
		}
		out[i] = [3]string{fmt.Sprint("p", i), strings.Join(ws, " "), "1"}
	}
	return out
}

// All pairs compared one by one agree but for a percent, and no order of rows makes
// a difference.
func TestDeduplicateAgainstAllPairs(t *testing.T) {
	rows := corpus(600)
	s := do(t, set(t, rows...), "deduplicate", `{}`)
	p := deduplicateDefaults()
	byID := slices.Clone(rows)
	slices.SortFunc(byID, func(a, b [3]string) int { return strings.Compare(a[0], b[0]) })
	var kept [][]uint64
	var want []string
	for _, r := range byID {
		mine := p.shingles(nil, r[1])
		if !slices.ContainsFunc(kept, func(k []uint64) bool { return Jaccard(mine, k) >= p.Threshold }) {
			kept, want = append(kept, mine), append(want, r[0])
		}
	}
	got := slices.Sorted(slices.Values(ids(s)))
	if len(want) > 580 || math.Abs(float64(len(got)-len(want))) > 6 {
		t.Errorf("%d kept of 600, want %d", len(got), len(want))
	}
	rand.New(rand.NewPCG(5, 6)).Shuffle(len(rows), func(i, k int) { rows[i], rows[k] = rows[k], rows[i] })
	again := do(t, set(t, rows...), "deduplicate", `{}`)
	if d := cmp.Diff(got, slices.Sorted(slices.Values(ids(again)))); d != "" {
		t.Error(d)
	}
}

func TestDecontaminate(t *testing.T) {
	s := set(t,
		[3]string{"a", "x one two three four y", "1"},       // of 4 words 2 in a row
		[3]string{"b", "one two, THREE four five six", "1"}, // all of it
		[3]string{"c", "what is 2+2= ?", "1"},               // a short one, all of it
		[3]string{"d", "what is 2+2= and then 3", "1"},      // no more than a short one within
		[3]string{"e", "so alpha beta gamma says", "1"},     // a shorter one within
		[3]string{"f", "one two or three four five", "1"},   // no n-gram
		[3]string{"g", "two three four five six seven", "1"})
	s.HeldOut = []HeldOut{{"held", []string{"h1", "h2", "h3"}, []string{"One two three four five six", "What is 2+2=", "alpha, beta gamma"}}}
	do(t, s, "decontaminate", `{"against":["held"],"n":4,"min_n":3}`)
	var got []string
	for _, m := range s.Matches {
		got = append(got, fmt.Sprintf("%s %s %.3f %s", m.ID, m.Other, m.Similarity, m.Shared))
	}
	// "One … six" has three 4-grams; "what is 2 + 2 =" three of its own.
	want := []string{"a h1 0.333 one two three four", "b h1 1.000 one two, THREE four", "c h2 1.000 what is 2+", "d h2 1.000 what is 2+", "e h3 1.000 alpha beta gamma", "g h1 0.667 two three four five"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"f"}, ids(s)); d != "" || s.Dropped[ReasonContaminated] != 6 || s.Figures["held_out_found"] != 3 {
		t.Errorf("%s %v %v", d, s.Dropped, s.Figures)
	}
	s = set(t, [3]string{"a", "what is 2+2= and then 3", "1"}, [3]string{"b", "What is 2 + 2 =", "1"}, [3]string{"c", "z", "1"})
	s.HeldOut = []HeldOut{{"held", []string{"h"}, []string{"what is 2+2=?"}}}
	do(t, s, "decontaminate", `{"against":["held"],"drop":false}`) // 6 words are fewer than 8
	if d := cmp.Diff([]string{"", "h", ""}, datasets.ContaminatedBy.Get(s.Problems)); d != "" {
		t.Error(d)
	}
}

// A problem stays where it is when others come, and the fractions are kept.
func TestSplit(t *testing.T) {
	side := func(rows [][3]string) map[string]string {
		s := do(t, set(t, rows...), "split", `{"fractions":{"train":0.75,"test":0.25}}`)
		out := map[string]string{}
		for i, id := range ids(s) {
			out[id] = datasets.Split.Get(s.Problems)[i]
		}
		return out
	}
	rows := corpus(4000)
	few, all := side(rows[1000:2000]), side(rows)
	tests := 0
	for id, part := range all {
		if few[id] != "" && few[id] != part {
			t.Errorf("%s was in %s and is in %s", id, few[id], part)
		}
		if part == "test" {
			tests++
		}
	}
	if math.Abs(float64(tests)-1000) > 5*math.Sqrt(4000*0.25*0.75) {
		t.Errorf("%d of 4000 in the test part, want a quarter", tests)
	}
}

// By hand: of no success in 8 the upper end is z²/(8 + z²) = 3.841459/11.841459.
func TestWilson(t *testing.T) {
	for _, c := range []struct {
		k, n      int64
		low, high float64
	}{{1, 10, 0.01787621, 0.40415002}, {0, 8, 0, 0.32440756}, {8, 8, 0.67559244, 1}, {4, 8, 0.21521606, 0.78478394}, {0, 0, 0, 1}} {
		low, high := Wilson(c.k, c.n)
		if math.Abs(low-c.low) > 1e-6 || math.Abs(high-c.high) > 1e-6 {
			t.Errorf("%d of %d: [%.8f, %.8f], want [%v, %v]", c.k, c.n, low, high, c.low, c.high)
		}
	}
}

func TestDifficultyAndFilter(t *testing.T) {
	s := set(t, [3]string{"a", "x", "1"}, [3]string{"b", "y", "1"}, [3]string{"c", "z", "1"}, [3]string{"d", "w", "1"})
	s.Measured = &Measured{ID: []string{"c", "a", "b", "d"}, Prompt: []string{"z", "x", "other text", "w"}, Attempts: []int64{4, 4, 4, 4}, Successes: []int64{1, 0, 4, 4}}
	do(t, s, "difficulty", `{}`)
	if d := cmp.Diff([]float64{0, 0, 0.25, 1}, datasets.PassRate.Get(s.Problems)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]float64{"never_solved": 1, "unmeasured": 1, "sometimes_solved": 1, "always_solved": 1, "measured": 3, "attempts": 12, "successes": 5}, s.Figures); d != "" {
		t.Error(d)
	}
	do(t, s, "filter", `{"where":"pass_rate > 0.1 and pass_rate < 0.9 and attempts > 0"}`)
	if d := cmp.Diff([]string{"c"}, ids(s)); d != "" || s.Dropped["filter"] != 3 {
		t.Errorf("%s %v", d, s.Dropped)
	}
}

func TestHintsAndRewrites(t *testing.T) {
	s := set(t, [3]string{"a", "x?", "7"}, [3]string{"b", "gcd(84,36)=", "12"})
	if err := s.with(datasets.Solution.Of([]string{"First 2. Then 5. So 7. Done.", ""}), datasets.Source.Of([]string{"", "gcd"}), datasets.Level.Of([]int32{0, 3})); err != nil {
		t.Fatal(err)
	}
	do(t, s, "hints", `{}`)
	parts := datasets.SolutionParts.Get(s.Problems)
	if d := cmp.Diff([]string{"First 2.", "Then 5."}, parts.Row(0)); d != "" || len(parts.Row(1)) != 0 {
		t.Error(d)
	}
	do(t, s, "rewrites", `{}`)
	if d := cmp.Diff([]string{"", "gcd(36,84)="}, datasets.Diversified.Get(s.Problems)); d != "" {
		t.Error(d)
	}
}

// What a stage cannot do is said before any of them works.
func TestCheck(t *testing.T) {
	table := set(t, [3]string{"a", "x", "1"}).Problems
	for params, want := range map[string]string{
		`[{"stage":"filter","params":{"where":"pass_rate > 0.1"}}]`: "unknown name pass_rate",
		`[{"stage":"split","params":{"fractions":{"train":0.5}}}]`:  "add up to 0.5",
		`[{"stage":"deduplicate","params":{"treshold":0.5}}]`:       `unknown field "treshold"`,
	} {
		var calls []datasets.Call
		if err := datasets.DecodeStrict([]byte(params), &calls); err != nil {
			t.Fatal(err)
		}
		if err := Check(table, calls); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
	good := []datasets.Call{{Stage: "difficulty"}, {Stage: "filter", Params: []byte(`{"where":"pass_rate > 0.1"}`)}}
	if err := Check(table, good); err != nil {
		t.Error(err)
	}
}

// BenchmarkDeduplicate goes through a million generated problems.
func BenchmarkDeduplicate(b *testing.B) {
	for b.Loop() {
		perSecond, err := Bench(1_000_000)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(perSecond, "rows/s")
	}
}
