package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"
	"go.yaml.in/yaml/v3"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// sweepInput is the JSON that a sweep is started with.
func sweepInput(args, grid, list []string, seeds string, parallel int) (json.RawMessage, error) {
	in := map[string]any{"parallel": parallel}
	points := map[string][]json.RawMessage{}
	var names, pairs []string
	for _, a := range args {
		if strings.Contains(a, "=") {
			pairs = append(pairs, a)
		} else {
			names = append(names, a)
		}
	}
	var base map[string]json.RawMessage
	var err error
	if len(names) == 1 {
		base, err = planInput(names[0], pairs)
	} else {
		base, err = pairInput(pairs)
		for _, n := range names {
			points["recipe"] = append(points["recipe"], quote(n))
		}
	}
	if err != nil {
		return nil, err
	}
	in["base"] = base
	for _, g := range grid {
		key, values, ok := strings.Cut(g, "=")
		if !ok || key == "" || values == "" {
			return nil, fmt.Errorf("--grid %q: want key=value,value", g)
		}
		var list []any // YAML's flow list: commas within brackets stay together
		if err := yaml.Unmarshal([]byte("["+values+"]"), &list); err != nil {
			return nil, fmt.Errorf("--grid %q: %w", g, err)
		}
		if points[key] != nil {
			return nil, fmt.Errorf("--grid %q: %s has its values already", g, key)
		}
		for _, v := range list {
			raw, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("--grid %q: %w", g, err)
			}
			points[key] = append(points[key], raw)
		}
	}
	if len(points) > 0 {
		in["grid"] = points
	}
	var entries []map[string]json.RawMessage
	for _, l := range list {
		entry, err := pairInput(strings.Fields(l))
		if err != nil {
			return nil, fmt.Errorf("--list %q: %w", l, err)
		}
		entries = append(entries, entry)
	}
	if entries != nil {
		in["list"] = entries
	}
	if seeds != "" {
		if in["seeds"], err = seedList(seeds); err != nil {
			return nil, err
		}
	}
	return json.Marshal(in)
}

// seedList reads 1..3 or 1,2,5.
func seedList(s string) ([]uint64, error) {
	var out []uint64
	for _, part := range strings.Split(s, ",") {
		low, high, span := strings.Cut(part, "..")
		if !span {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 64)
		to, failed := strconv.ParseUint(high, 10, 64)
		if err != nil || failed != nil || to < from || to-from >= 1000 {
			return nil, fmt.Errorf("--seeds is %q; want seeds such as 1..3 or 1,2,5", s)
		}
		for k := from; k <= to; k++ {
			out = append(out, k)
		}
	}
	return out, nil
}

func sweepCommand(t *target) *cobra.Command {
	var grid, list []string
	var seeds, id string
	var parallel int
	var detach bool
	cmd := &cobra.Command{
		Use:   "sweep [RECIPE|PLAN.yaml …] [key=value …]",
		Short: "Run a grid or a list of settings on several seeds, and compare them",
		Long: `Run a grid or a list of settings on several seeds, and compare them in one table.

Every combination of the recipes, the values of each --grid and the entries of --list is a
setting; each is run on each of the seeds. All plans are checked before the first run starts,
and a run that fails does not end the sweep. The runs are experiments like others, named after
the sweep.`,
		Example: "  gradus sweep grpo d3s --grid learning_rate=1e-4,5e-4 --seeds 1..3 --parallel 2 steps=50",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := sweepInput(args, grid, list, seeds, parallel)
			if err != nil {
				return err
			}
			return t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, _ []string) error {
				plan, err := recipes.ExpandSweep(raw, func(given []byte) (recipes.Plan, error) {
					opened, _, err := activities.Resolve(ctx, c.store, activities.OpenInput{Given: given})
					return opened.Plan, err
				})
				if err != nil {
					return err
				}
				if err := c.checkSpace(); err != nil {
					return err
				}
				if id == "" {
					id = "sweep-" + stamp()
				}
				run, err := start(ctx, c.client, "Sweep", workflows.QueueCPU, id, fmt.Sprintf("%d settings, %d runs", len(plan.Settings), len(plan.Runs)), temporal.Priority{}, raw)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "sweep %s: %d settings, %d runs, %d at once\n", run.GetID(), len(plan.Settings), len(plan.Runs), plan.Parallel)
				if detach {
					return nil
				}
				return t.sweepStatus(ctx, c, cmd, id, true)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&grid, "grid", nil, "key=value,value: a dimension of the grid; may be given several times")
	f.StringArrayVar(&list, "list", nil, "\"key=value key=value\": an entry of the list; may be given several times")
	f.StringVar(&seeds, "seeds", "", "seeds such as 1..3 or 1,2,5 (default: the plan's own)")
	f.IntVar(&parallel, "parallel", 2, "runs at once")
	f.StringVar(&id, "id", "", "name of the sweep (default: sweep and time)")
	f.BoolVar(&detach, "detach", false, "launch without following")
	return cmd
}

// isSweep reports whether a run is a sweep. What the server does not know is none.
func (c *connection) isSweep(ctx context.Context, id string) (bool, error) {
	d, err := c.client.DescribeWorkflowExecution(ctx, id, "")
	var unknown *serviceerror.NotFound
	if errors.As(err, &unknown) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for run %s: %w", id, err)
	}
	return d.WorkflowExecutionInfo.GetType().GetName() == "Sweep", nil
}

// sweepStatus prints where a sweep stands; with more, it follows it to its end
// first, with a line for each run that ends.
func (t *target) sweepStatus(ctx context.Context, c *connection, cmd *cobra.Command, id string, more bool) error {
	for told := map[string]bool{}; more; {
		running, _, err := c.execution(ctx, id)
		if err != nil {
			return err
		}
		if s, err := c.swept(ctx, id); err == nil {
			for _, r := range s.Runs {
				if told[r.ID] || r.State == workflows.SweptWaiting || r.State == workflows.SweptRunning {
					continue
				}
				told[r.ID] = true
				if r.State == workflows.SweptFailed {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s failed: %s\n", r.ID, r.Reason)
				} else {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: pass@1 %.3f -> %.3f, %d steps, %d tokens\n", r.ID, r.State, r.Before, r.After, r.Steps, r.Tokens)
				}
			}
		}
		if !running {
			break
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(cmd.ErrOrStderr(), "\nno longer following; the sweep goes on: gradus status %s --follow\n", id)
			return nil
		case <-time.After(400 * time.Millisecond):
		}
	}
	if more {
		var r workflows.SweepResult
		err := c.client.GetWorkflow(ctx, id, "").Get(ctx, &r)
		if phase, why := c.ended(ctx, id); err != nil && phase != "" {
			return fmt.Errorf("sweep %s %s: %s", id, phase, why)
		}
		if err != nil {
			return runError(id, err)
		}
		if t.output == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		}
	}
	s, err := c.swept(ctx, id)
	phase, why := c.ended(ctx, id)
	if err != nil && phase != "" {
		return fmt.Errorf("sweep %s %s: %s", id, phase, why)
	}
	if err != nil {
		return runError(id, err)
	}
	if phase != "" {
		s.Phase, s.Error, s.Paused = phase, why, false
	}
	if t.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
	}
	fmt.Fprint(cmd.OutOrStdout(), s.Markdown())
	return nil
}

// swept asks a sweep where it stands.
func (c *connection) swept(ctx context.Context, id string) (s workflows.SweepStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := c.client.QueryWorkflow(ctx, id, "", workflows.QueryStatus)
	if err != nil {
		return s, err
	}
	return s, v.Get(&s)
}
