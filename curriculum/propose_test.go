package curriculum

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// propose runs a proposing stage once.
func propose(t testing.TB, stage, params string, p *Pose, env datasets.Env) []int32 {
	t.Helper()
	p.Rows = nil
	if err := datasets.Run(Proposers(), []datasets.Call{{Stage: stage, Params: []byte(params)}}, p, env); err != nil {
		t.Fatal(err)
	}
	return p.Rows
}

// solvedAt is a state in which the given problems were solved in a step.
func solvedAt(n, step int, rows ...int) *State {
	s := NewState(n)
	for _, r := range rows {
		s.Visits[r], s.PassRate[r], s.LastStep[r] = 1, 1, int32(step)
	}
	return s
}

// Without solved problems revisit is uniform; with some it leaves them out of
// uniform's order, until their rest is over.
func TestRevisit(t *testing.T) {
	const n = 20
	env := datasets.Env{Seed: 3, Step: 12}
	order := pose(t, n, n, 0, 3)

	fresh := &Pose{Problems: n, State: NewState(n), Groups: n}
	if d := cmp.Diff(order, propose(t, "revisit", "", fresh, env)); d != "" || fresh.Posed != n {
		t.Errorf("nothing solved, cursor %d: %s", fresh.Posed, d)
	}

	resting := []int{int(order[1]), int(order[4])}
	p := &Pose{Problems: n, State: solvedAt(n, 3, resting...), Groups: 5} // 9 steps ago
	if d := cmp.Diff([]int32{order[0], order[2], order[3], order[5], order[6]}, propose(t, "revisit", "", p, env)); d != "" || p.Posed != 7 {
		t.Errorf("two rest, cursor %d: %s", p.Posed, d)
	}

	p = &Pose{Problems: n, State: solvedAt(n, 2, resting...), Groups: 5} // 10 steps ago
	if d := cmp.Diff(order[:5], propose(t, "revisit", "", p, env)); d != "" || p.Posed != 5 {
		t.Errorf("their rest is over, cursor %d: %s", p.Posed, d)
	}

	p = &Pose{Problems: n, State: solvedAt(n, 3, resting...), Groups: 5}
	if d := cmp.Diff(order[:5], propose(t, "revisit", `{"revisit_after":0}`, p, env)); d != "" {
		t.Errorf("no rest at all: %s", d)
	}

	// A problem that was only nearly solved does not rest.
	s := solvedAt(n, 11, resting...)
	s.PassRate[order[1]] = 0.99
	p = &Pose{Problems: n, State: s, Groups: 2}
	if d := cmp.Diff(order[:2], propose(t, "revisit", "", p, env)); d != "" {
		t.Errorf("nearly solved: %s", d)
	}
}

// However many problems rest, as many groups are posed as were asked for, the
// ones that do not rest first, and the cursor moves by no more than the positions
// passed over and posed.
func TestRevisitAlwaysPoses(t *testing.T) {
	for n := 1; n <= 12; n++ {
		for awake := range n + 1 {
			rows := make([]int, 0, n)
			for r := awake; r < n; r++ {
				rows = append(rows, r)
			}
			for _, groups := range []int{1, n, 5 * n} {
				p := &Pose{Problems: n, State: solvedAt(n, 0, rows...), Groups: groups, Posed: 5}
				got := propose(t, "revisit", "", p, datasets.Env{Seed: 9, Step: 1})
				if len(got) != groups || p.Posed < 5+int64(groups) || p.Posed > 5+int64(groups+n) {
					t.Fatalf("%d of %d awake: %d groups of %d, cursor %d", awake, n, len(got), groups, p.Posed)
				}
				if rest := slices.IndexFunc(got, func(r int32) bool { return int(r) >= awake }); groups <= awake && rest >= 0 && p.Posed < 5+int64(n) {
					t.Fatalf("%d of %d awake: %v poses one that rests", awake, n, got)
				}
			}
		}
	}
}

