package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"
)

// ErrorWorker is the type of the error by which an attempt is given back for
// another worker to take: nothing is wrong with the activity.
const ErrorWorker = "Worker"

// again ends an attempt whose next one should start at once.
func again(format string, args ...any) error {
	return temporal.NewApplicationErrorWithOptions(fmt.Sprintf(format, args...), ErrorWorker,
		temporal.ApplicationErrorOptions{NextRetryDelay: time.Millisecond})
}

// attempts are the activities that a worker is at. As an interceptor it sees
// them come and go.
type attempts struct {
	interceptor.WorkerInterceptorBase
	name string
	log  zerolog.Logger

	mu      sync.Mutex
	running []*attempt
}

type attempt struct {
	token  []byte
	what   string
	cancel context.CancelFunc
}

func newAttempts(o Options) *attempts { return &attempts{name: o.Name, log: o.Log} }

// InterceptActivity implements interceptor.WorkerInterceptor.
func (a *attempts) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &counted{attempts: a}
	i.Next = next
	return i
}

type counted struct {
	interceptor.ActivityInboundInterceptorBase
	attempts *attempts
}

// ExecuteActivity implements interceptor.ActivityInboundInterceptor.
func (c *counted) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	info := activity.GetInfo(ctx)
	if info.IsLocalActivity {
		return c.Next.ExecuteActivity(ctx, in)
	}
	a := c.attempts
	server := ctx // ends when the server wants the attempt no more
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mine := &attempt{info.TaskToken, fmt.Sprintf("%s of run %s", info.ActivityType.Name, info.WorkflowExecution.ID), cancel}
	a.mu.Lock()
	a.running = append(a.running, mine)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.running = slices.DeleteFunc(a.running, func(r *attempt) bool { return r == mine })
	}()
	out, err := c.Next.ExecuteActivity(ctx, in)
	if err != nil && server.Err() != nil {
		why := "its heartbeats came too late, or its run has ended"
		if a.name != "" {
			why += ", or another worker was started under the name " + a.name
		}
		a.log.Warn().Str("activity", mine.what).Msg("taken from this worker while it ran: " + why)
	}
	return out, err
}

// giveBack ends the attempts that are still running, so that other workers take
// them at once instead of when their heartbeats are missed.
func (a *attempts) giveBack(c client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), margin)
	defer cancel()
	a.mu.Lock()
	running := slices.Clone(a.running)
	a.mu.Unlock()
	for _, r := range running {
		err := c.CompleteActivity(ctx, r.token, nil, again("worker %s was stopped; another one takes this over", cmp.Or(a.name, "here")))
		a.log.Info().AnErr("failure", err).Str("activity", r.what).Msg("given back")
		r.cancel()
	}
}

// takeBack ends the attempts that a predecessor of this worker's name had begun.
// The predecessor is dead: two live workers of one name take each other's work
// away, which costs time and changes no result.
func takeBack(c client.Client, o Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	request := &workflowservice.ListWorkflowExecutionsRequest{Namespace: o.Namespace, Query: "ExecutionStatus = 'Running'", PageSize: 1000}
	for {
		page, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return errors.Join(fmt.Errorf("list the runs of worker %s: %w", o.Name, err), group.Wait())
		}
		for _, e := range page.Executions {
			group.Go(func() error { return takeBackFrom(ctx, c, o, e.Execution.WorkflowId, e.Execution.RunId) })
		}
		if request.NextPageToken = page.NextPageToken; len(request.NextPageToken) == 0 {
			return group.Wait()
		}
	}
}

func takeBackFrom(ctx context.Context, c client.Client, o Options, id, run string) error {
	d, err := c.DescribeWorkflowExecution(ctx, id, run)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("describe run %s: %w", id, err)
	}
	for _, p := range d.PendingActivities {
		if p.LastWorkerIdentity != o.Name || p.State != enums.PENDING_ACTIVITY_STATE_STARTED {
			continue
		}
		err := c.CompleteActivityByID(ctx, cmp.Or(o.Namespace, client.DefaultNamespace), id, run, p.ActivityId, nil, again("worker %s was restarted", o.Name))
		if err != nil && !errors.As(err, &gone) { // not found: it has ended meanwhile
			return fmt.Errorf("take back %s of run %s: %w", p.ActivityType.GetName(), id, err)
		}
		o.Log.Info().Str("run", id).Str("activity", p.ActivityType.GetName()).Msg("taken back from a predecessor of the same name")
	}
	return nil
}
