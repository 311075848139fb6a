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
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

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
	RoleAll     = "all"     // every role, and runs that stay with their worker
)

// Roles lists the single ones.
func Roles() []string { return []string{RoleCPU, RoleRollout, RoleTrain} }

// Options say what a worker is.
type Options struct {
	Roles     []string // of Roles, or RoleAll; none means all
	Name      string   // stable name, which no other live worker has: what a predecessor of this name left behind is taken back at the start; "" = process and host
	Namespace string   // Temporal namespace, "" = default
	Rollouts  int      // rollout shards at once, and activities of runs on workflows.QueueAll; 0 = GOMAXPROCS
	Updates   int      // updates at once, of different experiments; 0 = 1
	Grace     time.Duration
	Stall     time.Duration // how long a stage may make no progress before it is given up; 0 = activities.DefaultStall
	Idle      time.Duration // after which an unused engine is freed; 0 = activities.DefaultIdle

	CacheMemory int64  // bytes of policies kept in memory; 0 = activities.DefaultMemory
	CacheDir    string // folder for policies, which workers may share; "" = none
	CacheSize   int64  // bytes that the folder may hold; 0 = DefaultCacheSize

	Deployment string // worker deployment of Temporal that the worker belongs to; used with BuildID
	BuildID    string // version of the worker within the deployment; "" = not versioned
	Versioning string // Pinned or AutoUpgrade; "" = Pinned

	Remote activities.Remote // how rollouts are drawn elsewhere

	Open   func(spec string) (activities.Backend, error) // what computes with policies; nil = activities.OpenModels
	Verify func(name string) (reward.Verifier, error)    // nil = reward.ByName

	Log zerolog.Logger
}

// How runs behave on versioned workers.
const (
	Pinned      = "pinned"       // a run ends, or renews its history, on the version it started on
	AutoUpgrade = "auto-upgrade" // a run goes over to the current version with its next workflow task
)

// DefaultCacheSize bounds the folder of policies, in bytes.
const DefaultCacheSize = 20 << 30

// sticky is how long a run's next task waits for the worker that has its state
// in memory. After it any worker rebuilds the state, which takes milliseconds.
const sticky = time.Second

// margin is how long a stopping worker may take to report what it gave back.
const margin = 2 * time.Second

// deployment is the worker's version for the server.
func (o Options) deployment() (d worker.DeploymentOptions, err error) {
	behaviours := map[string]workflow.VersioningBehavior{
		"": workflow.VersioningBehaviorPinned, Pinned: workflow.VersioningBehaviorPinned, AutoUpgrade: workflow.VersioningBehaviorAutoUpgrade,
	}
	behaviour, known := behaviours[o.Versioning]
	switch {
	case !known:
		return d, fmt.Errorf("versioning is %q; it must be %s or %s", o.Versioning, Pinned, AutoUpgrade)
	case o.BuildID == "" && o.Versioning != "":
		return d, errors.New("versioning needs a build ID")
	case o.BuildID == "":
		return d, nil
	case o.Deployment == "":
		return d, errors.New("a build ID needs the name of its deployment")
	}
	return worker.DeploymentOptions{
		UseVersioning: true, DefaultVersioningBehavior: behaviour,
		Version: worker.WorkerDeploymentVersion{DeploymentName: o.Deployment, BuildID: o.BuildID},
	}, nil
}

// Worker is a running set of Temporal workers, one per role and, with all roles, one for runs that stay with it.
type Worker struct {
	client   client.Client
	workers  []worker.Worker
	policies *activities.Policies
	attempts *attempts
	cache    *datasets.Cache // nil without a folder
	options  Options
	hung     chan error
}

// Hung receives an error when stages of this process hang: only its end frees
// what they hold.
func (w *Worker) Hung() <-chan error { return w.hung }

