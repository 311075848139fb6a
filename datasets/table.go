package datasets

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Keys of the schema metadata that a table's file carries.
const (
	metaKind    = "gradus.kind"
	metaLineage = "gradus.lineage"
)

// Table is an immutable batch of rows of one [Kind]: an Arrow record with typed
// columns and the [Lineage] of its making. It is reference counted like all Arrow
// data: whoever gets one from a function of this package calls Release when done.
type Table struct {
	record  arrow.Record
	columns []AnyColumn // declarations, in the record's order
}

// NewTable builds a table from columns in any order. All must have one length, be
// declared by the kind and hold valid UTF-8 and in-range offsets; all columns that
// the kind requires must be there. The data is copied into mem.
func NewTable(mem memory.Allocator, kind string, lineage Lineage, columns ...Data) (*Table, error) {
	t, err := newTable(mem, kind, lineage, columns)
	if err != nil {
		return nil, fmt.Errorf("new table: %w", err)
	}
	return t, nil
}

func newTable(mem memory.Allocator, kind string, lineage Lineage, columns []Data) (*Table, error) {
	k, err := LookupKind(kind)
	if err != nil {
		return nil, err
	}
	meta, err := lineage.canonical()
	if err != nil {
		return nil, err
	}
	byName := map[string]Data{}
	var names []string
	for _, d := range columns {
		byName[d.name] = d
		names = append(names, d.name)
	}
	layout, err := k.layout(names)
	if err != nil {
		return nil, err
	}
	b := builder{columns: layout, rows: columns[0].rows}
	defer b.release()
	for _, c := range layout {
		d := byName[c.String()]
		if !arrow.TypeEqual(d.typ, c.dataType()) {
			return nil, fmt.Errorf("%s: column %q is %s, want %s", kind, d.name, d.typ, c.dataType())
		}
		if d.rows != b.rows {
			return nil, fmt.Errorf("%s: column %q has %d rows, want %d as in %q", kind, d.name, d.rows, b.rows, columns[0].name)
		}
		a, err := d.build(mem)
		if err != nil {
			return nil, fmt.Errorf("%s: column %q: %w", kind, d.name, err)
		}
		b.arrays = append(b.arrays, a)
	}
	return b.table(kind, meta), nil
}

// builder collects the columns of a table to be; release drops what it holds.
type builder struct {
	columns []AnyColumn
	arrays  []arrow.Array
	rows    int
}

func (b *builder) release() {
	for _, a := range b.arrays {
		a.Release()
	}
}

// table makes the table; it retains the arrays.
func (b *builder) table(kind string, lineage []byte) *Table {
	fields := make([]arrow.Field, len(b.columns))
	for i, c := range b.columns {
		fields[i] = arrow.Field{Name: c.String(), Type: c.dataType()}
	}
	meta := arrow.NewMetadata([]string{metaKind, metaLineage}, []string{kind, string(lineage)})
	return &Table{
		record:  array.NewRecord(arrow.NewSchema(fields, &meta), b.arrays, int64(b.rows)),
		columns: b.columns,
	}
}

// Retain adds a reference.
func (t *Table) Retain() { t.record.Retain() }

// Release drops a reference; after the last one the table must not be used.
func (t *Table) Release() { t.record.Release() }

// Rows is the number of rows.
func (t *Table) Rows() int { return int(t.record.NumRows()) }

// Kind is the name of the table's [Kind]; of a joined table, the names joined by "+".
func (t *Table) Kind() string {
	kind, _ := t.record.Schema().Metadata().GetValue(metaKind)
	return kind
}

// Lineage is how the table was made. Tables from [Join], [Concat] and [Take] have
// the zero Lineage; [Table.WithLineage] gives them one.
func (t *Table) Lineage() (Lineage, error) {
	raw, _ := t.record.Schema().Metadata().GetValue(metaLineage)
	var l Lineage
	if err := json.Unmarshal([]byte(raw), &l); err != nil {
		return Lineage{}, fmt.Errorf("lineage of %s: %w", t.Kind(), err)
	}
	return l, nil
}

