package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
)

func devCommand(t *target) *cobra.Command {
	var remote activities.Remote
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Start the local stack with a worker, and stay up until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if s, err := stack.Attach(t.dir); err == nil {
				return fmt.Errorf("a stack runs on %s already (process %d, UI %s)", t.dir, s.PID, s.UI)
			} else if !errors.Is(err, stack.ErrNotRunning) {
				return err
			}
			log, file, err := t.fileLog()
			if err != nil {
				return err
			}
			defer file.Close()
			c, err := t.connect(ctx, true, cmd.ErrOrStderr(), log)
			if err != nil {
				return err
			}
			failures := &zerolog.FilteredLevelWriter{Level: zerolog.ErrorLevel, Writer: zerolog.LevelWriterAdapter{
				Writer: zerolog.ConsoleWriter{Out: cmd.ErrOrStderr(), NoColor: true},
			}}
			remote.Client = &openai.Client{Key: os.Getenv(rolloutKey)}
			w, err := worker.Start(c.client, c.store, worker.Options{Name: "dev", Namespace: t.namespace, Remote: remote, Log: log.Output(zerolog.MultiLevelWriter(file, failures))})
			if err != nil {
				return errors.Join(err, c.Close())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Temporal UI  %s\nTemporal     %s\nstore        %s\nstate        %s\n\ntry: gradus run grpo --steps 20\n",
				c.ui, c.stack.Temporal, c.stack.Store, t.dir)
			err = c.watch(ctx, w.Hung(), cmd.ErrOrStderr())
			w.Stop()
			return errors.Join(err, c.Close())
		},
	}
	remoteFlags(cmd, &remote)
	return cmd
}

// remoteFlags are how a worker deals with servers that draw rollouts.
func remoteFlags(cmd *cobra.Command, r *activities.Remote) {
	f := cmd.Flags()
	f.StringVar(&r.Refresh, "refresh", activities.RefreshGradus, "how servers that draw rollouts get new weights: gradus, sglang, vllm or hook")
	f.StringVar(&r.Folder, "weights-dir", "", "folder that those servers can read, where policies are written for them")
	f.StringVar(&r.Hook, "refresh-hook", "", "command that has the server at $GRADUS_ENDPOINT serve $GRADUS_FOLDER, version $GRADUS_VERSION")
}

// watch waits for the end of ctx or of the stack, or for stages that hang, and tells of a full disk.
func (c *connection) watch(ctx context.Context, hung <-chan error, out io.Writer) error {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	full := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-hung:
			return err
		case <-c.stack.Done():
			return errors.New("the local stack ended by itself; see temporal.log in the state folder")
		case <-tick.C:
			err := c.checkSpace()
			if err != nil && !full {
				fmt.Fprintln(out, err)
			}
			full = err != nil
		}
	}
}

// rolloutKey is the environment variable of the key that servers of rollouts are given.
const rolloutKey = "GRADUS_ROLLOUT_KEY"

