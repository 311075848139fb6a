package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/exchange"
	"github.com/gradus-rl/gradus/datasets/files"
	"github.com/gradus-rl/gradus/datasets/filter"
	"github.com/gradus-rl/gradus/ledger"
)

// exportOptions are the flags of data export.
type exportOptions struct {
	out, format, where, run, difficulty string
	columns                             []string
	step                                int
	all, metrics                        bool
	layout                              exchange.Options
}

func exportCommand(t *target) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export NAME|REF -o FILE | export --run RUN [--step N] -o FILE",
		Short: "Write a table, or a run's completions, for other tools",
		Long: `Write a table of the store to a file: JSON lines (.jsonl, also .gz and .zst), Parquet, Arrow or CSV, by the file's ending.
--format trl and --format verl lay a problem set out as these trainers read it. With --run it is the completions that a run
learnt from, of all steps or one, with rewards, advantages, token masks and log-probabilities; or with --metrics the run's
curves, a row a step.`,
		Args: cobra.MaximumNArgs(1),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (o.run != "") {
				return errors.New("name one table, or a run by --run")
			}
			e := exporter{options: o, stdout: cmd.OutOrStdout()}
			defer e.abort()
			if o.format == string(exchange.TRL) || o.format == string(exchange.Verl) {
				e.options.layout.Layout, e.options.format = exchange.Layout(o.format), ""
			}
			var err error
			if o.run != "" {
				err = e.run(ctx, s, cmd.Flags().Changed("step"))
			} else if o.metrics {
				err = errors.New("--metrics are a run's: name it by --run")
			} else {
				err = e.table(ctx, s, args[0])
			}
			if err == nil {
				err = e.close()
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d rows\n", o.out, e.rows)
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "out", "o", "", "file to write; - prints JSON lines")
	f.StringVar(&o.format, "format", "", "trl or verl: the columns that these read; or jsonl, csv, parquet or arrow, whatever the file's name ends in")
	f.StringVar(&o.where, "where", "", "only rows for which this expression over the columns is true")
	f.StringSliceVar(&o.columns, "columns", nil, "only these columns, in this order")
	f.StringVar(&o.run, "run", "", "run whose completions to export")
	f.IntVar(&o.step, "step", 0, "step of the run, from 1 (default: all)")
	f.BoolVar(&o.all, "all", false, "with --run: also the completions that were not trained on")
	f.BoolVar(&o.metrics, "metrics", false, "with --run: the metrics of its steps, a column each")
	f.StringVar(&o.difficulty, "difficulty", "", "table of pass rates by problem (a difficulty map, or a run's curriculum state) for the columns pass_rate, difficulty and weight")
	f.BoolVar(&o.layout.Plain, "plain", false, "for trl: prompts and completions as texts instead of chats")
	f.StringVar(&o.layout.Split, "split", "", "only this split, of a set that was split; of another one, the name that verl is told (default there: train)")
	f.StringVar(&o.layout.Ability, "ability", "math", "for verl: the ability of all rows")
	if err := cmd.MarkFlagRequired("out"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// exporter writes batches of one schema, filtered, to a file that it begins with the first.
type exporter struct {
	options exportOptions
	stdout  io.Writer
	writer  *files.Writer
	rows    int64
}

func (e *exporter) table(ctx context.Context, s datasets.Store, name string) error {
	t, err := loadNamed(ctx, s, name)
	if err != nil {
		return err
	}
	defer t.Release()
	if split := e.options.layout.Split; split != "" && t.Has(datasets.Split.Name) {
		if t, err = keep(t, datasets.Split.Name+" == "+strconv.Quote(split)); err != nil {
			return err
		}
		defer t.Release()
	} else if split != "" && e.options.layout.Layout != exchange.Verl {
		return fmt.Errorf("--split %s: %s has no column split", split, name)
	}
	if e.options.layout.Layout == exchange.Own {
		return e.add(t.Record())
	}
	// What is chosen is chosen by the set's own columns, which other layouts lack.
	if t, err = keep(t, e.options.where); err != nil {
		return err
	}
	defer t.Release()
	e.options.where = ""
	var difficulty *datasets.Table
	if e.options.difficulty != "" {
		if difficulty, err = loadNamed(ctx, s, e.options.difficulty); err != nil {
			return err
		}
		defer difficulty.Release()
	}
	rec, err := exchange.Problems(memory.DefaultAllocator, t, difficulty, e.options.layout)
	if err != nil {
		return err
	}
	defer rec.Release()
	return e.add(rec)
}

// run writes a batch per step. Steps that wait for a full batch have learnt nothing:
// their completions come with the step that does.
func (e *exporter) run(ctx context.Context, s datasets.Store, one bool) error {
	r, err := ledger.Open(ctx, s, e.options.run)
	if err != nil {
		return err
	}
	steps := r.Steps()
	if one {
		if !slices.Contains(steps, e.options.step-1) {
			return fmt.Errorf("run %s has no record of step %d; it has those of %d steps", e.options.run, e.options.step, len(steps))
		}
		steps = []int{e.options.step - 1}
	}
	if e.options.metrics {
		return e.metrics(ctx, r, steps)
	}
	sources, err := r.Sources(ctx)
	if err != nil {
		return err
	}
	for _, step := range steps {
		record, err := r.Record(ctx, step)
		if err != nil {
			return err
		}
		var rows []exchange.Completion
		if !record.Metrics.IsZero() || e.options.all && one {
			if rows, err = r.Completions(ctx, record, ""); err != nil {
				return err
			}
		}
		if !e.options.all {
			rows = slices.DeleteFunc(rows, func(c exchange.Completion) bool { return !c.Kept })
		}
		for i := range rows {
			rows[i].Source = sources[rows[i].Problem]
		}
		rec, err := exchange.Completions(memory.DefaultAllocator, rows, e.options.layout)
		if err != nil {
			return err
		}
		err = e.add(rec)
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// metrics writes a row a step, null in the column of a metric that the step has not.
func (e *exporter) metrics(ctx context.Context, r *ledger.Run, steps []int) error {
	names := map[string]bool{}
	found := make([]map[string]float64, len(steps))
	for i, step := range steps {
		record, err := r.Record(ctx, step)
		if err != nil {
			return err
		}
		if found[i], err = r.Metrics(ctx, record); err != nil {
			return err
		}
		for name := range found[i] {
			names[name] = true
		}
	}
	fields := []arrow.Field{{Name: datasets.Step.Name, Type: arrow.PrimitiveTypes.Int32}}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fields = append(fields, arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema(fields, nil))
	defer b.Release()
	for i, step := range steps {
		if len(found[i]) == 0 { // it waits for a full batch
			continue
		}
		b.Field(0).(*array.Int32Builder).Append(int32(step) + 1)
		for j, f := range fields[1:] {
			column := b.Field(1 + j).(*array.Float64Builder)
			if x, ok := found[i][f.Name]; ok {
				column.Append(x)
			} else {
				column.AppendNull()
			}
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	return e.add(rec)
}

// add filters a batch, takes the columns wanted and writes it.
func (e *exporter) add(rec arrow.Record) error {
	chosen, err := choose(rec, e.options.where, e.options.columns)
	if err != nil {
		return err
	}
	defer chosen.Release()
	if e.writer == nil {
		o := files.CreateOptions{Format: files.Format(e.options.format), Stdout: e.stdout}
		if e.writer, err = files.Create(e.options.out, chosen.Schema(), o); err != nil {
			return err
		}
	}
	e.rows += chosen.NumRows()
	return e.writer.Write(chosen)
}

func (e *exporter) close() error {
	if e.writer == nil {
		return errors.New("there is nothing to export")
	}
	return e.writer.Close()
}

func (e *exporter) abort() {
	if e.writer != nil {
		e.writer.Abort()
	}
}

// loadNamed loads a table by its name or Ref; the caller releases it.
func loadNamed(ctx context.Context, s datasets.Store, name string) (*datasets.Table, error) {
	ref, err := datasets.Resolve(ctx, s, name)
	if err != nil {
		return nil, err
	}
	return datasets.Load(ctx, s, memory.DefaultAllocator, ref)
}

// keep is a table of the rows for which where is true ("" = all).
func keep(t *datasets.Table, where string) (*datasets.Table, error) {
	if where == "" {
		t.Retain()
		return t, nil
	}
	rows, err := matching(t.Record(), where)
	if err != nil {
		return nil, err
	}
	return datasets.Take(memory.DefaultAllocator, t, rows)
}

// matching numbers the rows for which where is true.
func matching(rec arrow.Record, where string) ([]int32, error) {
	f, err := filter.Compile(where, rec.Schema())
	if err != nil {
		return nil, err
	}
	return f.Rows(rec)
}

// choose is the rows for which where is true ("" = all) and the columns named (none
// = all); the caller releases it.
func choose(rec arrow.Record, where string, columns []string) (arrow.Record, error) {
	rec.Retain()
	if where != "" {
		defer rec.Release()
		rows, err := matching(rec, where)
		if err != nil {
			return nil, err
		}
		if rec, err = exchange.Take(memory.DefaultAllocator, rec, rows); err != nil {
			return nil, err
		}
	}
	if len(columns) == 0 {
		return rec, nil
	}
	defer rec.Release()
	var fields []arrow.Field
	var arrays []arrow.Array
	for _, name := range columns {
		at := rec.Schema().FieldIndices(name)
		if len(at) == 0 {
			return nil, fmt.Errorf("no column %q; there are %s", name, columnNames(rec.Schema()))
		}
		fields, arrays = append(fields, rec.Schema().Field(at[0])), append(arrays, rec.Column(at[0]))
	}
	return array.NewRecord(arrow.NewSchema(fields, nil), arrays, rec.NumRows()), nil
}
