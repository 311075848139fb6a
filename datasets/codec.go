package datasets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// MaxDecoded bounds the memory in bytes that decoding one table may take, so that a
// damaged length cannot exhaust the machine. Larger data is cut into shards.
const MaxDecoded = 4 << 30

// mostRatio is the most that compression can save: Zstd's best block stands for
// 128 KiB with 4 bytes.
const mostRatio = 32 << 10

// Encode writes t as an Arrow IPC file of one batch. Equal tables give equal bytes,
// whatever the number of processors; a joined table is refused.
func Encode(t *Table) ([]byte, error) {
	if _, err := LookupKind(t.Kind()); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var out bytes.Buffer
	w, err := newFileWriter(&out, t.record.Schema())
	if err == nil {
		err = w.write(t.record)
	}
	if err == nil {
		err = w.close()
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", t.Kind(), err)
	}
	return out.Bytes(), nil
}

// Decode reads what [Encode] or a [Writer] wrote, or another writer of Arrow IPC files
// with a known kind in its metadata and that kind's columns without nulls. The
// values are checked as far as reading them safely needs; damaged input is an
// error, never a panic. A table of an earlier version of its kind becomes one of the
// newest. The table's memory comes from mem; what data holds uncompressed is shared with it
// and must not change.
func Decode(mem memory.Allocator, data []byte) (*Table, error) {
	t, err := decode(mem, data)
	if err == nil {
		t, err = upgrade(mem, t)
	}
	if err != nil {
		return nil, fmt.Errorf("decode table: %w", err)
	}
	return t, nil
}

func decode(mem memory.Allocator, data []byte) (t *Table, err error) {
	b := newBudget(mem, min(MaxDecoded, 1<<20+mostRatio*len(data)))
	defer func() {
		// Arrow's reader panics on damaged files and leaves behind what it has read.
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("damaged file: %v", p)
		}
		b.settle(err != nil)
	}()
	r, err := newFileReader(int64(len(data)), func(at, n int64) ([]byte, error) { return data[at : at+n], nil })
	if err != nil {
		return nil, err
	}
	n := len(r.blocks)
	if n == 0 {
		return nil, errors.New("no batch")
	}
	var parts []*Table
	defer func() {
		for _, t := range parts {
			t.Release()
		}
	}()
	for i := range n {
		t, err := r.part(b, i)
		if err != nil {
			return nil, err
		}
		parts = append(parts, t)
	}
	if n == 1 {
		parts[0].Retain()
		return parts[0], nil
	}
	whole, err := Concat(b, parts...)
	if err != nil {
		return nil, fmt.Errorf("%d batches: %w", n, err)
	}
	defer whole.Release()
	lineage, _ := r.schema.Metadata().GetValue(metaLineage)
	all := builder{columns: whole.columns, arrays: whole.record.Columns(), rows: whole.Rows()}
	return all.table(whole.Kind(), []byte(lineage)), nil
}

// part reads batch i as a table.
func (f *fileReader) part(mem memory.Allocator, i int) (*Table, error) {
	rec, err := f.record(mem, i)
	if err != nil {
		return nil, err
	}
	columns, err := declared(rec)
	if err != nil {
		rec.Release()
		return nil, err
	}
	return &Table{record: rec, columns: columns}, nil
}

// declared checks a record against its kind and returns the columns' declarations.
func declared(rec arrow.Record) ([]AnyColumn, error) {
	kind, _ := rec.Schema().Metadata().GetValue(metaKind)
	k, err := readable(kind)
	if err != nil {
		return nil, err
	}
	names := make([]string, rec.NumCols())
	for i := range names {
		names[i] = rec.ColumnName(i)
	}
	columns, err := k.layout(names)
	if err != nil {
		return nil, err
	}
	for i, c := range columns {
		if names[i] != c.String() {
			return nil, fmt.Errorf("%s: column %d is %q, want %q", kind, i, names[i], c)
		}
		if err := checkArray(rec.Column(i), c.dataType()); err != nil {
			return nil, fmt.Errorf("%s: column %q: %w", kind, c, err)
		}
	}
	return columns, nil
}

