package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.yaml.in/yaml/v3"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// planInput is the JSON that an experiment is started with: the recipe's name
// or a plan file, then key=value pairs over it.
func planInput(recipe string, pairs []string) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	if strings.HasSuffix(recipe, ".yaml") || strings.HasSuffix(recipe, ".yml") || strings.HasSuffix(recipe, ".json") {
		raw, err := os.ReadFile(recipe)
		if err != nil {
			return nil, fmt.Errorf("read plan: %w", err)
		}
		var values map[string]any
		if err := yaml.Unmarshal(raw, &values); err != nil {
			return nil, fmt.Errorf("plan %s: %w", recipe, err)
		}
		for k, v := range values {
			if given[k], err = json.Marshal(v); err != nil {
				return nil, fmt.Errorf("plan %s: %s: %w", recipe, k, err)
			}
		}
	} else {
		given["recipe"] = quote(recipe)
	}
	over, err := pairInput(pairs)
	maps.Copy(given, over)
	return given, err
}

// pairInput is key=value pairs as JSON; values are YAML.
func pairInput(pairs []string) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("argument %q: want key=value", p)
		}
		var v any
		if err := yaml.Unmarshal([]byte(value), &v); err != nil {
			return nil, fmt.Errorf("argument %q: %w", p, err)
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", p, err)
		}
		given[key] = raw
	}
	return given, nil
}

func quote(s string) json.RawMessage {
	raw, _ := json.Marshal(s) // a string always has a JSON form
	return raw
}

// launch starts an experiment on a task queue. The plan is checked here first, so that a typing
// error costs no workflow.
func launch(ctx context.Context, c client.Client, queue, id string, given map[string]json.RawMessage) (client.WorkflowRun, error) {
	return launchAt(ctx, c, queue, id, temporal.Priority{}, given)
}

// launchAt is launch with the experiment's place among others.
func launchAt(ctx context.Context, c client.Client, queue, id string, priority temporal.Priority, given map[string]json.RawMessage) (client.WorkflowRun, error) {
	raw, err := json.Marshal(given)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	plan, err := recipes.Resolve(raw)
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = plan.Recipe + "-" + stamp()
	}
	return start(ctx, c, "Experiment", queue, id, fmt.Sprintf("%s, %d steps, seed %d", plan.Recipe, plan.Steps, plan.Seed), priority, raw)
}

// stamp ends the names of runs that are given none: the time, and four letters that tell
// apart what starts in the same second, on whatever machine.
func stamp() string {
	return time.Now().UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:4])
}

// start starts a workflow by name and with one argument, as the Temporal UI does.
func start(ctx context.Context, c client.Client, workflow, queue, id, summary string, priority temporal.Priority, given json.RawMessage) (client.WorkflowRun, error) {
	if priority.FairnessKey == "" {
		priority.FairnessKey = workflows.FairnessKey(id)
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: queue, WorkflowExecutionErrorWhenAlreadyStarted: true, WorkflowTaskTimeout: workflows.TaskTimeout,
		StaticSummary: summary, Priority: priority,
	}, workflow, given)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &started) {
		return nil, fmt.Errorf("a run named %q is going on; give another --id", id)
	}
	if err != nil {
		return nil, fmt.Errorf("start run: %w", err)
	}
	return run, nil
}

// await waits for a run's result, also while the server is too busy to answer.
func await(ctx context.Context, run client.WorkflowRun, result any) error {
	for {
		err := run.Get(ctx, result)
		var late *serviceerror.DeadlineExceeded
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &late) {
			return err
		}
	}
}

// patience is how long a run may show nothing new before follow asks why.
const patience = 5 * time.Second

