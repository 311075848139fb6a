package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/workflows"
)

// slow is an experiment whose first activities take seconds: the evaluation of an
// untrained policy of some size, or with warm its supervised start.
func slow(warm bool, generations int) []string {
	steps := 0
	if warm {
		steps = 400
	}
	return tiny("steps=0", "warmup.max_steps="+fmt.Sprint(steps), "warmup.min_steps="+fmt.Sprint(steps), "model.hidden_size=64", "model.num_hidden_layers=2",
		"rollout_shards=1", "evaluation.problems_per_level=64", fmt.Sprint("evaluation.num_generations=", generations), "max_completion_length=64")
}

// fleetWorker starts a worker process on the test's servers.
func fleetWorker(t testing.TB, role string, args ...string) *process {
	t.Helper()
	p := gradus(t, append([]string{"worker", "--role", role, "--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir()}, args...)...)
	p.await(t, `"working"`)
	return p
}

// isAt reports whether a worker of that identity is at the activity.
func isAt(a *workflowpb.PendingActivityInfo, identity string) bool {
	return a.State == enums.PENDING_ACTIVITY_STATE_STARTED && strings.HasPrefix(a.LastWorkerIdentity, identity)
}

// awaitActivity waits until ok says yes of an unfinished activity of a run.
func awaitActivity(t testing.TB, c client.Client, run string, ok func(*workflowpb.PendingActivityInfo) bool) *workflowpb.PendingActivityInfo {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(5 * time.Millisecond) {
		d, err := c.DescribeWorkflowExecution(t.Context(), run, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range d.PendingActivities {
			if ok(a) {
				return a
			}
		}
	}
	t.Fatalf("run %s: no such activity", run)
	return nil
}

// events are a run's history.
func events(t testing.TB, c client.Client, run string) (all []*historypb.HistoryEvent) {
	t.Helper()
	for i := c.GetWorkflowHistory(t.Context(), run, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		e, err := i.Next()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// BenchmarkTakeover measures the seconds from the end of a worker to the start of the
// same work by the next one.
func BenchmarkTakeover(b *testing.B) {
	c, _ := connectTest(b)
	count := 0
	begin := func(b *testing.B, pairs []string) string {
		given, err := planInput("grpo", pairs)
		if err != nil {
			b.Fatal(err)
		}
		count++
		id := fmt.Sprintf("takeover-%d-%d", b.N, count)
		if _, err := launch(b.Context(), c, workflows.QueueCPU, id, given); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.TerminateWorkflow(b.Context(), id, "", "measured") })
		return id
	}
	identity := func(p *process) string { return fmt.Sprintf("%d@", p.Process.Pid) }
	kill := func(b *testing.B, p *process, s syscall.Signal) time.Time {
		if err := p.Process.Signal(s); err != nil {
			b.Fatal(err)
		}
		return time.Now()
	}
	report := func(b *testing.B, each func(b *testing.B) time.Duration) {
		var sum, worst time.Duration
		for range b.N {
			d := each(b)
			sum, worst = sum+d, max(worst, d)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(sum.Seconds()/float64(b.N), "s/takeover")
		b.ReportMetric(worst.Seconds(), "s/worst")
	}
	// activity is the takeover of an activity: by a worker that waits, or by one that
	// is started in its place under its name.
	activity := func(role string, s syscall.Signal, named bool, warm bool) func(b *testing.B) time.Duration {
		return func(b *testing.B) time.Duration {
			cpu := fleetWorker(b, "cpu")
			defer cpu.interrupt(b)
			id := begin(b, slow(warm, 2048))
			who, args := "", []string{"--grace", "2s"}
			if named {
				who, args = "measured-"+role, append(args, "--name", "measured-"+role)
			}
			victim := fleetWorker(b, role, args...)
			if !named {
				who = identity(victim)
			}
			a := awaitActivity(b, c, id, func(a *workflowpb.PendingActivityInfo) bool { return isAt(a, who) })
			if !named {
				heir := fleetWorker(b, role)
				defer heir.interrupt(b)
			}
			time.Sleep(time.Second)
			at := kill(b, victim, s)
			if named {
				heir := fleetWorker(b, role, args...)
				defer heir.interrupt(b)
			}
			awaitActivity(b, c, id, func(now *workflowpb.PendingActivityInfo) bool {
				return now.ActivityId == a.ActivityId && now.Attempt > a.Attempt && now.State == enums.PENDING_ACTIVITY_STATE_STARTED
			})
			d := time.Since(at)
			if err := c.TerminateWorkflow(b.Context(), id, "", "measured"); err != nil {
				b.Fatal(err)
			}
			return d
		}
	}
	// task is the takeover of a workflow: with its worker at a task of it, or between two.
	task := func(s syscall.Signal, started bool) func(b *testing.B) time.Duration {
		return func(b *testing.B) time.Duration {
			cpu, rollout := fleetWorker(b, "cpu"), fleetWorker(b, "rollout")
			defer rollout.interrupt(b)
			id := begin(b, slow(false, 64))
			var at time.Time
			for at.IsZero() {
				d, err := c.DescribeWorkflowExecution(b.Context(), id, "")
				if err != nil {
					b.Fatal(err)
				}
				if started && d.PendingWorkflowTask.GetState() == enums.PENDING_WORKFLOW_TASK_STATE_STARTED || !started && len(d.PendingActivities) > 0 && d.PendingActivities[0].ActivityType.Name == "Rollout" {
					at = kill(b, cpu, s)
				}
			}
			heir := fleetWorker(b, "cpu")
			defer heir.interrupt(b)
			// The first task that the heir does.
			for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
				var scheduled time.Time
				for _, e := range events(b, c, id) {
					switch a := e.Attributes.(type) {
					case *historypb.HistoryEvent_WorkflowTaskScheduledEventAttributes:
						// What comes after a time-out on the queue of a dead worker has waited since then.
						if scheduled.IsZero() {
							scheduled = e.EventTime.AsTime()
						}
					case *historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes:
						if strings.HasPrefix(a.WorkflowTaskCompletedEventAttributes.Identity, identity(heir)) {
							// The wait counts from the kill, or from when there was something to do.
							if !started && scheduled.After(at) {
								at = scheduled
							}
							d := e.EventTime.AsTime().Sub(at)
							if err := c.TerminateWorkflow(b.Context(), id, "", "measured"); err != nil {
								b.Fatal(err)
							}
							return d
						}
						scheduled = time.Time{}
					}
				}
			}
			b.Fatal("no takeover")
			return 0
		}
	}
	b.Run("kill-rollout", func(b *testing.B) { report(b, activity("rollout", syscall.SIGKILL, false, false)) })
	b.Run("kill-rollout-named", func(b *testing.B) { report(b, activity("rollout", syscall.SIGKILL, true, false)) })
	b.Run("kill-train", func(b *testing.B) { report(b, activity("train", syscall.SIGKILL, false, true)) })
	b.Run("kill-train-named", func(b *testing.B) { report(b, activity("train", syscall.SIGKILL, true, true)) })
	b.Run("kill-cpu-between-tasks", func(b *testing.B) { report(b, task(syscall.SIGKILL, false)) })
	b.Run("kill-cpu-at-a-task", func(b *testing.B) { report(b, task(syscall.SIGKILL, true)) })
	b.Run("term-rollout-grace-2s", func(b *testing.B) { report(b, activity("rollout", syscall.SIGTERM, false, false)) })
	b.Run("term-cpu-between-tasks", func(b *testing.B) { report(b, task(syscall.SIGTERM, false)) })
}