// Two steps continue each other as one step of their size would.
func TestRevisitResumes(t *testing.T) {
	const n = 30
	env := datasets.Env{Seed: 4, Step: 5}
	s := solvedAt(n, 4, 3, 7, 8, 20)
	both := &Pose{Problems: n, State: s, Groups: 24}
	want := propose(t, "revisit", "", both, env)
	one := &Pose{Problems: n, State: s, Groups: 11}
	got := slices.Clone(propose(t, "revisit", "", one, env))
	two := &Pose{Problems: n, State: s, Groups: 13, Posed: one.Posed}
	got = append(got, propose(t, "revisit", "", two, env)...)
	if d := cmp.Diff(want, got); d != "" || two.Posed != both.Posed {
		t.Errorf("cursor %d, want %d: %s", two.Posed, both.Posed, d)
	}
}

// No problem comes twice before all came, the same seed gives the same problems,
// and another step, seed or cursor gives others.
func TestLearnable(t *testing.T) {
	const n = 200
	s := NewState(n)
	at := func(seed uint64, step int, posed int64, groups int) []int32 {
		p := &Pose{Problems: n, State: s, Groups: groups, Posed: posed}
		rows := propose(t, "learnable", "", p, datasets.Env{Seed: seed, Step: step})
		if len(rows) != groups || p.Posed != posed+int64(groups) {
			t.Fatalf("%d groups of %d, cursor %d", len(rows), groups, p.Posed)
		}
		return slices.Clone(rows)
	}
	rows := at(1, 2, 0, n+50)
	for _, part := range [][]int32{rows[:n], rows[n:]} {
		sorted := slices.Clone(part)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(part) {
			t.Error("a problem is posed twice in a round")
		}
	}
	base := at(1, 2, 0, 50)
	if d := cmp.Diff(base, at(1, 2, 0, 50)); d != "" {
		t.Errorf("once more: %s", d)
	}
	for name, other := range map[string][]int32{"seed": at(2, 2, 0, 50), "step": at(1, 3, 0, 50), "cursor": at(1, 2, 50, 50)} {
		if cmp.Equal(base, other) {
			t.Errorf("another %s makes no difference", name)
		}
	}
}

// Problems come first in proportion to their weights: with explore 0.05 those of
// p = 1/2, 0.9 and 0.01 weigh 0.3, 0.14 and 0.0599. χ² with 2 degrees of freedom
// stays below its 0.9999 quantile, 18.4.
func TestLearnableIsProportional(t *testing.T) {
	s := NewState(3)
	s.PosteriorAlpha, s.PosteriorBeta = []float64{7, 90, 1}, []float64{7, 10, 99}
	weights := []float64{0.3, 0.14, 0.0599}
	const tries = 6000
	count := make([]float64, 3)
	for seed := range uint64(tries) {
		count[propose(t, "learnable", "", &Pose{Problems: 3, State: s, Groups: 1}, datasets.Env{Seed: seed})[0]]++
	}
	chi := 0.0
	for i, w := range weights {
		want := tries * w / (weights[0] + weights[1] + weights[2])
		chi += math.Pow(count[i]-want, 2) / want
	}
	if chi > 18.4 {
		t.Errorf("χ² = %.1f: %v", chi, count)
	}
}

// Stages that read the state refuse one of another problem set.
func TestProposeRefuses(t *testing.T) {
	for _, stage := range []string{"revisit", "learnable"} {
		for _, p := range []*Pose{{Groups: 1, State: NewState(0)}, {Problems: 3, Groups: 1}, {Problems: 3, Groups: 1, State: NewState(2)}} {
			if err := datasets.Run(Proposers(), []datasets.Call{{Stage: stage}}, p, datasets.Env{}); err == nil {
				t.Errorf("%s accepts %+v", stage, p)
			}
		}
	}
}

func ExampleProposer_revisit() {
	s := NewState(4)
	s.Visits[2], s.PassRate[2], s.LastStep[2] = 1, 1, 7 // solved in step 7
	for _, step := range []int{8, 17} {
		p := &Pose{Problems: 4, State: s, Groups: 3}
		if err := datasets.Run(Proposers(), []datasets.Call{{Stage: "revisit"}}, p, datasets.Env{Seed: 1, Step: step}); err != nil {
			fmt.Println(err)
		}
		fmt.Println(p.Rows, p.Posed)
	}
	// Output:
	// [0 3 1] 4
	// [0 2 3] 3
}
