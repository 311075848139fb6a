package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// begin launches an experiment and does not wait for it.
func begin(t *testing.T, c client.Client, id string, p temporal.Priority, pairs []string) client.WorkflowRun {
	t.Helper()
	given, err := planInput("grpo", pairs)
	if err != nil {
		t.Fatal(err)
	}
	run, err := launchAt(t.Context(), c, workflows.QueueCPU, id, p, given)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func startWorker(t *testing.T, c client.Client, o worker.Options) *worker.Worker {
	t.Helper()
	_, store := connectTest(t)
	o.Log = zerolog.Nop()
	w, err := worker.Start(c, store, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// awaitPhase waits until a run is in a phase.
func awaitPhase(t *testing.T, c client.Client, run, phase string) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		s, err := status(t.Context(), c, run)
		if err == nil && s.Phase == phase {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("run %s is in phase %q (%v), want %q", run, s.Phase, err, phase)
		}
	}
}

// end waits for a run's result.
func end(t *testing.T, run client.WorkflowRun) *workflows.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var r workflows.Result
	if err := run.Get(ctx, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// Workers that are killed, restarted under their name, stopped in the midst of a
// shard and added lose nothing and change nothing; what they leave is taken up.
func TestFleetComesAndGoes(t *testing.T) {
	c, store := connectTest(t)
	plan := tiny("evaluation.problems_per_level=64", "evaluation.num_generations=4096", "rollout_shards=4", "steps=2", "heartbeat_timeout=3600")
	w := startWorker(t, c, worker.Options{})
	calm := end(t, begin(t, c, "calm", temporal.Priority{}, plan))
	w.Stop()

	cpu := fleetWorker(t, "cpu", "--name", "fleet-cpu")
	train := fleetWorker(t, "train", "--name", "fleet-train")
	run := begin(t, c, "stormy", temporal.Priority{}, plan)
	at := func(identity string) func(*workflowpb.PendingActivityInfo) bool {
		return func(a *workflowpb.PendingActivityInfo) bool { return isAt(a, identity) }
	}
	cache := t.TempDir()
	one := []string{"--rollouts", "1", "--cache-dir", cache, "--grace", "100ms", "--name"}
	awaitActivity(t, c, "stormy", at("fleet-train"))
	if err := train.Process.Kill(); err != nil { // in the warm-up
		t.Fatal(err)
	}
	train = fleetWorker(t, "train", "--name", "fleet-train")
	train.await(t, "taken back from a predecessor")

	first := fleetWorker(t, "rollout", append(one, "fleet-1")...)
	awaitPhase(t, c, "stormy", "evaluating")
	awaitActivity(t, c, "stormy", at("fleet-1"))
	second := fleetWorker(t, "rollout", append(one, "fleet-2")...)
	awaitActivity(t, c, "stormy", at("fleet-2")) // what waits goes to whoever is free
	d, err := c.DescribeWorkflowExecution(t.Context(), "stormy", "")
	if err != nil {
		t.Fatal(err)
	}
	hands := map[string]int{}
	for _, a := range d.PendingActivities {
		if a.State == enums.PENDING_ACTIVITY_STATE_STARTED {
			hands[a.LastWorkerIdentity]++
		}
	}
	if hands["fleet-1"] > 1 || hands["fleet-2"] > 1 {
		t.Errorf("shards in hand: %v, want one at a time", hands)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second.interrupt(t)
	if text := second.output(); !strings.Contains(text, "given back") {
		t.Errorf("stopped in the midst of a shard, the worker says\n%s", text)
	}
	first = fleetWorker(t, "rollout", append(one, "fleet-1")...)
	if err := cpu.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cpu = fleetWorker(t, "cpu", "--name", "fleet-cpu")
	stormy := end(t, run)
	for _, p := range []*process{first, train, cpu} {
		p.interrupt(t)
	}
	if !strings.Contains(first.output(), "taken back from a predecessor") {
		t.Errorf("restarted after a kill, the worker says\n%s", first.output())
	}
	if d := cmp.Diff(artifacts(t, store, "calm", 2), artifacts(t, store, "stormy", 2)); d != "" {
		t.Errorf("the runs leave different artifacts: %s", d)
	}
	if d := cmp.Diff(calm.Policy, stormy.Policy); d != "" {
		t.Errorf("final policies differ: %s", d)
	}
}

// Two live workers of one name take each other's work away: the log says so, and
// the work is done all the same.
func TestNameTwice(t *testing.T) {
	c, _ := connectTest(t)
	cpu := startWorker(t, c, worker.Options{Roles: []string{worker.RoleCPU}})
	defer cpu.Stop()
	run := begin(t, c, "twins", temporal.Priority{}, append(slow(false, 256), "heartbeat_timeout=1"))
	first := fleetWorker(t, "rollout", "--name", "twin")
	awaitActivity(t, c, "twins", func(a *workflowpb.PendingActivityInfo) bool { return isAt(a, "twin") })
	second := fleetWorker(t, "rollout", "--name", "twin")
	second.await(t, "taken back from a predecessor")
	first.await(t, "another worker was started under the name twin")
	end(t, run)
	first.interrupt(t)
	second.interrupt(t)
}

// shards are the runs whose shards of the first rollout were begun, in that order.
func shards(t *testing.T, c client.Client, runs ...string) (order []string) {
	t.Helper()
	type shard struct {
		run   string
		begun time.Time
	}
	var all []shard
	for _, run := range runs {
		first := map[int64]bool{} // of the shards that one workflow task asked for
		task := int64(0)
		for _, e := range events(t, c, run) {
			if a := e.GetActivityTaskScheduledEventAttributes(); a.GetActivityType().GetName() == "Rollout" && (task == 0 || a.WorkflowTaskCompletedEventId == task) {
				task, first[e.EventId] = a.WorkflowTaskCompletedEventId, true
			}
			if a := e.GetActivityTaskStartedEventAttributes(); a != nil && first[a.ScheduledEventId] {
				all = append(all, shard{run, e.EventTime.AsTime()})
			}
		}
	}
	slices.SortFunc(all, func(a, b shard) int { return a.begun.Compare(b.begun) })
	for _, s := range all {
		order = append(order, s.run)
	}
	return order
}

// Two experiments that wait for one worker share it as their weights say, and
// the one of higher priority goes first.
func TestShares(t *testing.T) {
	c, _ := connectTest(t)
	cpu := startWorker(t, c, worker.Options{Roles: []string{worker.RoleCPU}})
	defer cpu.Stop()
	for _, x := range []struct {
		name          string
		first, second temporal.Priority
		look          int // at so many shards
		low, high     int // of them the second's
	}{
		{"even", temporal.Priority{}, temporal.Priority{}, 40, 17, 23},
		{"weighted", temporal.Priority{FairnessWeight: 1}, temporal.Priority{FairnessWeight: 3}, 40, 26, 34},
		{"urgent", temporal.Priority{PriorityKey: 5}, temporal.Priority{PriorityKey: 1}, 40, 38, 40},
	} {
		t.Run(x.name, func(t *testing.T) {
			plan := tiny("levels=[2]", "steps=0", "warmup.max_steps=0", "rollout_shards=40", "evaluation.problems_per_level=40")
			ids := []string{"shares-" + x.name + "-1", "shares-" + x.name + "-2"}
			var runs []client.WorkflowRun
			for i, p := range []temporal.Priority{x.first, x.second} {
				runs = append(runs, begin(t, c, ids[i], p, plan))
				for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
					d, err := c.DescribeWorkflowExecution(t.Context(), ids[i], "")
					if err != nil {
						t.Fatal(err)
					}
					if len(d.PendingActivities) == 40 {
						break
					}
					if time.Since(begin) > time.Minute {
						t.Fatalf("run %s has %d shards waiting, want 40", ids[i], len(d.PendingActivities))
					}
				}
			}
			rollout := startWorker(t, c, worker.Options{Roles: []string{worker.RoleRollout}, Rollouts: 1})
			for _, r := range runs {
				end(t, r)
			}
			rollout.Stop()
			order := shards(t, c, ids...)
			if len(order) != 80 {
				t.Fatalf("%d shards, want 80", len(order))
			}
			second := 0
			for _, run := range order[:x.look] {
				if run == ids[1] {
					second++
				}
			}
			t.Logf("of the first %d shards %d are the second run's", x.look, second)
			if second < x.low || second > x.high {
				t.Errorf("of the first %d shards %d are the second run's, want %d to %d: %v", x.look, second, x.low, x.high, order)
			}
		})
	}
}

// builds are the builds that completed a run's workflow tasks, each once, in order;
// of its newest history where it has several.
func builds(t *testing.T, c client.Client, run string) (seen []string) {
	t.Helper()
	for _, e := range events(t, c, run) {
		if a, ok := e.Attributes.(*historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes); ok {
			if b := a.WorkflowTaskCompletedEventAttributes.DeploymentVersion.GetBuildId(); !slices.Contains(seen, b) {
				seen = append(seen, b)
			}
		}
	}
	return seen
}

// length is how many events a run's history has.
func length(t *testing.T, c client.Client, run string) int64 {
	t.Helper()
	d, err := c.DescribeWorkflowExecution(t.Context(), run, "")
	if err != nil {
		t.Fatal(err)
	}
	return d.WorkflowExecutionInfo.HistoryLength
}

// lengthen makes a run's history so long that the server suggests to renew it.
func lengthen(t *testing.T, c client.Client, run string) {
	t.Helper()
	for length(t, c, run) < 4096 {
		for range 100 {
			if err := c.SignalWorkflow(t.Context(), run, "", "nothing", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Under a running experiment the fleet is upgraded: a pinned one stays where it
// began until its history is renewed, one that upgrades goes over, and what is
// launched later takes the new build.
func TestUpgrade(t *testing.T) {
	c, _ := connectTest(t)
	servers := []string{"--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir()}
	for _, x := range []struct {
		name, versioning string
		renewed          bool     // whether the history of the run under way is renewed
		old              []string // builds of that run
	}{
		{"pinned", worker.Pinned, false, []string{"v1"}},
		{"renewed", worker.Pinned, true, []string{"v2"}},
		{"auto-upgrade", worker.AutoUpgrade, false, []string{"v1", "v2"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			deployment := "upgrade-" + x.name
			build := func(id string) *worker.Worker {
				w := startWorker(t, c, worker.Options{Deployment: deployment, BuildID: id, Versioning: x.versioning})
				args := append([]string{"workers", "promote", id, "--deployment", deployment}, servers...)
				for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
					p := gradus(t, args...)
					_ = p.Wait() // what it prints tells
					if strings.Contains(p.output(), "build "+id+" is current") {
						return w
					}
					if time.Since(begin) > time.Minute {
						t.Fatalf("promote %s: %s", id, p.output())
					}
				}
			}
			v1 := build("v1")
			old := begin(t, c, deployment+"-old", temporal.Priority{}, tiny("steps=2"))
			awaitPhase(t, c, old.GetID(), "warming up")
			conn := &connection{client: c, stack: local}
			if _, err := conn.update(t.Context(), old.GetID(), workflows.UpdatePause, ""); err != nil {
				t.Fatal(err)
			}
			if x.renewed {
				lengthen(t, c, old.GetID())
			}
			v2 := build("v2")
			if _, err := conn.update(t.Context(), old.GetID(), workflows.UpdateResume); err != nil {
				t.Fatal(err)
			}
			later := begin(t, c, deployment+"-later", temporal.Priority{}, tiny("steps=1"))
			end(t, old)
			end(t, later)
			v1.Stop()
			v2.Stop()
			run(t, "workers without a build are current", append([]string{"workers", "promote", "--deployment", deployment}, servers...)...)
			if got := builds(t, c, old.GetID()); !slices.Equal(got, x.old) {
				t.Errorf("the run under way was served by builds %v, want %v", got, x.old)
			}
			if got := builds(t, c, later.GetID()); !slices.Equal(got, []string{"v2"}) {
				t.Errorf("the later run was served by builds %v, want v2", got)
			}
		})
	}
	w := startWorker(t, c, worker.Options{})
	end(t, begin(t, c, "upgrade-undone", temporal.Priority{}, tiny("steps=0")))
	w.Stop()
	run(t, "it must be pinned or auto-upgrade", append([]string{"worker", "--build-id", "v1", "--versioning", "sometimes"}, servers...)...)
	run(t, "versioning needs a build ID", append([]string{"worker", "--versioning", "pinned"}, servers...)...)
}

// What the server would change on its own is refused.
func TestPriorityIsChecked(t *testing.T) {
	run(t, "--priority is 6; it must be from 1 to 5", "run", "grpo", "--priority", "6", "--dry-run")
	run(t, "--weight is 0; it must be from 0.001 to 1000", "run", "grpo", "--weight", "0", "--dry-run")
	run(t, "--fairness-key has 65 bytes", "run", "grpo", "--fairness-key", strings.Repeat("k", 65), "--dry-run")
}
