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
	d, failed := c.client.DescribeWorkflowExecution(ctx, id, "")
	var unknown *serviceerror.NotFound
	switch {
	case errors.As(failed, &unknown):
		return a, runError(id, failed)
	case failed == nil && d.WorkflowExecutionInfo.Status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return a, fmt.Errorf("run %s has ended; there is nothing to %s", id, name)
	}
	if why := c.trouble(ctx, id); why != "" {
		return a, fmt.Errorf("run %s does not answer: %s", id, why)
	}
	return a, runError(id, err)
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
	return simpleControl(t, workflows.UpdateStop, "End a run after the step in hand, with its evaluation and result")
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
