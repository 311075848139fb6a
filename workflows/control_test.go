package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// steered is an experiment in the test environment and what it answered.
type steered struct {
	*testsuite.TestWorkflowEnvironment
	t       *testing.T
	answers []string       // messages of updates and refusals, in order
	deeds   map[int]func() // by update during which they are done
}

func steer(t *testing.T, store datasets.Store) *steered {
	return &steered{TestWorkflowEnvironment: environment(t, store), t: t}
}

// send sends an update; then, if given, is called when it is answered.
func (s *steered) send(name string, then func(), args ...any) {
	answer := func(text string) {
		s.answers = append(s.answers, text)
		if then != nil {
			then()
		}
	}
	s.UpdateWorkflow(name, "", &testsuite.TestUpdateCallback{
		OnReject: func(err error) { answer("refused: " + err.Error()) },
		OnComplete: func(v any, err error) {
			if err != nil {
				answer("failed: " + err.Error())
				return
			}
			answer(v.(workflows.Answer).Message)
		},
	}, args...)
}

// during calls do when the update of step n, counted from 1, begins.
func (s *steered) during(n int, do func()) {
	if s.deeds == nil {
		s.deeds = map[int]func(){}
		updates := 0
		s.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
			if info.ActivityType.Name == "Update" {
				updates++
				if do := s.deeds[updates]; do != nil {
					do()
				}
			}
		})
	}
	s.deeds[n] = do
}

func (s *steered) status() (out workflows.Status) {
	s.t.Helper()
	v, err := s.QueryWorkflow(workflows.QueryStatus)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := v.Get(&out); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// result is the run's, without wall time.
func (s *steered) result(given string) (r workflows.Result) {
	s.t.Helper()
	s.ExecuteWorkflow(workflows.Experiment, json.RawMessage(given), (*workflows.Carried)(nil))
	if err := s.GetWorkflowResult(&r); err != nil {
		s.t.Fatal(err)
	}
	timeless(&r)
	return r
}

// timeless takes wall time out of a result.
func timeless(r *workflows.Result) {
	r.TrainSeconds, r.Orchestration, r.Curriculum, r.Before.Seconds, r.After.Seconds = 0, 0, 0, 0, 0
	for i := range r.Curve {
		r.Curve[i].Seconds = 0
	}
}

func (s *steered) want(answers ...string) {
	s.t.Helper()
	if len(s.answers) != len(answers) {
		s.t.Fatalf("%d answers, want %d: %q", len(s.answers), len(answers), s.answers)
	}
	for i, a := range s.answers {
		if !strings.Contains(a, answers[i]) {
			s.t.Errorf("answer %d is %q, want %q", i, a, answers[i])
		}
	}
}

// A run that was paused ends as one that was not.
func TestPause(t *testing.T) {
	want := steer(t, datasets.NewMemory()).result(tiny)

	s := steer(t, datasets.NewMemory())
	paused, released := 0, 0
	s.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, err error) {
		if info.ActivityType.Name == "Release" && err == nil {
			released++
		}
	})
	s.during(2, func() {
		s.send("resume", nil)
		s.send("pause", nil, 7)
		s.send("pause", nil, "maintenance")
		s.send("pause", nil)
		s.RegisterDelayedCallback(func() { // the clock goes on only where nothing is left to do
			if got := s.status(); got.Phase != "paused" || got.Step != 2 || got.Reason != "maintenance" || !strings.Contains(got.Markdown(), "maintenance") {
				t.Errorf("while paused: %+v", got)
			}
			paused++
			s.send("pause", nil)
			s.send("resume", nil)
		}, time.Hour)
	})
	got := s.result(tiny)
	if paused != 1 || released != 2 {
		t.Errorf("paused %d times; %d workers freed their models, want one that rolls out and one that trains", paused, released)
	}
	s.want("is not paused", "into Go value of type string", "pauses after step 2", "told to pause already", "paused already, after step 2", "goes on with step 3")
	if d := cmp.Diff(want, got); d != "" || got.Trained == 0 {
		t.Errorf("a paused run differs: %s", d)
	}
}