// WithLineage is the same rows, shared, with another lineage.
func (t *Table) WithLineage(l Lineage) (*Table, error) {
	meta, err := l.canonical()
	if err != nil {
		return nil, fmt.Errorf("with lineage: %w", err)
	}
	b := builder{columns: t.columns, arrays: t.record.Columns(), rows: t.Rows()}
	return b.table(t.Kind(), meta), nil
}

// Record is the table as Arrow has it. The caller must not release it.
func (t *Table) Record() arrow.Record { return t.record }

// Has reports whether the table has a column of that name.
func (t *Table) Has(name string) bool { return t.index(name) >= 0 }

func (t *Table) index(name string) int {
	return slices.IndexFunc(t.columns, func(c AnyColumn) bool { return c.String() == name })
}

// column finds the array of c.
func (t *Table) column(c AnyColumn) (arrow.Array, error) {
	i := t.index(c.String())
	if i < 0 {
		return nil, fmt.Errorf("%s has no column %q", t.Kind(), c)
	}
	if have := t.columns[i].dataType(); !arrow.TypeEqual(have, c.dataType()) {
		return nil, fmt.Errorf("%s: column %q is %s, not %s", t.Kind(), c, have, c.dataType())
	}
	return t.record.Column(i), nil
}

// Join puts the columns of equally long tables side by side, for stages that read
// what several stages wrote; the columns are shared, not copied. A column that two
// tables have is an error. Joined tables are for reading: they cannot be saved.
func Join(tables ...*Table) (*Table, error) {
	if len(tables) == 0 {
		return nil, errors.New("join: no tables")
	}
	b := builder{rows: tables[0].Rows()}
	var kinds []string
	for _, t := range tables {
		if t.Rows() != b.rows {
			return nil, fmt.Errorf("join: %s has %d rows, want %d as in %s", t.Kind(), t.Rows(), b.rows, tables[0].Kind())
		}
		for i, c := range t.columns {
			if slices.ContainsFunc(b.columns, func(d AnyColumn) bool { return c.String() == d.String() }) {
				return nil, fmt.Errorf("join: %s has column %q, which %s has too", t.Kind(), c, strings.Join(kinds, " or "))
			}
			b.columns = append(b.columns, c)
			b.arrays = append(b.arrays, t.record.Column(i))
		}
		kinds = append(kinds, t.Kind())
	}
	return b.table(strings.Join(kinds, "+"), zeroLineage), nil
}

// Concat puts the rows of tables of one kind and the same columns one after the other.
func Concat(mem memory.Allocator, tables ...*Table) (*Table, error) {
	if len(tables) == 0 {
		return nil, errors.New("concat: no tables")
	}
	first := tables[0]
	b := builder{columns: first.columns}
	defer b.release()
	for _, t := range tables {
		if t.Kind() != first.Kind() {
			return nil, fmt.Errorf("concat: %s beside %s", t.Kind(), first.Kind())
		}
		if len(t.columns) != len(first.columns) {
			return nil, fmt.Errorf("concat: %s with %d columns beside one with %d", t.Kind(), len(t.columns), len(first.columns))
		}
		b.rows += t.Rows()
	}
	for _, c := range b.columns {
		parts := make([]arrow.Array, len(tables))
		for i, t := range tables {
			a, err := t.column(c)
			if err != nil {
				return nil, fmt.Errorf("concat: %w", err)
			}
			parts[i] = a
		}
		whole, err := array.Concatenate(parts, mem)
		if err != nil {
			return nil, fmt.Errorf("concat: column %q: %w", c, err)
		}
		b.arrays = append(b.arrays, whole)
	}
	return b.table(first.Kind(), zeroLineage), nil
}

// Take returns the rows numbered, in that order; a row may be taken several times.
func Take(mem memory.Allocator, t *Table, rows []int32) (*Table, error) {
	for i, row := range rows {
		if row < 0 || int(row) >= t.Rows() {
			return nil, fmt.Errorf("take: row %d (number %d) of a table of %d", row, i, t.Rows())
		}
	}
	b := builder{columns: t.columns, rows: len(rows)}
	defer b.release()
	for i, c := range t.columns {
		a, err := c.take(mem, t.record.Column(i), rows)
		if err != nil {
			return nil, fmt.Errorf("take: column %q: %w", c, err)
		}
		b.arrays = append(b.arrays, a)
	}
	return b.table(t.Kind(), zeroLineage), nil
}
