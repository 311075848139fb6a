package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
)

// maxTries bounds how often a stage that panics, or misses an object, is tried.
const maxTries = 5

// attempt counts the tries of an activity, from 1.
func attempt(ctx context.Context) int32 {
	if !activity.IsActivity(ctx) {
		return maxTries
	}
	return activity.GetInfo(ctx).Attempt
}

// DefaultStall is far longer than the longest pause of a stage that gets on:
// compiling a large model, or reading it from a slow store.
const DefaultStall = 10 * time.Minute

// maxStalled bounds what a process leaves behind.
const maxStalled = 3

var (
	errPanic   = errors.New("panic")
	errStalled = errors.New("no progress")
)

// guard does a stage's work: a panic becomes an error, and so does a stall. A
// goroutine cannot be ended from outside, so what hangs is left behind, and the
// activity is free to be tried again, here or elsewhere. Should the work wake up
// after all, its context has ended, and what it still writes is what every other
// try writes.
func (a *Activities) guard(ctx context.Context, stage string, work func(context.Context) (datasets.Result, error)) (datasets.Result, error) {
	type outcome struct {
		result datasets.Result
		err    error
	}
	limit := cmp.Or(a.Stall, DefaultStall)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var seen atomic.Int64
	begin := time.Now()
	ctx = datasets.WithProgress(ctx, func() { seen.Store(int64(time.Since(begin))) })
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if p := recover(); p != nil {
				o = outcome{err: fmt.Errorf("%w: %v", errPanic, p)}
				a.Log.Error().Str("stage", stage).Str("stack", string(debug.Stack())).Msgf("panic: %v", p)
			}
			done <- o
		}()
		o.result, o.err = work(ctx)
	}()
	tick := time.NewTicker(max(limit/10, time.Millisecond))
	defer tick.Stop()
	var last int64
	since := begin
	for {
		select {
		case o := <-done:
			return o.result, o.err
		case <-tick.C:
		}
		// Time is counted from the tick that saw progress last: a process that was
		// stopped for long is given its time anew.
		if at := seen.Load(); at != last {
			last, since = at, time.Now()
		} else if time.Since(since) > limit {
			break
		}
	}
	err := fmt.Errorf("%w for %s", errStalled, limit)
	if a.stalled.Add(1) >= maxStalled && a.Hung != nil {
		a.Hung(fmt.Errorf("%d stages hang, the last of them %s: %w", maxStalled, stage, err))
	}
	go func() { <-done; a.stalled.Add(-1) }()
	return datasets.Result{}, err
}

// remake is an activity that makes a result again.
type remake struct {
	Activity string          `json:"activity"`
	Input    json.RawMessage `json:"input"`
}

// name is the activity of a stage.
func name(stage string) string { return strings.ToUpper(stage[:1]) + stage[1:] }

// RepairInput is a damaged object of a run.
type RepairInput struct {
	Run  Run          `json:"run"`
	Ref  datasets.Ref `json:"ref"`
	Plan recipes.Plan `json:"plan"` // of the run, in case it is the plan that is damaged
}

// Repaired is what has to be done to have the object again.
type Repaired struct {
	Activity string          `json:"activity,omitempty"` // to be run with Input; "" when the object is sound again
	Input    json.RawMessage `json:"input,omitempty"`
}

// Repair removes what is damaged and says by which activity it is made anew. An
// object that no record tells the origin of, such as imported problems, has to be
// restored by hand: that is an error of type ErrorCorrupt which names it.
func (a *Activities) Repair(ctx context.Context, in RepairInput) (Repaired, error) {
	defer beat(ctx)()
	broken, err := a.broken(ctx, in.Ref)
	if err != nil {
		return Repaired{}, classify(ctx, err)
	}
	if len(broken) == 0 {
		return Repaired{}, nil
	}
	made, err := datasets.Maker(ctx, a.Store, in.Run.ID, in.Ref)
	isPlan := in.Ref == in.Run.Plan
	if errors.Is(err, datasets.ErrNotFound) && !isPlan {
		return Repaired{}, classify(ctx, fmt.Errorf("%w; no record says how it was made: restore it from a copy", broken[0]))
	}
	if err != nil && !isPlan {
		return Repaired{}, classify(ctx, err)
	}
	for _, b := range broken {
		a.Log.Warn().Str("run", in.Run.ID).Err(b).Msg("making anew")
		if err := datasets.Remove(ctx, a.Store, b.Ref); err != nil {
			return Repaired{}, classify(ctx, err)
		}
	}
	if isPlan {
		_, err := a.freeze(ctx, in.Plan)
		return Repaired{}, err
	}
	var r remake
	if err := json.Unmarshal(made.Work, &r); err != nil {
		return Repaired{}, classify(ctx, invalid{fmt.Errorf("repair %s: what made it: %w", in.Ref, err)})
	}
	input, err := anew(r.Input)
	if err != nil {
		return Repaired{}, classify(ctx, invalid{fmt.Errorf("repair %s: what made it: %w", in.Ref, err)})
	}
	return Repaired{r.Activity, input}, nil
}

// anew is an activity's input whose Run is to compute whatever is recorded. The
// input of Prepare is a Run itself.
func anew(input json.RawMessage) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(input, &members); err != nil {
		return nil, err
	}
	if run, ok := members["run"]; ok {
		marked, err := anew(run)
		if err != nil {
			return nil, err
		}
		members["run"] = marked
	} else {
		members["anew"] = json.RawMessage("true")
	}
	return datasets.Canonical(members)
}

// broken is what is damaged of an object: for a policy, its manifest or the files
// that this names.
func (a *Activities) broken(ctx context.Context, r datasets.Ref) ([]*datasets.DamagedError, error) {
	refs := []datasets.Ref{r}
	if r.Kind == policy.KindPolicy {
		m, err := policy.LoadManifest(ctx, a.Store, r)
		var damaged *datasets.DamagedError
		switch {
		case errors.As(err, &damaged):
			return []*datasets.DamagedError{damaged}, nil
		case err != nil:
			return nil, err
		}
		refs = refs[:0]
		for _, f := range m.Files {
			refs = append(refs, f)
		}
	}
	var out []*datasets.DamagedError
	for _, r := range refs {
		_, err := datasets.LoadBlob(ctx, a.Store, r)
		var damaged *datasets.DamagedError
		if errors.As(err, &damaged) {
			out = append(out, damaged)
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}
