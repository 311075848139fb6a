package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/workflows"
)

// left is what the steps [from, to) of a run left behind, but for the plans.
func left(t *testing.T, store datasets.Store, run string, from, to int) (out []activities.StepRecord) {
	t.Helper()
	for step := from; step < to; step++ {
		r := stepRecord(t, store, activities.StepKey(run, step))
		r.Plan = datasets.Ref{}
		out = append(out, r)
	}
	return out
}

// Every step is drawn by the policy of so many updates before, whatever is there
// by then; its gap is measured and weighed. Without staleness there is none.
func TestStaleness(t *testing.T) {
	for k := range 3 {
		store := datasets.NewMemory()
		must(t, store, "run", plus(fmt.Sprintf(`,"steps":5,"max_staleness":%d`, k)))
		records := left(t, store, "run", 0, 5)
		start := stepRecord(t, store, activities.StepKey("run", -1))
		for step, r := range records {
			want := start.Policy
			if step > k {
				want = records[step-k-1].Policy
			}
			table, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, r.Rounds[0].Rollouts[0])
			if err != nil {
				t.Fatal(err)
			}
			if drew := slices.Compact(slices.Clone(datasets.PolicyVersion.Get(table))); !slices.Equal(drew, []string{want.Hash}) {
				t.Errorf("staleness %d: step %d is drawn by %v, want %s", k, step+1, drew, want.Hash)
			}
			table.Release()
			m := metrics(t, store, "run", step)
			mean, measured := m["sampling/importance_sampling_ratio/mean"]
			switch {
			case measured != (k > 0 && m["num_tokens_trained"] > 0):
				t.Errorf("staleness %d: step %d has figures %v", k, step+1, m)
			case measured && (mean < 0.5 || mean > 1.5 || (m["sampling/kl"] > 1e-9) != (want.Hash != before(start, records, step).Hash)):
				t.Errorf("staleness %d: step %d has weights of mean %v and a divergence of %v", k, step+1, mean, m["sampling/kl"])
			}
		}
	}
}

// before is the policy that a step updates.
func before(start activities.StepRecord, records []activities.StepRecord, step int) datasets.Ref {
	if step == 0 {
		return start.Policy
	}
	return records[step-1].Policy
}