// follow prints a line per step until the run ends, and returns its result. Of
// a run that stands still it says why, once.
func follow(ctx context.Context, c *connection, id string, out io.Writer) (*workflows.Result, error) {
	type ended struct {
		result workflows.Result
		err    error
	}
	done := make(chan ended, 1)
	go func() {
		var r ended
		r.err = await(ctx, c.client.GetWorkflow(ctx, id, ""), &r.result)
		done <- r
	}()
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	shown, phase := 0, ""
	show := func(s workflows.Status) {
		if s.Phase == "warming up" && s.Warm > 0 {
			fmt.Fprintf(out, "warm-up %4d  validation pass rate %.3f\n", s.Warm, s.Warmth)
		} else if s.Phase == "paused" && s.Reason != "" {
			fmt.Fprintln(out, "paused:", s.Reason)
		} else if s.Phase != phase && s.Phase != "training" {
			fmt.Fprintln(out, s.Phase)
		}
		phase = s.Phase
		for _, l := range s.Recent {
			if l.Step <= shown {
				continue
			}
			if shown == 0 {
				fmt.Fprintln(out, "     step  pass rate  reward   kept  entropy     loss   tokens/s   left")
			}
			shown = l.Step
			left := time.Duration(float64(s.Steps-l.Step) * l.Seconds * float64(time.Second)).Round(time.Second)
			mismatch := ""
			if l.Mismatch > 0 { // rollouts of servers, or of an older policy
				mismatch = fmt.Sprintf("  mismatch %.1e", l.Mismatch)
			}
			fmt.Fprintf(out, "%4d/%4d  %9.3f  %6.3f  %4.0f%%  %7.3f  %7.4f  %9.0f  %5s%s\n",
				l.Step, s.Steps, l.PassRate, l.Reward, 100*l.Kept, l.Entropy, l.Loss, l.Tokens/max(l.Seconds, 1e-9), left, mismatch)
		}
	}
	last, since := "", time.Now()
	suspected, told := "", ""
	for {
		select {
		case r := <-done:
			if phase, why := c.ended(ctx, id); r.err != nil && phase != "" {
				return nil, fmt.Errorf("run %s %s: %s", id, phase, why)
			}
			if r.err != nil {
				return nil, runError(id, r.err)
			}
			if s, err := status(ctx, c.client, id); err == nil {
				show(s)
			}
			return &r.result, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
			if s, err := status(ctx, c.client, id); err == nil {
				if key := fmt.Sprint(s.Phase, s.Warm, s.Step); key != last {
					last, since, suspected, told = key, time.Now(), "", ""
					show(s)
				}
			}
			if time.Since(since) > patience { // seen twice, it is no passing state
				since = time.Now()
				why := c.trouble(ctx, id)
				if why != "" && why == suspected && why != told {
					fmt.Fprintln(out, "waiting:", why)
					told = why
				}
				suspected = why
			}
		}
	}
}

// runError is why a run failed, without the layers it came through.
func runError(id string, err error) error {
	var app *temporal.ApplicationError
	var unknown *serviceerror.NotFound
	switch {
	case errors.As(err, &app):
		return fmt.Errorf("run %s failed: %s", id, app.Message())
	case errors.As(err, &unknown):
		return fmt.Errorf("there is no run %q; `gradus status` lists them", id)
	}
	return fmt.Errorf("run %s: %w", id, err)
}

// ended is how a run ended that has no result, in a word, and why. The phase is "" of all
// others. The workflow cannot tell it: it knows its last step only.
func (c *connection) ended(ctx context.Context, id string) (phase, why string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	events := c.client.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT)
	if !events.HasNext() {
		return "", ""
	}
	e, err := events.Next()
	if err != nil {
		return "", "" // whoever asks the run itself says so
	}
	switch e.EventType {
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		err := temporal.GetDefaultFailureConverter().FailureToError(e.GetWorkflowExecutionFailedEventAttributes().GetFailure())
		var app *temporal.ApplicationError
		if errors.As(err, &app) {
			return "failed", app.Message()
		}
		return "failed", err.Error()
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
		return "terminated", cmp.Or(e.GetWorkflowExecutionTerminatedEventAttributes().GetReason(), "no reason was given")
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		return "canceled", "somebody asked the Temporal server for it"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
		return "timed out", "it was started with a time limit"
	}
	return "", ""
}

