package claims

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/statistics"
	"github.com/gradus-rl/gradus/workflows"
)

// Run performs one experiment by name, or takes the result that it has under
// that name already.
type Run func(ctx context.Context, id string, plan []byte) (*workflows.Result, error)

// Options say how a race is run.
type Options struct {
	Seeds       int  // paired seeds, 1 up
	TuningSeeds int  // seeds of the tuning, 1001 up; 0 takes the first setting of every grid
	Parallel    int  // runs at once
	Quick       bool // a small part of the work, to see that everything runs
	Progress    io.Writer
}

// Report is a race with its outcome.
type Report struct {
	Claim Claim     `json:"claim"`
	Arms  []Entry   `json:"arms"`
	Tests []Outcome `json:"tests"`
}

// Entry is one arm's runs.
type Entry struct {
	Arm     string    `json:"arm"`
	Role    Role      `json:"role"`
	Setting Settings  `json:"setting"` // what the tuning chose
	Tuning  []float64 `json:"tuning"`  // mean area under the curve of each setting of the grid
	Runs    []Result  `json:"runs"`    // by seed
}

// Result is one run.
type Result struct {
	Seed     int     `json:"seed"`
	ID       string  `json:"id"`
	Curve    Curve   `json:"curve"`
	Rejected float64 `json:"rejected"`           // share of tokens that a masking stage rejected
	Unsolved []int32 `json:"unsolved,omitempty"` // levels of which no held-out problem was solved before the training
	Gained   float64 `json:"gained,omitempty"`   // pass@1 there at the end
}

// Outcome is a test with its figures.
type Outcome struct {
	Test     Test                `json:"test"`
	Interval statistics.Interval `json:"interval"`
	Short    int                 `json:"short"` // runs of the arm that did not reach the target
	Against  int                 `json:"against"`
	Holds    bool                `json:"holds"`
}

