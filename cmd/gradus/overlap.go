package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// occupancy is what the workers of a run did in its training steps, in seconds.
type occupancy struct {
	Rollout float64 // busy drawing
	Train   float64 // busy masking and updating
	Wall    float64 // from the first rollout's request to the last update's end
}

// utilisation is the share of the time that a rollout worker and a train worker
// are busy.
func (o occupancy) utilisation() float64 { return (o.Rollout + o.Train) / (2 * o.Wall) }

// occupied reads a run's occupancy from its history.
func occupied(ctx context.Context, c client.Client, id string) (o occupancy, err error) {
	codec := converter.GetDefaultDataConverter()
	asked := map[int64]string{} // activities of the training, by event
	var begin, end time.Time
	for i := c.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		e, err := i.Next()
		if err != nil {
			return o, fmt.Errorf("read the history of %s: %w", id, err)
		}
		switch a := e.Attributes.(type) {
		case *historypb.HistoryEvent_ActivityTaskScheduledEventAttributes:
			s := a.ActivityTaskScheduledEventAttributes
			name := s.ActivityType.Name
			if name == "Rollout" {
				var in activities.RolloutInput
				if err := codec.FromPayloads(s.Input, &in); err != nil {
					return o, fmt.Errorf("read the history of %s: %w", id, err)
				}
				if in.Purpose != "train" {
					continue
				}
			} else if name != "Mask" && name != "Update" {
				continue
			}
			asked[e.EventId] = name
			if begin.IsZero() {
				begin = e.EventTime.AsTime()
			}
		case *historypb.HistoryEvent_ActivityTaskCompletedEventAttributes:
			r := a.ActivityTaskCompletedEventAttributes
			name, ok := asked[r.ScheduledEventId]
			if !ok {
				continue
			}
			var out activities.Output
			if err := codec.FromPayloads(r.Result, &out); err != nil {
				return o, fmt.Errorf("read the history of %s: %w", id, err)
			}
			end = e.EventTime.AsTime()
			if name == "Rollout" {
				o.Rollout += out.Seconds
			} else {
				o.Train += out.Seconds
			}
		}
	}
	o.Wall = end.Sub(begin).Seconds()
	return o, nil
}

// overlapSteps is how many steps a run of benchOverlap has.
const overlapSteps = 30

// benchOverlap trains from one start with max_staleness 0, 1 and 2, on a rollout
// worker and a train worker that do one thing at a time. What is drawn ahead is
// to be no worse than the sequential run, which is the goal of the others.
func (t *target) benchOverlap(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	log, file, err := t.fileLog()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c, err := t.connect(ctx, true, progress, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, role := range worker.Roles() {
		w, err := worker.Start(c.client, c.store, worker.Options{Roles: []string{role}, Rollouts: 1, Namespace: t.namespace, Log: log})
		if err != nil {
			return nil, err
		}
		defer w.Stop()
	}
	when := stamp()
	train := func(name string, pairs ...string) (*workflows.Result, string, error) {
		given, err := planInput("grpo", append(pairs, "seed=1", "reuse=false", "prompts_per_step=64", "rollout_shards=1"))
		if err != nil {
			return nil, "", err
		}
		run, err := launch(ctx, c.client, workflows.QueueCPU, "overlap-"+when+"-"+name, given)
		if err != nil {
			return nil, "", err
		}
		r, err := follow(ctx, c, run.GetID(), progress)
		return r, run.GetID(), err
	}
	start, _, err := train("start", "steps=0")
	if err != nil {
		return nil, err
	}
	var base struct{ utilisation, seconds, pass float64 }
	for k := range 3 {
		r, id, err := train(fmt.Sprint(k), fmt.Sprintf("steps=%d", overlapSteps), fmt.Sprintf("max_staleness=%d", k), "learning.shards=1", "policy="+start.Policy.String())
		if err != nil {
			return nil, err
		}
		o, err := occupied(ctx, c.client, id)
		if err != nil {
			return nil, err
		}
		utilisation, seconds, pass := o.utilisation(), o.Wall/overlapSteps, r.After.All.PassAt1
		if k == 0 {
			base.utilisation, base.seconds, base.pass = utilisation, seconds, pass
		}
		figures = append(figures,
			atLeast(fmt.Sprint("overlap/utilisation-", k), utilisation, "of two", base.utilisation),
			atMost(fmt.Sprint("overlap/step-", k), seconds, "s", base.seconds),
			atMost(fmt.Sprint("overlap/rollout-", k), o.Rollout/overlapSteps, "s/step", seconds),
			atMost(fmt.Sprint("overlap/train-", k), o.Train/overlapSteps, "s/step", seconds),
			atLeast(fmt.Sprint("overlap/pass-at-1-", k), pass, "held out", base.pass-0.05),
		)
	}
	return figures, nil
}
