package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// A run is paused, tuned, resumed and stopped by commands, and what makes no
// sense is one clear error.
func TestControl(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	t.Setenv("AWS_ACCESS_KEY_ID", local.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", local.SecretKey)
	command := func(args ...string) (string, error) {
		var out bytes.Buffer
		r := root()
		r.SetOut(&out)
		r.SetErr(&out)
		r.SetArgs(append(args, "--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir()))
		err := r.ExecuteContext(t.Context())
		return out.String(), err
	}
	says := func(want string, args ...string) {
		t.Helper()
		if out, err := command(args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("%v: %v, want %q in\n%s", args, err, want, out)
		}
	}
	refuses := func(want string, args ...string) {
		t.Helper()
		if out, err := command(args...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Fatalf("%v: got %v, want an error with %q\n%s", args, err, want, out)
		}
	}
	given, err := planInput("grpo", tiny("steps=100000"))
	if err != nil {
		t.Fatal(err)
	}
	run, err := launch(t.Context(), c, workflows.QueueCPU, "steered", given)
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, is func(workflows.Status) bool) workflows.Status {
		t.Helper()
		for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if s, err := status(t.Context(), c, "steered"); err == nil && is(s) {
				return s
			}
		}
		t.Fatalf("the run was never %s", what)
		return workflows.Status{}
	}
	until("training", func(s workflows.Status) bool { return s.Step > 0 })

	says("steered: the run pauses", "pause", "steered", "--reason", "maintenance")
	paused := until("paused", func(s workflows.Status) bool { return s.Phase == "paused" })
	says("paused already", "pause", "steered")
	says("paused, step", "status", "steered")
	says("Reason of the pause: maintenance", "status", "steered")
	says(`steered: {"learning_rate":0.0005} from step`, "tune", "steered", "learning_rate=5e-4")
	says(`Tuned from step`, "status", "steered")
	refuses("run steered refuses to tune: seed cannot be tuned", "tune", "steered", "seed=4")
	refuses(`did you mean learning, learning_rate?`, "tune", "steered", "learning_rat=4")
	refuses("want key=value", "tune", "steered", "learning_rate")
	if s, err := status(t.Context(), c, "steered"); err != nil || s.Step != paused.Step || len(s.Tuned) != 1 || s.Tuned[0].Step != paused.Step+1 {
		t.Errorf("%v, %+v", err, s)
	}
	says(`"message":"the run goes on with step`, "resume", "steered", "--output", "json")
	says("the run is not paused", "resume", "steered")
	until("going on", func(s workflows.Status) bool { return s.Step > paused.Step })
	says("the run stops", "stop", "steered")
	var r workflows.Result
	if err := run.Get(t.Context(), &r); err != nil || !r.Stopped || r.Steps <= paused.Step || r.After == nil {
		t.Errorf("%v, %+v", err, r)
	}
	says("stopped, step", "status", "steered")
	refuses("run steered has ended; there is nothing to pause", "pause", "steered")
	refuses(`there is no run "unknown"`, "stop", "unknown")
}

// Of a run that has ended without a result, status says how and why.
func TestStatusOfFailed(t *testing.T) {
	do, c, _ := newConsole(t)
	if _, err := start(t.Context(), c, "Experiment", workflows.QueueCPU, "refused", "", temporal.Priority{}, json.RawMessage(`{"recipe":"gpro"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := do.command("status", "refused", "--follow"); err == nil || !strings.Contains(err.Error(), `run refused failed: unknown recipe "gpro"`) {
		t.Fatal(err)
	}
	do.says("**experiment**: failed, step 0 of 0\n\nWhy: unknown recipe", "status", "refused")
	var s workflows.Status
	if err := json.Unmarshal([]byte(do.says("", "status", "refused", "--output", "json")), &s); err != nil || s.Phase != "failed" || !strings.Contains(s.Error, "gpro") {
		t.Errorf("%v, %+v", err, s)
	}
}

// A run that asks a server which is gone, for ever, is ended at once, and goes on
// from its last step when it is extended.
func TestStopNow(t *testing.T) {
	do, c, _ := newConsole(t)
	runTest(t, c, "hung", tiny("steps=1"))
	do.says("goes on, to 2 steps", "extend", "hung", "--steps", "2", "--detach", "rollout.engine=openai", `rollout.endpoints=["http://127.0.0.1:1"]`, "rollout.tries=1")
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if why := (&connection{client: c}).trouble(t.Context(), "hung"); strings.Contains(why, "Rollout has failed") {
			break
		} else if time.Since(begin) > time.Minute {
			t.Fatalf("the run does not fail: %s", why)
		}
	}
	do.says("hung: the run stops", "stop", "hung")
	do.says("hung: the run has ended", "stop", "hung", "--now")
	do.says("**grpo**: terminated, step 1 of 2\n\nWhy: gradus stop --now", "status", "hung")
	do.refuses("run hung has ended; there is nothing to stop", "stop", "hung", "--now")
	do.refuses(`there is no run "unknown"`, "stop", "unknown", "--now")
	if r := do.result("extend", "hung", "--steps", "2", `rollout.engine=""`, "rollout.endpoints=[]"); r.Steps != 2 || r.Stopped || r.After == nil {
		t.Errorf("%+v", r)
	}
}
