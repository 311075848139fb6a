// Package worker assembles a worker process: which roles it plays, what it
// registers, how it starts and drains.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/workflows"
)

// Roles a worker can play. Each has a task queue of its own.
const (
	RoleCPU     = "cpu"     // workflows and short stages
	RoleRollout = "rollout" // generation
	RoleTrain   = "train"   // updates
)

// roleAll is what a worker with every role plays besides: runs that stay with it.
const roleAll = "all"

// Roles lists them all.
func Roles() []string { return []string{RoleCPU, RoleRollout, RoleTrain} }

// Options say what a worker is.
type Options struct {
	Roles     []string // of Roles; none means all
	Namespace string   // Temporal namespace, "" = default
	Rollouts  int      // rollout shards at once, and activities of runs on workflows.QueueAll; 0 = GOMAXPROCS
	Updates   int      // updates at once, of different experiments; 0 = 1
	Grace     time.Duration
	Log       zerolog.Logger
}

// Worker is a running set of Temporal workers, one per role and, with all roles, one for runs that stay with it.
type Worker struct {
	workers  []worker.Worker
	policies *activities.Policies
}

// Start connects the roles to their queues and begins to poll.
func Start(c client.Client, store datasets.Store, o Options) (*Worker, error) {
	if len(o.Roles) == 0 {
		o.Roles = Roles()
	}
	for _, r := range o.Roles {
		if !slices.Contains(Roles(), r) {
			return nil, fmt.Errorf("unknown role %q; there are %v", r, Roles())
		}
	}
	if o.Rollouts <= 0 {
		o.Rollouts = runtime.GOMAXPROCS(0)
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if slices.Contains(o.Roles, RoleCPU) {
		if err := registerAttributes(c, o.Namespace); err != nil {
			return nil, err
		}
	}
	w := &Worker{policies: activities.NewPolicies(store)}
	w.policies.Trainers = max(w.policies.Trainers, o.Updates)
	a := &activities.Activities{Store: store, Policies: w.policies, Scorer: &reward.Scorer{}, Log: o.Log}
	roles := slices.Compact(slices.Sorted(slices.Values(o.Roles)))
	if len(roles) == len(Roles()) {
		roles = append(roles, roleAll)
	}
	for _, role := range roles {
		options := worker.Options{WorkerStopTimeout: o.Grace}
		var tw worker.Worker
		switch role {
		case roleAll:
			// A poller holds a slot while it waits; an activity needs a free one to start without it.
			options.MaxConcurrentActivityTaskPollers, options.MaxConcurrentActivityExecutionSize = 1, o.Rollouts+1
			tw = worker.New(c, workflows.QueueAll, options)
			tw.RegisterWorkflow(workflows.Experiment)
			tw.RegisterWorkflow(workflows.Evaluate)
			tw.RegisterWorkflow(workflows.Sweep)
		case RoleCPU:
			tw = worker.New(c, workflows.QueueCPU, options)
			tw.RegisterWorkflow(workflows.Experiment)
			tw.RegisterWorkflow(workflows.Evaluate)
			tw.RegisterWorkflow(workflows.Sweep)
		case RoleRollout:
			options.MaxConcurrentActivityExecutionSize, options.DisableWorkflowWorker = o.Rollouts, true
			tw = worker.New(c, workflows.QueueRollout, options)
		case RoleTrain:
			options.MaxConcurrentActivityExecutionSize, options.DisableWorkflowWorker = max(1, o.Updates), true
			tw = worker.New(c, workflows.QueueTrain, options)
		}
		tw.RegisterActivity(a)
		if err := tw.Start(); err != nil {
			w.Stop()
			return nil, errors.Join(fmt.Errorf("start worker for role %s", role), err)
		}
		w.workers = append(w.workers, tw)
	}
	return w, nil
}

// registerAttributes makes the search attributes of experiments known to the
// namespace, where they are not yet.
func registerAttributes(c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	namespace = cmp.Or(namespace, client.DefaultNamespace)
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes of namespace %s: %w", namespace, err)
	}
	missing := map[string]enums.IndexedValueType{}
	for _, a := range workflows.Attributes() {
		if _, ok := known.CustomAttributes[a.GetName()]; !ok {
			missing[a.GetName()] = a.GetValueType()
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing}); err != nil {
		return fmt.Errorf("add search attributes to namespace %s: %w", namespace, err)
	}
	return nil
}

// Stop drains: it takes no new work, waits for what runs up to the grace time,
// and frees what the process holds.
func (w *Worker) Stop() {
	for _, tw := range slices.Backward(w.workers) {
		tw.Stop()
	}
	w.policies.Close()
}
