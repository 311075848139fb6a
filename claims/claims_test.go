package claims

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) < 1e-9*(1+math.Abs(want))) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestPairs(t *testing.T) {
	d := differences([]float64{3, 5}, []float64{1, 3})
	near(t, "difference", d.Mean, 2)
	near(t, "its lower end, the pairs being equal,", d.Low, 2)
	r := ratios([]float64{8, 2}, []float64{2, 2})
	near(t, "geometric mean of 4 and 1", r.Mean, 2)
}

func line(points ...float64) Curve {
	var c Curve
	for i := 0; i < len(points); i += 2 {
		n := int64(points[i])
		c = append(c, workflows.Point{Tokens: n, Trained: n / 2, Completions: n / 10, PassAt1: points[i+1]})
	}
	return c
}

func TestCurve(t *testing.T) {
	c := line(0, 0.2, 100, 0.4, 200, 0.8)
	near(t, "start", c.At(0), 0.2)
	near(t, "between", c.At(150), 0.6)
	near(t, "beyond", c.At(1000), 0.8)
	near(t, "area", c.Area(200), (0.3+0.6)/2)
	near(t, "area of a part", c.Area(100), 0.3)
	near(t, "area beyond", c.Area(400), (0.3*100+0.6*100+0.8*200)/400)
	cost, reached := c.Cost(Tokens, 0.6)
	near(t, "tokens", cost, 150)
	trained, _ := c.Cost(Trained, 0.6)
	near(t, "trained", trained, 75)
	if !reached {
		t.Error("the target was reached")
	}
	if cost, reached := line(0, 0).Cost(Trained, math.Inf(1)); reached || cost != 1 { // for a ratio
		t.Errorf("a run that trained on nothing costs %v, %v", cost, reached)
	}
	if cost, reached := c.Cost(Completions, 0.9); reached || cost != 20 {
		t.Errorf("a target that is not reached costs %v, %v", cost, reached)
	}
}

// The plans of all arms and settings are valid, and every test names arms that
// are there; arms that are tuned have equally many settings.
func TestClaims(t *testing.T) {
	for _, c := range All() {
		grid := 0
		for _, a := range c.Arms {
			settings := a.Grid
			if a.Tuned != "" {
				if _, ok := c.arm(a.Tuned); !ok {
					t.Errorf("%s: %s is tuned as %q", c.Name, a.Name, a.Tuned)
				}
				settings = []Settings{{}}
			} else if grid == 0 {
				grid = len(a.Grid)
			}
			if a.Tuned == "" && len(a.Grid) != grid {
				t.Errorf("%s: %s is tuned over %d settings, others over %d", c.Name, a.Name, len(a.Grid), grid)
			}
			for _, s := range settings {
				raw, err := json.Marshal(c.Shared.with(s, a.Plan, Settings{"max_generated_tokens": c.Budget}))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := recipes.Resolve(raw); err != nil {
					t.Errorf("%s, %s, %s: %v", c.Name, a.Name, s, err)
				}
			}
		}
		for _, x := range c.Tests {
			if _, ok := c.arm(x.Arm); !ok {
				t.Errorf("%s: test %q is about no arm", c.Name, x.Says)
			}
			if _, ok := c.arm(x.Versus); !ok && x.Measure != Rejected && x.Measure != Flat {
				t.Errorf("%s: test %q compares with no arm", c.Name, x.Says)
			}
		}
	}
	if _, err := Lookup("clop"); err == nil || !strings.Contains(err.Error(), "clpo") {
		t.Errorf("an unknown claim gives %v", err)
	}
}

