// Package exchange is the columns in which other trainers hold problems and
// completions: what TRL and verl read, and the names under which they write. All of
// it is Arrow; package files puts it into files.
package exchange

import (
	"fmt"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Layout is whose columns an export has.
type Layout string

// The layouts.
const (
	TRL  Layout = "trl"  // TRL's GRPOTrainer and its relatives
	Verl Layout = "verl" // verl's RLHFDataset
	Own  Layout = ""     // the tables' own columns
)

// Options say how an export is laid out.
type Options struct {
	Layout  Layout
	Plain   bool   // TRL: prompts and completions are texts, not chats
	Split   string // verl: extra_info.split of rows without a split of their own, "" = train
	Ability string // verl: the ability of all rows, such as math
}

// column is a column to be: its type, and how row i is added.
type column struct {
	field arrow.Field
	add   func(b array.Builder, i int)
}

// build makes a record of n rows.
func build(mem memory.Allocator, n int, columns []column) arrow.Record {
	fields := make([]arrow.Field, len(columns))
	for k, c := range columns {
		fields[k] = c.field
	}
	b := array.NewRecordBuilder(mem, arrow.NewSchema(fields, nil))
	defer b.Release()
	for k, c := range columns {
		for i := range n {
			c.add(b.Field(k), i)
		}
	}
	return b.NewRecord()
}

// scalar is a column of values of one builder's type.
func scalar[T any](name string, t arrow.DataType, get func(i int) T) column {
	return column{arrow.Field{Name: name, Type: t}, func(b array.Builder, i int) {
		b.(interface{ Append(T) }).Append(get(i))
	}}
}

func texts(name string, get func(i int) string) column {
	return scalar(name, arrow.BinaryTypes.String, get)
}

func ints(name string, get func(i int) int32) column {
	return scalar(name, arrow.PrimitiveTypes.Int32, get)
}

func floats(name string, get func(i int) float64) column {
	return scalar(name, arrow.PrimitiveTypes.Float64, get)
}

func bools(name string, get func(i int) bool) column {
	return scalar(name, arrow.FixedWidthTypes.Boolean, get)
}

// maybe is floats with a null where there is none.
func maybe(name string, get func(i int) (float64, bool)) column {
	return column{arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Float64, Nullable: true}, func(b array.Builder, i int) {
		if v, ok := get(i); ok {
			b.(*array.Float64Builder).Append(v)
		} else {
			b.AppendNull()
		}
	}}
}

// list is a column of lists; a nil one is null.
func list[T any](name string, t arrow.DataType, get func(i int) []T) column {
	return column{arrow.Field{Name: name, Type: arrow.ListOfNonNullable(t), Nullable: true}, func(b array.Builder, i int) {
		l, values := b.(*array.ListBuilder), get(i)
		l.Append(values != nil)
		if values != nil {
			l.ValueBuilder().(interface{ AppendValues([]T, []bool) }).AppendValues(values, nil)
		}
	}}
}

func intLists(name string, get func(i int) []int32) column {
	return list(name, arrow.PrimitiveTypes.Int32, get)
}

func floatLists(name string, get func(i int) []float32) column {
	return list(name, arrow.PrimitiveTypes.Float32, get)
}

// object is a column of structs.
func object(name string, columns ...column) column {
	fields := make([]arrow.Field, len(columns))
	for k, c := range columns {
		fields[k] = c.field
	}
	return column{arrow.Field{Name: name, Type: arrow.StructOf(fields...)}, func(b array.Builder, i int) {
		s := b.(*array.StructBuilder)
		s.Append(true)
		for k, c := range columns {
			c.add(s.FieldBuilder(k), i)
		}
	}}
}

// chat is a column of chats of one message.
func chat(name, role string, get func(i int) string) column {
	message := arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.String})
	return column{arrow.Field{Name: name, Type: arrow.ListOfNonNullable(message)}, func(b array.Builder, i int) {
		l := b.(*array.ListBuilder)
		l.Append(true)
		s := l.ValueBuilder().(*array.StructBuilder)
		s.Append(true)
		s.FieldBuilder(0).(*array.StringBuilder).Append(role)
		s.FieldBuilder(1).(*array.StringBuilder).Append(get(i))
	}}
}

// at is what a path of names joined by dots leads to in a batch, through structs.
func at(rec arrow.Record, path string) (arrow.Array, error) {
	names := []string{path}
	if !rec.Schema().HasField(path) {
		names = strings.Split(path, ".")
	}
	found := rec.Schema().FieldIndices(names[0])
	if len(found) == 0 {
		return nil, fmt.Errorf("no column %q", path)
	}
	a := rec.Column(found[0])
	for _, name := range names[1:] {
		s, ok := a.(*array.Struct)
		if !ok {
			return nil, fmt.Errorf("column %q: there is nothing below %s", path, a.DataType())
		}
		k, ok := s.DataType().(*arrow.StructType).FieldIdx(name)
		if !ok {
			return nil, fmt.Errorf("column %q: no field %q", path, name)
		}
		a = s.Field(k)
	}
	return a, nil
}
