package curriculum

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func pose(t testing.TB, problems, groups int, posed int64, seed uint64) []int32 {
	t.Helper()
	p := &Pose{Problems: problems, State: NewState(problems), Groups: groups, Posed: posed}
	if err := datasets.Run(Proposers(), []datasets.Call{{Stage: "uniform"}}, p, datasets.Env{Seed: seed}); err != nil {
		t.Fatal(err)
	}
	return p.Rows
}

// Every epoch poses every problem once, in another order, and a run that
// resumes at any cursor goes on with the same problems.
func TestUniform(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 1000} {
		all := pose(t, n, 3*n, 0, 5)
		for e := range 3 {
			epoch := slices.Clone(all[e*n : (e+1)*n])
			slices.Sort(epoch)
			for i, r := range epoch {
				if int(r) != i {
					t.Fatalf("n %d, epoch %d: problem %d is missing", n, e, i)
				}
			}
		}
		if n >= 64 && cmp.Equal(all[:n], all[n:2*n]) {
			t.Errorf("n %d: two epochs have the same order", n)
		}
		for _, cut := range []int{1, n / 2, n, 2*n + 1} {
			if cut < 3*n {
				if d := cmp.Diff(all[cut:], pose(t, n, 3*n-cut, int64(cut), 5)); d != "" {
					t.Fatalf("n %d: resumed at %d: %s", n, cut, d)
				}
			}
		}
	}
	if cmp.Equal(pose(t, 100, 100, 0, 1), pose(t, 100, 100, 0, 2)) {
		t.Error("the seed makes no difference")
	}
	err := datasets.Run(Proposers(), []datasets.Call{{Stage: "uniform"}}, &Pose{Groups: 1}, datasets.Env{})
	if err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty problem set gives %v", err)
	}
}

// The first place of an epoch falls on every problem equally often: χ² with 9
// degrees of freedom stays below its 0.9999 quantile, 33.7.
func TestUniformIsUniform(t *testing.T) {
	const n, tries = 10, 5000
	count := make([]float64, n)
	for seed := range uint64(tries) {
		count[pose(t, n, 1, 0, seed)[0]]++
	}
	chi := 0.0
	for _, c := range count {
		chi += (c - tries/n) * (c - tries/n) / (tries / n)
	}
	if chi > 33.7 {
		t.Errorf("χ² = %.1f: %v", chi, count)
	}
}

func ExampleAssessor() {
	s := NewState(3)
	v := &Visit{State: s, Rows: []int32{2, 2, 2, 2, 0, 0}, Correct: []bool{true, false, false, false, true, true}}
	if err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate"}}, v, datasets.Env{Step: 4}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(s.PassRate, s.Bucket, s.LastStep)
	// Output: [1 0 0.25] [solved unseen hard] [4 -1 4]
}

// By hand: pass rates 1/2, then 1, with decay 0.3 average to 0.65.
func TestPassRate(t *testing.T) {
	s := NewState(1)
	for step, correct := range [][]bool{{true, false}, {true, true}} {
		v := &Visit{State: s, Rows: []int32{0, 0}, Correct: correct}
		if err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate"}}, v, datasets.Env{Step: step}); err != nil {
			t.Fatal(err)
		}
	}
	want := &State{Visits: []int32{2}, Attempts: []int64{4}, Successes: []int64{3}, PassRate: []float64{1}, Average: []float64{0.65}, LastStep: []int32{1}, Bucket: []string{BucketSolved}}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{`{"hard":0.9}`, `{"decay":0}`, `{"medium":2}`, `{"mild":1}`} {
		if _, err := PassRate.Bind(json.RawMessage(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate"}}, &Visit{State: s, Rows: []int32{7}, Correct: []bool{true}}, datasets.Env{})
	if err == nil {
		t.Error("a problem outside of the set is accepted")
	}
}
