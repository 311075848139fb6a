package curriculum

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// assess runs pass_rate over one step's completions.
func assess(t testing.TB, v *Visit, step int, params string) {
	t.Helper()
	if err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate", Params: []byte(params)}}, v, datasets.Env{Step: step}); err != nil {
		t.Fatal(err)
	}
}

func ExampleAssessor() {
	s := NewState(3)
	v := &Visit{State: s, Rows: []int32{2, 2, 2, 2, 0, 0}, Correct: []bool{true, false, false, false, true, true}}
	if err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate"}}, v, datasets.Env{Step: 4}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(s.PassRate, s.Bucket, s.LastStep)
	fmt.Println(v.Metrics["difficulty/hard"], v.Metrics["difficulty/solved"], v.Metrics["difficulty/unseen"])
	// Output:
	// [1 0 0.25] [solved unseen hard] [4 -1 4]
	// 1 1 1
}

// By hand: pass rates 1/2, then 1, with decay 0.3 average to 0.65, and counts
// 1:1, then 2:0 with forget 0.5 give α = 1 + 0.5·1 + 2 and β = 1 + 0.5·1 + 0.
func TestPassRate(t *testing.T) {
	s := NewState(1)
	for step, correct := range [][]bool{{true, false}, {true, true}} {
		assess(t, &Visit{State: s, Rows: []int32{0, 0}, Correct: correct}, step, `{"forget":0.5}`)
	}
	want := &State{
		Visits: []int32{2}, Attempts: []int64{4}, Successes: []int64{3}, PassRate: []float64{1}, Average: []float64{0.65}, LastStep: []int32{1}, Bucket: []string{BucketSolved},
		PosteriorAlpha: []float64{3.5}, PosteriorBeta: []float64{1.5}, Stagnation: []int32{0},
		HintNeeded: []int32{0}, HintedStep: []int32{-1}, GraduatedStep: []int32{-1},
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
}

// Stagnation counts visits without a rise: pass rates 0, 0, 1/2, 1/2, 0, 1, 1.
func TestStagnation(t *testing.T) {
	s := NewState(1)
	var got []int32
	for step, right := range []int{0, 0, 1, 1, 0, 2, 2} {
		v := &Visit{State: s, Rows: []int32{0, 0}, Correct: []bool{right > 0, right > 1}}
		assess(t, v, step, "")
		got = append(got, s.Stagnation[0])
		if v.Metrics["stagnation/mean"] != float64(s.Stagnation[0]) {
			t.Errorf("step %d: mean stagnation %v", step, v.Metrics["stagnation/mean"])
		}
	}
	if d := cmp.Diff([]int32{0, 1, 0, 1, 2, 0, 0}, got); d != "" {
		t.Error(d)
	}
}

// A problem is wrong; then level 3 helps and level 1 does not; then no level
// does; then it is solved without any, and once more.
func TestHints(t *testing.T) {
	s := NewState(2)
	for step, c := range []struct {
		correct                                  []bool
		levels                                   []int32
		needed, hinted, graduated, visits, tries int32
		metrics                                  map[string]float64
	}{
		{[]bool{false, false, false, true, true}, []int32{0, 0, 1, 5, 3}, 3, 0, -1, 1, 2,
			map[string]float64{"hints/tried": 1, "hints/solved": 1, "hints/level_3": 1, "difficulty/all_wrong": 1}},
		{[]bool{false, false, false}, []int32{0, 1, 3}, 0, 0, -1, 2, 3,
			map[string]float64{"hints/tried": 1, "hints/solved": 0, "difficulty/all_wrong": 1, "difficulty/hard": 0}},
		{[]bool{true, false}, nil, 0, 0, 2, 3, 5,
			map[string]float64{"hints/tried": 0, "hints/graduated": 1, "hints/graduated_total": 1, "difficulty/medium": 1}},
		{[]bool{true, true}, nil, 0, 0, 2, 4, 7,
			map[string]float64{"hints/graduated": 0, "hints/graduated_total": 1, "difficulty/solved": 1, "difficulty/unseen": 1}},
		{[]bool{true}, []int32{4}, 4, 4, 2, 4, 7, // a visit with hints only is none
			map[string]float64{"hints/solved": 1, "hints/level_4": 1, "difficulty/solved": 0, "stagnation/mean": 0}},
	} {
		v := &Visit{State: s, Rows: make([]int32, len(c.correct)), Correct: c.correct, HintLevel: c.levels}
		assess(t, v, step, "")
		want := []int32{c.needed, c.hinted, c.graduated, c.visits, c.tries}
		if d := cmp.Diff(want, []int32{s.HintNeeded[0], s.HintedStep[0], s.GraduatedStep[0], s.Visits[0], int32(s.Attempts[0])}); d != "" {
			t.Errorf("step %d: needed, hinted, graduated, visits, tries: %s", step, d)
		}
		for name, value := range c.metrics {
			if got, ok := v.Metrics[name]; !ok || got != value {
				t.Errorf("step %d: %s is %v, want %v", step, name, got, value)
			}
		}
	}
}

// A success in the very step in which the hint was needed is no graduation.
func TestGraduationTakesALaterStep(t *testing.T) {
	s := NewState(1)
	assess(t, &Visit{State: s, Rows: []int32{0, 0}, Correct: []bool{true, false}, HintLevel: []int32{1, 0}}, 6, "")
	assess(t, &Visit{State: s, Rows: []int32{0}, Correct: []bool{true}}, 6, "")
	if s.GraduatedStep[0] != -1 {
		t.Errorf("graduated in step %d", s.GraduatedStep[0])
	}
	assess(t, &Visit{State: s, Rows: []int32{0}, Correct: []bool{true}}, 7, "")
	if s.GraduatedStep[0] != 7 {
		t.Errorf("graduated in step %d, want 7", s.GraduatedStep[0])
	}
}

// The order of completions makes no difference, the histogram adds up, and the
// posterior's mean lies between 0 and 1 with bounded counts.
func TestAssessmentProperties(t *testing.T) {
	const n, tries = 9, 4
	rng := rand.New(rand.NewPCG(1, 2))
	a, b := NewState(n), NewState(n)
	for step := range 60 {
		v := &Visit{State: a}
		posed := map[int32]bool{}
		for range 4 * tries {
			row := rng.Int32N(n - 1) // the last problem is never posed
			level := int32(0)
			if posed[row] {
				level = rng.Int32N(3)
			}
			posed[row] = true
			v.Rows, v.Correct, v.HintLevel = append(v.Rows, row), append(v.Correct, rng.IntN(10) < int(row)), append(v.HintLevel, level)
		}
		w := &Visit{State: b}
		for _, i := range rng.Perm(len(v.Rows)) {
			w.Rows, w.Correct, w.HintLevel = append(w.Rows, v.Rows[i]), append(w.Correct, v.Correct[i]), append(w.HintLevel, v.HintLevel[i])
		}
		assess(t, v, step, "")
		assess(t, w, step, "")
		if d := cmp.Diff(a, b) + cmp.Diff(v.Metrics, w.Metrics); d != "" {
			t.Fatalf("step %d: in another order: %s", step, d)
		}
		sum := 0.0
		for _, bucket := range []string{BucketAllWrong, BucketHard, BucketMedium, BucketEasy, BucketSolved} {
			sum += v.Metrics["difficulty/"+bucket]
		}
		if int(sum) != len(posed) {
			t.Fatalf("step %d: %v problems in the histogram, %d posed", step, sum, len(posed))
		}
		if v.Metrics["difficulty/unseen"] < 1 {
			t.Fatalf("step %d: the problem that was never posed is not counted", step)
		}
	}
	for i := range n {
		alpha, beta := a.PosteriorAlpha[i], a.PosteriorBeta[i]
		if alpha < 1 || beta < 1 || alpha+beta > 2+16*tries/(1-0.9) {
			t.Errorf("problem %d: α %v, β %v", i, alpha, beta)
		}
	}
}

// With nothing forgotten the posterior counts all completions.
func TestPosteriorWithoutForgetting(t *testing.T) {
	s := NewState(1)
	for step := range 10 {
		assess(t, &Visit{State: s, Rows: []int32{0, 0, 0}, Correct: []bool{true, step%2 == 0, false}}, step, `{"forget":1}`)
	}
	if s.PosteriorAlpha[0] != 1+float64(s.Successes[0]) || s.PosteriorBeta[0] != 1+float64(s.Attempts[0]-s.Successes[0]) {
		t.Errorf("α %v, β %v after %d of %d", s.PosteriorAlpha[0], s.PosteriorBeta[0], s.Successes[0], s.Attempts[0])
	}
}

// Columns that do not fit are refused, and leave the state as it was.
func TestAssessRefuses(t *testing.T) {
	for name, v := range map[string]*Visit{
		"row":      {Rows: []int32{0, 7}, Correct: []bool{true, true}},
		"verdicts": {Rows: []int32{0}, Correct: []bool{true, true}},
		"levels":   {Rows: []int32{0}, Correct: []bool{true}, HintLevel: []int32{}},
	} {
		v.State = NewState(2)
		if err := datasets.Run(Assessors(), []datasets.Call{{Stage: "pass_rate"}}, v, datasets.Env{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if d := cmp.Diff(NewState(2), v.State); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
