package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets/exchange"
	"github.com/gradus-rl/gradus/datasets/files"
	"github.com/gradus-rl/gradus/recipes"
)

func selectCommand(t *target) *cobra.Command {
	var o selectOptions
	cmd := &cobra.Command{
		Use:   "select --recipe RECIPE ROLLOUTS -o FILE [key=value …]",
		Short: "Select completions and tokens to learn from among rollouts made elsewhere",
		Long: "Run the selecting stages of a recipe over completions that another trainer drew, in a file of JSON lines, Parquet, Arrow or\n" +
			"CSV: group filters, advantages, samples, tokens. It needs no server and no store. The output has the input's columns and\n" +
			"advantage, kept, reason, reward_trained, and where lengths are known tokens_kept, token_mask and token_reasons. key=value\n" +
			"sets options of the plan, as in gradus run.\n\n" + fieldHelp(),
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.checkOutput(); err != nil {
				return err
			}
			given, err := planInput(o.recipe, args[1:])
			if err != nil {
				return err
			}
			raw, err := json.Marshal(given)
			if err != nil {
				return err
			}
			plan, err := recipes.Resolve(raw)
			if err != nil {
				return err
			}
			return selectFile(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), plan, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.recipe, "recipe", "grpo", "recipe or plan file whose selection it is")
	f.StringVarP(&o.out, "out", "o", "", "file to write, of a format by its ending; - prints JSON lines")
	f.StringArrayVar(&o.mapping, "map", nil, "FIELD=COLUMN: a column of another name; a dot reaches into a struct")
	f.IntVar(&o.step, "step", 1, "step of the training, from 1, which schedules follow; for rows without a step")
	f.BoolVar(&o.keptOnly, "kept-only", false, "write only the completions to be trained on")
	if err := cmd.MarkFlagRequired("out"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// selectOptions are the flags of select.
type selectOptions struct {
	recipe, out string
	mapping     []string
	step        int
	keptOnly    bool
}

// fieldHelp lists what a selection reads.
func fieldHelp() string {
	var b strings.Builder
	b.WriteString("Fields that are read, and the columns in which they are looked for:\n")
	for _, f := range exchange.Fields() {
		fmt.Fprintf(&b, "  %-20s %s (%s)\n", f.Name, f.Doc, strings.Join(f.Columns, ", "))
	}
	return b.String()
}

// selectFile reads the rollouts twice, once for what the selection needs of them and
// once to write them out, so that texts are never all in memory.
func selectFile(ctx context.Context, out, log io.Writer, plan recipes.Plan, path string, o selectOptions) error {
	mapping := map[string]string{}
	for _, m := range o.mapping {
		field, column, ok := strings.Cut(m, "=")
		if !ok {
			return fmt.Errorf("--map %q: want FIELD=COLUMN", m)
		}
		mapping[field] = column
	}
	var r *exchange.Rollouts
	err := eachBatch(ctx, path, func(schema *arrow.Schema) (err error) {
		r, err = exchange.NewRollouts(schema, mapping)
		return err
	}, func(rec arrow.Record) error { return r.Add(rec) })
	if err != nil {
		return err
	}
	s, err := recipes.SelectRollouts(plan, r, o.step)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var w *files.Writer
	defer func() {
		if w != nil {
			w.Abort()
		}
	}()
	first := 0
	write := func(rec arrow.Record) error {
		extended, err := s.Extend(memory.DefaultAllocator, rec, first, o.keptOnly)
		if err != nil {
			return err
		}
		defer extended.Release()
		first += int(rec.NumRows())
		if w == nil {
			if w, err = files.Create(o.out, extended.Schema(), files.CreateOptions{Stdout: out}); err != nil {
				return err
			}
		}
		return w.Write(extended)
	}
	if err := eachBatch(ctx, path, func(*arrow.Schema) error { return nil }, write); err != nil {
		return err
	}
	if w == nil {
		return fmt.Errorf("%s has no rows", path)
	}
	if err := w.Close(); err != nil {
		return err
	}
	from := r.From()
	for _, field := range slices.Sorted(maps.Keys(from)) {
		fmt.Fprintf(log, "%s from column %s\n", field, from[field])
	}
	kept, reasons := 0, map[string]int{}
	for i, k := range s.Kept {
		if k {
			kept++
		} else {
			reasons[s.Reason[i]]++
		}
	}
	fmt.Fprintf(log, "%s: %d of %d completions kept by %s\n", plan.Recipe, kept, len(s.Kept), plan.Selecting())
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(log, "  %s: %d\n", reason, reasons[reason])
	}
	return nil
}

// eachBatch hands the schema and then all batches of a file on.
func eachBatch(ctx context.Context, path string, begin func(*arrow.Schema) error, do func(arrow.Record) error) (err error) {
	r, err := files.Open(ctx, path, files.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := begin(r.Schema()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = do(rec)
		rec.Release()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}
