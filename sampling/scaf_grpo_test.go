package sampling

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// hinted is groups as text, a rune per completion: "0" and "1" are wrong and
// right ones of the group's own, "a" and "A" a wrong and a right one under hint
// level 1, "b" and "B" under level 2, and so on.
func hinted(t testing.TB, groups ...string) *Batch {
	t.Helper()
	offsets, reward := []int32{0}, []float64(nil)
	var levels []int32
	for _, g := range groups {
		for _, r := range g {
			level := int32(0)
			switch {
			case r >= 'a':
				level = r - 'a' + 1
			case r >= 'A':
				level = r - 'A' + 1
			}
			levels = append(levels, level)
			reward = append(reward, float64(toInt(r == '1' || r >= 'A' && r < 'a')))
		}
		offsets = append(offsets, int32(len(reward)))
	}
	b := newBatch(t, offsets, reward)
	b.HintLevel = levels
	for i, level := range levels {
		if level > 0 {
			b.Origin[i] = OriginHinted
		}
	}
	return b
}

// fates is the reasons as text: "." for kept, r replaced, f hint failed, u hint
// unneeded, x any other.
func fates(b *Batch) string {
	names := map[string]string{"": ".", ReasonReplaced: "r", ReasonHintFailed: "f", ReasonHintUnneeded: "u"}
	s := ""
	for _, reason := range b.Reason {
		if name, ok := names[reason]; ok {
			s += name
		} else {
			s += "x"
		}
	}
	return s
}

func TestHintReplacement(t *testing.T) {
	for _, c := range []struct{ name, params, group, want string }{
		{"the lowest level that succeeds", `{}`, "0000aBcD", "r...f.fu"},
		{"whatever the order of the rows", `{}`, "0000DcBa", "r...uf.f"},
		{"the first of equal levels", `{}`, "00BB", "r..u"},
		{"no level works", `{}`, "000abc", "...fff"},
		{"a success of its own", `{}`, "010aB", "...uu"},
		{"no hints", `{}`, "000", "..."},
		{"none but hinted rows", `{}`, "aB", "fu"},
		{"two levels", `{"num_replaced":2}`, "0000aBcD", "rr..f.f."},
		{"two wanted, one succeeds", `{"num_replaced":2}`, "0000aBcd", "r...f.ff"},
		{"more than there are to replace", `{"num_replaced":3}`, "0ABC", "r.uu"},
	} {
		b := hinted(t, c.group)
		apply(t, b, datasets.Env{}, "scaf-grpo.replace", c.params)
		if got := fates(b); got != c.want {
			t.Errorf("%s: %s becomes %s, want %s", c.name, c.group, got, c.want)
		}
		if b.OriginalPrompt != nil {
			t.Errorf("%s: original prompts %v", c.name, b.OriginalPrompt)
		}
	}
}

// With N = 8 and one success the group advantages are those that the paper's
// group of seven failures and one hinted success has: √7 and −1/√7.
func ExampleScafGRPO() {
	b, _ := NewBatch([]int32{0, 10}, []float64{0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, make([]int32, 10))
	b.Origin[8], b.Origin[9] = OriginHinted, OriginHinted
	b.HintLevel[8], b.HintLevel[9] = 1, 2
	calls := []datasets.Call{{Stage: "scaf-grpo.replace"}, {Stage: "dapo.filter"}, {Stage: "grpo.advantage"}}
	if err := datasets.Run(Stages(), calls, b, datasets.Env{}); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%.3f\n%q\n", b.Advantage, b.Reason)
	// Output:
	// [0.000 -0.378 -0.378 -0.378 -0.378 -0.378 -0.378 -0.378 0.000 2.646]
	// ["replaced_by_hint" "" "" "" "" "" "" "" "hint_failed" ""]
}

func TestHintReplacementLeavesDroppedRowsAlone(t *testing.T) {
	b := hinted(t, "100AB")
	b.Drop(0, "before") // the success, so that the group has failed
	b.Drop(3, "before") // the lowest level
	apply(t, b, datasets.Env{}, "scaf-grpo.replace", `{}`)
	if got := fates(b); got != "xr.x." {
		t.Errorf("got %s", got)
	}
}

func TestHintPromptReplaced(t *testing.T) {
	b := hinted(t, "01a", "00aB", "00")
	apply(t, b, datasets.Env{}, "scaf-grpo.replace", `{"hint_prompt":"replaced"}`)
	if d := cmp.Diff([]bool{false, false, false, false, false, false, true, false, false}, b.OriginalPrompt); d != "" {
		t.Error(d)
	}
}

// Each failure is as likely to make room, and which one does so does not hang on
// the other groups.
func TestHintReplacementAtRandom(t *testing.T) {
	const params = `{"replace":"random"}`
	counts := map[string]int{}
	const seeds = 3000
	for seed := range uint64(seeds) {
		env := datasets.Env{Seed: seed}
		b := hinted(t, "0000A", "000B")
		apply(t, b, env, "scaf-grpo.replace", params)
		other := hinted(t, "0101a", "000B")
		apply(t, other, env, "scaf-grpo.replace", params)
		if a, b := fates(b)[5:], fates(other)[5:]; a != b {
			t.Fatalf("seed %d: the second group's fate is %s beside one neighbour and %s beside another", seed, a, b)
		}
		counts[fates(b)[:5]]++
	}
	for _, fate := range []string{"r....", ".r...", "..r..", "...r."} {
		// The standard deviation of a count is 24.
		if n := counts[fate]; n < seeds/4-120 || n > seeds/4+120 {
			t.Errorf("%s in %d of %d", fate, n, seeds)
		}
	}
	if len(counts) != 4 {
		t.Errorf("fates %v", counts)
	}
}

// Levels 2, 4 and 6 succeed: the lowest is taken, or the highest where asked.
func TestHintLevel(t *testing.T) {
	for params, want := range map[string]int{`{}`: 3, `{"hint_level":"highest"}`: 5} {
		b, err := NewBatch([]int32{0, 6}, []float64{0, 0, 0, 1, 1, 1}, []int32{1, 1, 1, 1, 1, 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := 3; i < 6; i++ {
			b.Origin[i], b.HintLevel[i] = OriginHinted, int32(2*(i-2))
		}
		if err := datasets.Run(Stages(), []datasets.Call{{Stage: "scaf-grpo.replace", Params: []byte(params)}}, b, datasets.Env{}); err != nil {
			t.Fatal(err)
		}
		for i := 3; i < 6; i++ {
			if (b.Reason[i] == "") != (i == want) {
				t.Errorf("%s: row %d has reason %q, want row %d kept", params, i, b.Reason[i], want)
			}
		}
	}
}
