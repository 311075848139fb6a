package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/datasets"
)

// What `store gc` spares unless the user says otherwise, and the least that is safe
// beside runs: whoever takes up an object that is older than an hour writes it anew.
const (
	spared      = 24 * time.Hour
	leastSpared = 2 * time.Hour
	settle      = 5 * time.Second
)

func storeCommand(t *target) *cobra.Command {
	cmd := family("store", "Look after the object store")
	var dry bool
	var age time.Duration
	gc := &cobra.Command{
		Use:   "gc",
		Short: "Remove what no run, name or policy refers to",
		Long: `Remove what no run, name or policy refers to.

Kept are all that the records of runs, published problem sets and imported policies
refer to, at any depth, and what the runs of this Temporal namespace that are going on
have in their history. Younger objects are kept, too: what an experiment has just written
nothing refers to yet. Other namespaces that share the store are protected by their
records and by that age alone.`,
		Args: cobra.NoArgs,
		RunE: t.run(true, func(ctx context.Context, c *connection, cmd *cobra.Command, _ []string) error {
			if age < 0 {
				return fmt.Errorf("--older-than is %v; it must be 0 or more", age)
			}
			collected, err := datasets.Collect(ctx, c.store, datasets.CollectOptions{
				Before: time.Now().Add(-age), DryRun: dry, Settle: settle,
				Held: func(ctx context.Context) ([]datasets.Ref, error) {
					return held(ctx, c.client, age, dry)
				},
			})
			if err != nil {
				return err
			}
			if t.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					DryRun bool `json:"dry_run"`
					datasets.Collected
				}{dry, collected})
			}
			return printCollected(cmd.OutOrStdout(), collected, dry)
		}),
	}
	gc.Flags().BoolVar(&dry, "dry-run", true, "remove nothing and say what would go")
	gc.Flags().DurationVar(&age, "older-than", spared, "spare what was written since; at least 2h while runs are going on")
	cmd.AddCommand(gc)
	return cmd
}

func printCollected(out io.Writer, c datasets.Collected, dry bool) error {
	removed := "REMOVED"
	if dry {
		removed = "WOULD GO"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "KIND\t%s\tBYTES\tKEPT\tBYTES\t\n", removed)
	for _, row := range []struct {
		kind          string
		removed, kept datasets.Count
	}{
		{"tables", c.Removed.Tables, c.Kept.Tables},
		{"policies and plans", c.Removed.Blobs, c.Kept.Blobs},
		{"results by key", c.Removed.Results, c.Kept.Results},
		{"records and names", c.Removed.Roots, c.Kept.Roots},
	} {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t\n", row.kind, row.removed.Objects, row.removed.Bytes, row.kept.Objects, row.kept.Bytes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if dry {
		fmt.Fprintln(out, "nothing was removed; --dry-run=false does it")
	}
	return nil
}

// held are the Refs in the histories of all workflows that are going on: of a run
// that stands still for days, they are all that names the results of its last step.
func held(ctx context.Context, c client.Client, age time.Duration, dry bool) ([]datasets.Ref, error) {
	var refs []datasets.Ref
	visit := func(_ *proxy.VisitPayloadsContext, payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
		for _, p := range payloads {
			refs = append(refs, datasets.RefsIn(p.GetData())...)
		}
		return payloads, nil
	}
	var page []byte
	for {
		list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: "ExecutionStatus='Running'", NextPageToken: page})
		if err != nil {
			return nil, fmt.Errorf("list the runs that are going on: %w", err)
		}
		for _, run := range list.Executions {
			if age < leastSpared && !dry {
				return nil, fmt.Errorf("--older-than is %v; it must be at least %v while runs are going on, such as %s", age, leastSpared, run.GetExecution().GetWorkflowId())
			}
			events := c.GetWorkflowHistory(ctx, run.GetExecution().GetWorkflowId(), run.GetExecution().GetRunId(), false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for events.HasNext() {
				e, err := events.Next()
				var gone *serviceerror.NotFound
				if errors.As(err, &gone) {
					break // it has ended, and its history with it
				}
				if err != nil {
					return nil, fmt.Errorf("read the history of run %s: %w", run.GetExecution().GetWorkflowId(), err)
				}
				if err := proxy.VisitPayloads(ctx, e, proxy.VisitPayloadsOptions{Visitor: visit, SkipSearchAttributes: true}); err != nil {
					return nil, fmt.Errorf("read the history of run %s: %w", run.GetExecution().GetWorkflowId(), err)
				}
			}
		}
		if page = list.NextPageToken; len(page) == 0 {
			return refs, nil
		}
	}
}
