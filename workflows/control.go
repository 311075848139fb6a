package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/recipes"
)

// Updates of an experiment. Each returns an Answer; what has no sense any more
// is refused.
const (
	UpdatePause  = "pause"  // takes a reason, as text, or nothing
	UpdateResume = "resume" // takes nothing
	UpdateStop   = "stop"   // takes nothing
	UpdateTune   = "tune"   // takes a JSON object, as recipes.Tune does
	UpdateRewind = "rewind" // takes a JSON object with "step", and changes of the plan as recipes.Continue does
)

// SignalControl is how a sweep asks its runs: it takes the name of the update
// pause, resume or stop, as text.
const SignalControl = "control"

// Answer is what an update returns.
type Answer struct {
	Message string `json:"message"` // what happens now, in words
	Phase   string `json:"phase"`
	Step    int    `json:"step"` // steps done
	Steps   int    `json:"steps"`
}

// Tuning is a change of the plan in mid-run.
type Tuning struct {
	Step    int             `json:"step"`    // first step that it holds for, counted from 1
	Changes json.RawMessage `json:"changes"` // as they were given
}

// control answers the updates. They ask; the run itself acts on it where one
// step is done and the next has not begun.
func (e *experiment) control(ctx workflow.Context) error {
	e.tunes = workflow.NewMutex(ctx)
	for _, u := range []struct {
		name, doc          string
		handler, validator any
	}{
		{UpdatePause, "Pauses after the step in hand, or the piece of the warm-up. Input: nothing, or a reason such as \"maintenance\".", e.pause, e.mayPause},
		{UpdateResume, "Goes on where the run was paused. Input: nothing.", e.resume, e.mayControl},
		{UpdateStop, "Ends the training after the step in hand; the last evaluation and the result are as usual. Input: nothing.", e.stop, e.mayControl},
		{UpdateTune, "Changes the plan from the next step on. Input: an object with keys of the plan, such as {\"learning_rate\":5e-4}.", e.tune, e.mayTune},
		{UpdateRewind, "Goes back to where a number of steps were done, and on from there. Input: an object such as {\"step\":40}; keys of the plan beside it change the plan.", e.rewind, e.mayRewind},
	} {
		if err := workflow.SetUpdateHandlerWithOptions(ctx, u.name, u.handler, workflow.UpdateHandlerOptions{Description: u.doc, Validator: u.validator}); err != nil {
			return err
		}
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var update string
			workflow.GetSignalChannel(ctx, SignalControl).Receive(ctx, &update)
			e.obey(update)
		}
	})
	return nil
}

// obey does what a signal asks for.
func (e *experiment) obey(update string) {
	switch update {
	case UpdatePause:
		e.Status.Paused = !e.Status.Stopped
	case UpdateResume:
		e.Status.Paused, e.Status.Reason = false, ""
	case UpdateStop:
		e.Status.Stopped, e.Status.Paused, e.Status.Reason = true, false, ""
	}
}

