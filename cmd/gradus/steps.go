package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/simulate"
	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// site is a local stack in a folder of its own, with a worker whose model takes no time.
type site struct {
	dir    string
	stack  *stack.Stack
	client client.Client
	store  datasets.Store
	worker *worker.Worker
}

// open starts the stack, and with it the client.
func (s *site) open(ctx context.Context, progress io.Writer) error {
	started, err := stack.Start(ctx, stack.Options{Dir: s.dir, Progress: progress})
	if err != nil {
		return err
	}
	s.stack = started
	if s.store, err = s.stack.OpenStore(ctx); err == nil {
		s.client, err = client.DialContext(ctx, client.Options{HostPort: s.stack.Temporal, Namespace: s.stack.Namespace, Logger: worker.Logger(zerolog.Nop())})
	}
	if err != nil {
		return errors.Join(err, s.stack.Stop())
	}
	return nil
}

// work starts the worker.
func (s *site) work(roles ...string) (err error) {
	s.worker, err = worker.Start(s.client, s.store, worker.Options{
		Roles: roles, Namespace: s.stack.Namespace, Open: new(simulate.Instant).Open, Verify: simulate.Lookup, Log: zerolog.Nop(),
	})
	return err
}

// close stops the worker and the stack.
func (s *site) close() error {
	if s.worker != nil {
		s.worker.Stop()
		s.worker = nil
	}
	s.client.Close()
	return s.stack.Stop()
}

