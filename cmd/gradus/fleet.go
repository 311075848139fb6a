package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/simulate"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// recorded is how long shards of real rollouts took, as fleet.json tells.
//
//go:embed fleet.json
var recordedJSON []byte

// quantiles are pairs of a probability and the value below which that share lies, ascending.
type quantiles [][2]float64

// at is the value at probability u, between recorded ones by a straight line.
func (q quantiles) at(u float64) float64 {
	i := 1 + slices.IndexFunc(q[1:len(q)-1], func(p [2]float64) bool { return p[0] >= u })
	if i == 0 {
		i = len(q) - 1
	}
	a, b := q[i-1], q[i]
	return a[1] + (b[1]-a[1])*(u-a[0])/(b[0]-a[0])
}

// fleetOptions say what fleet is simulated.
type fleetOptions struct {
	workers, shards, steps int
	median                 time.Duration // of a shard's time
	factor                 float64       // of speculate
}

// fleet is simulated rollout workers: what they draw comes at once, and then they
// wait for as long as a real worker might have taken. A shard's work is a function
// of the shard; how slow a worker is at it differs between the tries.
type fleet struct {
	work, slowness quantiles
	median         time.Duration

	mu     sync.Mutex
	tries  map[uint64]int
	shards int           // drawn to the end
	busy   time.Duration // of all workers
	due    time.Duration // of all shards' first tries, by the recorded distribution
	most   time.Duration // of the longest of them
}

func (f *fleet) open(string) (activities.Backend, error) {
	return fleetBackend{Instant: new(simulate.Instant), fleet: f}, nil
}

type fleetBackend struct {
	*simulate.Instant
	fleet *fleet
}

func (b fleetBackend) NewEngine(c policy.Config) (activities.Engine, error) {
	e, err := b.Instant.NewEngine(c)
	return fleetEngine{e, b.fleet}, err
}

type fleetEngine struct {
	activities.Engine
	fleet *fleet
}

// Generate takes its time, unless it is told to stop.
func (e fleetEngine) Generate(ctx context.Context, prompts []policy.Prompt, s policy.Sampling, progress func(done, total int)) ([]policy.Completion, error) {
	if len(prompts) < fleetTries { // of an evaluation, which does not count
		return e.Engine.Generate(ctx, prompts, s, progress)
	}
	f, shard := e.fleet, prompts[0].Stream
	f.mu.Lock()
	try := f.tries[shard]
	f.tries[shard]++
	unit := func(name string, try int) float64 { return float64(datasets.Stream(shard, name, try)>>11) / (1 << 53) }
	took := time.Duration(float64(f.median) * f.work.at(unit("work", 0)) * f.slowness.at(unit("slowness", try)))
	if try == 0 {
		f.due += took
		f.most = max(f.most, took)
	}
	f.mu.Unlock()
	begin := time.Now()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy += time.Since(begin)
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(took):
	}
	f.mu.Lock()
	f.shards++
	f.mu.Unlock()
	return e.Engine.Generate(ctx, prompts, s, progress)
}

// fleetTries is the completions of a shard of the training; one of an evaluation has fewer.
const fleetTries = 4

// benchFleet runs steps of an experiment whose rollouts many simulated workers
// share, without and with a second issue of overdue shards.
func benchFleet(ctx context.Context, o fleetOptions, progress io.Writer) (figures []figure, err error) {
	var times struct {
		Source         string
		Work, Slowness quantiles
	}
	if err := json.Unmarshal(recordedJSON, &times); err != nil {
		return nil, fmt.Errorf("fleet.json: %w", err)
	}
	dir, err := os.MkdirTemp("", "gradus-fleet-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	if err := s.open(ctx, progress); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, s.close(), os.RemoveAll(dir)) }()
	if err := s.work(worker.RoleCPU, worker.RoleTrain); err != nil {
		return nil, err
	}
	f := &fleet{work: times.Work, slowness: times.Slowness, median: o.median}
	var workers sync.WaitGroup
	defer workers.Wait()
	for range o.workers {
		w, err := worker.Start(s.client, s.store, worker.Options{Roles: []string{worker.RoleRollout}, Rollouts: 1, Open: f.open, Log: zerolog.Nop()})
		if err != nil {
			return nil, err
		}
		defer workers.Go(w.Stop)
	}
	fmt.Fprintf(progress, "%d workers, %d shards a step, the median shard takes %v; %s\n", o.workers, o.shards, o.median, times.Source)
	fmt.Fprintln(progress, "speculate  step  seconds  at best  longest shard  shards/s  utilisation  reissued")
	for _, factor := range []float64{0, o.factor} {
		var seconds, best, longest, busy, events, bytes float64
		shards, reissued := 0, 0
		for step := range o.steps {
			f.mu.Lock()
			f.tries, f.shards, f.busy, f.due, f.most = map[uint64]int{}, 0, 0, 0, 0
			f.mu.Unlock()
			given, err := instantPlan("steps=1", fmt.Sprint("seed=", step+1), fmt.Sprint("rollout_shards=", o.shards), fmt.Sprint("prompts_per_step=", o.shards),
				fmt.Sprint("num_generations=", fleetTries), fmt.Sprint("speculate=", factor))
			if err != nil {
				return nil, err
			}
			run, err := launch(ctx, s.client, workflows.QueueCPU, fmt.Sprintf("fleet-%g-%d", factor, step), given)
			if err != nil {
				return nil, err
			}
			var r workflows.Result
			if err := run.Get(ctx, &r); err != nil {
				return nil, err
			}
			h, err := history(ctx, s.client, run.GetID(), "")
			if err != nil {
				return nil, err
			}
			events, bytes = events+h.events, bytes+h.bytes
			f.mu.Lock()
			// No schedule is shorter than its longest shard, or than all work spread evenly.
			bound := max(f.most, f.due/time.Duration(o.workers)).Seconds()
			fmt.Fprintf(progress, "%9g  %4d  %7.1f  %7.1f  %13.1f  %8.1f  %10.1f%%  %8d\n", factor, step, r.TrainSeconds, bound, f.most.Seconds(),
				float64(o.shards)/r.TrainSeconds, 100*f.busy.Seconds()/r.TrainSeconds/float64(o.workers), r.Reissued)
			seconds, best, longest, busy = seconds+r.TrainSeconds, best+bound, longest+f.most.Seconds(), busy+f.busy.Seconds()
			shards, reissued = shards+o.shards, reissued+r.Reissued
			f.mu.Unlock()
		}
		name := "fleet/"
		if factor > 0 {
			name += "speculate/"
		}
		figures = append(figures,
			atLeast(name+"shards-per-second", float64(shards)/seconds, "shards/s", 4),
			atLeast(name+"utilisation", busy/seconds/float64(o.workers), "of workers", 0.25),
			atMost(name+"critical-path", longest/seconds, "of step time", 1),
			atMost(name+"step-over-best", seconds/best, "times", 1.5),
			atMost(name+"reissued", float64(reissued)/float64(shards), "of shards", 0.5),
			atMost(name+"history-events", events/float64(shards), "events/shard", 8),
			atMost(name+"history-bytes", bytes/float64(shards), "bytes/shard", 2000),
		)
	}
	return figures, nil
}
