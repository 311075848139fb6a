package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/prepare"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

func prepareCommand(t *target) *cobra.Command {
	var name, from string
	var dry, detach, anew bool
	cmd := &cobra.Command{
		Use:   "prepare NAME|REF|PLAN.yaml --name OUT [key=value …]",
		Short: "Make another problem set of a problem set: clean it, split it, measure it, choose from it",
		Long: `Make another problem set of a problem set, as a workflow of stages.

A stage runs when it is asked for, by stage=true or by one of its parameters, in this order:
where, normalise, deduplicate, decontaminate, split, tokens, difficulty, hints, rewrites,
filter. --dry-run prints the whole plan with every default, and can be edited and given in
NAME's place.

The same command again goes on where it was left, and costs nothing where all is done.`,
		Example: `  gradus data prepare gsm8k_train --name gsm8k-clean normalise=true deduplicate=true 'decontaminate.against=[gsm8k_test]'
  gradus data prepare gsm8k-clean --name gsm8k-middle policy=REF difficulty.num_generations=8 filter='pass_rate > 0.1 and pass_rate < 0.9'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given, err := prepareInput(args[0], args[1:])
			if err != nil {
				return err
			}
			if name != "" {
				given["name"] = quote(name)
			}
			if from != "" {
				given["difficulty.from"] = quote(from)
			}
			if anew {
				given["reuse"] = json.RawMessage("false")
			}
			if dry {
				p, _, err := resolvePreparation(given)
				if err != nil {
					return err
				}
				return printYAML(cmd.OutOrStdout(), p)
			}
			return t.run(false, func(ctx context.Context, c *connection, cmd *cobra.Command, _ []string) error {
				if err := storePolicy(ctx, c.store, given); err != nil {
					return err
				}
				id, err := startPreparation(ctx, c.client, workflows.QueueCPU, given)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "preparation %s\n", id)
				if detach {
					return nil
				}
				return t.finishPreparation(ctx, c, id, cmd)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name of the problem set to make")
	f.StringVar(&from, "difficulty-from", "", "name or Ref of a difficulty map, or of a problem set that has one, to take instead of measuring")
	f.BoolVar(&dry, "dry-run", false, "print the resolved plan as YAML and stop")
	f.BoolVar(&anew, "no-reuse", false, "compute everything, also what an earlier preparation has done on the same inputs")
	f.BoolVar(&detach, "detach", false, "launch without following")
	return cmd
}

// prepareInput is the JSON that a preparation is started with: the name of a problem
// set or a plan file, then key=value pairs over it.
func prepareInput(problems string, pairs []string) (map[string]json.RawMessage, error) {
	given, err := planInput(problems, pairs)
	if given["recipe"] != nil {
		delete(given, "recipe")
		given["problems"] = quote(problems)
	}
	return given, err
}

func resolvePreparation(given map[string]json.RawMessage) (recipes.Preparation, json.RawMessage, error) {
	raw, err := json.Marshal(given)
	if err != nil {
		return recipes.Preparation{}, nil, fmt.Errorf("plan: %w", err)
	}
	p, err := recipes.ResolvePreparation(raw)
	return p, raw, err
}

// startPreparation starts a preparation, or finds the same one going on. Its ID
// follows from its name and plan.
func startPreparation(ctx context.Context, c client.Client, queue string, given map[string]json.RawMessage) (string, error) {
	p, raw, err := resolvePreparation(given)
	if err != nil {
		return "", err
	}
	plan, err := datasets.Canonical(p)
	if err != nil {
		return "", fmt.Errorf("plan: %w", err)
	}
	id := fmt.Sprintf("prepare-%s-%x", p.Name, sha256.Sum256(plan))[:len("prepare--")+len(p.Name)+8]
	_, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: queue, WorkflowExecutionErrorWhenAlreadyStarted: true, WorkflowTaskTimeout: workflows.TaskTimeout,
		StaticSummary: fmt.Sprintf("%s of %s", p.Name, p.Problems), Priority: temporal.Priority{FairnessKey: workflows.FairnessKey(id)},
	}, "Prepare", raw)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	if err != nil && !errors.As(err, &started) {
		return "", fmt.Errorf("start preparation: %w", err)
	}
	return id, nil
}

// finishPreparation follows a preparation to its end, or to the user's, and prints
// what it did.
func (t *target) finishPreparation(ctx context.Context, c *connection, id string, cmd *cobra.Command) error {
	r, err := followPreparation(ctx, c, id, cmd.ErrOrStderr())
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(cmd.ErrOrStderr(), "\nno longer following; the preparation goes on: give the same command to follow it again\n")
		return nil
	}
	if err != nil {
		return err
	}
	if t.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return printPrepared(ctx, c.store, r, cmd.OutOrStdout())
}

// followPreparation prints a line per stage until the preparation ends.
func followPreparation(ctx context.Context, c *connection, id string, out io.Writer) (*activities.Prepared, error) {
	type ended struct {
		result activities.Prepared
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
	shown, since, told := "", time.Now(), ""
	for {
		select {
		case r := <-done:
			if r.err != nil {
				return nil, preparationError(id, r.err)
			}
			return &r.result, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if s, err := prepareStatus(ctx, c.client, id); err == nil {
			line := s.Phase
			if s.Phase == activities.TableDifficulty && s.Pieces > 0 {
				line += fmt.Sprintf("  %d of %d pieces, %d tokens", s.Done, s.Pieces, s.Tokens)
			}
			if line != shown {
				fmt.Fprintln(out, line)
				shown, since, told = line, time.Now(), ""
			}
		}
		if time.Since(since) > patience {
			since = time.Now()
			if why := c.trouble(ctx, id); why != "" && why != told {
				fmt.Fprintln(out, "waiting:", why)
				told = why
			}
		}
	}
}

func preparationError(id string, err error) error {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return fmt.Errorf("preparation %s failed: %s", id, app.Message())
	}
	return fmt.Errorf("preparation %s: %w", id, err)
}

func prepareStatus(ctx context.Context, c client.Client, id string) (s workflows.PrepareStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := c.QueryWorkflow(ctx, id, "", workflows.QueryStatus)
	if err != nil {
		return s, err
	}
	return s, v.Get(&s)
}

// maxPairs bounds the matches of a stage that are printed.
const maxPairs = 3

// printPrepared prints what each stage did with how many rows, some of the rows that
// repeat others, and what was made.
func printPrepared(ctx context.Context, store datasets.Store, r *activities.Prepared, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STAGE\tROWS\tKEPT\tDROPPED\tFIGURES\tSECONDS")
	for _, s := range r.Stages {
		var dropped, figures []string
		for _, name := range slices.Sorted(maps.Keys(s.Metrics)) {
			if name == activities.MetricRowsIn || name == activities.MetricRowsOut {
				continue
			}
			if reason, ok := strings.CutPrefix(name, activities.DroppedPrefix); ok {
				dropped = append(dropped, fmt.Sprintf("%s %.0f", reason, s.Metrics[name]))
			} else {
				figures = append(figures, fmt.Sprintf("%s %.6g", name, s.Metrics[name]))
			}
		}
		seconds := fmt.Sprintf("%.1f", s.Seconds)
		if s.Reused {
			seconds = "done before"
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%s\t%s\t%s\n", s.Stage, s.Metrics[activities.MetricRowsIn], s.Metrics[activities.MetricRowsOut],
			strings.Join(dropped, ", "), strings.Join(figures, ", "), seconds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range r.Stages {
		if ref, ok := s.Tables[activities.TableMatches]; ok {
			if err := printMatches(ctx, store, s.Stage, ref, out); err != nil {
				return err
			}
		}
		if ref, ok := s.Tables[activities.TableDifficulty]; ok {
			fmt.Fprintf(out, "\ndifficulty map %s\n", ref)
		}
	}
	_, err := fmt.Fprintf(out, "\n%s: %d problems, %s\n", r.Name, r.Problems.Rows, r.Problems)
	return err
}

func printMatches(ctx context.Context, store datasets.Store, stage string, ref datasets.Ref, out io.Writer) error {
	t, err := datasets.Load(ctx, store, memory.DefaultAllocator, ref)
	if err != nil {
		return err
	}
	defer t.Release()
	fmt.Fprintf(out, "\n%s found %d matches: gradus data show %s\n", stage, t.Rows(), ref)
	id, reason, other, set := datasets.ProblemID.Get(t), datasets.Reason.Get(t), datasets.Other.Get(t), datasets.HeldOutSet.Get(t)
	similarity, prompt, otherPrompt := datasets.Similarity.Get(t), datasets.Prompt.Get(t), datasets.OtherPrompt.Get(t)
	for i := range min(maxPairs, t.Rows()) {
		of := other[i]
		if set[i] != "" {
			of = set[i] + " " + of
		}
		fmt.Fprintf(out, "  %s %s %s (%.2f)\n    %s\n    %s\n", id[i], reason[i], of, similarity[i], brief(prompt[i]), brief(otherPrompt[i]))
	}
	return nil
}

// brief is a text on one line of bounded length.
func brief(text string) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > 100 {
		return string(line[:99]) + "…"
	}
	return string(line)
}

// benchDeduplicate measures the near-duplicate pass; the goal is a million problems
// in three minutes.
func benchDeduplicate(problems int) ([]figure, error) {
	perSecond, err := prepare.Bench(problems)
	if err != nil {
		return nil, err
	}
	return []figure{atLeast("data/dedup-rows-per-second", perSecond, "rows/s", 1_000_000/180)}, nil
}