// status asks a run where it stands; a run that cannot answer yet is asked again.
func (s *site) status(ctx context.Context, id string) (workflows.Status, error) {
	var status workflows.Status
	for {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		v, err := s.client.QueryWorkflow(ask, id, "", workflows.QueryStatus)
		cancel()
		if err == nil {
			return status, v.Get(&status)
		}
		select {
		case <-ctx.Done():
			return status, errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reach waits until a run has done that many steps, or is over.
func (s *site) reach(ctx context.Context, id string, step int, every time.Duration) (workflows.Status, error) {
	for {
		status, err := s.status(ctx, id)
		if err != nil || status.Step >= step || status.Phase == "finished" {
			return status, err
		}
		select {
		case <-ctx.Done():
			return status, ctx.Err()
		case <-time.After(every):
		}
	}
}

// instantPlan is a plan whose stages have next to nothing to do.
func instantPlan(pairs ...string) (map[string]json.RawMessage, error) {
	return planInput("grpo", append([]string{
		"seed=1", "levels=[1]", "problems_per_level=64", "model.hidden_size=8", "model.intermediate_size=8", "model.num_hidden_layers=1",
		"model.num_attention_heads=1", "model.num_key_value_heads=1", "warmup.max_steps=0", "max_completion_length=8",
		"evaluation.problems_per_level=2", "evaluation.num_generations=2", "reuse=false",
	}, pairs...))
}

// resident is what worker and server hold at some step.
type resident struct{ step, worker, server float64 }

// benchSteps runs a long experiment whose stages take no time, and says what a
// step leaves behind, in the history, in memory and in the store, and what it
// takes to go on after a restart early and late in the run.
func benchSteps(ctx context.Context, steps int, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "gradus-steps-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	if err := s.open(ctx, progress); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, s.close(), os.RemoveAll(dir)) }()
	if err := s.work(); err != nil {
		return nil, err
	}
	given, err := instantPlan(fmt.Sprint("steps=", steps), "prompts_per_step=2", "num_generations=2", "evaluation.every=50")
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	run, err := launch(ctx, s.client, workflows.QueueAll, "steps", given)
	if err != nil {
		return nil, err
	}
	var held []resident
	var half, all counted
	resumed := map[string][]float64{}
	fmt.Fprintln(progress, "    step  seconds  worker MB  server MB  database MB")
	for part := 1; part <= 100; part++ {
		status, err := s.reach(ctx, run.GetID(), steps*part/100, 200*time.Millisecond)
		if err != nil {
			return nil, err
		}
		m := resident{float64(status.Step), memoryMB(os.Getpid(), "VmRSS"), memoryMB(s.stack.PID, "VmRSS")}
		if part > 20 && part < 90 { // caches are full, and nothing is restarted
			held = append(held, m)
		}
		if part%10 == 0 {
			fmt.Fprintf(progress, "%8d  %7.0f  %9.1f  %9.1f  %11.1f\n", status.Step, time.Since(begin).Seconds(), m.worker, m.server, s.database())
		}
		if part == 50 {
			if half, err = s.count(ctx, status.Step); err != nil {
				return nil, err
			}
		}
		if when := map[int]string{10: "early", 90: "late"}[part]; when != "" {
			for range 3 {
				for name, server := range map[string]bool{"worker": false, "server": true} {
					took, err := s.restart(ctx, run.GetID(), server, progress)
					if err != nil {
						return nil, err
					}
					name += "-" + when
					resumed[name] = append(resumed[name], took)
					fmt.Fprintf(progress, "resumed in %.2f s: %s\n", took, name)
				}
			}
		}
	}
	var result workflows.Result
	if err := s.client.GetWorkflow(ctx, run.GetID(), "").Get(ctx, &result); err != nil {
		return nil, err
	}
	seconds := time.Since(begin).Seconds()
	if all, err = s.count(ctx, result.Steps); err != nil {
		return nil, err
	}
	parts, err := executions(ctx, s.client, run.GetID(), run.GetRunID())
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(progress, "history  steps  events/step  bytes/step")
	for i, p := range parts {
		if i%max(1, len(parts)/10) == 0 || i == len(parts)-1 {
			fmt.Fprintf(progress, "%7d  %5.0f  %11.1f  %10.0f\n", i, p.steps, p.events/p.steps, p.bytes/p.steps)
		}
	}
	full := parts[:max(1, len(parts)-1)] // the last one ends where the run does
	most := func(of func(stretch) float64) float64 {
		return of(slices.MaxFunc(full, func(a, b stretch) int { return cmp.Compare(of(a), of(b)) }))
	}
	events, bytes := func(e stretch) float64 { return e.events / e.steps }, func(e stretch) float64 { return e.bytes / e.steps }
	first, last := full[0], full[len(full)-1]
	late := float64(all.steps - half.steps)
	return []figure{
		atMost("steps/history-events", most(events), "events/step", 60),
		atMost("steps/history-bytes", most(bytes), "bytes/step", 10240),
		atMost("steps/history-growth", bytes(last)/bytes(first), "last to first", 1.1),
		atMost("steps/worker-memory", slope(held, func(m resident) float64 { return m.worker }), "KB/step", 1),
		atMost("steps/server-memory", slope(held, func(m resident) float64 { return m.server }), "KB/step", 1),
		atMost("steps/objects", float64(all.objects-half.objects)/late, "objects/step", 40),
		atMost("steps/objects-growth", float64(all.objects-half.objects)/late/(float64(half.objects)/float64(half.steps)), "late to early", 1.1),
		atMost("steps/stored", float64(all.bytes-half.bytes)/late/1e3, "KB/step", 100),
		atMost("steps/resume-worker-early", median(resumed["worker-early"]), "s", 15),
		atMost("steps/resume-worker-late", median(resumed["worker-late"]), "s", 15),
		atMost("steps/resume-server-early", median(resumed["server-early"]), "s", 15),
		atMost("steps/resume-server-late", median(resumed["server-late"]), "s", 15),
		atMost("steps/per-step", 1000*seconds/float64(result.Steps), "ms", 200),
	}, nil
}

// restart stops the worker, and with server the servers, and returns the seconds
// from the worker's start to the run's next step.
func (s *site) restart(ctx context.Context, id string, server bool, progress io.Writer) (float64, error) {
	status, err := s.status(ctx, id)
	if err != nil {
		return 0, err
	}
	s.worker.Stop()
	if server {
		s.worker = nil
		if err := s.close(); err != nil {
			return 0, err
		}
		if err := s.open(ctx, progress); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	if err := s.work(); err != nil {
		return 0, err
	}
	// A step may have ended while the worker drained, so two more say that it goes on.
	_, err = s.reach(ctx, id, status.Step+2, 10*time.Millisecond)
	return time.Since(begin).Seconds(), err
}

// counted is what the store holds after some steps.
type counted struct {
	steps, objects int
	bytes          int64
}

func (s *site) count(ctx context.Context, steps int) (counted, error) {
	found, err := s.store.List(ctx, "")
	c := counted{steps: steps, objects: len(found)}
	for _, o := range found {
		c.bytes += o.Bytes
	}
	return c, err
}

// database is the size of the server's database in MB.
func (s *site) database() float64 {
	total := 0.0
	files, _ := filepath.Glob(filepath.Join(s.stack.Dir, "temporal.db*")) // the pattern is a good one
	for _, f := range files {
		if i, err := os.Stat(f); err == nil {
			total += float64(i.Size()) / 1e6
		}
	}
	return total
}

// stretch is what one part of a run, between two renewals of its history, has left there.
type stretch struct{ steps, events, bytes float64 }

// executions are the parts of a run, first to last.
func executions(ctx context.Context, c client.Client, id, first string) ([]stretch, error) {
	var out []stretch
	for part := first; part != ""; {
		e, err := history(ctx, c, id, part)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		closing, err := c.GetWorkflowHistory(ctx, id, part, false, enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT).Next()
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		part = closing.GetWorkflowExecutionContinuedAsNewEventAttributes().GetNewExecutionRunId()
	}
	return out, nil
}

// slope is the growth of a quantity in MB, by least squares, in KB per step.
func slope(held []resident, of func(resident) float64) float64 {
	var x, y, xx, xy float64
	for _, m := range held {
		x, y, xx, xy = x+m.step, y+of(m), xx+m.step*m.step, xy+m.step*of(m)
	}
	n := float64(len(held))
	return 1000 * (n*xy - x*y) / (n*xx - x*x)
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
