package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// console runs commands on the stack of these tests.
type console struct {
	t     *testing.T
	store string
}

func newConsole(t *testing.T) (console, client.Client, datasets.Store) {
	t.Helper()
	c, store := connectTest(t)
	t.Setenv("AWS_ACCESS_KEY_ID", local.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", local.SecretKey)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return console{t, local.Store}, c, store
}

// command returns the standard output and all that was written.
func (c console) command(args ...string) (out, all string, err error) {
	var stdout, both bytes.Buffer
	r := root()
	r.SetOut(io.MultiWriter(&stdout, &both))
	r.SetErr(&both)
	r.SetArgs(append(args, "--temporal", local.Temporal, "--store", c.store, "--dir", c.t.TempDir()))
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	err = r.ExecuteContext(ctx)
	return stdout.String(), both.String(), err
}

func (c console) says(want string, args ...string) string {
	c.t.Helper()
	out, all, err := c.command(args...)
	if err != nil || !strings.Contains(all, want) {
		c.t.Fatalf("%v: %v, want %q in\n%s", args, err, want, all)
	}
	return out
}

func (c console) refuses(want string, args ...string) {
	c.t.Helper()
	if _, all, err := c.command(args...); err == nil || !strings.Contains(err.Error(), want) || all != "" {
		c.t.Fatalf("%v: got %v, want an error with %q\n%s", args, err, want, all)
	}
}

func (c console) result(args ...string) (r workflows.Result) {
	c.t.Helper()
	out, all, err := c.command(append(args, "--output", "json")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		c.t.Fatalf("%v: %v\n%s", args, err, all)
	}
	return r
}

// A run is forked, extended and rewound by commands, also where the server has
// forgotten it, and ends with the bytes of the run that it repeats.
func TestForkExtendRewind(t *testing.T) {
	do, c, store := newConsole(t)
	long := runTest(t, c, "long", tiny("steps=4"))
	short := runTest(t, c, "short", tiny("steps=2"))
	if *update {
		defer record(t, c, "long-fork", filepath.Join("..", "..", "workflows", "testdata", "fork.json"))
	}
	if short.Policy == long.Policy || long.Trained == 0 {
		t.Fatalf("%+v, %+v", short, long)
	}

	extended := do.result("extend", "short", "--steps", "+2")
	if d := cmp.Diff([]any{long.Policy, long.Completions, long.Tokens, long.After.All}, []any{extended.Policy, extended.Completions, extended.Tokens, extended.After.All}); d != "" {
		t.Errorf("2 steps extended to 4: %s", d)
	}
	if d := cmp.Diff(artifacts(t, store, "long", 4)[2:], artifacts(t, store, "short", 4)[2:]); d != "" {
		t.Errorf("the steps of the extension: %s", d)
	}
	fork := do.result("fork", "long", "--at", "1", "--id", "long-fork")
	if fork.Policy != long.Policy || fork.Fork == nil || fork.Fork.Run != "long" || *fork.Fork.Step != 1 {
		t.Errorf("a fork without changes: %+v", fork)
	}
	do.says("Fork of run long after step 1.", "status", "long-fork")
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // the server's list lags behind
		found, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: "GradusFork = 'long'"})
		if err == nil && len(found.Executions) == 1 && found.Executions[0].Execution.WorkflowId == "long-fork" {
			break
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("the fork is not found by its origin: %v, %v", err, found)
		}
	}
	if changed := do.result("fork", "long", "--at", "1", "--id", "changed", "learning_rate=1e-4"); changed.Policy == long.Policy || changed.Steps != 4 {
		t.Errorf("a fork with changes: %+v", changed)
	}
	rewound := do.result("rewind", "long", "--to", "2")
	if rewound.Policy != long.Policy || rewound.Steps != 4 || rewound.Fork != nil {
		t.Errorf("rewound: %+v", rewound)
	}

	// Of a run that only the store remembers.
	if _, err := c.WorkflowService().DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{
		Namespace: local.Namespace, WorkflowExecution: execution(t, c, "short"),
	}); err != nil {
		t.Fatal(err)
	}
	if r := do.result("fork", "short", "--at", "3", "--id", "from-store"); r.Policy != long.Policy {
		t.Errorf("a fork from the store alone: %+v", r)
	}

	do.says("d3s.samples, d3s.tokens: follows the number of steps planned", "extend", runNamed(t, c, "scheduled", tiny("recipe=d3s", "steps=1")), "--steps", "2")
	do.refuses("steps is 4, and 4 are done", "extend", "long")
	do.refuses(`--steps is "many"`, "extend", "long", "--steps", "many")
	do.refuses("steps is 3, and 4 are done", "extend", "long", "--steps", "3")
	do.refuses("run long has no record of step 9; it has those of 0 to 4", "fork", "long", "--at", "9")
	do.refuses("run long has no record of step 9", "rewind", "long", "--to", "9")
	do.refuses("seed is null", "fork", "long", "--at", "2", "seed=null")
	do.refuses("levels cannot change", "fork", "long", "--at", "2", "levels=[1,2]")
	do.refuses("levels cannot change", "rewind", "long", "--to", "2", "levels=[1,2]")
	do.refuses(`no record of a run "nobody"`, "fork", "nobody")
	do.refuses(`no record of a run "nobody"`, "extend", "nobody", "--steps", "9")
	do.refuses("the run itself", "fork", "long", "--id", "long")
	do.refuses(`"to" not set`, "rewind", "long")

	// Its newest policy is taken out by the name of the run.
	do.says("policy "+long.Policy.String()+", after 4 steps of run long", "policy", "export", "long", filepath.Join(t.TempDir(), "policy"))
	do.refuses(`policy "nobody" is neither a Ref, as the last line of a run`, "policy", "export", "nobody", t.TempDir())
	do.refuses(`policy "Qwen/Qwen2.5-0.5B": there is no such folder, and a Ref looks like policy:0:1000:hash`, "run", "grpo", "policy=Qwen/Qwen2.5-0.5B")
}

