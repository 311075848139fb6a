package filter

import (
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// value is row i of a column as expressions see it: whole numbers as int (as
// float64 beyond its range), lists as []any, structs as maps, what expr has no type
// for as text.
func value(a arrow.Array, i int) any {
	if a.IsNull(i) {
		return nil
	}
	switch a := a.(type) {
	case *array.Boolean:
		return a.Value(i)
	case *array.Int8:
		return int(a.Value(i))
	case *array.Int16:
		return int(a.Value(i))
	case *array.Int32:
		return int(a.Value(i))
	case *array.Int64:
		return int(a.Value(i))
	case *array.Uint8:
		return int(a.Value(i))
	case *array.Uint16:
		return int(a.Value(i))
	case *array.Uint32:
		return int(a.Value(i))
	case *array.Uint64:
		if v := a.Value(i); v > math.MaxInt {
			return float64(v)
		}
		return int(a.Value(i))
	case *array.Float16:
		return float64(a.Value(i).Float32())
	case *array.Float32:
		return float64(a.Value(i))
	case *array.Float64:
		return a.Value(i)
	case array.StringLike:
		return a.Value(i)
	case *array.Dictionary:
		return value(a.Dictionary(), a.GetValueIndex(i))
	case array.ListLike:
		lo, hi := a.ValueOffsets(i)
		list := make([]any, 0, hi-lo)
		for k := lo; k < hi; k++ {
			list = append(list, value(a.ListValues(), int(k)))
		}
		return list
	case *array.Struct:
		t := a.DataType().(*arrow.StructType)
		fields := make(map[string]any, a.NumField())
		for k := range a.NumField() {
			fields[t.Field(k).Name] = value(a.Field(k), i)
		}
		return fields
	}
	return a.ValueStr(i)
}
