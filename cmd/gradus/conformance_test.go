package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// callUpdate has whoever serves the train queue perform an update, as a run does.
func callUpdate(ctx workflow.Context, in activities.UpdateInput) (out activities.Output, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: workflows.QueueTrain, StartToCloseTimeout: time.Minute, HeartbeatTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 2},
	})
	err = workflow.ExecuteActivity(ctx, "Update", in).Get(ctx, &out)
	return out, err
}

// trainer is a process that serves the train queue.
type trainer struct {
	name  string
	start func(t *testing.T) (stop func())
}

// pythonTrainer is interop/worker.py, where Python has what it needs.
func pythonTrainer(t *testing.T) trainer {
	python := filepath.Join("..", "..", "interop", ".venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	const program = "../../interop/worker.py"
	return trainer{"python", func(t *testing.T) func() {
		if _, err := os.Stat(program); err != nil { // so that go test knows that it counts
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), python, "-c", "import temporalio, pyarrow, torch, transformers").CombinedOutput(); err != nil {
			t.Skipf("PyTorch and the rest of interop/requirements-trainer.txt are not there: %v %.200s", err, out)
		}
		p := &process{Cmd: exec.CommandContext(t.Context(), python, program, "--temporal", local.Temporal, "--namespace", local.Namespace, "--store", local.Store)}
		p.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+local.AccessKey, "AWS_SECRET_ACCESS_KEY="+local.SecretKey)
		p.Stdout, p.Stderr = p, p
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.await(t, "working")
		return func() {
			_ = p.Process.Kill()
			_ = p.Wait()
			if t.Failed() {
				t.Log(p.output())
			}
		}
	}}
}

// The contract of activities/CONTRACT.md, kept by our trainer and by the one in
// PyTorch; both learn the same from the same.
func TestTrainerConformance(t *testing.T) {
	c, store := connectTest(t)
	others, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleCPU, worker.RoleRollout}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer others.Stop()
	own := trainer{"gradus", func(t *testing.T) func() {
		w, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleTrain}, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return w.Stop
	}}
	caller := sdkworker.New(c, "conformance", sdkworker.Options{})
	caller.RegisterWorkflow(callUpdate)
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	defer caller.Stop()
	stop := own.start(t)
	base := runTest(t, c, "conformance-base", tiny("steps=0"))
	stop()

	weights := map[string]policy.Weights{}
	metrics := map[string]map[string]float64{}
	for _, trainer := range []trainer{own, pythonTrainer(t)} {
		t.Run(trainer.name, func(t *testing.T) {
			defer trainer.start(t)()
			id := "conformance-" + trainer.name
			r := runTest(t, c, id, tiny("steps=2", "policy="+base.Policy.String()))
			if r.Steps != 2 || r.Trained == 0 || r.NaN != 0 {
				t.Fatalf("result %+v", r)
			}
			start := checkpoint(t, store, id, -1)
			records := []activities.StepRecord{start, checkpoint(t, store, id, 0), checkpoint(t, store, id, 1)}
			begin, err := policy.LoadState(t.Context(), store, start.Policy)
			if err != nil {
				t.Fatal(err)
			}
			for i, record := range records[1:] {
				s, err := policy.LoadState(t.Context(), store, record.Policy)
				if err != nil {
					t.Fatalf("step %d: the policy is no policy: %v", i, err)
				}
				if s.Step != int64(i+1) || s.Moments1 == nil || !bytes.Equal(s.Tokenizer.JSON(), begin.Tokenizer.JSON()) || !bytes.Equal(s.Config.JSON(), begin.Config.JSON()) {
					t.Errorf("step %d: optimizer step %d, moments %v, and what is no weight must stay as it is", i, s.Step, s.Moments1 != nil)
				}
				if cmp.Equal(s.Weights, begin.Weights) {
					t.Errorf("step %d: nothing was learnt", i)
				}
				m := figures(t, store, record.Metrics)
				for _, name := range []string{"loss", "grad_norm", "learning_rate", "num_tokens_trained", "pass_rate"} {
					if _, ok := m[name]; !ok {
						t.Errorf("step %d: no metric %s in %v", i, name, m)
					}
				}
				if i == 0 {
					weights[trainer.name], metrics[trainer.name] = s.Weights, m
				}
			}

			// Twice is once.
			in := activities.UpdateInput{
				Run: activities.Run{ID: id, Plan: start.Plan}, Step: 0, Rounds: records[1].Rounds, Selections: records[1].Selections,
				Policy: start.Policy, Reference: start.Policy, Metrics: map[string]float64{"mark": 1},
			}
			var outs [2]activities.Output
			for i := range outs {
				if outs[i], err = perform(t, c, in); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(outs[0].Tables, outs[1].Tables); d != "" || !outs[1].Reused || outs[0].Reused {
				t.Errorf("an update done twice: %s%+v", d, outs)
			}
			if figures(t, store, outs[0].Tables[activities.TableMetrics])["mark"] != 1 {
				t.Error("the metrics that were given are not in the table")
			}
			// What the user has to mend is not tried again.
			in.Run.Plan, err = datasets.SaveBlob(t.Context(), store, []byte("no plan"))
			if err != nil {
				t.Fatal(err)
			}
			var app *temporal.ApplicationError
			if _, err := perform(t, c, in); !errors.As(err, &app) || !app.NonRetryable() || app.Type() != activities.ErrorInvalid {
				t.Errorf("a plan that is none: %v, want a non-retryable %s", err, activities.ErrorInvalid)
			}
		})
	}
	if metrics["python"] == nil {
		return
	}
	for _, name := range []string{"loss", "grad_norm", "learning_rate", "num_tokens_trained"} {
		if a, b := metrics["gradus"][name], metrics["python"][name]; math.Abs(a-b) > 1e-5+1e-3*math.Abs(a) {
			t.Errorf("%s: gradus %v, python %v", name, a, b)
		}
	}
	// A first step of Adam is the rate times the gradient's sign: where that is near 0
	// the two may differ by all of it.
	far, all := 0, 0
	for i, w := range weights["gradus"] {
		for j, x := range w.Data {
			all++
			if math.Abs(float64(x-weights["python"][i].Data[j])) > 1e-5 {
				far++
			}
		}
	}
	if far*100 > all {
		t.Errorf("%d of %d weights differ between the trainers", far, all)
	}
}

func perform(t *testing.T, c client.Client, in activities.UpdateInput) (out activities.Output, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: "conformance"}, callUpdate, in)
	if err != nil {
		return out, err
	}
	return out, run.Get(ctx, &out)
}

// checkpoint is the record of a run after a step, -1 for before the first.
func checkpoint(t *testing.T, s datasets.Store, run string, step int) (r activities.StepRecord) {
	t.Helper()
	raw, err := s.Get(t.Context(), activities.StepKey(run, step))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// figures are the rows of a table of metrics.
func figures(t *testing.T, s datasets.Store, r datasets.Ref) map[string]float64 {
	t.Helper()
	table := loadTest(t, s, r)
	defer table.Release()
	out := map[string]float64{}
	names, values := datasets.Name.Get(table), slices.Clone(datasets.Value.Get(table))
	for i, name := range names {
		out[strings.Clone(name)] = values[i]
	}
	return out
}
