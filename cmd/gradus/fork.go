package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// execution is what the server knows of a run: whether it is going on, and its
// task queue, that of new runs where it knows nothing.
func (c *connection) execution(ctx context.Context, id string) (running bool, queue string, err error) {
	d, err := c.client.DescribeWorkflowExecution(ctx, id, "")
	var unknown *serviceerror.NotFound
	if errors.As(err, &unknown) {
		return false, workflows.QueueCPU, nil
	}
	if err != nil {
		return false, "", fmt.Errorf("ask for run %s: %w", id, err)
	}
	return d.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_RUNNING, d.ExecutionConfig.GetTaskQueue().GetName(), nil
}

// goOn starts a run that goes on from a recorded step. All is checked here
// first, as launch does.
func (c *connection) goOn(ctx context.Context, queue, id string, from recipes.Origin, changes map[string]json.RawMessage) (client.WorkflowRun, recipes.Plan, error) {
	given := maps.Clone(changes)
	if given == nil {
		given = map[string]json.RawMessage{}
	}
	var none recipes.Plan
	var err error
	if given["fork"], err = json.Marshal(from); err != nil {
		return nil, none, err
	}
	raw, err := json.Marshal(given)
	if err != nil {
		return nil, none, err
	}
	opened, _, err := activities.Resolve(ctx, c.store, activities.OpenInput{Run: id, Given: raw})
	if err != nil {
		return nil, none, err
	}
	run, err := start(ctx, c.client, "Experiment", queue, id, fmt.Sprintf("%s, %d steps, seed %d, from %s", opened.Plan.Recipe, opened.Plan.Steps, opened.Plan.Seed, from), temporal.Priority{}, raw)
	return run, opened.Plan, err
}

func forkCommand(t *target) *cobra.Command {
	var at int
	var id string
	var detach bool
	cmd := &cobra.Command{
		Use:   "fork RUN [key=value …]",
		Short: "Start a run that goes on from a step of another",
		Long: `Start a run that goes on from a step of another, with changes of its plan.

RUN may be going on or ended; only its records in the store are needed, and it stays as
it is. Without changes the fork does what RUN did. What may change is what tune takes,
seed (of the steps to come), backend, reuse, short_batch, rollout_shards, and the stages
under propose, assess, select and mask.`,
		Args: cobra.MinimumNArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			changes, err := pairInput(args[1:])
			if err != nil {
				return err
			}
			from := recipes.Origin{Run: args[0]}
			if cmd.Flags().Changed("at") {
				from.Step = &at
			}
			_, queue, err := c.execution(ctx, from.Run)
			if err != nil {
				return err
			}
			if id == "" {
				id = from.Run + "-fork-" + stamp()
			}
			if id == from.Run {
				return fmt.Errorf("--id is %q, the run itself; to take it back use gradus rewind", id)
			}
			run, plan, err := c.goOn(ctx, queue, id, from, changes)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "run %s, a fork of %s\n", run.GetID(), plan.Fork)
			if detach {
				return nil
			}
			return t.finish(ctx, c, run.GetID(), cmd)
		}),
	}
	cmd.Flags().IntVar(&at, "at", 0, "steps of RUN that the fork keeps (default: all that are recorded)")
	cmd.Flags().StringVar(&id, "id", "", "name of the fork (default: RUN, fork and time)")
	cmd.Flags().BoolVar(&detach, "detach", false, "launch without following")
	return cmd
}

func rewindCommand(t *target) *cobra.Command {
	var to int
	var detach bool
	cmd := &cobra.Command{
		Use:   "rewind RUN --to STEP [key=value …]",
		Short: "Take a run back to an earlier step, and on from there",
		Long: `Take a run back to where STEP steps were done, and on from there.

A run that is going on goes back when the step in hand is done, or at once where it is
paused; it then stays paused. A run that has ended goes on under its own name. Its records
of later steps are discarded; their tables and policies stay until store gc. Changes of
the plan are those that fork takes.`,
		Args: cobra.MinimumNArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			changes, err := pairInput(args[1:])
			if err != nil {
				return err
			}
			running, queue, err := c.execution(ctx, args[0])
			if err != nil {
				return err
			}
			if running {
				changes["step"] = fmt.Appendf(nil, "%d", to)
				return t.control(ctx, c, cmd, args[0], workflows.UpdateRewind, changes)
			}
			if _, _, err := c.goOn(ctx, queue, args[0], recipes.Origin{Run: args[0], Step: &to}, changes); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "run %s goes on from step %d\n", args[0], to)
			if detach {
				return nil
			}
			return t.finish(ctx, c, args[0], cmd)
		}),
	}
	cmd.Flags().IntVar(&to, "to", 0, "steps of the run that stay done")
	cmd.Flags().BoolVar(&detach, "detach", false, "launch without following")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func extendCommand(t *target) *cobra.Command {
	var steps string
	var detach bool
	cmd := &cobra.Command{
		Use:   "extend RUN [--steps N|+N] [key=value …]",
		Short: "Let a run that has ended go on, to more steps",
		Long: `Let a run that has finished, was stopped or has failed go on under its own name, from
the newest step that is recorded; of a run that is going on, change the number of steps.

It then ends as a run that was planned so from the start, byte for byte, unless something
in its plan follows a schedule over all steps; if so, that is said.`,
		Args: cobra.MinimumNArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			id := args[0]
			changes, err := pairInput(args[1:])
			if err != nil {
				return err
			}
			running, queue, err := c.execution(ctx, id)
			if err != nil {
				return err
			}
			var plan recipes.Plan
			if running {
				plan, err = c.plan(ctx, id)
			} else {
				_, plan, _, err = activities.LoadStep(ctx, c.store, recipes.Origin{Run: id})
			}
			if err != nil {
				return err
			}
			if steps != "" {
				n, err := strconv.Atoi(steps) // which reads +3 as 3
				if err != nil {
					return fmt.Errorf("--steps is %q; want a number of steps such as 200, or +50 for so many more", steps)
				}
				if strings.HasPrefix(steps, "+") {
					n += plan.Steps
				}
				changes["steps"] = fmt.Appendf(nil, "%d", n)
			}
			if names := plan.Scheduled(); len(names) > 0 && changes["steps"] != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: follows the number of steps planned, so the run will differ from one planned longer from the start\n", strings.Join(names, ", "))
			}
			if running {
				return t.control(ctx, c, cmd, id, workflows.UpdateTune, changes)
			}
			run, plan, err := c.goOn(ctx, queue, id, recipes.Origin{Run: id}, changes)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "run %s goes on, to %d steps\n", run.GetID(), plan.Steps)
			if detach {
				return nil
			}
			return t.finish(ctx, c, id, cmd)
		}),
	}
	cmd.Flags().StringVar(&steps, "steps", "", "training steps in all, or with a + so many more")
	cmd.Flags().BoolVar(&detach, "detach", false, "launch without following")
	return cmd
}

// plan asks a run for its plan.
func (c *connection) plan(ctx context.Context, id string) (p recipes.Plan, err error) {
	v, err := c.client.QueryWorkflow(ctx, id, "", workflows.QueryPlan)
	if err != nil {
		return p, runError(id, err)
	}
	return p, v.Get(&p)
}