// A run with steps drawn ahead is the same when it is paused at every step, when
// its history is renewed at every step, and when it is forked from any, whatever
// its recipe carries from step to step; reuse is off.
func TestAheadIsTheRunItself(t *testing.T) {
	for name, more := range map[string]string{
		"grpo":   `,"max_staleness":1,"evaluation.every":2`,
		"gradus": `,"max_staleness":2,"recipe":"gradus","exemption":0,"train_levels":[3],"levels":[1,3]`,
		"dapo":   `,"max_staleness":2,"recipe":"dapo","max_rollout_rounds":3`,
		"wait":   `,"max_staleness":1,"short_batch":"wait","prompts_per_step":6,"evaluation.every":2`,
		"oracle": `,"max_staleness":1,"levels":[1,2],"propose":{"stage":"oracle"},"evaluation.every":1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := plus(`,"steps":5,"reuse":false` + more)
			store := datasets.NewMemory()
			want, _ := must(t, store, "run", plan)
			records := left(t, store, "run", 0, 5)
			if want.Trained == 0 {
				t.Error("nothing was trained on")
			}
			same := func(what string, store datasets.Store, run string, from int, got *workflows.Result) {
				t.Helper()
				if d := cmp.Diff(want, got, anyRun) + cmp.Diff(records[from:], left(t, store, run, from, 5)); d != "" {
					t.Errorf("%s: %s", what, d)
				}
			}

			store2 := datasets.NewMemory()
			s := steer(t, store2)
			updates, pauses := 0, 0
			s.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
				if info.ActivityType.Name != "Update" {
					return
				}
				updates++
				s.send("pause", nil, "")
				s.RegisterDelayedCallback(func() {
					if s.status().Phase == "paused" {
						pauses++
					}
					s.send("resume", nil)
				}, time.Hour)
			})
			r := s.result(plan)
			if pauses == 0 {
				t.Error("the run was never paused")
			}
			same("paused", store2, "default-test-workflow-id", 0, &r)

			store3 := datasets.NewMemory()
			r = renewed(t, store3, plan)
			same("renewed", store3, "default-test-workflow-id", 0, &r)

			for _, step := range []int{1, 4} {
				id := fmt.Sprint("fork-", step)
				got, _ := must(t, store, id, fmt.Sprintf(`{"fork":{"run":"run","step":%d}}`, step))
				same(id, store, id, step, got)
			}
		})
	}
}

// renewed is a run whose history is renewed at every step.
func renewed(t *testing.T, store datasets.Store, plan string) (r workflows.Result) {
	given, carried := json.RawMessage(plan), (*workflows.Carried)(nil)
	for {
		e := environment(t, store)
		e.SetContinueAsNewSuggested(carried == nil)
		first := carried != nil
		e.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, _ error) {
			if first && info.ActivityType.Name == "Select" { // of the step in hand, with the next being drawn
				first = false
				e.SetContinueAsNewSuggested(true)
			}
		})
		e.ExecuteWorkflow(workflows.Experiment, given, carried)
		err := e.GetWorkflowError()
		var again *workflow.ContinueAsNewError
		if !errors.As(err, &again) {
			if err == nil {
				err = e.GetWorkflowResult(&r)
			}
			if err != nil {
				t.Fatal(err)
			}
			timeless(&r)
			return r
		}
		carried = &workflows.Carried{}
		if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &given, carried); err != nil {
			t.Fatal(err)
		}
	}
}

// A change holds from the next step on, also of one that is drawn by then: as it
// does in a fork that makes the same change there. max_staleness itself can change.
func TestTuneAhead(t *testing.T) {
	for _, change := range []string{`"learning_rate":1e-4`, `"temperature":0.7,"prompts_per_step":6`, `"max_staleness":0`, `"max_staleness":3`} {
		store := datasets.NewMemory()
		s := steer(t, store)
		s.during(2, func() { s.send("tune", nil, json.RawMessage("{"+change+"}")) })
		tuned := s.result(plus(`,"steps":5,"max_staleness":2,"reuse":false`))
		s.want("from step 3 on")
		plain := datasets.NewMemory()
		must(t, plain, "source", plus(`,"steps":5,"max_staleness":2,"reuse":false`))
		fork, _ := must(t, plain, "fork", `{"fork":{"run":"source","step":2},`+change+`}`)
		if d := cmp.Diff(left(t, plain, "fork", 2, 5), left(t, store, "default-test-workflow-id", 2, 5)) + cmp.Diff(*fork, tuned, anyRun); d != "" {
			t.Errorf("%s: %s", change, d)
		}
		if d := cmp.Diff(left(t, plain, "source", 0, 2), left(t, store, "default-test-workflow-id", 0, 2)); d != "" {
			t.Errorf("%s: the steps before: %s", change, d)
		}
	}
}

// No step is drawn that does not come: neither beyond the plan nor beyond its
// budget.
func TestNothingIsDrawnInVain(t *testing.T) {
	for _, more := range []string{`,"steps":3`, `,"steps":50,"max_generated_tokens":700`} {
		store := datasets.NewMemory()
		s := steer(t, store)
		drawn := map[int]bool{}
		s.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, args converter.EncodedValues) {
			var in activities.RolloutInput
			if info.ActivityType.Name == "Rollout" && args.Get(&in) == nil && in.Purpose == "train" {
				drawn[in.Step] = true
			}
		})
		done, ahead := 0, 0
		s.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, _ error) {
			if info.ActivityType.Name == "Update" {
				if done++; drawn[done] { // counted from 0, the step after it
					ahead++
				}
			}
		})
		r := s.result(plus(`,"max_staleness":2` + more))
		if ahead == 0 {
			t.Errorf("%s: no step was drawn while another one was learnt from", more)
		}
		if len(drawn) != r.Steps || r.Steps < 3 || r.Steps == 50 {
			t.Errorf("%s: %d steps drawn, %d done", more, len(drawn), r.Steps)
		}
	}
}

// A run that is extended has the bytes of one that was planned longer.
func TestExtendAhead(t *testing.T) {
	want, _ := must(t, datasets.NewMemory(), "run", plus(`,"max_staleness":2,"steps":6`))
	store := datasets.NewMemory()
	must(t, store, "run", plus(`,"max_staleness":2`))
	got, _ := must(t, store, "run", `{"fork":{"run":"run"},"steps":6}`)
	if d := cmp.Diff(want, got, anyRun, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

// The cap is part of what an update depends on where there is a gap, and of
// nothing else.
func TestReuseAhead(t *testing.T) {
	store := datasets.NewMemory()
	run := func(id, more string) *workflows.Result {
		r, _ := must(t, store, id, plus(`,"steps":2`+more))
		return r
	}
	first := run("first", `,"max_staleness":1`)
	other := run("other", `,"max_staleness":1,"importance_sampling_cap":1`)
	// The warm-up is one update; both steps are drawn by the policy that it made.
	if r := other.Reused; r.Updates != 1 || r.Tokens < first.Tokens || other.Policy == first.Policy {
		t.Errorf("another cap: %+v, policies %s and %s", r, first.Policy, other.Policy)
	}
	run("sequential", "")
	if r := run("sequential-other", `,"importance_sampling_cap":1`).Reused; r.Updates != 3 {
		t.Errorf("another cap without a gap: %+v", r)
	}
}