func execution(t *testing.T, c client.Client, id string) *commonpb.WorkflowExecution {
	t.Helper()
	d, err := c.DescribeWorkflowExecution(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	return d.WorkflowExecutionInfo.Execution
}

func runNamed(t *testing.T, c client.Client, id string, pairs []string) string {
	t.Helper()
	runTest(t, c, id, pairs)
	return id
}

// A run that is going on is forked, rewound and given more steps; a fork goes on
// when its source has been stopped, and a stopped run when it is extended.
func TestForkInFlight(t *testing.T) {
	do, c, _ := newConsole(t)
	given, err := planInput("grpo", tiny("steps=100000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := launch(t.Context(), c, workflows.QueueCPU, "flight", given); err != nil {
		t.Fatal(err)
	}
	until := func(is func(workflows.Status) bool) (s workflows.Status) {
		t.Helper()
		for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if s, err = status(t.Context(), c, "flight"); err == nil && is(s) {
				return s
			}
		}
		t.Fatalf("the run stands at %+v", s)
		return s
	}
	until(func(s workflows.Status) bool { return s.Step >= 3 })
	if r := do.result("fork", "flight", "--at", "1", "--id", "flight-fork", "steps=2"); r.Steps != 2 {
		t.Errorf("%+v", r)
	}
	do.says("the run pauses", "pause", "flight")
	paused := until(func(s workflows.Status) bool { return s.Phase == "paused" })
	do.says("goes back to step 1 and stays paused", "rewind", "flight", "--to", "1")
	until(func(s workflows.Status) bool { return s.Phase == "paused" && s.Step == 1 })
	do.refuses("run flight has no record of step", "fork", "flight", "--at", "3")
	do.refuses("run flight refuses to rewind: run flight has no record of step 3", "rewind", "flight", "--to", "3")
	do.says("goes back to step 0", "rewind", "flight", "--to", "0", "learning_rate=1e-4")
	until(func(s workflows.Status) bool { return s.Phase == "paused" && s.Step == 0 && len(s.Tuned) == 1 })
	do.says(`{"steps":100004} from step 1 on`, "extend", "flight", "--steps", "+4")
	do.says("the run goes on", "resume", "flight")
	until(func(s workflows.Status) bool { return s.Step > 0 })
	do.says("the run stops", "stop", "flight")
	until(func(s workflows.Status) bool { return s.Phase == "stopped" })
	r := do.result("rewind", "flight", "--to", "1", "steps=3")
	if r.Steps != 3 || r.Stopped || paused.Step < 3 {
		t.Errorf("%+v", r)
	}
}
