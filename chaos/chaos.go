// Package chaos runs experiments on real servers and real worker processes while
// it kills, hangs, cuts off and damages them, and compares what they leave behind
// with what the same experiments leave when nothing happens.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/gradus-rl/gradus/workflows"
)

// Options say how long and how hard.
type Options struct {
	Minutes  float64       // of fire, over all experiments; the last one ends without
	Seed     uint64        // of experiments and faults
	Every    time.Duration // between two faults
	Only     []string      // kinds of faults; nil = [Kinds]
	Plan     []string      // key=value pairs over the experiment's plan
	Program  []string      // the gradus program, and arguments before all others
	Env      []string      // additions to its environment
	Dir      string        // empty folder for state and logs
	Progress io.Writer     // told of every fault and experiment
}

// Pair is an experiment in its two forms.
type Pair struct {
	Seed      uint64  `json:"seed"`
	Calm      string  `json:"calm"` // digests, see [Digest]
	Fire      string  `json:"fire"`
	CalmWall  float64 `json:"calm_seconds"` // from start to end of the run, by the server's clock
	FireWall  float64 `json:"fire_seconds"`
	Remade    int     `json:"remade"`    // damaged objects that were made anew
	Retries   int     `json:"retries"`   // tries of activities after the first
	Timeouts  int     `json:"timeouts"`  // of workflow tasks
	Untouched int     `json:"untouched"` // flipped bytes in objects that nobody read afterwards
}

// Report is what a bench has seen.
type Report struct {
	Faults map[string]int `json:"faults"` // by kind
	Kills  int            `json:"kills"`  // of them processes that were sent SIGKILL
	Pairs  []Pair         `json:"pairs"`
	Leaks  []string       `json:"leaks,omitempty"` // where a planted secret was found
}

// Total is the number of faults.
func (r Report) Total() (n int) {
	for _, c := range r.Faults {
		n += c
	}
	return n
}

// Divergences is how many experiments ended otherwise than their twin.
func (r Report) Divergences() (n int) {
	for _, p := range r.Pairs {
		if p.Calm != p.Fire {
			n++
		}
	}
	return n
}

// EffectiveTime is the wall time of the calm runs over that of the same runs under
// fire: the share of the time that was not lost to faults. Both run on the same
// fleet and do all of their work themselves.
func (r Report) EffectiveTime() float64 {
	calm, fire := 0.0, 0.0
	for _, p := range r.Pairs {
		calm, fire = calm+p.CalmWall, fire+p.FireWall
	}
	return calm / fire
}

// plan is an experiment of some ten seconds that uses all four methods.
var plan = []string{
	"reuse=false", "steps=30", "levels=[1,3]", "train_levels=[3]", "problems_per_level=64", "exemption=0",
	"model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=1",
	"warmup.max_steps=60", "warmup.min_steps=50", "warmup.every=10", "warmup.batch_size=32", "warmup.learning_rate=5e-3",
	"prompts_per_step=8", "num_generations=8", "max_completion_length=16",
	"evaluation.problems_per_level=8", "evaluation.num_generations=2", "evaluation.every=10",
}

// patience is how long an experiment may take to end once nothing disturbs it.
const patience = 5 * time.Minute

