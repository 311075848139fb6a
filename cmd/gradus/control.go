package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/workflows"
)

// control sends an update to a run and prints what it answers.
func (t *target) control(ctx context.Context, c *connection, cmd *cobra.Command, id, update string, args ...any) error {
	answer, err := c.update(ctx, id, update, args...)
	if err != nil {
		return err
	}
	return t.answer(cmd, id, answer)
}

func (t *target) answer(cmd *cobra.Command, id string, answer workflows.Answer) error {
	if t.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", id, answer.Message)
	return nil
}

// update sends an update and waits for the answer: a worker takes it between
// two activities.
func (c *connection) update(ctx context.Context, id, name string, args ...any) (a workflows.Answer, err error) {
	short, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	h, err := c.client.UpdateWorkflow(short, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: name, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = h.Get(short, &a)
	}
	if err == nil {
		return a, nil
	}
	if ctx.Err() != nil {
		return a, ctx.Err()
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return a, fmt.Errorf("run %s refuses to %s: %s", id, name, app.Message())
	}
	if over := c.over(ctx, id, name); over != nil {
		return a, over
	}
	if why := c.trouble(ctx, id); why != "" {
		return a, fmt.Errorf("run %s does not answer: %s", id, why)
	}
	return a, runError(id, err)
}

// over says that a run which is to be controlled is unknown or has ended, if so.
func (c *connection) over(ctx context.Context, id, what string) error {
	d, err := c.client.DescribeWorkflowExecution(ctx, id, "")
	var unknown *serviceerror.NotFound
	switch {
	case errors.As(err, &unknown):
		return runError(id, err)
	case err == nil && d.WorkflowExecutionInfo.Status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return fmt.Errorf("run %s has ended; there is nothing to %s", id, what)
	}
	return nil
}

// simpleControl is a command that sends an update without an argument.
func simpleControl(t *target, name, doc string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " RUN",
		Short: doc,
		Args:  cobra.ExactArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			return t.control(ctx, c, cmd, args[0], name)
		}),
	}
}

func pauseCommand(t *target) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause RUN",
		Short: "Pause a run after the step in hand",
		Args:  cobra.ExactArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			return t.control(ctx, c, cmd, args[0], workflows.UpdatePause, reason)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who look at the run")
	return cmd
}

func resumeCommand(t *target) *cobra.Command {
	return simpleControl(t, workflows.UpdateResume, "Go on with a paused run")
}

func stopCommand(t *target) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use:   "stop RUN",
		Short: "End a run after the step in hand, with its evaluation and result",
		Long: `End a run after the step in hand, with its evaluation and result.

With --now it ends at once, whatever it waits for (a server that is gone, a worker that
nobody starts), without a result; a sweep ends with all of its runs. The steps that are
done stay: gradus extend, rewind and fork go on from them.`,
		Args: cobra.ExactArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			if !now {
				return t.control(ctx, c, cmd, args[0], workflows.UpdateStop)
			}
			if err := c.over(ctx, args[0], workflows.UpdateStop); err != nil {
				return err
			}
			// To cancel would wait for a worker that has time for the workflow.
			if err := c.client.TerminateWorkflow(ctx, args[0], "", "gradus stop --now"); err != nil {
				return fmt.Errorf("end run %s: %w", args[0], err)
			}
			return t.answer(cmd, args[0], workflows.Answer{Message: "the run has ended", Phase: "terminated"})
		}),
	}
	cmd.Flags().BoolVar(&now, "now", false, "end it at once, without evaluation and result")
	return cmd
}

func tuneCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "tune RUN key=value …",
		Short: "Change a run's plan from the next step on",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := pairInput(args[1:])
			if err != nil {
				return err
			}
			return t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
				return t.control(ctx, c, cmd, args[0], workflows.UpdateTune, changes)
			})(cmd, args)
		},
	}
}