// boundary is where one step is done and the next has not begun: what users
// asked for takes effect here. On return every update is answered, so none is
// lost where this execution ends.
func (e *experiment) boundary(ctx workflow.Context) error {
	var update string
	for workflow.GetSignalChannel(ctx, SignalControl).ReceiveAsync(&update) { // none is lost, either
		e.obey(update)
	}
	for e.Status.Paused || e.back != nil || e.Next != nil || !workflow.AllHandlersFinished(ctx) {
		if e.Status.Paused {
			if err := e.settle(ctx); err != nil {
				return err
			}
		}
		if err := e.hold(ctx); err != nil {
			return err
		}
		if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
			return err
		}
		if err := e.goBack(ctx); err != nil {
			return err
		}
		adopted, err := e.adopt(ctx)
		if err != nil {
			return err
		}
		if adopted { // the record has the plan that the steps to come follow
			amended := e.Left
			amended.Amended++
			if err := e.record(ctx, amended); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold waits while the run is paused, and lets workers free their accelerators.
func (e *experiment) hold(ctx workflow.Context) error {
	if !e.Status.Paused {
		return nil
	}
	if err := e.phase(ctx, "paused"); err != nil {
		return err
	}
	for _, queue := range []string{QueueRollout, QueueTrain} {
		// Nobody waits for it: a worker that is down holds nothing.
		workflow.ExecuteActivity(workflow.WithScheduleToCloseTimeout(e.on(ctx, queue), time.Minute), acts.Release)
	}
	return workflow.Await(ctx, func() bool { return !e.Status.Paused || e.back != nil })
}

// adopt makes a tuned plan the run's plan, if there is one. What was drawn ahead
// is asked for anew under it, and found where the change does not concern it.
func (e *experiment) adopt(ctx workflow.Context) (bool, error) {
	if e.Next == nil {
		return false, nil
	}
	if err := e.drop(ctx); err != nil {
		return false, err
	}
	e.Resolved, e.Next = *e.Next, nil
	e.id.Plan = e.Resolved.Ref
	e.Status.Steps = e.plan().Steps
	return true, nil
}

// asked answers an update and shows what it changed.
func (e *experiment) asked(ctx workflow.Context, format string, args ...any) (Answer, error) {
	workflow.SetCurrentDetails(ctx, e.Status.Markdown())
	return Answer{Message: fmt.Sprintf(format, args...), Phase: e.Status.Phase, Step: e.Step, Steps: e.Status.Steps}, nil
}

// done is how many steps will be done at the next boundary.
func (e *experiment) done() int {
	if e.busy {
		return e.Step + 1
	}
	return e.Step
}

// when is the next boundary, in words.
func (e *experiment) when() string {
	if e.busy {
		return fmt.Sprintf("after step %d, which is in hand", e.Step+1)
	}
	return fmt.Sprintf("before step %d", e.Step+1)
}

func (e *experiment) mayControl(json.RawMessage) error {
	if e.over && e.Status.Phase != "paused" {
		return errors.New("the training is over; only its last evaluation goes on")
	}
	return nil
}

func (e *experiment) mayPause(string) error {
	if e.Status.Stopped {
		return errors.New("the run is being stopped, so it cannot be paused")
	}
	return e.mayControl(nil)
}

func (e *experiment) pause(ctx workflow.Context, reason string) (Answer, error) {
	again := e.Status.Paused
	if e.Status.Paused = true; reason != "" {
		e.Status.Reason = reason
	}
	switch {
	case e.Status.Phase == "paused":
		return e.asked(ctx, "the run is paused already, after step %d", e.Step)
	case again:
		return e.asked(ctx, "the run was told to pause already: it does so %s", e.when())
	}
	return e.asked(ctx, "the run pauses %s", e.when())
}

func (e *experiment) resume(ctx workflow.Context, _ json.RawMessage) (Answer, error) {
	if !e.Status.Paused {
		return e.asked(ctx, "the run is not paused")
	}
	e.Status.Paused, e.Status.Reason = false, ""
	if e.Status.Phase == "paused" {
		return e.asked(ctx, "the run goes on with step %d", e.Step+1)
	}
	return e.asked(ctx, "the run goes on; it had not paused yet")
}

func (e *experiment) stop(ctx workflow.Context, _ json.RawMessage) (Answer, error) {
	again := e.Status.Stopped
	e.Status.Stopped, e.Status.Paused, e.Status.Reason = true, false, ""
	if again {
		return e.asked(ctx, "the run was told to stop already: it does so %s", e.when())
	}
	return e.asked(ctx, "the run stops %s", e.when())
}

// latest is the plan that a change is made to: the run's own, or the one that
// waits for the next step.
func (e *experiment) latest() activities.Resolved {
	if e.Next != nil {
		return *e.Next
	}
	return e.Resolved
}

// mayTune refuses what cannot be, so that a refused change leaves no trace.
func (e *experiment) mayTune(changes json.RawMessage) error {
	if err := e.mayControl(nil); err != nil {
		return err
	}
	if e.Status.Stopped {
		return errors.New("the run is being stopped, so there is no step to tune")
	}
	if e.back != nil {
		return errors.New("the run is about to go back; try again when it has")
	}
	if e.Resolved.Ref.Hash == "" {
		return errors.New("the run has no plan yet; try again in a moment")
	}
	_, err := recipes.Tune(e.latest().Plan, changes, e.done())
	return err
}

func (e *experiment) tune(ctx workflow.Context, changes json.RawMessage) (Answer, error) {
	if err := e.tunes.Lock(ctx); err != nil { // one at a time, each on top of the one before
		return Answer{}, err
	}
	defer e.tunes.Unlock()
	var tuned activities.Tuned
	if err := workflow.ExecuteLocalActivity(short(ctx), acts.Tune, activities.TuneInput{
		Plan: e.latest().Ref, Changes: changes, StepsDone: e.done(),
	}).Get(ctx, &tuned); err != nil {
		return Answer{}, err
	}
	e.Next = &tuned.Resolved
	t := Tuning{Step: e.done() + 1, Changes: tuned.Changes}
	e.Status.Tuned = append(e.Status.Tuned, t)
	e.Status.Tuned = e.Status.Tuned[max(0, len(e.Status.Tuned)-maxTuned):]
	return e.asked(ctx, "%s from step %d on", t.Changes, t.Step)
}
