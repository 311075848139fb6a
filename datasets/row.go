package datasets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// row is one row of a file, whatever its format.
type row struct {
	source fields
	from   map[string]string // columns by the fields that they fill on the user's word, else nil
}

// fields are the columns of a row. Values are nil, bool, string, [json.Number], []any
// or map[string]any.
type fields interface {
	keys() []string
	field(key string) (v any, ok bool)
	nulls() bool // columns that a row lacks are there as null
}

func (r row) nulls() bool { return r.source.nulls() }

// keys are the row's fields, sorted.
func (r row) keys() []string {
	var keys []string
	for _, k := range r.source.keys() {
		if !r.taken(k) {
			keys = append(keys, k)
		}
	}
	for f := range r.from {
		keys = append(keys, f)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// taken reports whether the user's word has the column for another field.
func (r row) taken(column string) bool {
	for _, c := range r.from {
		if c == column {
			return true
		}
	}
	return false
}

// field is the value of a field; a dot leads into an object.
func (r row) field(key string) (any, bool) {
	if column, ok := r.from[key]; ok {
		return r.path(column)
	}
	if r.taken(key) {
		return nil, false
	}
	return r.path(key)
}

func (r row) path(key string) (any, bool) {
	if v, ok := r.source.field(key); ok {
		return v, true
	}
	first, rest, dotted := strings.Cut(key, ".")
	if !dotted {
		return nil, false
	}
	v, _ := r.source.field(first)
	for dotted {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if whole, ok := object[rest]; ok {
			return whole, true
		}
		if first, rest, dotted = strings.Cut(rest, "."); !dotted {
			return nil, false
		}
		v = object[first]
	}
	return nil, false
}

// jsonRow is one JSON object.
type jsonRow map[string]json.RawMessage

func (r jsonRow) keys() []string { return slices.Sorted(maps.Keys(r)) }
func (r jsonRow) nulls() bool    { return false }

func (r jsonRow) field(key string) (v any, ok bool) {
	raw, ok := r[key]
	if !ok {
		return nil, false
	}
	switch { // raw was checked with the row
	case raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0:
		return string(raw[1 : len(raw)-1]), true
	case raw[0] == '-' || raw[0]-'0' < 10:
		return json.Number(raw), true
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v) == nil
}

func parseRow(line []byte) (jsonRow, error) {
	var r jsonRow
	if line[0] != '{' {
		return nil, fmt.Errorf("%.40q", line)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%w at byte %d", err, syntax.Offset)
		}
		return nil, err
	}
	return r, nil
}

// arrowRow is one row of a batch.
type arrowRow struct {
	record arrow.Record
	index  map[string]int
	i      int
}

func (r arrowRow) keys() []string { return slices.Sorted(maps.Keys(r.index)) }
func (r arrowRow) nulls() bool    { return true }

func (r arrowRow) field(key string) (any, bool) {
	k, ok := r.index[key]
	if !ok {
		return nil, false
	}
	return arrowValue(r.record.Column(k), r.i), true
}

// arrowValue is element i of a as JSON would have it.
func arrowValue(a arrow.Array, i int) any {
	if a.IsNull(i) {
		return nil
	}
	switch a := a.(type) {
	case *array.String:
		return a.Value(i)
	case *array.LargeString:
		return a.Value(i)
	case *array.StringView:
		return a.Value(i)
	case *array.Boolean:
		return a.Value(i)
	case *array.Float32:
		return floatValue(float64(a.Value(i)), 32)
	case *array.Float64:
		return floatValue(a.Value(i), 64)
	case *array.Dictionary:
		return arrowValue(a.Dictionary(), a.GetValueIndex(i))
	case *array.Struct:
		object := map[string]any{}
		for k, f := range a.DataType().(*arrow.StructType).Fields() {
			object[f.Name] = arrowValue(a.Field(k), i)
		}
		return object
	case array.ListLike:
		lo, hi := a.ValueOffsets(i)
		list := make([]any, 0, hi-lo)
		for k := lo; k < hi; k++ {
			list = append(list, arrowValue(a.ListValues(), int(k)))
		}
		return list
	}
	if arrow.IsInteger(a.DataType().ID()) || arrow.IsDecimal(a.DataType().ID()) {
		return json.Number(a.ValueStr(i))
	}
	return a.ValueStr(i)
}

// floatValue is a number as JSON writes it; what JSON lacks is text.
func floatValue(v float64, bits int) any {
	s := strconv.FormatFloat(v, 'g', -1, bits)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return s
	}
	if math.Abs(v) < 1e15 { // without an exponent, as the values are read by people
		s = strconv.FormatFloat(v, 'f', -1, bits)
	}
	return json.Number(s)
}
