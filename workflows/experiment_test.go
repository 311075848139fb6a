package workflows_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
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
	e.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: time.Minute}) // a machine under load may take its time
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
	timeless(&want)
	timeless(&got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Every recipe trains on the built-in problems, and says of every completion and
// token why it was not trained on: the counts over reasons add up.
func TestRecipes(t *testing.T) {
	options := map[string]string{
		"scaf-grpo": `,"exemption":0,"train_levels":[3],"levels":[1,3]`,
		"gradus":    `,"exemption":0,"train_levels":[3],"levels":[1,3]`,
		"clpo":      `,"families":["running_sums","sorting"]`,
	}
	used := map[string]string{"clpo": "completions/simplified", "scaf-grpo": "completions/hinted", "gradus": "completions/hinted", "d3s": "tokens_dropped/low_key", "capo": "capo/learning_rate"}
	for _, recipe := range recipes.All() {
		t.Run(recipe.Name, func(t *testing.T) {
			t.Parallel()
			store := datasets.NewMemory()
			e := environment(t, store)
			given := strings.TrimSuffix(tiny, "}") + `,"recipe":"` + recipe.Name + `"` + options[recipe.Name] + "}"
			e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(given), (*workflows.Carried)(nil))
			var r workflows.Result
			if err := e.GetWorkflowResult(&r); err != nil {
				t.Fatal(err)
			}
			if r.Trained == 0 || len(r.Curve) != 2 {
				t.Errorf("%d tokens trained on, %d evaluations", r.Trained, len(r.Curve))
			}
			seen := false
			for step := range r.Steps {
				m := metrics(t, store, "default-test-workflow-id", step)
				seen = seen || m[used[recipe.Name]] > 0
				var dropped, tokens float64
				for name, v := range m {
					if strings.HasPrefix(name, "dropped/") {
						dropped += v
					}
					if strings.HasPrefix(name, "tokens_dropped/") {
						tokens += v
					}
				}
				if kept := m["kept"] * m["completions"]; math.Abs(kept+dropped-m["completions"]) > 1e-6 {
					t.Errorf("step %d: %v completions kept and %v dropped of %v", step, kept, dropped, m["completions"])
				}
				if m["tokens_kept"] != m["num_tokens_trained"] {
					t.Errorf("step %d: %v tokens kept, %v trained on", step, m["tokens_kept"], m["num_tokens_trained"])
				}
			}
			if used[recipe.Name] != "" && !seen {
				t.Errorf("no step has %s", used[recipe.Name])
			}
		})
	}
}

// metrics are the figures that a step left in the store.
func metrics(t *testing.T, store datasets.Store, run string, step int) map[string]float64 {
	t.Helper()
	raw, err := store.Get(t.Context(), activities.StepKey(run, step))
	if err != nil {
		t.Fatal(err)
	}
	var record activities.StepRecord
	if err := json.Unmarshal(raw, &record); err != nil {
		t.Fatal(err)
	}
	table, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, record.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	out := map[string]float64{}
	for i, name := range datasets.Name.Get(table) {
		out[name] = datasets.Value.Get(table)[i]
	}
	return out
}