// checkArray verifies that a has the type wanted and that reading its values stays
// within its buffers.
func checkArray(a arrow.Array, want arrow.DataType) error {
	if a.DataType().ID() != want.ID() {
		return fmt.Errorf("type %s, want %s", a.DataType(), want)
	}
	if a.NullN() != 0 {
		return fmt.Errorf("%d nulls, want none", a.NullN())
	}
	if a.Len() == 0 {
		return nil
	}
	switch a := a.(type) {
	case *array.List:
		if err := checkOffsets(a.Offsets()[:a.Len()+1], a.ListValues().Len()); err != nil {
			return err
		}
		return checkArray(a.ListValues(), want.(*arrow.ListType).Elem())
	case *array.String:
		return checkOffsets(a.ValueOffsets(), a.Data().Buffers()[2].Len())
	}
	bits := int64(want.(arrow.FixedWidthDataType).BitWidth())
	if have := int64(a.Data().Buffers()[1].Len()); have < (int64(a.Len())*bits+7)/8 {
		return fmt.Errorf("%d bytes for %d rows of %s", have, a.Len(), want)
	}
	return nil
}

// Save stores t under its content address. Saving what is there already is fine, and
// cheap to retry; an object of another size is replaced.
func Save(ctx context.Context, s Store, t *Table) (Ref, error) {
	data, err := Encode(t)
	if err != nil {
		return Ref{}, fmt.Errorf("save: %w", err)
	}
	return save(ctx, s, data, Ref{Rows: int64(t.Rows()), Kind: t.Kind()})
}

// fresh is how long after its writing an object counts as written for all who
// save or reuse it: they write what is older again, so that [Collect], which spares
// young objects, spares what is in use.
const fresh = time.Hour

// SaveBlob stores data under its content address, with kind "blob".
func SaveBlob(ctx context.Context, s Store, data []byte) (Ref, error) {
	return save(ctx, s, data, Ref{Kind: KindBlob})
}

func save(ctx context.Context, s Store, data []byte, r Ref) (Ref, error) {
	Progress(ctx)
	r.Hash, r.Bytes = hash(data), int64(len(data))
	err := s.PutOnce(ctx, r.object(), data)
	if errors.Is(err, ErrExists) {
		var o Object
		// A write that failed may have left a part of the object.
		if o, err = s.Stat(ctx, r.object()); errors.Is(err, ErrNotFound) || err == nil && (o.Bytes != r.Bytes || time.Since(o.Modified) > fresh) {
			err = s.Put(ctx, r.object(), data)
		}
	}
	if err != nil {
		return Ref{}, fmt.Errorf("save %s: %w", r.Kind, err)
	}
	return r, nil
}

// Load reads the table that r addresses. Bytes that do not have r's hash are an
// [ErrCorrupt] that names the object.
func Load(ctx context.Context, s Store, mem memory.Allocator, r Ref) (*Table, error) {
	data, err := get(ctx, s, r)
	if err != nil {
		return nil, err
	}
	verified := make(chan error, 1)
	go func() { verified <- verify(r, data) }() // while they are decoded, which no damage can harm
	t, err := Decode(mem, data)
	if damaged := <-verified; damaged != nil {
		if err == nil {
			t.Release()
		}
		return nil, damaged
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", r.object(), err)
	}
	if t.Kind() != newest(r.Kind) {
		defer t.Release()
		return nil, fmt.Errorf("load %s: a table of %s, want %s", r.object(), t.Kind(), newest(r.Kind))
	}
	return t, nil
}

// DamagedError is the error of a Ref whose object does not have its checksum
// (ErrCorrupt) or is absent (ErrNotFound).
type DamagedError struct {
	Ref Ref
	Err error // names the object
}

// Error says what is wrong with which object.
func (e *DamagedError) Error() string { return e.Err.Error() }

// Unwrap is the reason.
func (e *DamagedError) Unwrap() error { return e.Err }

// Remove deletes the object that r addresses, because it is damaged: whoever saves
// the same bytes writes it anew.
func Remove(ctx context.Context, s Store, r Ref) error { return s.Delete(ctx, r.object()) }

// LoadBlob reads the bytes that r addresses, verified as by [Load].
func LoadBlob(ctx context.Context, s Store, r Ref) ([]byte, error) {
	data, err := get(ctx, s, r)
	if err == nil {
		err = verify(r, data)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// get reads what r addresses, not verified.
func get(ctx context.Context, s Store, r Ref) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	Progress(ctx)
	data, err := s.Get(ctx, r.object())
	if errors.Is(err, ErrNotFound) {
		return nil, &DamagedError{r, fmt.Errorf("load %s: %w", r.Kind, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", r.Kind, err)
	}
	return data, nil
}

// verify compares data with r's hash.
func verify(r Ref, data []byte) error {
	if have := hash(data); have != r.Hash {
		return &DamagedError{r, fmt.Errorf("load %s: %w: %d bytes with SHA-256 %s", r.object(), ErrCorrupt, len(data), have)}
	}
	return nil
}
