package datasets

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// WriteJSONL writes the first rows of t, at most limit of them (all if limit is not
// positive), as [WriteJSON] does.
func WriteJSONL(w io.Writer, t *Table, limit int) error {
	rec := t.record
	if limit > 0 && limit < t.Rows() {
		rec = rec.NewSlice(0, int64(limit))
		defer rec.Release()
	}
	if err := WriteJSON(w, rec); err != nil {
		return fmt.Errorf("write %s as JSONL: %w", t.Kind(), err)
	}
	return nil
}

// WriteJSON writes the rows of rec as one JSON object per line with the columns in
// the record's order. Nulls and figures that JSON lacks (NaN, infinities) become
// null, what is no UTF-8 becomes U+FFFD, and values of types that JSON lacks become
// text, as Arrow writes it.
func WriteJSON(w io.Writer, rec arrow.Record) error {
	const full = 1 << 16
	var heads [][]byte
	for i, f := range rec.Schema().Fields() {
		name, err := appendText(nil, f.Name)
		if err != nil {
			return err
		}
		heads = append(heads, append(append([]byte{"{,"[min(i, 1)]}, name...), ':'))
	}
	var out []byte
	var err error
	for row := range int(rec.NumRows()) {
		for j, c := range rec.Columns() {
			if out, err = appendJSON(append(out, heads[j]...), c, row); err != nil {
				return fmt.Errorf("row %d: column %q: %w", row, rec.ColumnName(j), err)
			}
		}
		out = append(out, "}\n"...)
		if len(out) > full {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	_, err = w.Write(out)
	return err
}

// appendJSON adds row i of a.
func appendJSON(out []byte, a arrow.Array, i int) ([]byte, error) {
	if a.IsNull(i) {
		return append(out, "null"...), nil
	}
	switch a := a.(type) {
	case array.StringLike:
		return appendText(out, a.Value(i))
	case *array.Boolean:
		return strconv.AppendBool(out, a.Value(i)), nil
	case *array.Int8:
		return strconv.AppendInt(out, int64(a.Value(i)), 10), nil
	case *array.Int16:
		return strconv.AppendInt(out, int64(a.Value(i)), 10), nil
	case *array.Int32:
		return strconv.AppendInt(out, int64(a.Value(i)), 10), nil
	case *array.Int64:
		return strconv.AppendInt(out, a.Value(i), 10), nil
	case *array.Uint8:
		return strconv.AppendUint(out, uint64(a.Value(i)), 10), nil
	case *array.Uint16:
		return strconv.AppendUint(out, uint64(a.Value(i)), 10), nil
	case *array.Uint32:
		return strconv.AppendUint(out, uint64(a.Value(i)), 10), nil
	case *array.Uint64:
		return strconv.AppendUint(out, a.Value(i), 10), nil
	case *array.Float16:
		return appendFloat(out, float64(a.Value(i).Float32()), 32), nil
	case *array.Float32:
		return appendFloat(out, float64(a.Value(i)), 32), nil
	case *array.Float64:
		return appendFloat(out, a.Value(i), 64), nil
	case *array.Timestamp:
		return appendText(out, a.Value(i).ToTime(a.DataType().(*arrow.TimestampType).Unit).Format(time.RFC3339Nano))
	case *array.Dictionary:
		return appendJSON(out, a.Dictionary(), a.GetValueIndex(i))
	case array.ListLike:
		lo, hi := a.ValueOffsets(i)
		out = append(out, '[')
		for k := lo; k < hi; k++ {
			if k > lo {
				out = append(out, ',')
			}
			var err error
			if out, err = appendJSON(out, a.ListValues(), int(k)); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case *array.Struct:
		out = append(out, '{')
		for k, f := range a.DataType().(*arrow.StructType).Fields() {
			if k > 0 {
				out = append(out, ',')
			}
			var err error
			if out, err = appendText(out, f.Name); err == nil {
				out, err = appendJSON(append(out, ':'), a.Field(k), i)
			}
			if err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	return appendText(out, a.ValueStr(i))
}

func appendFloat(out []byte, v float64, bits int) []byte {
	size := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return append(out, "null"...)
	case size != 0 && (size < 1e-6 || size >= 1e21): // as encoding/json
		return strconv.AppendFloat(out, v, 'e', -1, bits)
	}
	return strconv.AppendFloat(out, v, 'f', -1, bits)
}

// appendText adds a string, which few characters make more than its own bytes.
func appendText(out []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			text, err := marshal(s)
			return append(out, text...), err
		}
	}
	return append(append(append(out, '"'), s...), '"'), nil
}
