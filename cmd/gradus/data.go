package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
)

func dataCommand(t *target) *cobra.Command {
	cmd := family("data", "Import, list and show problem sets and tables")
	var name string
	var skipBad bool
	importCmd := &cobra.Command{
		Use:   "import FILE.jsonl",
		Short: "Import problems, under a name",
		Args:  cobra.ExactArgs(1),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			_, err := importFile(ctx, cmd.OutOrStdout(), s, args[0], name, skipBad)
			return err
		}),
	}
	importCmd.Flags().StringVar(&name, "name", "", "name of the problem set (default: the file's)")
	importCmd.Flags().BoolVar(&skipBad, "skip-bad", false, "keep the good rows and write the bad ones to FILE.rejects.jsonl")
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
	cmd.AddCommand(importCmd, exportCommand(t), list, showCommand(t))
	return cmd
}

// withStore is run for commands that need the store alone.
func (t *target) withStore(do func(context.Context, datasets.Store, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return t.run(true, func(ctx context.Context, c *connection, cmd *cobra.Command, args []string) error {
		return do(ctx, c.store, cmd, args)
	})
}

// importFile imports and publishes a file of problems and returns its name.
func importFile(ctx context.Context, out io.Writer, s datasets.Store, path, name string, skipBad bool) (string, error) {
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	table, rejects, err := datasets.ImportJSONL(ctx, memory.DefaultAllocator, f, path, datasets.ImportOptions{SkipBad: skipBad, Source: name})
	if len(rejects) > 0 {
		if werr := writeRejects(path+".rejects.jsonl", rejects); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	if err != nil {
		return "", err
	}
	defer table.Release()
	ref, err := datasets.Save(ctx, s, table)
	if err != nil {
		return "", err
	}
	if err := datasets.Publish(ctx, s, name, ref); err != nil {
		return "", err
	}
	fmt.Fprintf(out, "%s: %d problems, %d rejected\n", name, ref.Rows, len(rejects))
	if len(rejects) > 0 {
		fmt.Fprintf(out, "rejects: %s\n", path+".rejects.jsonl")
	}
	return name, nil
}

func writeRejects(path string, rejects []datasets.Reject) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write rejects: %w", err)
	}
	return errors.Join(datasets.WriteRejects(f, rejects), f.Close())
}