// A race between an arm that learns twice as fast as the other, at a learning
// rate that only tuning finds.
func TestRace(t *testing.T) {
	c := Claim{
		Name: "speed", Says: "fast is fast", Budget: 1000, Target: 0.5, Tries: 64,
		Arms: []Arm{
			{Name: "fast", Role: Method, Plan: Settings{"weight_decay": 0.2}, Grid: []Settings{{"learning_rate": 0.5}, {"learning_rate": 1.0}}},
			{Name: "slow", Role: Baseline, Plan: Settings{"weight_decay": 0.1}, Grid: []Settings{{"learning_rate": 1.0}, {"learning_rate": 0.5}}},
			{Name: "fast again", Role: Ablation, Plan: Settings{"weight_decay": 0.2}, Tuned: "fast"},
		},
		Tests: []Test{
			{"fast ends higher", "fast", "slow", Final, 0},
			{"slow ends higher", "slow", "fast", Final, 0},
			{"half the tokens", "fast", "slow", Tokens, 1.9},
			{"slow is worse", "slow", "fast", NotBelow, 0},
			{"the same arm twice is not worse", "fast", "fast again", NotBelow, 0},
			{"few are masked", "fast", "", Rejected, 0.08},
			{"fast solves what could not be solved", "fast", "slow", Unsolved, 0.1},
			{"slow solves little of it", "slow", "", Flat, 0.3},
			{"fast solves little of it", "fast", "", Flat, 0.3},
			{"all tokens of the run", "fast", "slow", TrainedAll, 0.99},
		},
	}
	evaluation := func(rates ...float64) *activities.Evaluation {
		e := &activities.Evaluation{}
		for i, r := range rates {
			e.Levels = append(e.Levels, activities.Score{Level: int32(i + 1), PassAt1: r, PassAtK: math.Ceil(r)})
		}
		return e
	}
	ids := map[string]int{}
	run := func(_ context.Context, id string, plan []byte) (*workflows.Result, error) {
		var p struct {
			Speed float64 `json:"weight_decay"` // any keys of a plan will do
			Rate  float64 `json:"learning_rate"`
			Seed  int     `json:"seed"`
		}
		if err := json.Unmarshal(plan, &p); err != nil {
			return nil, err
		}
		ids[id]++
		r := &workflows.Result{Masked: 1, Inspected: 100, Before: evaluation(0.1, 0, 0), After: evaluation(0.9, p.Speed*p.Rate, p.Speed*p.Rate*3)}
		if p.Seed == 2 {
			r.Before = evaluation(0.1, 0.1, 0.1)
		}
		for tokens := int64(0); tokens <= 1000; tokens += 100 {
			r.Curve = append(r.Curve, workflows.Point{Tokens: tokens, Trained: tokens, PassAt1: float64(tokens) / 1000 * 10 * p.Speed * p.Rate * (0.45 + 0.01*float64(p.Seed%7))})
		}
		return r, nil
	}
	r, err := Race(t.Context(), c, Options{Seeds: 5, TuningSeeds: 2, Parallel: 1, Progress: io.Discard}, run)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(r.Arms[0].Setting, r.Arms[1].Setting, r.Arms[2].Setting) != "learning_rate=1 learning_rate=1 learning_rate=1" {
		t.Errorf("tuned to %v, %v, %v", r.Arms[0].Setting, r.Arms[1].Setting, r.Arms[2].Setting)
	}
	var holds []bool
	for _, o := range r.Tests {
		holds = append(holds, o.Holds)
	}
	// slow reaches the target in no run, so fast's ratio is only bounded from below.
	if fmt.Sprint(holds) != "[true false false false true true true true false true]" {
		t.Errorf("tests hold: %v\n%s", holds, r.Markdown())
	}
	// Levels 2 and 3 of four seeds: (0.2 + 0.6)/2 against (0.1 + 0.3)/2.
	if o := r.Tests[6]; o.Interval.N != 4 || math.Abs(o.Interval.Mean-0.2) > 1e-9 {
		t.Errorf("gained %v, want 0.2 over 4 seeds", o.Interval)
	}
	if page := r.Markdown(); !strings.Contains(page, "in 64 tries before the training: 2 in 4 runs; 3 in 4 runs;") {
		t.Error(page)
	}
	if o := r.Tests[2]; o.Short != 0 || o.Against != 4 {
		t.Errorf("%d of fast and %d of slow fell short, want 0 and 4", o.Short, o.Against)
	}
	if len(ids) != 2*2+2*2+2*5+7 { // "fast again" is fast once more; 7 warm-ups
		t.Errorf("%d runs by name", len(ids))
	}
	table, err := Table(memory.DefaultAllocator, []*Report{r})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	if table.Rows() != 3*5*11 || datasets.Arm.Get(table)[0] != "fast" {
		t.Errorf("%d rows", table.Rows())
	}
	for _, name := range []string{"a.svg", "a.png"} {
		path := filepath.Join(t.TempDir(), name)
		if err := r.Picture(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() < 1000 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if page := Page(Merge([]*Report{r}, r)); strings.Count(page, "## speed") != 1 || !strings.Contains(page, "fell short") {
		t.Error(page)
	}
}
