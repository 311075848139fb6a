package datasets

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Scalar lists the Go types of a column's values.
type Scalar interface {
	string | bool | int32 | int64 | float32 | float64
}

// Element lists the Go types of the values in a list column's rows.
type Element interface {
	string | bool | int32 | float32
}

// Column is the typed name of a column with one value per row.
type Column[T Scalar] struct{ Name string }

// ListColumn is the typed name of a column with a list of values per row.
type ListColumn[T Element] struct{ Name string }

// AnyColumn is what [Column] and [ListColumn] have in common: enough to declare a column
// in a [Kind] or in the reads and writes of a stage.
type AnyColumn interface {
	fmt.Stringer // the name
	dataType() arrow.DataType
	take(mem memory.Allocator, a arrow.Array, rows []int32) (arrow.Array, error)
}

// Data is the content of one column on its way into [NewTable].
type Data struct {
	name  string
	typ   arrow.DataType
	rows  int
	build func(memory.Allocator) (arrow.Array, error)
}

// String is the column's name.
func (c Column[T]) String() string { return c.Name }

// String is the column's name.
func (c ListColumn[T]) String() string { return c.Name }

// Get returns the column's values, one per row. Numbers alias the table's memory:
// they must not be changed, and end with the table's last Release. Bools and
// strings are copies. Get panics when t has no such column of this type, which is
// misuse by the caller; [Column.Lookup] reports it.
func (c Column[T]) Get(t *Table) []T { return must(c.Lookup(t)) }

// Lookup is [Column.Get] with an error instead of a panic.
func (c Column[T]) Lookup(t *Table) ([]T, error) {
	a, err := t.column(c)
	if err != nil {
		return nil, err
	}
	return values[T](a), nil
}

// Of gives the column its values, which NewTable copies.
func (c Column[T]) Of(v []T) Data {
	return Data{name: c.Name, typ: c.dataType(), rows: len(v), build: func(mem memory.Allocator) (arrow.Array, error) {
		return newArray(mem, v)
	}}
}

// Get returns the column's rows. Numbers and offsets alias the table's memory as
// in [Column.Get]; misuse panics, and [ListColumn.Lookup] reports it.
func (c ListColumn[T]) Get(t *Table) Lists[T] { return must(c.Lookup(t)) }

// Lookup is [ListColumn.Get] with an error instead of a panic.
func (c ListColumn[T]) Lookup(t *Table) (Lists[T], error) {
	a, err := t.column(c)
	if err != nil {
		return Lists[T]{}, err
	}
	return lists[T](a), nil
}

// Of gives the column its rows, which NewTable copies.
func (c ListColumn[T]) Of(l Lists[T]) Data {
	return Data{name: c.Name, typ: c.dataType(), rows: l.Len(), build: func(mem memory.Allocator) (arrow.Array, error) {
		return newList(mem, l)
	}}
}

// OfSlices is [ListColumn.Of] for one slice per row; nil is an empty row.
func (c ListColumn[T]) OfSlices(rows [][]T) Data { return c.Of(MakeLists(rows)) }

// Lists are rows of varying length over one slice of values: row i is
// Values[Offsets[i]:Offsets[i+1]]. The zero value has no rows.
type Lists[T any] struct {
	Values  []T
	Offsets []int32 // one more than there are rows, not decreasing
}

// MakeLists lays rows out one after the other.
func MakeLists[T any](rows [][]T) Lists[T] {
	n := 0
	for _, row := range rows {
		n += len(row)
	}
	l := Lists[T]{Values: make([]T, 0, n), Offsets: make([]int32, 1, len(rows)+1)}
	for _, row := range rows {
		l.Values = append(l.Values, row...)
		l.Offsets = append(l.Offsets, int32(len(l.Values)))
	}
	return l
}

// Len is the number of rows.
func (l Lists[T]) Len() int { return max(0, len(l.Offsets)-1) }

// Row returns row i; it panics if there is none. The row aliases l and is capped,
// so that appending to it copies.
func (l Lists[T]) Row(i int) []T {
	lo, hi := l.Offsets[i], l.Offsets[i+1]
	return l.Values[lo:hi:hi]
}

// check verifies what Row relies on.
func (l Lists[T]) check() error {
	if len(l.Values) > math.MaxInt32 {
		return fmt.Errorf("%d values are more than %d", len(l.Values), math.MaxInt32)
	}
	if l.Len() > 0 {
		return checkOffsets(l.Offsets, len(l.Values))
	}
	return nil
}

