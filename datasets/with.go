package datasets

import (
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// With returns t's rows with the columns given in place of those of the same names,
// or beside the others where t has none. The other columns are shared, not copied.
// The result has the zero Lineage.
func With(mem memory.Allocator, t *Table, columns ...Data) (*Table, error) {
	w, err := with(mem, t, columns)
	if err != nil {
		return nil, fmt.Errorf("with columns: %w", err)
	}
	return w, nil
}

func with(mem memory.Allocator, t *Table, columns []Data) (*Table, error) {
	k, err := LookupKind(t.Kind())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range columns {
		names = append(names, d.name)
	}
	for _, c := range t.columns {
		if !slices.Contains(names, c.String()) {
			names = append(names, c.String())
		}
	}
	layout, err := k.layout(names)
	if err != nil {
		return nil, err
	}
	b := builder{columns: layout, rows: t.Rows()}
	defer b.release()
	for _, c := range layout {
		i := slices.IndexFunc(columns, func(d Data) bool { return d.name == c.String() })
		if i < 0 {
			a := t.record.Column(t.index(c.String()))
			a.Retain()
			b.arrays = append(b.arrays, a)
			continue
		}
		d := columns[i]
		if !arrow.TypeEqual(d.typ, c.dataType()) || d.rows != b.rows {
			return nil, fmt.Errorf("%s: column %q is %d rows of %s, want %d of %s", k.Name, d.name, d.rows, d.typ, b.rows, c.dataType())
		}
		a, err := d.build(mem)
		if err != nil {
			return nil, fmt.Errorf("%s: column %q: %w", k.Name, d.name, err)
		}
		b.arrays = append(b.arrays, a)
	}
	return b.table(t.Kind(), zeroLineage), nil
}
