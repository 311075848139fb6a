package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/workflows"
)

// runID is the ID of every run that is examined.
const runID = "run"

// deed is what a user does to a run: an update, sent when the first attempt of an
// activity of some step begins.
type deed struct {
	update string // pause (and resume an hour later), tune or stop
	input  json.RawMessage
	at     string // name of the activity
	step   int
}

// experiment is one run to its end, by any number of executions.
type experiment struct {
	fleet *fleet
	id    string
	plan  json.RawMessage
	deeds []deed
	renew func(step int) bool // whether to renew the history before a step

	env     *testsuite.TestWorkflowEnvironment
	refused []string // updates
}

// execute runs the experiment and returns its result. Where it pauses because the
// credentials were refused, it is resumed. Panics of the test environment, such as
// a run that hangs, are errors.
func (e *experiment) execute() (result *workflows.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	e.deeds, e.fleet.first = slices.Clone(e.deeds), e.act
	given, carried := e.plan, (*workflows.Carried)(nil)
	for {
		e.env = e.environment()
		e.watch(e.env)
		e.env.ExecuteWorkflow(workflows.Experiment, given, carried)
		err := e.env.GetWorkflowError()
		var again *workflow.ContinueAsNewError
		switch {
		case errors.As(err, &again):
			given, carried = nil, &workflows.Carried{}
			if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &given, carried); err != nil {
				return nil, err
			}
			e.fleet.counts[Renewed]++
			continue
		case err != nil:
			return nil, err
		case e.fleet.denied:
			return nil, errors.New("the store refused the credentials, and the run did not say so")
		case len(e.refused) > 0:
			return nil, fmt.Errorf("updates refused: %s", strings.Join(e.refused, "; "))
		}
		result := &workflows.Result{}
		return result, e.env.GetWorkflowResult(result)
	}
}

// watch does every hour what an operator does where the run has paused itself as
// the credentials were refused: they are good again, and the run is resumed.
func (e *experiment) watch(env *testsuite.TestWorkflowEnvironment) {
	env.RegisterDelayedCallback(func() {
		var s workflows.Status
		answer, err := env.QueryWorkflow(workflows.QueryStatus)
		if err == nil && answer.Get(&s) == nil && s.Phase == "paused" && strings.Contains(s.Reason, datasets.ErrDenied.Error()) {
			e.fleet.denied = false
			env.UpdateWorkflow(workflows.UpdateResume, "", &testsuite.TestUpdateCallback{OnReject: func(err error) {
				e.refused = append(e.refused, "resume: "+err.Error())
			}, OnComplete: func(any, error) {}})
		}
		e.watch(env)
	}, time.Hour)
}

func (e *experiment) environment() *testsuite.TestWorkflowEnvironment {
	var s testsuite.WorkflowTestSuite
	s.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := s.NewTestWorkflowEnvironment()
	env.SetTestTimeout(10 * time.Minute)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: 10 * time.Minute}) // a machine under load may take its time
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: e.id})
	env.RegisterWorkflow(workflows.Experiment)
	for name, f := range e.fleet.activities() {
		env.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
	return env
}

// act does what is to be done when an activity begins for the first time.
func (e *experiment) act(name string, input any) {
	step := -1
	if v := reflect.ValueOf(input); v.Kind() == reflect.Struct {
		if f := v.FieldByName("Step"); f.IsValid() {
			step = int(f.Int())
		}
	}
	for i, d := range e.deeds {
		if d.at == name && d.step == step {
			e.deeds[i].step = -2 // done
			e.send(d)
		}
	}
	if e.renew == nil {
		return
	}
	switch in := input.(type) {
	case activities.SelectInput:
		e.suggest(e.renew(in.Step + 1))
	case activities.SummariseInput:
		if in.Step == 0 && in.Purpose == "test" {
			e.suggest(e.renew(0))
		}
	}
}

// suggest says whether the server suggests to renew the history.
func (e *experiment) suggest(renew bool) {
	env := e.env
	env.RegisterDelayedCallback(func() { env.SetContinueAsNewSuggested(renew) }, 0)
}

