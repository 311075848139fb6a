package workflows_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/workflows"
)

const tiny = `{"seed":3,"steps":3,"levels":[1],"problems_per_level":64,
	"model":{"hidden_size":32,"intermediate_size":64,"num_hidden_layers":1},
	"warmup":{"max_steps":50,"min_steps":50,"batch_size":32,"learning_rate":5e-3},"prompts_per_step":8,"num_generations":4,
	"evaluation":{"problems_per_level":8,"num_generations":2},"max_completion_length":8}`

// environment runs the real workflow and the real activities over a store.
func environment(t *testing.T, store datasets.Store) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var s testsuite.WorkflowTestSuite
	e := s.NewTestWorkflowEnvironment()
	e.SetTestTimeout(2 * time.Minute)
	e.SetWorkerOptions(worker.Options{})
	policies := activities.NewPolicies(store)
	t.Cleanup(policies.Close)
	e.RegisterActivity(&activities.Activities{Store: store, Policies: policies, Scorer: &reward.Scorer{}, Log: zerolog.Nop()})
	e.RegisterWorkflow(workflows.Experiment)
	return e
}

// A run whose history is renewed at every step ends as one that is not: what
// it hands to itself is all of its state.
func TestContinueAsNew(t *testing.T) {
	straight := environment(t, datasets.NewMemory())
	straight.ExecuteWorkflow(workflows.Experiment, json.RawMessage(tiny), (*workflows.Carried)(nil))
	var want, got workflows.Result
	if err := straight.GetWorkflowResult(&want); err != nil {
		t.Fatal(err)
	}

	store := datasets.NewMemory()
	given, carried := json.RawMessage(tiny), (*workflows.Carried)(nil)
	renewed := 0
	for {
		e := environment(t, store)
		// The step after a renewal runs, the next one renews again.
		first := true
		e.SetContinueAsNewSuggested(carried == nil)
		e.SetOnActivityCompletedListener(func(*activity.Info, converter.EncodedValue, error) {
			if first && carried != nil {
				first = false
				e.SetContinueAsNewSuggested(true)
			}
		})
		e.ExecuteWorkflow(workflows.Experiment, given, carried)
		err := e.GetWorkflowError()
		var again *workflow.ContinueAsNewError
		if !errors.As(err, &again) {
			if err != nil {
				t.Fatal(err)
			}
			if err := e.GetWorkflowResult(&got); err != nil {
				t.Fatal(err)
			}
			break
		}
		renewed++
		carried = &workflows.Carried{}
		if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &given, carried); err != nil {
			t.Fatal(err)
		}
	}
	if want.Trained == 0 {
		t.Error("nothing was trained on, so there is nothing to compare")
	}
	if renewed != 3 {
		t.Errorf("history was renewed %d times, want before each of 3 steps", renewed)
	}
	for _, r := range []*workflows.Result{&want, &got} { // wall time differs
		r.TrainSeconds, r.Orchestration, r.Before.Seconds, r.After.Seconds = 0, 0, 0, 0
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