// trouble says what keeps a run from going on, "" if nothing does: no room on
// the disk, an activity that fails and is tried again, or nobody to do it.
func (c *connection) trouble(ctx context.Context, id string) string {
	if err := c.checkSpace(); err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := c.client.DescribeWorkflowExecution(ctx, id, "")
	var unknown *serviceerror.NotFound
	if errors.As(err, &unknown) {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("the Temporal server does not answer: %v", err)
	}
	for _, a := range d.PendingActivities {
		if a.LastFailure != nil {
			return fmt.Sprintf("%s has failed %d times: %s", a.ActivityType.GetName(), a.Attempt-1, a.LastFailure.Message)
		}
	}
	for _, a := range d.PendingActivities {
		if a.State == enums.PENDING_ACTIVITY_STATE_SCHEDULED {
			return a.ActivityType.GetName() + " waits for a worker"
		}
	}
	if d.PendingWorkflowTask.GetState() == enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED {
		return "the run waits for a worker on task queue " + d.ExecutionConfig.GetTaskQueue().GetName()
	}
	return ""
}

func status(ctx context.Context, c client.Client, id string) (s workflows.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := c.QueryWorkflow(ctx, id, "", workflows.QueryStatus)
	if err != nil {
		return s, err
	}
	return s, v.Get(&s)
}

// table prints held-out figures before and after, by level.
func table(out io.Writer, before, after *activities.Evaluation) {
	if before == nil || after == nil {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "held out\tproblems\tpass@1 before\tafter\tpass@8 before\tafter\tgreedy before\tafter\t")
	line := func(name string, b, a activities.Score) {
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, a.Problems, b.PassAt1, a.PassAt1, b.PassAt8, a.PassAt8, b.Greedy, a.Greedy)
	}
	for i, a := range after.Levels {
		if i < len(before.Levels) {
			line(fmt.Sprintf("level %d", a.Level), before.Levels[i], a)
		}
	}
	line("all", before.All, after.All)
	w.Flush()
}

func runCommand(t *target) *cobra.Command {
	var problems, id string
	var steps int
	var seed uint64
	var dry, detach, anew bool
	var priority temporal.Priority
	cmd := &cobra.Command{
		Use:   "run RECIPE|PLAN.yaml [key=value …]",
		Short: "Launch an experiment and follow it",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			given, err := planInput(args[0], args[1:])
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("steps") {
				given["steps"] = fmt.Appendf(nil, "%d", steps)
			}
			if cmd.Flags().Changed("seed") {
				given["seed"] = fmt.Appendf(nil, "%d", seed)
			}
			if anew {
				given["reuse"] = json.RawMessage("false")
			}
			if err := checkPriority(priority); err != nil {
				return err
			}
			if dry {
				if problems != "" {
					given["problems"] = quote(problems)
				}
				return printPlan(cmd.OutOrStdout(), given)
			}
			log, file, err := t.fileLog()
			if err != nil {
				return err
			}
			defer file.Close()
			c, err := t.connect(ctx, false, cmd.ErrOrStderr(), log)
			if err != nil {
				return err
			}
			defer c.Close()
			if problems != "" {
				if strings.HasSuffix(problems, ".jsonl") {
					if problems, err = (&problemsImport{paths: []string{problems}}).run(ctx, cmd.ErrOrStderr(), c.store); err != nil {
						return err
					}
				}
				given["problems"] = quote(problems)
			}
			if err := storePolicy(ctx, c.store, given); err != nil {
				return err
			}
			if err := c.checkSpace(); err != nil {
				return err
			}
			run, err := launchAt(ctx, c.client, workflows.QueueCPU, id, priority, given)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "run %s\n", run.GetID())
			if detach {
				return nil
			}
			return t.finish(ctx, c, run.GetID(), cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&problems, "problems", "", "name or Ref of a problem set, or a .jsonl file to import")
	f.IntVar(&steps, "steps", 0, "training steps")
	f.Uint64Var(&seed, "seed", 0, "seed of all randomness")
	f.StringVar(&id, "id", "", "name of the run (default: recipe and time)")
	f.BoolVar(&dry, "dry-run", false, "print the resolved plan as YAML and stop")
	f.BoolVar(&anew, "no-reuse", false, "compute everything, also what an earlier run has done on the same inputs")
	f.IntVar(&priority.PriorityKey, "priority", 3, "from 1, served before all others, to 5")
	f.StringVar(&priority.FairnessKey, "fairness-key", "", "what shares one portion of the workers with the runs of the same key (default: the run's name)")
	f.Float32Var(&priority.FairnessWeight, "weight", 1, "size of that portion relative to others of the same priority")
	f.BoolVar(&detach, "detach", false, "launch without following")
	return cmd
}

