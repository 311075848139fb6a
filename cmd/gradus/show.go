package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/exchange"
)

func showCommand(t *target) *cobra.Command {
	var where, order string
	var columns []string
	var limit int
	cmd := &cobra.Command{
		Use:   "show NAME|REF",
		Short: "Print a table, fit to the terminal; with --output json as JSON lines, whole",
		Args:  cobra.ExactArgs(1),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			table, err := loadNamed(ctx, s, args[0])
			if err != nil {
				return err
			}
			defer table.Release()
			rec, total, err := view(table.Record(), where, order, limit, columns)
			if err != nil {
				return err
			}
			defer rec.Release()
			out := cmd.OutOrStdout()
			if t.output == "json" {
				return datasets.WriteJSON(out, rec)
			}
			writeTable(out, rec, terminalWidth())
			if n := int(rec.NumRows()); n < total {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d rows; -n 0 shows all\n", n, total)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.IntVarP(&limit, "rows", "n", 10, "rows to print, 0 for all")
	f.StringVar(&where, "where", "", `only rows for which this expression over the columns is true, such as 'pass_rate < 0.5 and level in 1..3'`)
	f.StringVar(&order, "sort", "", "column to sort by; -COLUMN from the largest down")
	f.StringSliceVar(&columns, "columns", nil, "only these columns, in this order")
	return cmd
}

// view is the rows that where chooses, sorted, the first of them, of the columns
// named, and how many rows where chose. The caller releases it.
func view(rec arrow.Record, where, order string, limit int, columns []string) (arrow.Record, int, error) {
	rows, err := choose(rec, where, nil)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Release()
	total := int(rows.NumRows())
	n := total
	if limit > 0 {
		n = min(n, limit)
	}
	shown := rows.NewSlice(0, int64(n))
	if order != "" {
		numbers, err := sorted(rows, order)
		if err != nil {
			shown.Release()
			return nil, 0, err
		}
		shown.Release()
		if shown, err = exchange.Take(memory.DefaultAllocator, rows, numbers[:n]); err != nil {
			return nil, 0, err
		}
	}
	defer shown.Release()
	out, err := choose(shown, "", columns)
	return out, total, err
}

// sorted is the numbers of the rows in the order of a column. Rows of equal values
// keep theirs; nulls come last.
func sorted(rec arrow.Record, order string) ([]int32, error) {
	name, down := strings.CutPrefix(order, "-")
	at := rec.Schema().FieldIndices(name)
	if len(at) == 0 {
		return nil, fmt.Errorf("no column %q to sort by; there are %s", name, columnNames(rec.Schema()))
	}
	c := rec.Column(at[0])
	compare := comparison(c)
	if compare == nil {
		return nil, fmt.Errorf("column %q is %s, which has no order", name, c.DataType())
	}
	rows := make([]int32, rec.NumRows())
	for i := range rows {
		rows[i] = int32(i)
	}
	slices.SortStableFunc(rows, func(a, b int32) int {
		i, j := int(a), int(b)
		switch {
		case c.IsNull(i) || c.IsNull(j):
			return null(c, i) - null(c, j)
		case down:
			i, j = j, i
		}
		return compare(i, j)
	})
	return rows, nil
}

func null(c arrow.Array, i int) int {
	if c.IsNull(i) {
		return 1
	}
	return 0
}

// comparison compares two rows of a column, nil where they have no order.
func comparison(c arrow.Array) func(i, j int) int {
	switch c := c.(type) {
	case array.StringLike:
		return func(i, j int) int { return strings.Compare(c.Value(i), c.Value(j)) }
	case *array.Int32:
		return func(i, j int) int { return cmp.Compare(c.Value(i), c.Value(j)) }
	case *array.Int64:
		return func(i, j int) int { return cmp.Compare(c.Value(i), c.Value(j)) }
	case *array.Float32:
		return func(i, j int) int { return cmp.Compare(c.Value(i), c.Value(j)) }
	case *array.Float64:
		return func(i, j int) int { return cmp.Compare(c.Value(i), c.Value(j)) }
	case *array.Boolean:
		return func(i, j int) int { return strings.Compare(c.ValueStr(i), c.ValueStr(j)) } // false before true
	case *array.List: // by length
		length := func(i int) int64 { lo, hi := c.ValueOffsets(i); return hi - lo }
		return func(i, j int) int { return cmp.Compare(length(i), length(j)) }
	}
	return nil
}

func columnNames(s *arrow.Schema) string {
	var names []string
	for _, f := range s.Fields() {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// terminalWidth is the columns of the terminal, 0 where there is none.
func terminalWidth() int {
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Widths of a printed table.
const (
	gap       = 2   // between columns
	leastCell = 8   // to which texts may be cut
	plainCell = 60  // where there is no terminal
	wideCell  = 400 // beyond which nothing is looked at
)

// writeTable prints the rows as an aligned table. It cuts the widest columns until a
// line fits the width; 0 is no terminal, whose lines may be as long as they are.
func writeTable(out io.Writer, rec arrow.Record, width int) {
	rows := [][]string{make([]string, rec.NumCols())}
	right := make([]bool, rec.NumCols())
	widths := make([]int, rec.NumCols())
	for j, f := range rec.Schema().Fields() {
		rows[0][j], widths[j] = f.Name, utf8.RuneCountInString(f.Name)
		right[j] = arrow.IsInteger(f.Type.ID()) || arrow.IsFloating(f.Type.ID())
	}
	for i := range int(rec.NumRows()) {
		row := make([]string, rec.NumCols())
		for j, c := range rec.Columns() {
			row[j] = cell(c, i)
			widths[j] = max(widths[j], utf8.RuneCountInString(row[j]))
		}
		rows = append(rows, row)
	}
	fit(widths, width)
	for _, row := range rows {
		var line strings.Builder
		for j, text := range row {
			text = cut(text, widths[j])
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(text))
			if right[j] {
				text = pad + text
			} else {
				text += pad
			}
			line.WriteString(text + strings.Repeat(" ", gap))
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
}

// fit lowers the largest widths until their sum fits, none below leastCell.
func fit(widths []int, width int) {
	if width == 0 {
		for j := range widths {
			widths[j] = min(widths[j], plainCell)
		}
		return
	}
	for {
		sum, widest := 0, 0
		for j, w := range widths {
			sum += w + gap
			if w > widths[widest] {
				widest = j
			}
		}
		if sum-gap <= width || len(widths) == 0 || widths[widest] <= leastCell {
			return
		}
		widths[widest]--
	}
}

// cell is a value in one line; of a list its length and beginning.
func cell(c arrow.Array, i int) string {
	if c.IsNull(i) {
		return "-"
	}
	text := ""
	switch c := c.(type) {
	case array.StringLike:
		text = c.Value(i)
		text = text[:min(len(text), wideCell)]
	case *array.Float32:
		text = fmt.Sprintf("%.4g", c.Value(i))
	case *array.Float64:
		text = fmt.Sprintf("%.4g", c.Value(i))
	case array.ListLike:
		lo, hi := c.ValueOffsets(i)
		var parts []string
		for k := lo; k < min(hi, lo+8); k++ {
			parts = append(parts, cell(c.ListValues(), int(k)))
		}
		text = fmt.Sprintf("%d: %s", hi-lo, strings.Join(parts, " "))
		if hi-lo > 8 {
			text += " …"
		}
	default:
		text = c.ValueStr(i)
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
}

// cut shortens a text to so many characters.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}
