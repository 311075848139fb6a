package main

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/simulate"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// hanging is a backend that never answers when it is first asked for completions.
type hanging struct {
	activities.Backend
	asked *atomic.Bool
	told  chan error // that nobody waits for it any more
}

func (h hanging) NewEngine(c policy.Config) (activities.Engine, error) {
	e, err := h.Backend.NewEngine(c)
	return hangingEngine{e, h}, err
}

type hangingEngine struct {
	activities.Engine
	hang hanging
}

func (e hangingEngine) Generate(ctx context.Context, prompts []policy.Prompt, s policy.Sampling, progress func(done, total int)) ([]policy.Completion, error) {
	if !e.hang.asked.Swap(true) {
		<-ctx.Done()
		e.hang.told <- ctx.Err()
		return nil, ctx.Err()
	}
	return e.Engine.Generate(ctx, prompts, s, progress)
}

// A shard whose worker hangs is drawn by another one, which makes no difference
// to any byte; the first is told that nobody waits for it.
func TestSpeculate(t *testing.T) {
	c, store := connectTest(t)
	plan := []string{"steps=2", "rollout_shards=4", "prompts_per_step=8", "num_generations=4", "speculate=2"}
	run := func(id string, open func(string) (activities.Backend, error)) *workflows.Result {
		for _, role := range [][]string{{worker.RoleCPU, worker.RoleTrain}, {worker.RoleRollout}, {worker.RoleRollout}} {
			w, err := worker.Start(c, store, worker.Options{Roles: role, Rollouts: 1, Open: open, Verify: simulate.Lookup, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
		}
		given, err := instantPlan(plan...)
		if err != nil {
			t.Fatal(err)
		}
		started, err := launch(t.Context(), c, workflows.QueueCPU, id, given)
		if err != nil {
			t.Fatal(err)
		}
		var r workflows.Result
		if err := started.Get(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		return &r
	}
	calm := run("unhung", new(simulate.Instant).Open)
	h := hanging{new(simulate.Instant), new(atomic.Bool), make(chan error, 1)}
	overtaken := run("overtaken", func(string) (activities.Backend, error) { return h, nil })
	if calm.Trained == 0 || calm.Reissued != 0 || overtaken.Reissued != 1 {
		t.Errorf("%d tokens trained on; %d shards issued again in calm, %d with a worker that hangs", calm.Trained, calm.Reissued, overtaken.Reissued)
	}
	if d := cmp.Diff(artifacts(t, store, "unhung", 2), artifacts(t, store, "overtaken", 2)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(calm.Policy, overtaken.Policy); d != "" {
		t.Error(d)
	}
	select {
	case <-h.told:
	case <-t.Context().Done():
		t.Error("the worker that hangs was not told")
	}
	replayer := sdkworker.NewWorkflowReplayer()
	replayer.RegisterWorkflow(workflows.Experiment)
	if err := replayer.ReplayWorkflowExecution(t.Context(), c.WorkflowService(), worker.Logger(zerolog.Nop()), local.Namespace, workflow.Execution{ID: "overtaken"}); err != nil {
		t.Error(err)
	}
}