// A warm-up pauses, too, between its pieces.
func TestPauseWarmUp(t *testing.T) {
	s := steer(t, datasets.NewMemory())
	first := true
	s.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.ActivityType.Name == "Warm" && first {
			first = false
			s.send("pause", nil)
			s.RegisterDelayedCallback(func() {
				if got := s.status(); got.Phase != "paused" || got.Warm != 10 {
					t.Errorf("while paused: %+v", got)
				}
				s.send("stop", nil)
			}, time.Hour)
		}
	})
	r := s.result(strings.Replace(tiny, `"min_steps":50`, `"min_steps":10,"target":1,"every":10`, 1))
	s.want("pauses before step 1", "stops before step 1")
	if !r.Stopped || r.Steps != 0 || r.WarmSteps != 10 || r.After == nil {
		t.Errorf("stopped in the warm-up: %+v", r)
	}
}

// A run that is stopped has its evaluation, its result, and a state of its own.
func TestStop(t *testing.T) {
	for _, every := range []int{0, 1} {
		s := steer(t, datasets.NewMemory())
		s.during(1, func() {
			s.send("stop", nil)
			s.send("stop", nil)
			s.send("pause", nil)
			s.send("tune", nil, json.RawMessage(`{"steps":9}`))
		})
		r := s.result(strings.Replace(tiny, `{"problems_per_level":8`, fmt.Sprintf(`{"every":%d,"problems_per_level":8`, every), 1))
		s.want("stops after step 1", "told to stop already", "refused: the run is being stopped", "refused: the run is being stopped")
		if !r.Stopped || r.Steps != 1 || r.After == nil || len(r.Curve) != 2 || r.Curve[1].Step != 1 {
			t.Errorf("%+v", r)
		}
		if got := s.status(); got.Phase != "stopped" {
			t.Errorf("status %+v", got)
		}
	}
}

// A stopped run whose evaluation was going on anyway evaluates once.
func TestStopWhileEvaluating(t *testing.T) {
	s := steer(t, datasets.NewMemory())
	s.SetOnActivityStartedListener(func(*activity.Info, context.Context, converter.EncodedValues) {
		if got := s.status(); got.Phase == "evaluating" && got.Step == 1 && !got.Stopped && len(s.answers) == 0 {
			s.send("stop", nil)
		}
	})
	r := s.result(strings.Replace(tiny, `{"problems_per_level":8`, `{"every":1,"problems_per_level":8`, 1))
	if !r.Stopped || r.Steps != 1 || len(r.Curve) != 2 || r.After == nil {
		t.Errorf("%+v\n%q", r, s.answers)
	}
}

// What is tuned while a run is paused amends the record of the last step, beside the
// first one: whoever still writes that, having been given up, changes nothing.
func TestTunedWhilePaused(t *testing.T) {
	ctx, store := t.Context(), datasets.NewMemory()
	s := steer(t, store)
	s.during(2, func() {
		s.send("pause", nil)
		s.RegisterDelayedCallback(func() {
			s.send("tune", nil, json.RawMessage(`{"learning_rate":1e-4}`))
			s.send("resume", nil)
		}, time.Hour)
	})
	s.result(tiny)
	run, step := "default-test-workflow-id", 2
	first, err := store.Get(ctx, activities.StepKey(run, step-1))
	if err != nil {
		t.Fatal(err)
	}
	origin := recipes.Origin{Run: run, Step: &step}
	for range 2 {
		record, plan, _, err := activities.LoadStep(ctx, store, origin)
		if err != nil || plan.Learning.LearningRate != 1e-4 || record.Amended != 1 {
			t.Errorf("learning_rate %v, amended %d times, %v", plan.Learning.LearningRate, record.Amended, err)
		}
		if err := store.Put(ctx, activities.StepKey(run, step-1), first); err != nil {
			t.Fatal(err)
		}
	}
	acts := &activities.Activities{Store: store}
	if err := acts.Discard(ctx, activities.Run{ID: run}, step-1); err != nil {
		t.Fatal(err)
	}
	if left, err := store.List(ctx, "runs/"+run+"/steps/"); err != nil || len(left) != 1 {
		t.Errorf("%d records are left, %v", len(left), err)
	}
}

