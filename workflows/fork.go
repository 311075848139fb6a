package workflows

import (
	"encoding/json"
	"errors"

	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
)

// opened is an activities.Opened as the workflow reads it.
type opened struct {
	activities.Resolved
	Carried *Carried        `json:"carried"`
	Changes json.RawMessage `json:"changes"`
}

// open makes the experiment what it starts or goes on as.
func (e *experiment) open(o opened) {
	if o.Carried != nil {
		e.Carried = *o.Carried
	}
	e.Resolved, e.Next = o.Resolved, nil
	e.id.Plan = e.Resolved.Ref
	e.Status.Recipe, e.Status.Steps, e.Status.Fork = e.plan().Recipe, e.plan().Steps, e.plan().Fork
	e.Result.Recipe, e.Result.Fork = e.plan().Recipe, e.plan().Fork
	if o.Changes != nil {
		e.Status.Tuned = append(e.Status.Tuned, Tuning{Step: e.Step + 1, Changes: o.Changes})
	}
}

// record stores what a step left behind and all that the run goes on from there
// with. It is a local activity: of its input, history holds nothing.
func (e *experiment) record(ctx workflow.Context, left activities.StepRecord) error {
	left.Step, left.Plan, left.State, left.Policy = e.Step-1, e.Resolved.Ref, e.State, e.Policy
	e.Left = left
	c := e.Carried // what is asked of the run meanwhile does not change the copy
	c.Status.Phase, c.Status.Recent, c.Status.Paused, c.Status.Reason, c.Status.Stopped = "", nil, false, "", false
	return e.brief(ctx, nil, acts.Record, e.id, activities.Checkpoint{StepRecord: left, Carried: c})
}

func (e *experiment) mayRewind(json.RawMessage) error {
	if e.Status.Stopped {
		return errors.New("the run is being stopped; rewind it when it has ended")
	}
	if len(e.Result.Curve) == 0 {
		return errors.New("the run has not begun its first step, so there is nothing to go back to")
	}
	return e.mayControl(nil)
}

func (e *experiment) rewind(ctx workflow.Context, changes json.RawMessage) (Answer, error) {
	if err := e.tunes.Lock(ctx); err != nil {
		return Answer{}, err
	}
	defer e.tunes.Unlock()
	var o opened
	if err := e.brief(ctx, &o, acts.Rewind, activities.RewindInput{Run: e.id.ID, Changes: changes}); err != nil {
		return Answer{}, err
	}
	e.back = &o
	if e.Status.Phase == "paused" {
		return e.asked(ctx, "the run goes back to step %d and stays paused", o.Carried.Step)
	}
	return e.asked(ctx, "the run goes back to step %d %s", o.Carried.Step, e.when())
}

// goBack takes a rewind into effect: the later steps are no longer the run's.
func (e *experiment) goBack(ctx workflow.Context) error {
	if e.back == nil {
		return nil
	}
	if e.ahead.busy {
		e.ahead.cancel()
	}
	if err := e.drop(ctx); err != nil {
		return err
	}
	before := e.Status
	e.open(*e.back)
	e.back = nil
	e.Status.Paused, e.Status.Reason, e.Status.Stopped = before.Paused, before.Reason, before.Stopped
	for _, s := range before.Recent {
		if s.Step <= e.Step {
			e.Status.Recent = append(e.Status.Recent, s)
		}
	}
	return e.brief(ctx, nil, acts.Discard, e.id, e.Step)
}