func workerCommand(t *target) *cobra.Command {
	var o worker.Options
	var memory, size string
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker until Ctrl-C or SIGTERM, which drain it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			for _, bytes := range []struct {
				flag, given string
				to          *int64
			}{{"--cache-memory", memory, &o.CacheMemory}, {"--cache-size", size, &o.CacheSize}} {
				n, err := humanize.ParseBytes(bytes.given)
				if err != nil || n == 0 || n > math.MaxInt64 {
					return fmt.Errorf("%s is %q; it must be a size such as 20GiB", bytes.flag, bytes.given)
				}
				*bytes.to = int64(n)
			}
			o.Remote.Client = &openai.Client{Key: os.Getenv(rolloutKey)}
			o.Log = zerolog.New(cmd.ErrOrStderr()).With().Timestamp().Logger()
			c, err := t.connect(ctx, false, cmd.ErrOrStderr(), o.Log.Level(zerolog.WarnLevel))
			if err != nil {
				return err
			}
			o.Namespace = t.namespace
			w, err := worker.Start(c.client, c.store, o)
			if err != nil {
				return errors.Join(err, c.Close())
			}
			o.Log.Info().Str("name", o.Name).Strs("roles", o.Roles).Msg("working")
			select {
			case <-ctx.Done():
			case err = <-w.Hung():
			}
			o.Log.Info().Msg("draining")
			w.Stop()
			return errors.Join(err, c.Close())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Roles, "role", []string{worker.RoleAll}, "what the worker does: cpu, rollout, train, or all")
	f.StringVar(&o.Name, "name", "", "name that no other live worker has; what the last one of this name left behind is taken up at once (default: process and host)")
	f.IntVar(&o.Rollouts, "rollouts", 0, "rollout shards at once (default: number of CPUs)")
	f.DurationVar(&o.Grace, "grace", 10*time.Second, "how long a stopping worker may finish what it runs; then it gives it back")
	f.DurationVar(&o.Stall, "progress-timeout", activities.DefaultStall, "how long a stage may make no progress before it is tried again, here or elsewhere; a worker in which 3 hang ends")
	f.DurationVar(&o.Idle, "idle", activities.DefaultIdle, "after which an unused model leaves the accelerator")
	f.StringVar(&memory, "cache-memory", "2GiB", "policies kept in memory")
	f.StringVar(&o.CacheDir, "cache-dir", "", "folder that keeps policies; workers of one host may share it (default: none)")
	f.StringVar(&size, "cache-size", "20GiB", "bound of that folder")
	remoteFlags(cmd, &o.Remote)
	f.StringVar(&o.Deployment, "deployment", "gradus", "worker deployment of a worker with a build ID")
	f.StringVar(&o.BuildID, "build-id", "", "version of the worker in its deployment (default: not versioned)")
	f.StringVar(&o.Versioning, "versioning", "", "what a run does when another version becomes current: pinned stays, auto-upgrade goes over (default: pinned)")
	return cmd
}

func workersCommand(t *target) *cobra.Command {
	cmd := family("workers", "Versions of workers")
	var deployment string
	promote := &cobra.Command{
		Use:   "promote [BUILD]",
		Short: "Make a build the current version, which takes new runs; without BUILD, workers that have none take them",
		Args:  cobra.MaximumNArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			build, what := "", "workers without a build are"
			if len(args) > 0 {
				build, what = args[0], fmt.Sprintf("build %s is", args[0])
			}
			_, err := c.client.WorkerDeploymentClient().GetHandle(deployment).SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
			if err != nil {
				return fmt.Errorf("promote build %q of deployment %s: %w", build, deployment, err)
			}
			if err := routed(ctx, c.client, t.namespace, deployment); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s current\n", deployment, what)
			return nil
		}),
	}
	promote.Flags().StringVar(&deployment, "deployment", "gradus", "worker deployment")
	cmd.AddCommand(promote)
	return cmd
}

// routed waits until every task queue knows which version of a deployment is
// current: until then the server may still hand a new run to the version before.
func routed(ctx context.Context, c client.Client, namespace, deployment string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		d, err := c.WorkflowService().DescribeWorkerDeployment(ctx, &workflowservice.DescribeWorkerDeploymentRequest{
			Namespace: namespace, DeploymentName: deployment,
		})
		if err != nil {
			return fmt.Errorf("describe deployment %s, whose current version was set: %w", deployment, err)
		}
		if d.WorkerDeploymentInfo.GetRoutingConfigUpdateState() != enums.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the current version of deployment %s is set, but not every task queue knows it yet: %w", deployment, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// listRuns prints the experiments the server knows, newest first.
func listRuns(ctx context.Context, c client.Client, out io.Writer) error {
	r, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType IN ('Experiment', 'Sweep')", PageSize: 100})
	if err != nil {
		return fmt.Errorf("list runs: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tSTATUS\tSTARTED")
	for _, e := range r.Executions {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Execution.WorkflowId, e.Status, e.StartTime.AsTime().Local().Format(time.DateTime))
	}
	return w.Flush()
}
