package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/workflows"
)

// A sweep runs what there is to compare, survives a run that fails, and shows it.
func TestSweep(t *testing.T) {
	do, c, _ := newConsole(t)
	plan := tiny("steps=1", "warmup.max_steps=10", "reuse=true")
	plan = plan[1:] // seeds are the sweep's
	args := append([]string{"sweep", "grpo", "--list", "beta=0", "--list", "problems=nowhere", "--grid", "learning_rate=1e-4,5e-4", "--seeds", "1..2", "--parallel", "3", "--id", "swept"}, plan...)
	out := do.says(`swept-3-learning_rate=0.0001-problems=nowhere-seed=1 failed: problems "nowhere"`, args...)
	for _, want := range []string{"**sweep**: finished, 4 settings, 8 runs, 4 finished, 4 failed", "| beta=0 learning_rate=0.0005 | 2 | 0.", " ± ", "| learning_rate=0.0001 problems=nowhere | 0 |"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if again := do.says("4 failed", "status", "swept"); again != out {
		t.Errorf("status says\n%s\nthe sweep said\n%s", again, out)
	}
	var r workflows.SweepResult
	if err := json.Unmarshal([]byte(do.says("", "status", "swept", "--follow", "--output", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 4 || len(r.Runs) != 8 || r.Rows[0].Finished != 2 || r.Rows[0].Completions.Mean != 32 || r.Rows[0].Tokens.Half == 0 || r.Rows[2].Failed != 2 {
		t.Errorf("%+v", r)
	}
	if *update {
		record(t, c, "swept", filepath.Join("..", "..", "workflows", "testdata", "sweep.json"))
	}
	var child workflows.Result
	if err := c.GetWorkflow(t.Context(), "swept-1-beta=0-learning_rate=0.0001-seed=2", "").Get(t.Context(), &child); err != nil || child.After.All.PassAt1 != r.Runs[1].After {
		t.Errorf("%v, %+v, %+v", err, child, r.Runs[1])
	}
	do.refuses(`betta=1: unknown option "betta"`, "sweep", "grpo", "--grid", "betta=1,2")
	do.refuses(`unknown recipe "gpro"`, "sweep", "grpo", "gpro")
	do.refuses("want key=value,value", "sweep", "grpo", "--grid", "beta")
	do.refuses("want seeds such as 1..3", "sweep", "grpo", "--seeds", "3..1")

	// What the UI gives wrong is refused before anything runs.
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: workflows.QueueCPU}, "Sweep", json.RawMessage(`{"grid":{"recipe":["grpo","gpro"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Get(t.Context(), nil); err == nil || !strings.Contains(err.Error(), `recipe=gpro: unknown recipe "gpro"`) {
		t.Errorf("got %v", err)
	}
}

// Pause, resume and stop of a sweep reach its runs. Settings can be forks.
func TestSweepControl(t *testing.T) {
	do, c, _ := newConsole(t)
	runTest(t, c, "ground", tiny("steps=1"))
	do.says("2 settings, 4 runs", "sweep", "--id", "steered-sweep", "--detach", "fork={run: ground}", "steps=100000", "--grid", "learning_rate=1e-4,5e-4", "--seeds", "1,2")
	conn := &connection{client: c}
	until := func(is func(workflows.SweepStatus) bool) (s workflows.SweepStatus) {
		t.Helper()
		var err error
		for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if s, err = conn.swept(t.Context(), "steered-sweep"); err == nil && is(s) {
				return s
			}
		}
		t.Fatalf("the sweep stands at %+v", s)
		return s
	}
	child := func(i int, is func(workflows.Status) bool) {
		t.Helper()
		s := until(func(s workflows.SweepStatus) bool { return len(s.Runs) == 4 })
		var at workflows.Status
		for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
			var err error
			if at, err = status(t.Context(), c, s.Runs[i].ID); err == nil && is(at) {
				return
			}
		}
		t.Fatalf("run %d stands at %+v", i, at)
	}
	for i := range 2 {
		child(i, func(s workflows.Status) bool { return s.Step > 1 && s.Fork != nil && s.Fork.Run == "ground" })
	}
	do.says("the sweep pauses; 2 runs that are going on were told", "pause", "steered-sweep")
	for i := range 2 {
		child(i, func(s workflows.Status) bool { return s.Phase == "paused" })
	}
	do.says("**sweep**: paused, 2 settings, 4 runs, 2 running, 2 waiting", "status", "steered-sweep")
	do.says("the sweep goes on; 2 runs", "resume", "steered-sweep")
	child(0, func(s workflows.Status) bool { return s.Phase == "training" })
	do.says("the sweep stops; 2 runs", "stop", "steered-sweep")
	do.says("**sweep**: stopped, 2 settings, 4 runs, 2 waiting, 2 stopped", "status", "steered-sweep", "--follow")
	do.refuses("run steered-sweep has ended; there is nothing to pause", "pause", "steered-sweep")
}

// A sweep whose history has grown long goes on in another, and forgets nothing.
func TestSweepRenewed(t *testing.T) {
	do, c, _ := newConsole(t)
	plan := tiny("steps=2")[1:]
	do.says("3 runs", append([]string{"sweep", "grpo", "--id", "renewed-sweep", "--detach", "--seeds", "1..3", "--parallel", "1"}, plan...)...)
	first, err := c.DescribeWorkflowExecution(t.Context(), "renewed-sweep", "")
	if err != nil {
		t.Fatal(err)
	}
	do.says("the sweep pauses", "pause", "renewed-sweep")
	lengthen(t, c, "renewed-sweep")
	do.says("the sweep goes on", "resume", "renewed-sweep")
	var r workflows.SweepResult
	if err := json.Unmarshal([]byte(do.says("", "status", "renewed-sweep", "--follow", "--output", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 3 || len(r.Rows) != 1 || r.Rows[0].Finished != 3 {
		t.Errorf("%+v", r)
	}
	last, err := c.DescribeWorkflowExecution(t.Context(), "renewed-sweep", "")
	if err != nil {
		t.Fatal(err)
	}
	if was := first.WorkflowExecutionInfo.Execution.RunId; last.WorkflowExecutionInfo.FirstRunId != was || last.WorkflowExecutionInfo.Execution.RunId == was {
		t.Errorf("the history was not renewed: %v", last.WorkflowExecutionInfo)
	}
}