// checkPriority refuses what the server would change on its own.
func checkPriority(p temporal.Priority) error {
	switch {
	case p.PriorityKey < 1 || p.PriorityKey > 5:
		return fmt.Errorf("--priority is %d; it must be from 1 to 5", p.PriorityKey)
	case len(p.FairnessKey) > 64:
		return fmt.Errorf("--fairness-key has %d bytes; it must have at most 64", len(p.FairnessKey))
	case !(p.FairnessWeight >= 0.001 && p.FairnessWeight <= 1000):
		return fmt.Errorf("--weight is %v; it must be from 0.001 to 1000", p.FairnessWeight)
	}
	return nil
}

// finish follows a run to its end, or to the user's, and prints its result.
func (t *target) finish(ctx context.Context, c *connection, id string, cmd *cobra.Command) error {
	result, err := follow(ctx, c, id, cmd.ErrOrStderr())
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(cmd.ErrOrStderr(), "\nno longer following; the run goes on: gradus status %s --follow\n", id)
		return nil
	}
	if err != nil {
		return err
	}
	if t.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
	}
	table(cmd.OutOrStdout(), result.Before, result.After)
	if line := result.Reused.String(); line != "" {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "policy %s\n", result.Policy)
	return nil
}

// printPlan resolves a plan and prints it as YAML that can be edited and run.
func printPlan(out io.Writer, given map[string]json.RawMessage) error {
	raw, err := json.Marshal(given)
	if err != nil {
		return err
	}
	plan, err := recipes.Resolve(raw)
	if err != nil {
		return err
	}
	return printYAML(out, plan)
}

// printYAML prints a plan as YAML, its keys in their order.
func printYAML(out io.Writer, plan any) error {
	raw, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	var node yaml.Node // JSON is YAML: reading it as such keeps the order of keys
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return err
	}
	block(&node)
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	defer e.Close()
	return e.Encode(&node)
}

// block turns JSON's flow style and quotes into YAML's plain one.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}

func statusCommand(t *target) *cobra.Command {
	var more bool
	cmd := &cobra.Command{
		Use:   "status [RUN]",
		Short: "List experiments, or show where one stands",
		Args:  cobra.MaximumNArgs(1),
		RunE: t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listRuns(ctx, c.client, cmd.OutOrStdout())
			}
			if sweep, err := c.isSweep(ctx, args[0]); sweep || err != nil {
				return errors.Join(err, t.sweepStatus(ctx, c, cmd, args[0], more))
			}
			if more {
				return t.finish(ctx, c, args[0], cmd)
			}
			s, err := status(ctx, c.client, args[0])
			phase, reason := c.ended(ctx, args[0])
			why := c.trouble(ctx, args[0])
			if err != nil && phase != "" {
				return fmt.Errorf("run %s %s: %s", args[0], phase, reason)
			}
			if err != nil && why != "" {
				return fmt.Errorf("run %s answers nothing: %s", args[0], why)
			}
			if err != nil {
				return runError(args[0], err)
			}
			if phase != "" {
				s.Phase, s.Error, s.Paused = phase, reason, false
			}
			if t.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			fmt.Fprint(cmd.OutOrStdout(), s.Markdown())
			if why != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\nwaiting: %s\n", why)
			}
			if s.Policy.Hash != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\npolicy %s\n", s.Policy)
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&more, "follow", "f", false, "follow the run to its end")
	return cmd
}

func recipesCommand(*target) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recipes",
		Short: "List the recipes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, r := range recipes.All() {
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, r.Doc, r.Paper)
			}
			return w.Flush()
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "show NAME",
		Short: "Print a recipe's whole plan as YAML, to be edited and run",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return printPlan(cmd.OutOrStdout(), map[string]json.RawMessage{"recipe": quote(args[0])})
		},
	})
	return cmd
}
