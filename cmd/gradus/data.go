package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
)

func dataCommand(t *target) *cobra.Command {
	cmd := family("data", "Import, prepare, list, show and export problem sets and tables")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the named problem sets",
		Args:  cobra.NoArgs,
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, _ []string) error {
			sets, err := datasets.Published(ctx, s)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tVERSION\tROWS\tWHEN\tREF")
			for _, n := range sets {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", n.Name, n.Version, n.Ref.Rows, n.Modified.Local().Format(time.DateTime), n.Ref)
			}
			return w.Flush()
		}),
	}
	cmd.AddCommand(importCommand(t), exportCommand(t), list, prepareCommand(t), showCommand(t))
	return cmd
}

// withStore is run for commands that need the store alone.
func (t *target) withStore(do func(context.Context, datasets.Store, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return t.run(true, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
		return do(ctx, c.store, cmd, args)
	})
}
