package activities

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// By hand: of 4 completions 2 are right; a pair holds a right one in 5 of 6
// cases.
func TestPassAtK(t *testing.T) {
	for _, c := range []struct {
		n, c, k int
		want    float64
	}{{4, 2, 1, 0.5}, {4, 2, 2, 5.0 / 6}, {4, 0, 2, 0}, {4, 4, 1, 1}, {4, 1, 4, 1}, {8, 3, 1, 0.375}, {10, 1, 5, 0.5}} {
		if got := PassAtK(c.n, c.c, c.k); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("pass@%d of %d right in %d: %v, want %v", c.k, c.c, c.n, got, c.want)
		}
	}
	for n := 1; n <= 12; n++ {
		for right := 0; right <= n; right++ {
			for k := 1; k < n; k++ {
				if PassAtK(n, right, k) > PassAtK(n, right, k+1)+1e-12 {
					t.Errorf("pass@%d of %d in %d exceeds pass@%d", k, right, n, k+1)
				}
			}
		}
	}
}

// Two levels: at level 1, one of two right, and the commonest answer is wrong;
// at level 3, both right. Greedy solves level 3 only.
func TestTally(t *testing.T) {
	var e Evaluation
	e.tally(verified{offsets: []int32{0, 3, 6}, verdict: []string{"wrong", "correct", "wrong", "correct", "correct", "correct"}, extracted: []string{"7", "8", "7", "5", "5", "5"}},
		[]int32{1, 1, 1, 3, 3, 3}, false)
	e.tally(verified{offsets: []int32{0, 1, 2}, verdict: []string{"wrong", "correct"}, extracted: []string{"7", "5"}}, []int32{1, 3}, true)
	want := Evaluation{
		All:      Score{Problems: 2, PassAt1: (1.0/3 + 1) / 2, PassAtK: 1, PassAt8: 1, ConsAtK: 0.5, Greedy: 0.5},
		Levels:   []Score{{Level: 1, Problems: 1, PassAt1: 1.0 / 3, PassAtK: 1, PassAt8: 1}, {Level: 3, Problems: 1, PassAt1: 1, PassAtK: 1, PassAt8: 1, ConsAtK: 1, Greedy: 1}},
		Sampling: 3,
	}
	if d := cmp.Diff(want, e); d != "" {
		t.Error(d)
	}
}

func TestOffsetsOf(t *testing.T) {
	for _, c := range []struct{ groups, want []int32 }{
		{nil, []int32{0}}, {[]int32{4}, []int32{0, 1}}, {[]int32{0, 0, 1, 2, 2, 2}, []int32{0, 2, 3, 6}},
	} {
		if d := cmp.Diff(c.want, offsetsOf(c.groups)); d != "" {
			t.Errorf("%v: %s", c.groups, d)
		}
	}
}
