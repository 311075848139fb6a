package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/statistics"
)

// SweepStatus is where a sweep stands; the answer to QueryStatus.
type SweepStatus struct {
	Phase    string   `json:"phase"`    // resolving, sweeping, paused, finished, stopped
	Settings []string `json:"settings"` // what is compared
	Runs     []Swept  `json:"runs"`     // of every setting on every seed
	Paused   bool     `json:"paused,omitempty"`
	Stopped  bool     `json:"stopped,omitempty"`
	Error    string   `json:"error,omitempty"` // as of Status
}

// States of a run of a sweep.
const (
	SweptWaiting  = "waiting"
	SweptRunning  = "running"
	SweptFinished = "finished"
	SweptStopped  = "stopped" // by a user, before all of its steps were done
	SweptFailed   = "failed"
)

// Swept is one run of a sweep.
type Swept struct {
	ID      string `json:"id"`
	Setting int    `json:"setting"` // in Settings
	Seed    uint64 `json:"seed"`
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"` // of a failure

	Steps       int     `json:"steps,omitempty"`
	Before      float64 `json:"pass_at_1_before,omitempty"`
	After       float64 `json:"pass_at_1,omitempty"`
	Completions int64   `json:"completions,omitempty"`
	Tokens      int64   `json:"tokens,omitempty"` // generated in training
	Trained     int64   `json:"tokens_trained,omitempty"`
	Verified    int64   `json:"verifier_calls,omitempty"`
	Seconds     float64 `json:"seconds,omitempty"` // of training steps
}

// Figure is a mean over seeds.
type Figure struct {
	Mean float64 `json:"mean"`
	Half float64 `json:"half,omitempty"` // half the width of its 95 % interval, of two seeds or more
}

// SweepRow is a setting, with the means over the runs of it that have finished.
type SweepRow struct {
	Setting     string `json:"setting"`
	Finished    int    `json:"finished"` // runs
	Failed      int    `json:"failed"`
	Before      Figure `json:"pass_at_1_before"`
	After       Figure `json:"pass_at_1"`
	Completions Figure `json:"completions"`
	Tokens      Figure `json:"tokens"`
	Trained     Figure `json:"tokens_trained"`
	Verified    Figure `json:"verifier_calls"`
	Seconds     Figure `json:"seconds"`
}

// SweepResult is what a sweep returns.
type SweepResult struct {
	Stopped bool       `json:"stopped,omitempty"` // by a user, before all of its runs were done
	Rows    []SweepRow `json:"rows"`
	Runs    []Swept    `json:"runs"`
}

// SweptSoFar is what a sweep hands to itself when its history is renewed.
type SweptSoFar struct {
	Sweep  recipes.Sweep `json:"sweep"`
	Status SweepStatus   `json:"status"`
}

// Sweep runs experiments as its children, a bounded number at once, and compares
// them in one table. given is a JSON object as recipes.ExpandSweep takes it; all
// plans are checked before the first starts. A run that fails does not end the
// sweep. Pause, resume and stop reach the runs that are going on. soFar is for the
// workflow's own use.
func Sweep(ctx workflow.Context, given json.RawMessage, soFar *SweptSoFar) (*SweepResult, error) {
	s := &sweep{id: workflow.GetInfo(ctx).WorkflowExecution.ID}
	if soFar != nil {
		s.SweptSoFar = *soFar
	}
	s.going = make([]workflow.ChildWorkflowFuture, len(s.Sweep.Runs))
	if err := s.control(ctx); err != nil {
		return nil, err
	}
	if soFar == nil {
		s.Status.Phase = "resolving"
		if err := workflow.ExecuteLocalActivity(short(ctx), acts.Expand, given).Get(ctx, &s.Sweep); err != nil {
			return nil, err
		}
		s.Status.Settings = s.Sweep.Settings
		for _, r := range s.Sweep.Runs {
			s.Status.Runs = append(s.Status.Runs, Swept{ID: s.id + "-" + r.Name, Setting: r.Setting, Seed: r.Seed, State: SweptWaiting})
		}
		s.going = make([]workflow.ChildWorkflowFuture, len(s.Sweep.Runs))
	}
	if err := s.phase(ctx); err != nil {
		return nil, err
	}
	slots := workflow.NewWaitGroup(ctx)
	for range min(s.Sweep.Parallel, len(s.Sweep.Runs)) {
		slots.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer slots.Done()
			for {
				// An error is that of a sweep that is cancelled.
				if err := workflow.Await(ctx, func() bool { return !s.Status.Paused }); err != nil {
					return
				}
				i, ok := s.next(ctx)
				if !ok {
					return
				}
				s.run(ctx, i)
			}
		})
	}
	slots.Wait(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return nil, err
	}
	if _, more := s.waiting(); more && !s.Status.Stopped {
		return nil, workflow.NewContinueAsNewError(ctx, Sweep, json.RawMessage(nil), &s.SweptSoFar)
	}
	s.over = true
	if err := s.phase(ctx); err != nil {
		return nil, err
	}
	return &SweepResult{Stopped: s.Status.Stopped, Rows: s.Status.Rows(), Runs: s.Status.Runs}, nil
}