// Bench runs pairs of experiments until the time of fire is over. It fails where a
// run fails, pauses itself or does not end; a digest that differs is in the report.
func Bench(ctx context.Context, o Options) (r Report, err error) {
	r.Faults = map[string]int{}
	f, err := startFleet(ctx, o)
	if err != nil {
		return r, fmt.Errorf("chaos: %w", err)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	// The first experiment of a process compiles; its time is not compared.
	if _, err := f.run(ctx, "warm", o, o.Seed, nil); err != nil {
		return r, fmt.Errorf("chaos: warm up the fleet: %w", err)
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	left, next := time.Duration(o.Minutes*float64(time.Minute)), o.Every
	for i := uint64(0); left > 0 && ctx.Err() == nil; i++ {
		p := Pair{Seed: o.Seed + i}
		if err := f.empty(ctx); err != nil {
			return r, fmt.Errorf("chaos: %w", err)
		}
		calm, err := f.run(ctx, fmt.Sprintf("calm-%d", p.Seed), o, p.Seed, nil)
		if err != nil {
			return r, fmt.Errorf("chaos: calm run of seed %d: %w", p.Seed, err)
		}
		if p.Calm, err = Digest(ctx, f.store, calm.id, calm.result); err != nil {
			return r, fmt.Errorf("chaos: calm run of seed %d: %w", p.Seed, err)
		}
		// The twin must write every object itself.
		if err := f.empty(ctx); err != nil {
			return r, fmt.Errorf("chaos: %w", err)
		}
		fire := newFire(f, rng, o, r.Faults)
		begin := time.Now()
		burnt, err := f.run(ctx, fmt.Sprintf("fire-%d", p.Seed), o, p.Seed, func(ctx context.Context) { fire.burn(ctx, left, &next) })
		left -= time.Since(begin)
		if err != nil {
			return r, fmt.Errorf("chaos: run of seed %d under fire: %w", p.Seed, err)
		}
		r.Kills = fire.kills + r.Kills
		if p.Untouched, err = fire.restore(); err != nil {
			return r, fmt.Errorf("chaos: %w", err)
		}
		if p.Fire, err = Digest(ctx, f.store, burnt.id, burnt.result); err != nil {
			return r, fmt.Errorf("chaos: run of seed %d under fire: %w", p.Seed, err)
		}
		p.CalmWall, p.FireWall, p.Remade = calm.wall, burnt.wall, burnt.result.Mended
		if p.Retries, p.Timeouts, err = f.retries(ctx, burnt.id); err != nil {
			return r, fmt.Errorf("chaos: %w", err)
		}
		r.Pairs = append(r.Pairs, p)
		verdict := "same"
		if p.Calm != p.Fire {
			verdict = "DIFFERENT"
		}
		fmt.Fprintf(o.Progress, "seed %d: calm %.12s in %.1f s, under fire %.12s in %.1f s: %s; %d tries anew, %d workflow tasks lost, %d objects remade\n",
			p.Seed, p.Calm, p.CalmWall, p.Fire, p.FireWall, verdict, p.Retries, p.Timeouts, p.Remade)
		leaks, err := f.leaks(ctx, []string{calm.id, burnt.id})
		if err != nil {
			return r, fmt.Errorf("chaos: look for secrets: %w", err)
		}
		r.Leaks = append(r.Leaks, leaks...)
	}
	slices.Sort(r.Leaks)
	r.Leaks = slices.Compact(r.Leaks)
	return r, ctx.Err()
}

// String is the report as a table of faults and a line for the rest.
func (r Report) String() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(&b, "%-22s %5d\n", kind, r.Faults[kind])
	}
	retries := 0
	for _, p := range r.Pairs {
		retries += p.Retries
	}
	fmt.Fprintf(&b, "%d faults, %d kills, %d activities tried anew in %d experiments\n", r.Total(), r.Kills, retries, len(r.Pairs))
	for _, l := range r.Leaks {
		fmt.Fprintf(&b, "a secret was found in %s\n", l)
	}
	return b.String()
}

// ended is a run that is over.
type ended struct {
	id     string
	wall   float64 // seconds
	result workflows.Result
}

// run launches an experiment by the program itself and waits for its end; during
// burns meanwhile.
func (f *fleet) run(ctx context.Context, id string, o Options, seed uint64, during func(context.Context)) (e ended, err error) {
	e.id = id
	args := append([]string{"run", "gradus", "--id", id, fmt.Sprintf("seed=%d", seed)}, plan...)
	launcher := f.launcher(id, append(args, o.Plan...))
	defer launcher.end()
	burning, put := context.WithCancel(ctx)
	defer put()
	out := make(chan struct{})
	var since time.Time
	started := false
	asked := time.Now()
	begin := asked
	for {
		d, err := f.client.DescribeWorkflowExecution(ctx, id, "")
		var unknown *serviceerror.NotFound
		switch {
		case ctx.Err() != nil:
			return e, ctx.Err()
		case errors.As(err, &unknown):
			if time.Since(begin) > patience {
				return e, fmt.Errorf("the run did not start:\n%s", launcher.tail())
			}
		case err != nil: // the server is down
		case d.WorkflowExecutionInfo.Status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
			put()
			if during != nil {
				<-out
			}
			info := d.WorkflowExecutionInfo
			e.wall = info.CloseTime.AsTime().Sub(info.StartTime.AsTime()).Seconds()
			return e, f.result(ctx, id, &e.result)
		case !started:
			started, since = true, time.Now()
			if during != nil {
				go func() { defer close(out); during(burning); since = time.Now() }()
			}
		}
		quiet := during == nil
		select {
		case <-out:
			quiet = true
		default:
		}
		if started && quiet && time.Since(since) > patience {
			return e, fmt.Errorf("the run stands still for %s after the last fault: %s", patience, f.where(ctx, id))
		}
		if started && time.Since(asked) > 2*time.Second {
			asked = time.Now()
			if why := f.paused(ctx, id); why != "" {
				return e, fmt.Errorf("the run paused itself: %s", why)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