// Race tunes every arm, runs all of them on the same seeds, and tests the claim.
func Race(ctx context.Context, c Claim, o Options, run Run) (*Report, error) {
	if o.Quick {
		c.Budget /= 20
		c.Shared = c.Shared.with(Settings{"evaluation.problems_per_level": 4, "evaluation.num_generations": 4, "warmup.max_steps": 20, "warmup.min_steps": 20})
	}
	r := &Report{Claim: c, Arms: make([]Entry, len(c.Arms))}
	race := &race{claim: c, options: o, run: run, dark: map[int][]int32{}}
	for i, a := range c.Arms {
		r.Arms[i] = Entry{Arm: a.Name, Role: a.Role, Setting: Settings{}}
		if len(a.Grid) > 0 {
			r.Arms[i].Setting = a.Grid[0]
		}
	}
	if o.TuningSeeds > 0 && slices.ContainsFunc(c.Arms, func(a Arm) bool { return len(a.Grid) > 1 }) {
		if err := race.tune(ctx, r); err != nil {
			return nil, err
		}
	}
	for i, a := range c.Arms {
		if a.Tuned == "" {
			continue
		}
		at := slices.IndexFunc(c.Arms, func(b Arm) bool { return b.Name == a.Tuned })
		if at < 0 {
			return nil, fmt.Errorf("claim %s: arm %q is tuned as %q, which is no arm", c.Name, a.Name, a.Tuned)
		}
		r.Arms[i].Setting = r.Arms[at].Setting
	}
	if err := race.warm(ctx, 1, o.Seeds); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.Parallel))
	for i := range r.Arms {
		r.Arms[i].Runs = make([]Result, o.Seeds)
	}
	for seed := range o.Seeds {
		for i, a := range c.Arms {
			g.Go(func() (err error) {
				r.Arms[i].Runs[seed], err = race.one(ctx, a, r.Arms[i].Setting, seed+1)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, t := range c.Tests {
		outcome, err := r.test(t)
		if err != nil {
			return nil, err
		}
		r.Tests = append(r.Tests, outcome)
	}
	return r, nil
}

type race struct {
	claim   Claim
	options Options
	run     Run
	mu      sync.Mutex
	dark    map[int][]int32 // by seed: levels of which no held-out problem was solved before
}

// warm makes the warmed-up policies of some seeds, which all arms then find in
// the store, and looks for the levels at which they can do nothing.
func (r *race) warm(ctx context.Context, first, seeds int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, r.options.Parallel))
	for seed := range seeds {
		g.Go(func() error {
			look := Settings{}
			if r.claim.Tries > 0 {
				look["evaluation.num_generations"] = r.claim.Tries
			}
			_, result, err := r.perform(ctx, Arm{Name: "warm-up", Plan: Settings{"recipe": "grpo", "steps": 0}}, look, first+seed)
			if err != nil || r.claim.Tries == 0 {
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, l := range result.Before.Levels {
				if l.PassAtK == 0 {
					r.dark[first+seed] = append(r.dark[first+seed], l.Level)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// tune chooses each arm's setting by the area under its curves.
func (r *race) tune(ctx context.Context, report *Report) error {
	if err := r.warm(ctx, 1001, r.options.TuningSeeds); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, r.options.Parallel))
	areas := make([][][]float64, len(r.claim.Arms)) // by arm, setting, seed
	for i, a := range r.claim.Arms {
		if len(a.Grid) < 2 {
			continue // nothing to choose
		}
		areas[i] = make([][]float64, len(a.Grid))
		for j, s := range a.Grid {
			areas[i][j] = make([]float64, r.options.TuningSeeds)
			for seed := range r.options.TuningSeeds {
				g.Go(func() error {
					result, err := r.one(ctx, a, s, 1001+seed)
					if err == nil {
						areas[i][j][seed] = result.Curve.Area(r.claim.Budget)
					}
					return err
				})
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, a := range r.claim.Arms {
		best := 0
		for j := range areas[i] {
			report.Arms[i].Tuning = append(report.Arms[i].Tuning, statistics.Mean(areas[i][j]).Mean)
			if report.Arms[i].Tuning[j] > report.Arms[i].Tuning[best] {
				best = j
			}
		}
		if len(a.Grid) > 0 {
			report.Arms[i].Setting = a.Grid[best]
		}
	}
	return nil
}

// one is one run of an arm, as the report keeps it.
func (r *race) one(ctx context.Context, a Arm, s Settings, seed int) (Result, error) {
	id, result, err := r.perform(ctx, a, s, seed)
	if err != nil {
		return Result{}, err
	}
	out := Result{Seed: seed, ID: id, Curve: result.Curve, Rejected: float64(result.Masked) / float64(max(1, result.Inspected)), Unsolved: r.dark[seed]}
	for _, level := range out.Unsolved {
		for _, l := range result.After.Levels {
			if l.Level == level {
				out.Gained += l.PassAt1 / float64(len(out.Unsolved))
			}
		}
	}
	return out, nil
}

// perform makes a run of an arm. Its name holds the whole plan that it is a
// function of, so that a race that was interrupted goes on where it was, and
// claims share runs.
func (r *race) perform(ctx context.Context, a Arm, s Settings, seed int) (id string, result *workflows.Result, err error) {
	given := Settings{"seed": seed, "max_generated_tokens": r.claim.Budget}
	if n := len(r.claim.Families); n > 0 {
		given["families"] = []string{r.claim.Families[(seed-1)%n]}
	}
	// An arm's own settings stand above those it was tuned to: an ablation may lack what its method was tuned in.
	plan, err := json.Marshal(r.claim.Shared.with(s, a.Plan, given))
	if err != nil {
		return "", nil, err
	}
	resolved, err := recipes.Resolve(plan)
	if err != nil {
		return "", nil, fmt.Errorf("claim %s, arm %s: %w", r.claim.Name, a.Name, err)
	}
	whole, err := json.Marshal(resolved)
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256(whole)
	id = fmt.Sprintf("race-%s-%d-%x", strings.Map(letters, fmt.Sprint(a.Plan["recipe"])), seed, sum[:8])
	result, err = r.run(ctx, id, plan)
	if err != nil {
		return "", nil, fmt.Errorf("claim %s, arm %s, seed %d: %w", r.claim.Name, a.Name, seed, err)
	}
	last := result.Curve[len(result.Curve)-1]
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.options.Progress, "%-10s %-20s seed %4d %-24v pass@1 %.3f -> %.3f, %d steps, %d tokens, %.0f s\n",
		r.claim.Name, a.Name, seed, s, result.Curve[0].PassAt1, last.PassAt1, last.Step, last.Tokens, last.Seconds)
	return id, result, nil
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}

// test compares two arms.
func (r *Report) test(t Test) (Outcome, error) {
	o := Outcome{Test: t}
	find := func(name string) (Entry, error) {
		for _, e := range r.Arms {
			if e.Arm == name {
				return e, nil
			}
		}
		return Entry{}, fmt.Errorf("claim %s: no arm %q", r.Claim.Name, name)
	}
	arm, err := find(t.Arm)
	if err != nil {
		return o, err
	}
	if t.Measure == Rejected || t.Measure == Flat {
		var own []float64
		for _, run := range arm.Runs {
			switch {
			case t.Measure == Rejected:
				own = append(own, run.Rejected)
			case len(run.Unsolved) > 0:
				own = append(own, run.Gained)
			}
		}
		o.Interval = statistics.Mean(own)
		o.Holds = o.Interval.High < t.AtLeast
		return o, nil
	}
	versus, err := find(t.Versus)
	if err != nil {
		return o, err
	}
	var a, b []float64
	for i := range arm.Runs {
		x, y := arm.Runs[i].Curve, versus.Runs[i].Curve
		switch t.Measure {
		case Final, NotBelow:
			a, b = append(a, x.At(r.Claim.Budget)), append(b, y.At(r.Claim.Budget))
			continue
		case Unsolved:
			if len(arm.Runs[i].Unsolved) > 0 {
				a, b = append(a, arm.Runs[i].Gained), append(b, versus.Runs[i].Gained)
			}
			continue
		case TrainedAll:
			spent, _ := x.Cost(Trained, math.Inf(1)) // a target that no run reaches
			other, _ := y.Cost(Trained, math.Inf(1))
			a, b = append(a, spent), append(b, other)
			continue
		}
		spent, reached := x.Cost(t.Measure, r.Claim.Target)
		other, also := y.Cost(t.Measure, r.Claim.Target)
		if !reached {
			o.Short++
		}
		if !also {
			o.Against++
		}
		a, b = append(a, spent), append(b, other)
	}
	switch t.Measure {
	case Final, Unsolved:
		o.Interval = differences(a, b)
		o.Holds = o.Interval.Low > t.AtLeast
	case NotBelow:
		o.Interval = differences(a, b)
		o.Holds = o.Interval.High >= 0
	default:
		o.Interval = ratios(b, a)
		// A run that never reached the target would flatter its arm's ratio.
		o.Holds = o.Interval.Low >= t.AtLeast && o.Short == 0
	}
	return o, nil
}
