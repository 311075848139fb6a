package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
)

// do runs an activity on a queue of workers.
func (e *experiment) do(ctx workflow.Context, queue string, activity, in, out any) error {
	start := func() workflow.Future { return workflow.ExecuteActivity(e.on(ctx, queue), activity, in) }
	return e.await(ctx, start(), start, out)
}

// brief runs a stage of milliseconds beside the workflow. One that fails there a
// few times goes on as an activity, whose failures everybody sees: those of a
// local one leave no trace while it is tried.
func (e *experiment) brief(ctx workflow.Context, out, activity any, in ...any) error {
	f := workflow.ExecuteLocalActivity(limited(ctx), activity, in...)
	err := f.Get(ctx, out)
	start := func() workflow.Future { return workflow.ExecuteActivity(e.on(ctx, QueueCPU), activity, in...) }
	var app *temporal.ApplicationError
	switch {
	case err == nil, temporal.IsCanceledError(err), errors.As(err, &app) && app.NonRetryable() && mendable(err) == nil:
		return err
	case mendable(err) == nil:
		f = start()
	}
	defer func() { e.Status.Trouble = "" }()
	e.Status.Trouble = message(err)
	workflow.SetCurrentDetails(ctx, e.Status.Markdown())
	return e.await(ctx, f, start, out)
}

// await returns the result of an activity that was started; again starts it
// anew. A damaged object is made anew. What no other try mends pauses the run,
// with the reason, and is tried again when it is resumed.
func (e *experiment) await(ctx workflow.Context, f workflow.Future, again func() workflow.Future, out any) error {
	for {
		err := f.Get(ctx, out)
		app := mendable(err)
		if app == nil {
			return err
		}
		reason := err
		if app.Type() == activities.ErrorCorrupt {
			reason = e.mend(ctx, app, 0)
		}
		if reason != nil {
			if err := e.stuck(ctx, reason); err != nil {
				return err
			}
		}
		f = again()
	}
}

// mendable is err if it is of a kind that a repair or an operator can mend while
// the run stands, else nil.
func mendable(err error) *temporal.ApplicationError {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		switch app.Type() {
		case activities.ErrorCorrupt, activities.ErrorPanic, activities.ErrorDenied:
			return app
		}
	}
	return nil
}

// maxMends bounds how far back damage is followed: an object is made of others.
const maxMends = 100

// mend has the object made anew that a failed activity found damaged. What made
// it may find its own inputs damaged: then these are made anew before.
func (e *experiment) mend(ctx workflow.Context, damage *temporal.ApplicationError, depth int) error {
	var ref datasets.Ref
	if !damage.HasDetails() || depth > maxMends {
		return damage
	}
	if err := damage.Details(&ref); err != nil {
		return err
	}
	var r activities.Repaired
	in := activities.RepairInput{Run: e.id, Ref: ref, Plan: e.Resolved.Plan}
	if err := workflow.ExecuteActivity(e.on(ctx, QueueCPU), acts.Repair, in).Get(ctx, &r); err != nil || r.Activity == "" {
		return err
	}
	e.Status.Mended++
	e.Result.Mended++
	for {
		err := workflow.ExecuteActivity(e.on(ctx, queueOf(r.Activity)), r.Activity, r.Input).Get(ctx, nil)
		app := mendable(err)
		if app == nil || app.Type() != activities.ErrorCorrupt {
			return err
		}
		if err := e.mend(ctx, app, depth+1); err != nil {
			return err
		}
	}
}

// queueOf is where an activity is at home.
func queueOf(activity string) string {
	switch activity {
	case "Rollout":
		return QueueRollout
	case "Mask", "Update", "Warm":
		return QueueTrain
	}
	return QueueCPU
}

// stuck pauses the run in mid-step until somebody has mended what is wrong. A
// run that is told to stop there fails with the reason, as the step cannot end.
func (e *experiment) stuck(ctx workflow.Context, why error) error {
	if e.tunes == nil || e.Status.Stopped { // nobody can resume it
		return why
	}
	phase := e.Status.Phase
	e.Status.Paused, e.Status.Reason = true, message(why)
	if err := e.hold(ctx); err != nil {
		return err
	}
	if e.Status.Stopped {
		return why
	}
	return e.phase(ctx, phase)
}

// message is what went wrong, without the layers it came through.
func message(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	return err.Error()
}

// finite counts updates that were left out because they were not finite, and
// pauses the run where too many follow each other.
func (e *experiment) finite(updated activities.Output) {
	if updated.Metrics[activities.MetricNaN] == 0 {
		e.NaNRow = 0
		return
	}
	e.NaNRow++
	e.Status.NaN++
	e.Result.NaN++
	if e.NaNRow >= e.plan().MaxNaNSteps && !e.Status.Stopped {
		e.Status.Paused = true
		e.Status.Reason = fmt.Sprintf("%d updates in a row were not finite, the last of them in step %d, and were left out; tune learning_rate or what else is too large, then resume", e.NaNRow, e.Step+1)
		e.NaNRow = 0
	}
}

// tries bounds those of a local activity.
const tries = 3

// limited is short with an end of the tries.
func limited(ctx workflow.Context) workflow.Context {
	policy := *retries
	policy.MaximumAttempts = tries
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: 10 * time.Minute, RetryPolicy: &policy})
}
