package datasets

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// WriteJSONL writes the first rows of t, at most limit of them (all if limit is not
// positive), as one JSON object per line with the columns in the table's order.
// Figures that JSON lacks (NaN, infinities) become null.
func WriteJSONL(w io.Writer, t *Table, limit int) error {
	rows := t.Rows()
	if limit > 0 {
		rows = min(rows, limit)
	}
	out := bufio.NewWriter(w)
	for i := range rows {
		if err := writeRow(out, t, i); err != nil {
			return fmt.Errorf("write %s as JSONL: row %d: %w", t.Kind(), i, err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write %s as JSONL: %w", t.Kind(), err)
	}
	return nil
}

func writeRow(out *bufio.Writer, t *Table, row int) error {
	for j, c := range t.columns {
		name, err := marshal(c.String())
		if err != nil {
			return err
		}
		value, err := marshal(jsonValue(t.record.Column(j), row))
		if err != nil {
			return err
		}
		out.WriteByte("{,"[min(j, 1)])
		out.Write(name)
		out.WriteByte(':')
		out.Write(value)
	}
	_, err := out.WriteString("}\n") // the writer keeps its first error
	return err
}

// jsonValue is row i of a as a value that encoding/json can write.
func jsonValue(a arrow.Array, i int) any {
	switch a := a.(type) {
	case *array.List:
		lo, hi := a.ValueOffsets(i)
		row := make([]any, 0, hi-lo)
		for k := lo; k < hi; k++ {
			row = append(row, jsonValue(a.ListValues(), int(k)))
		}
		return row
	case *array.Float32:
		if v := float64(a.Value(i)); math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return a.Value(i)
	case *array.Float64:
		if v := a.Value(i); math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return a.Value(i)
	}
	return a.GetOneForMarshal(i)
}