// A tuned rate holds from the next step on.
func TestTune(t *testing.T) {
	store := datasets.NewMemory()
	s := steer(t, store)
	s.during(1, func() {
		s.send("tune", nil, json.RawMessage(`{"learning_rate": 1e-4, "steps": 4}`))
		s.send("tune", nil, json.RawMessage(`{"beta": 0.01, "prompts_per_step": 4, "scale_rewards": "none"}`))
	})
	r := s.result(tiny)
	s.want(`{"learning_rate":1e-4,"steps":4} from step 2 on`, "from step 2 on")
	if r.Steps != 4 || r.Stopped || r.Completions != 8*4+3*4*4 {
		t.Errorf("%+v", r)
	}
	for step, want := range []float64{1.5e-3, 1e-4, 1e-4, 1e-4} {
		m := metrics(t, store, "default-test-workflow-id", step)
		if got, ok := m["learning_rate"]; ok && got != want || !ok && m["num_tokens_trained"] > 0 {
			t.Errorf("step %d learned at %v, want %v", step+1, got, want)
		}
	}
	got := s.status()
	want := []workflows.Tuning{{Step: 2, Changes: json.RawMessage(`{"learning_rate":1e-4,"steps":4}`)}, {Step: 2, Changes: json.RawMessage(`{"beta":0.01,"prompts_per_step":4,"scale_rewards":"none"}`)}}
	if d := cmp.Diff(want, got.Tuned); d != "" || got.Steps != 4 || !strings.Contains(got.Markdown(), "Tuned from step 2 on: `{\"beta\":0.01,") {
		t.Errorf("%s\n%+v", d, got)
	}
}

// What is refused leaves everything as it was.
func TestTuneRefused(t *testing.T) {
	want := steer(t, datasets.NewMemory()).result(tiny)
	s := steer(t, datasets.NewMemory())
	s.during(2, func() {
		s.send("tune", nil)
		s.send("tune", nil, "learning_rate")
		s.send("tune", nil, json.RawMessage(`{"seed":4}`))
		s.send("tune", nil, json.RawMessage(`{"learning_rate":1e-4,"learning_rat":1}`))
		s.send("tune", nil, json.RawMessage(`{"learning_rate":-1}`))
		s.send("tune", nil, json.RawMessage(`{"steps":1}`))
	})
	got := s.result(tiny)
	s.want("nothing to tune", "nothing to tune", "seed cannot be tuned", "unknown option", "learning_rate is -1", "steps is 1; it must be at least 2")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := s.status(); got.Tuned != nil {
		t.Errorf("recorded: %+v", got.Tuned)
	}
}

// A run whose history is renewed keeps the pause and the tunings.
func TestControlAcrossRenewal(t *testing.T) {
	store := datasets.NewMemory()
	s := steer(t, store)
	s.during(1, func() {
		s.SetContinueAsNewSuggested(true)
		s.send("tune", nil, json.RawMessage(`{"learning_rate":1e-4}`))
	})
	s.ExecuteWorkflow(workflows.Experiment, json.RawMessage(tiny), (*workflows.Carried)(nil))
	var again *workflow.ContinueAsNewError
	if err := s.GetWorkflowError(); !errors.As(err, &again) {
		t.Fatalf("got %v, want a renewal", err)
	}
	s.want("from step 2 on")
	var given json.RawMessage
	carried := &workflows.Carried{}
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &given, carried); err != nil {
		t.Fatal(err)
	}
	if carried.Step != 1 || len(carried.Status.Tuned) != 1 {
		t.Fatalf("carried %+v", carried)
	}

	carried.Status.Paused, carried.Status.Reason = true, "maintenance" // as one that came with the renewal
	s = steer(t, store)
	paused := false
	s.RegisterDelayedCallback(func() {
		got := s.status()
		paused = got.Phase == "paused" && got.Step == 1 && got.Reason == "maintenance"
		s.send("tune", nil, json.RawMessage(`{"steps":2}`))
		s.send("resume", nil)
	}, time.Hour)
	s.ExecuteWorkflow(workflows.Experiment, given, carried)
	var r workflows.Result
	if err := s.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if got := s.status(); !paused || r.Steps != 2 || len(got.Tuned) != 2 || got.Tuned[1].Step != 2 {
		t.Errorf("paused %v, %+v, %+v", paused, r, got.Tuned)
	}
	if m := metrics(t, store, "default-test-workflow-id", 1); m["learning_rate"] != 1e-4 {
		t.Errorf("step 2 learned at %v", m["learning_rate"])
	}
}