type sweep struct {
	SweptSoFar
	id    string
	going []workflow.ChildWorkflowFuture // by run; nil where it is not going on
	over  bool
}

// waiting is the first run that has not begun.
func (s *sweep) waiting() (int, bool) {
	for i, r := range s.Status.Runs {
		if r.State == SweptWaiting {
			return i, true
		}
	}
	return 0, false
}

// next is the run that a free slot takes. There is none once the sweep is
// stopped, or its history is to be renewed, which waits for the runs going on.
func (s *sweep) next(ctx workflow.Context) (int, bool) {
	i, ok := s.waiting()
	return i, ok && !s.Status.Stopped && !workflow.GetInfo(ctx).GetContinueAsNewSuggested()
}

// run performs one run and notes how it ended.
func (s *sweep) run(ctx workflow.Context, i int) {
	r := &s.Status.Runs[i]
	r.State = SweptRunning
	s.show(ctx)
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: r.ID, WaitForCancellation: true, StaticSummary: fmt.Sprintf("%s, seed %d", s.Status.Settings[r.Setting], r.Seed),
	})
	s.going[i] = workflow.ExecuteChildWorkflow(child, Experiment, s.Sweep.Runs[i].Given, (*Carried)(nil))
	var got Result
	err := s.going[i].Get(ctx, &got)
	s.going[i] = nil
	switch {
	case err != nil:
		r.State, r.Reason = SweptFailed, reason(err)
	default:
		r.State = SweptFinished
		if got.Stopped {
			r.State = SweptStopped
		}
		r.Steps, r.Before, r.After = got.Steps, got.Before.All.PassAt1, got.After.All.PassAt1
		r.Completions, r.Tokens, r.Trained, r.Verified, r.Seconds = got.Completions, got.Tokens, got.Trained, got.Verified, got.TrainSeconds
	}
	s.show(ctx)
}

// reason is why a run failed, without the layers it came through.
func reason(err error) string {
	var app *temporal.ApplicationError
	var started *temporal.ChildWorkflowExecutionAlreadyStartedError
	var terminated *temporal.TerminatedError
	switch {
	case errors.As(err, &app):
		return app.Message()
	case errors.As(err, &started):
		return "another run of this name is going on"
	case temporal.IsCanceledError(err):
		return "cancelled"
	case errors.As(err, &terminated):
		return "terminated"
	}
	return err.Error()
}

// control answers queries and updates.
func (s *sweep) control(ctx workflow.Context) error {
	if err := workflow.SetQueryHandlerWithOptions(ctx, QueryStatus, func() (SweepStatus, error) { return s.Status, nil },
		workflow.QueryHandlerOptions{Description: "Where the sweep stands."}); err != nil {
		return err
	}
	for _, u := range []struct {
		name, doc, message string
		set                func()
	}{
		{UpdatePause, "Pauses the runs that are going on, and begins no more. Input: nothing.", "the sweep pauses", func() { s.Status.Paused = true }},
		{UpdateResume, "Goes on where the sweep was paused. Input: nothing.", "the sweep goes on", func() { s.Status.Paused = false }},
		{UpdateStop, "Stops the runs that are going on, and begins no more. Input: nothing.", "the sweep stops", func() { s.Status.Stopped, s.Status.Paused = true, false }},
	} {
		handler := func(ctx workflow.Context, _ json.RawMessage) (Answer, error) {
			u.set()
			told := 0
			for _, child := range s.going {
				if child == nil || child.GetChildWorkflowExecution().Get(ctx, nil) != nil { // it never began
					continue
				}
				if child.SignalChildWorkflow(ctx, SignalControl, u.name).Get(ctx, nil) == nil { // else it has just ended
					told++
				}
			}
			if err := s.phase(ctx); err != nil {
				return Answer{}, err
			}
			done, all := s.done()
			return Answer{Message: fmt.Sprintf("%s; %d runs that are going on were told", u.message, told), Phase: s.Status.Phase, Step: done, Steps: all}, nil
		}
		validator := func(json.RawMessage) error {
			if s.over {
				return errors.New("the sweep is over")
			}
			return nil
		}
		if err := workflow.SetUpdateHandlerWithOptions(ctx, u.name, handler, workflow.UpdateHandlerOptions{Description: u.doc, Validator: validator}); err != nil {
			return err
		}
	}
	return nil
}