// checkOffsets verifies that offsets stay in order and within n values.
func checkOffsets(offsets []int32, n int) error {
	last := int32(0)
	for i, o := range offsets {
		if o < last || int(o) > n {
			return fmt.Errorf("offset %d of row %d is out of order or beyond the %d values", o, i, n)
		}
		last = o
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (c Column[T]) dataType() arrow.DataType     { return dataType[T]() }
func (c ListColumn[T]) dataType() arrow.DataType { return arrow.ListOfNonNullable(dataType[T]()) }

func (c Column[T]) take(mem memory.Allocator, a arrow.Array, rows []int32) (arrow.Array, error) {
	from := values[T](a)
	to := make([]T, len(rows))
	for i, row := range rows {
		to[i] = from[row]
	}
	return newArray(mem, to)
}

func (c ListColumn[T]) take(mem memory.Allocator, a arrow.Array, rows []int32) (arrow.Array, error) {
	from := lists[T](a)
	to := make([][]T, len(rows))
	for i, row := range rows {
		to[i] = from.Row(int(row))
	}
	return newList(mem, MakeLists(to))
}

// The three functions below are the only place that knows how Go types map to
// Arrow's.

func dataType[T Scalar]() arrow.DataType {
	var zero T
	switch any(zero).(type) {
	case string:
		return arrow.BinaryTypes.String
	case bool:
		return arrow.FixedWidthTypes.Boolean
	case int32:
		return arrow.PrimitiveTypes.Int32
	case int64:
		return arrow.PrimitiveTypes.Int64
	case float32:
		return arrow.PrimitiveTypes.Float32
	default:
		return arrow.PrimitiveTypes.Float64
	}
}

func newArray[T Scalar](mem memory.Allocator, v []T) (arrow.Array, error) {
	switch v := any(v).(type) {
	case []string:
		if err := checkStrings(v); err != nil {
			return nil, err
		}
		return fill(array.NewStringBuilder(mem), v), nil
	case []bool:
		return fill(array.NewBooleanBuilder(mem), v), nil
	case []int32:
		return fill(array.NewInt32Builder(mem), v), nil
	case []int64:
		return fill(array.NewInt64Builder(mem), v), nil
	case []float32:
		return fill(array.NewFloat32Builder(mem), v), nil
	default:
		return fill(array.NewFloat64Builder(mem), any(v).([]float64)), nil
	}
}

func values[T Scalar](a arrow.Array) []T {
	var v any
	switch a := a.(type) {
	case *array.String:
		v = copyStrings(a)
	case *array.Boolean:
		v = copyBools(a)
	case *array.Int32:
		v = a.Int32Values()
	case *array.Int64:
		v = a.Int64Values()
	case *array.Float32:
		v = a.Float32Values()
	case *array.Float64:
		v = a.Float64Values()
	}
	return v.([]T)
}

func fill[T any](b interface {
	array.Builder
	AppendValues(v []T, valid []bool)
}, v []T) arrow.Array {
	defer b.Release()
	b.AppendValues(v, nil)
	return b.NewArray()
}

// checkStrings holds Arrow's promise that its strings are UTF-8 with 32-bit offsets.
func checkStrings(v []string) error {
	size := 0
	for i, s := range v {
		if !utf8.ValidString(s) {
			return fmt.Errorf("row %d is not valid UTF-8: %.40q", i, s)
		}
		size += len(s)
	}
	if size > math.MaxInt32 {
		return fmt.Errorf("%d bytes of text are more than %d: cut the table into shards", size, math.MaxInt32)
	}
	return nil
}

// copyStrings copies all bytes at once; the strings share that copy.
func copyStrings(a *array.String) []string {
	v := make([]string, a.Len())
	if a.Len() == 0 {
		return v
	}
	base := a.ValueOffset(0)
	text := strings.Clone(string(a.ValueBytes()))
	for i := range v {
		v[i] = text[a.ValueOffset(i)-base : a.ValueOffset(i)-base+len(a.Value(i))]
	}
	return v
}

func copyBools(a *array.Boolean) []bool {
	v := make([]bool, a.Len())
	for i := range v {
		v[i] = a.Value(i)
	}
	return v
}

// newList builds a list array around copies of l's values and offsets.
func newList[T Element](mem memory.Allocator, l Lists[T]) (arrow.Array, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	child, err := newArray(mem, l.Values)
	if err != nil {
		return nil, err
	}
	defer child.Release()
	offsets := memory.NewResizableBuffer(mem)
	defer offsets.Release()
	offsets.Resize(arrow.Int32Traits.BytesRequired(l.Len() + 1))
	if n := copy(arrow.Int32Traits.CastFromBytes(offsets.Bytes()), l.Offsets); n == 0 {
		clear(offsets.Bytes())
	}
	data := array.NewData(ListColumn[T]{}.dataType(), l.Len(), []*memory.Buffer{nil, offsets}, []arrow.ArrayData{child.Data()}, 0, 0)
	defer data.Release()
	return array.NewListData(data), nil
}

// lists reads a list array.
func lists[T Element](a arrow.Array) Lists[T] {
	list := a.(*array.List)
	if list.Len() == 0 {
		return Lists[T]{Offsets: []int32{0}}
	}
	first := list.Data().Offset()
	return Lists[T]{Values: values[T](list.ListValues()), Offsets: list.Offsets()[first : first+list.Len()+1]}
}