// Start takes back what a predecessor of the same name left behind, connects the
// roles to their queues and begins to poll.
func Start(c client.Client, store datasets.Store, o Options) (*Worker, error) {
	if len(o.Roles) == 0 || slices.Contains(o.Roles, RoleAll) {
		o.Roles = Roles()
	}
	for _, r := range o.Roles {
		if !slices.Contains(Roles(), r) {
			return nil, fmt.Errorf("unknown role %q; there are %v and %s", r, Roles(), RoleAll)
		}
	}
	deployment, err := o.deployment()
	if err != nil {
		return nil, err
	}
	if o.Rollouts <= 0 {
		o.Rollouts = runtime.GOMAXPROCS(0)
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.Remote, err = activities.NewRemote(o.Remote); err != nil {
		return nil, err
	}
	if o.Open == nil {
		o.Open = activities.OpenModels
	}
	if slices.Contains(o.Roles, RoleCPU) {
		if err := registerAttributes(c, o.Namespace); err != nil {
			return nil, err
		}
	}
	w := &Worker{client: c, attempts: newAttempts(o), options: o, hung: make(chan error, 1)}
	policies := store
	if o.CacheDir != "" {
		if w.cache, err = datasets.NewCache(store, o.CacheDir, cmp.Or(o.CacheSize, DefaultCacheSize)); err != nil {
			return nil, err
		}
		policies = w.cache
	}
	if o.Name != "" {
		if err := takeBack(c, o); err != nil {
			o.Log.Warn().Err(err).Msg("what a predecessor was at waits for its heartbeat timeout")
		}
	}
	w.policies = activities.NewPoliciesOn(policies, o.Open)
	w.policies.Memory, w.policies.Idle = cmp.Or(o.CacheMemory, w.policies.Memory), cmp.Or(o.Idle, w.policies.Idle)
	w.policies.Trainers = max(w.policies.Trainers, o.Updates)
	a := &activities.Activities{Store: store, Policies: w.policies, Scorer: &reward.Scorer{Lookup: o.Verify}, Remote: o.Remote, Log: o.Log, Stall: o.Stall, Hung: func(err error) {
		select {
		case w.hung <- err:
		default: // said before
		}
	}}
	roles := slices.Compact(slices.Sorted(slices.Values(o.Roles)))
	if len(roles) == len(Roles()) {
		roles = append(roles, RoleAll)
	}
	for _, role := range roles {
		options := worker.Options{
			Identity: o.Name, WorkerStopTimeout: o.Grace + margin, DeploymentOptions: deployment,
			StickyScheduleToStartTimeout: sticky,
			MaxHeartbeatThrottleInterval: time.Second, // the activities' own pulse is what counts
			Interceptors:                 []interceptor.WorkerInterceptor{w.attempts},
		}
		var tw worker.Worker
		switch role {
		case RoleAll:
			// A poller holds a slot while it waits; an activity needs a free one to start without it.
			options.MaxConcurrentActivityTaskPollers, options.MaxConcurrentActivityExecutionSize = 1, o.Rollouts+1
			tw = worker.New(c, workflows.QueueAll, options)
			tw.RegisterWorkflow(workflows.Experiment)
			tw.RegisterWorkflow(workflows.Evaluate)
			tw.RegisterWorkflow(workflows.Sweep)
			tw.RegisterWorkflow(workflows.Prepare)
		case RoleCPU:
			tw = worker.New(c, workflows.QueueCPU, options)
			tw.RegisterWorkflow(workflows.Experiment)
			tw.RegisterWorkflow(workflows.Evaluate)
			tw.RegisterWorkflow(workflows.Sweep)
			tw.RegisterWorkflow(workflows.Prepare)
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
// gives back what does not end by then, and frees what the process holds.
func (w *Worker) Stop() {
	late := time.AfterFunc(w.options.Grace, func() { w.attempts.giveBack(w.client) })
	defer late.Stop()
	var stopped sync.WaitGroup
	for _, tw := range w.workers {
		stopped.Go(tw.Stop)
	}
	stopped.Wait()
	w.policies.Close()
	loads := w.policies.Loads()
	event := w.options.Log.Info().Int64("memory", loads.Memory).Int64("loaded", loads.Loaded)
	if w.cache != nil {
		hits, misses := w.cache.Hits()
		event = event.Int64("files_from_disk", hits).Int64("files_from_store", misses)
	}
	event.Msg("policies")
}