// done counts the runs that have ended.
func (s *sweep) done() (done, all int) {
	for _, r := range s.Status.Runs {
		if r.State != SweptWaiting && r.State != SweptRunning {
			done++
		}
	}
	return done, len(s.Status.Runs)
}

// phase notes where the sweep stands, for queries, search and the UI's own page.
func (s *sweep) phase(ctx workflow.Context) error {
	before := s.Status.Phase
	switch {
	case s.over && s.Status.Stopped:
		s.Status.Phase = "stopped"
	case s.over:
		s.Status.Phase = "finished"
	case s.Status.Paused:
		s.Status.Phase = "paused"
	default:
		s.Status.Phase = "sweeping"
	}
	s.show(ctx)
	if s.Status.Phase == before {
		return nil
	}
	return workflow.UpsertTypedSearchAttributes(ctx, AttributeState.ValueSet(s.Status.Phase))
}

func (s *sweep) show(ctx workflow.Context) { workflow.SetCurrentDetails(ctx, s.Status.Markdown()) }

// Rows are the settings with their means.
func (s SweepStatus) Rows() []SweepRow {
	out := make([]SweepRow, len(s.Settings))
	for i, name := range s.Settings {
		row := &out[i]
		row.Setting = name
		var finished []Swept
		for _, r := range s.Runs {
			switch {
			case r.Setting == i && r.State == SweptFinished:
				finished = append(finished, r)
			case r.Setting == i && r.State == SweptFailed:
				row.Failed++
			}
		}
		if row.Finished = len(finished); row.Finished == 0 {
			continue
		}
		for _, f := range []struct {
			into *Figure
			of   func(Swept) float64
		}{
			{&row.Before, func(r Swept) float64 { return r.Before }},
			{&row.After, func(r Swept) float64 { return r.After }},
			{&row.Completions, func(r Swept) float64 { return float64(r.Completions) }},
			{&row.Tokens, func(r Swept) float64 { return float64(r.Tokens) }},
			{&row.Trained, func(r Swept) float64 { return float64(r.Trained) }},
			{&row.Verified, func(r Swept) float64 { return float64(r.Verified) }},
			{&row.Seconds, func(r Swept) float64 { return r.Seconds }},
		} {
			x := make([]float64, len(finished))
			for k, r := range finished {
				x[k] = f.of(r)
			}
			m := statistics.Mean(x)
			if f.into.Mean = m.Mean; m.N > 1 {
				f.into.Half = m.High - m.Mean
			}
		}
	}
	return out
}

// text writes a figure with so many digits.
func (f Figure) text(digits int) string {
	if f.Half == 0 {
		return fmt.Sprintf("%.*f", digits, f.Mean)
	}
	return fmt.Sprintf("%.*f ± %.*f", digits, f.Mean, digits, f.Half)
}

// Markdown is the status as the Temporal UI shows it.
func (s SweepStatus) Markdown() string {
	var b strings.Builder
	counts := ""
	for _, state := range []string{SweptFinished, SweptRunning, SweptWaiting, SweptStopped, SweptFailed} {
		n := 0
		for _, r := range s.Runs {
			if r.State == state {
				n++
			}
		}
		if n > 0 {
			counts += fmt.Sprintf(", %d %s", n, state)
		}
	}
	fmt.Fprintf(&b, "**sweep**: %s, %d settings, %d runs%s\n\n", s.Phase, len(s.Settings), len(s.Runs), counts)
	if s.Error != "" {
		fmt.Fprintf(&b, "Why: %s\n\n", s.Error)
	}
	b.WriteString("| setting | runs | pass@1 before | pass@1 | completions | tokens | tokens trained | verifier calls | seconds |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range s.Rows() {
		if r.Finished == 0 {
			fmt.Fprintf(&b, "| %s | 0 | | | | | | | |\n", cell(r.Setting))
			continue
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", cell(r.Setting), r.Finished, r.Before.text(3), r.After.text(3),
			r.Completions.text(0), r.Tokens.text(0), r.Trained.text(0), r.Verified.text(0), r.Seconds.text(1))
	}
	b.WriteString("\nMeans over the runs that have finished, ± half of the 95 % interval (Student) over seeds.\n")
	for _, r := range s.Runs {
		if r.State == SweptFailed {
			fmt.Fprintf(&b, "\n%s failed: %s\n", r.ID, r.Reason)
		}
	}
	return b.String()
}

// cell is text that stands in a table of Markdown.
func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