func (e *experiment) send(d deed) {
	refused := func(err error) {
		if d.update != workflows.UpdatePause { // which comes too late where a run has been stopped
			e.refused = append(e.refused, fmt.Sprintf("%s: %v", d.update, err))
		}
	}
	answer := &testsuite.TestUpdateCallback{OnReject: refused, OnComplete: func(_ any, err error) {
		if err != nil {
			refused(err)
		}
	}}
	var args []any
	if d.input != nil {
		args = append(args, d.input)
	}
	e.env.UpdateWorkflow(d.update, "", answer, args...)
	if d.update == workflows.UpdatePause {
		e.fleet.counts[Paused]++
		env := e.env // a paused run does not end
		env.RegisterDelayedCallback(func() { env.UpdateWorkflow(workflows.UpdateResume, "", answer) }, time.Hour)
	}
}

// outcome is all that an experiment leaves, but for wall time and for what it
// took over from others: what must not depend on faults.
type outcome struct {
	result  string
	records map[string]string // what the run has recorded, by key
	results map[string]string // tables and figures of the stages, by key
}

// outcomeOf reads the outcome of a run from its store, and checks that everything
// in it is what its name says.
func outcomeOf(d *disk, id string, result *workflows.Result) (*outcome, error) {
	d.land(true)
	o := &outcome{records: map[string]string{}, results: map[string]string{}}
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	if o.result, err = timeless(raw); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(d.objects)) {
		folder, rest, _ := strings.Cut(key, "/")
		switch folder {
		case "objects":
			r := datasets.Ref{Hash: strings.TrimSuffix(rest, ".arrow"), Kind: datasets.KindBlob}
			if r.Hash != rest {
				r.Kind = "any/1"
			}
			if _, err := datasets.LoadBlob(context.Background(), d, r); err != nil {
				return nil, err
			}
		case "keys":
			var record struct {
				Result struct {
					Tables  map[string]datasets.Ref `json:"tables"`
					Metrics map[string]float64      `json:"metrics"`
				} `json:"result"`
			}
			if err := json.Unmarshal(d.objects[key], &record); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			for name, r := range record.Result.Tables {
				if _, err := datasets.LoadBlob(context.Background(), d, r); err != nil {
					return nil, fmt.Errorf("%s: table %s: %w", key, name, err)
				}
			}
			raw, err := datasets.Canonical(record.Result)
			if err != nil {
				return nil, err
			}
			o.results[key] = string(raw)
		case "runs":
			if strings.HasPrefix(rest, id+"/") {
				if o.records[key], err = timeless(d.objects[key]); err != nil {
					return nil, fmt.Errorf("%s: %w", key, err)
				}
			}
		}
	}
	return o, nil
}

// timeless is JSON without wall time, without what was reused, and without what was
// told of failures.
func timeless(raw []byte) (string, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", err
	}
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range []string{"seconds", "saved", "train_seconds", "orchestration_seconds", "curriculum_seconds", "orchestration", "trouble", "reused"} {
				delete(v, name)
			}
			for _, inner := range v {
				strip(inner)
			}
		case []any:
			for _, inner := range v {
				strip(inner)
			}
		}
	}
	strip(v)
	out, err := datasets.Canonical(v)
	return string(out), err
}

// differs says what of an outcome is first not as in a calm one, "" if nothing.
// others are stages' results that the store held before.
func (o *outcome) differs(calm *outcome, others map[string]string) string {
	first := func(what string, got, want map[string]string) string {
		for _, key := range slices.Sorted(maps.Keys(want)) {
			switch g, ok := got[key]; {
			case !ok:
				return fmt.Sprintf("%s %s is missing", what, key)
			case g != want[key]:
				return fmt.Sprintf("%s %s: %s", what, key, change(want[key], g))
			}
		}
		return ""
	}
	if d := first("record", o.records, calm.records); d != "" {
		return d
	}
	for _, key := range slices.Sorted(maps.Keys(o.records)) {
		if _, ok := calm.records[key]; !ok {
			return fmt.Sprintf("record %s is one too many", key)
		}
	}
	if o.result != calm.result {
		return "result: " + change(calm.result, o.result)
	}
	if d := first("stored result", o.results, calm.results); d != "" {
		return d
	}
	for _, key := range slices.Sorted(maps.Keys(o.results)) {
		_, known := calm.results[key]
		if _, other := others[key]; !known && !other {
			return fmt.Sprintf("stored result %s is of no calm run", key)
		}
	}
	return ""
}

// change shows where two texts first differ.
func change(want, got string) string {
	i := 0
	for i < min(len(want), len(got)) && want[i] == got[i] {
		i++
	}
	part := func(s string) string { return s[max(0, min(i-40, len(s))):min(len(s), i+60)] }
	return fmt.Sprintf("want …%s…, got …%s…", part(want), part(got))
}
