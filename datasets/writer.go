package datasets

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	digest "hash"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Writer makes one object of a table that is too large for memory: batch by batch
// through a temporary file, which Close removes. A table of one batch is stored as
// [Save] stores it. Equal batches give equal bytes, so whoever needs equal Refs cuts
// by a rule of the rows alone, not of timing.
type Writer struct {
	sparse bool
	mem    memory.Allocator
	first  *Table // until there is a second
	spool  *spool
	rows   int64
	filled map[string]bool // columns that the kind may lack, with something in them
}

// NewWriter returns a Writer whose temporary memory comes from mem. A sparse one
// leaves out the columns that the kind may lack where all rows of theirs are empty.
func NewWriter(mem memory.Allocator, sparse bool) *Writer {
	return &Writer{mem: mem, sparse: sparse, filled: map[string]bool{}}
}

// Write adds the rows of t, which must have the kind, columns and lineage of the first.
func (w *Writer) Write(t *Table) error {
	if err := w.write(t); err != nil {
		return fmt.Errorf("write %s: %w", t.Kind(), err)
	}
	return nil
}

func (w *Writer) write(t *Table) error {
	kind, err := LookupKind(t.Kind())
	if err != nil {
		return err
	}
	optional := 0
	for i, c := range t.columns {
		if w.sparse && slices.Contains(kind.Optional, c.String()) {
			if optional++; !w.filled[c.String()] {
				w.filled[c.String()] = filled(t.record.Column(i))
			}
		}
	}
	w.rows += int64(t.Rows())
	if w.first == nil && w.spool == nil {
		w.first = t
		t.Retain()
		return nil
	}
	if w.spool == nil {
		if w.spool, err = newSpool(w.first.record.Schema()); err != nil {
			return err
		}
		if err := w.spool.ipc.write(w.first.record); err != nil {
			return err
		}
		w.first.Release()
		w.first = nil
	}
	if !t.record.Schema().Equal(w.spool.schema) || !t.record.Schema().Metadata().Equal(w.spool.schema.Metadata()) {
		return errors.New("a batch of other columns or lineage than the first")
	}
	return w.spool.ipc.write(t.record)
}

// filled reports whether some text or list is not empty.
func filled(a arrow.Array) bool {
	switch a := a.(type) {
	case *array.String:
		return len(a.ValueBytes()) > 0
	case *array.List:
		return a.ListValues().Len() > 0
	}
	return a.Len() > 0
}

// Save stores what was written, after which the Writer can only be closed.
func (w *Writer) Save(ctx context.Context, s Store) (Ref, error) {
	if w.first != nil {
		t := w.dropped(w.first.record, w.first.columns)
		defer t.Release()
		return Save(ctx, s, t)
	}
	if w.spool == nil {
		return Ref{}, errors.New("save: no batch was written")
	}
	kind, _ := w.spool.schema.Metadata().GetValue(metaKind)
	r := Ref{Rows: w.rows, Kind: kind}
	if err := w.finish(ctx); err != nil {
		return Ref{}, fmt.Errorf("save %s: %w", kind, err)
	}
	r.Hash, r.Bytes = hex.EncodeToString(w.spool.sum.Sum(nil)), w.spool.size
	// The address is the content's, so that writing it twice is no harm; the large
	// object has no conditional write that all services know.
	switch o, err := s.Stat(ctx, r.object()); {
	case err == nil && o.Bytes == r.Bytes && time.Since(o.Modified) <= fresh:
		return r, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return Ref{}, fmt.Errorf("save %s: %w", kind, err)
	}
	if err := s.PutFrom(ctx, r.object(), w.spool.file, r.Bytes); err != nil {
		return Ref{}, fmt.Errorf("save %s: %w", kind, err)
	}
	if o, err := s.Stat(ctx, r.object()); err != nil || o.Bytes != r.Bytes {
		return Ref{}, fmt.Errorf("save %s: %s has %d bytes after writing %d: %w", kind, r.object(), o.Bytes, r.Bytes, cmp.Or(err, ErrCorrupt))
	}
	return r, nil
}

// finish ends the spool; a sparse one is written anew without its empty columns.
func (w *Writer) finish(ctx context.Context) error {
	if err := w.spool.ipc.close(); err != nil {
		return err
	}
	if len(w.filled) == 0 {
		return nil
	}
	from := w.spool
	defer from.remove()
	w.spool = nil
	r, err := newFileReader(from.size, at(from.file))
	if err != nil {
		return err
	}
	for i := range r.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		Progress(ctx)
		whole, err := r.part(w.mem, i)
		if err != nil {
			return err
		}
		t := w.dropped(whole.record, whole.columns)
		whole.Release()
		if w.spool == nil {
			w.spool, err = newSpool(t.record.Schema())
		}
		if err == nil {
			err = w.spool.ipc.write(t.record)
		}
		t.Release()
		if err != nil {
			return err
		}
	}
	return w.spool.ipc.close()
}

// dropped is a record as a table without the columns that are to go.
func (w *Writer) dropped(rec arrow.Record, columns []AnyColumn) *Table {
	b := builder{rows: int(rec.NumRows())}
	for i, c := range columns {
		if has, optional := w.filled[c.String()]; has || !optional {
			b.columns, b.arrays = append(b.columns, c), append(b.arrays, rec.Column(i))
		}
	}
	kind, _ := rec.Schema().Metadata().GetValue(metaKind)
	lineage, _ := rec.Schema().Metadata().GetValue(metaLineage)
	return b.table(kind, []byte(lineage))
}

// Close gives back what the Writer holds.
func (w *Writer) Close() error {
	if w.first != nil {
		w.first.Release()
		w.first = nil
	}
	if w.spool != nil {
		return w.spool.remove()
	}
	return nil
}

// spool is an Arrow file on disk in the making, hashed as it grows.
type spool struct {
	file   *os.File
	sum    digest.Hash
	size   int64
	schema *arrow.Schema
	ipc    *fileWriter
}

func newSpool(schema *arrow.Schema) (*spool, error) {
	f, err := os.CreateTemp("", "gradus-*.arrow")
	if err != nil {
		return nil, err
	}
	s := &spool{file: f, sum: sha256.New(), schema: schema}
	if s.ipc, err = newFileWriter(s, schema); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.sum.Write(p[:n])
	s.size += int64(n)
	return n, err
}

func (s *spool) remove() error { return errors.Join(s.file.Close(), os.Remove(s.file.Name())) }

// Scan reads the table that r addresses batch by batch, in little memory: a large
// object goes through a temporary file. Its bytes are verified as by [Load] before the
// first batch. The tables are the caller's to release; an error is the last thing that
// comes.
func Scan(ctx context.Context, s Store, mem memory.Allocator, r Ref) iter.Seq2[*Table, error] {
	return func(yield func(*Table, error) bool) {
		if err := scan(ctx, s, mem, r, func(t *Table) bool { return yield(t, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// scanInMemory is the size in bytes up to which an object is read at once.
const scanInMemory = 32 << 20

func scan(ctx context.Context, s Store, mem memory.Allocator, r Ref, yield func(*Table) bool) error {
	if r.Bytes <= scanInMemory {
		t, err := Load(ctx, s, mem, r)
		if err == nil {
			yield(t)
		}
		return err
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	f, err := os.CreateTemp("", "gradus-*.arrow")
	if err != nil {
		return fmt.Errorf("scan %s: %w", r.Kind, err)
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }() // a temporary file
	if err := fetch(ctx, s, r, f); err != nil {
		return err
	}
	more := true
	for i := 0; more; i++ {
		t, end, err := batch(mem, f, r.Bytes, i)
		if err != nil {
			return fmt.Errorf("scan %s: batch %d: %w", r.object(), i, err)
		}
		if end {
			return nil
		}
		if t.Kind() != r.Kind {
			defer t.Release()
			return fmt.Errorf("scan %s: a table of %s, want %s", r.object(), t.Kind(), r.Kind)
		}
		more = ctx.Err() == nil && yield(t)
	}
	return ctx.Err()
}

// fetch copies an object into a file and verifies it.
func fetch(ctx context.Context, s Store, r Ref, f io.Writer) error {
	sum := sha256.New()
	for at := int64(0); at < r.Bytes; {
		Progress(ctx)
		part, err := s.GetRange(ctx, r.object(), at, min(scanInMemory/4, r.Bytes-at))
		if errors.Is(err, ErrNotFound) {
			return &DamagedError{r, fmt.Errorf("scan %s: %w", r.Kind, err)}
		}
		if err != nil {
			return fmt.Errorf("scan %s: %w", r.Kind, err)
		}
		if len(part) == 0 {
			break
		}
		sum.Write(part)
		if _, err := f.Write(part); err != nil {
			return fmt.Errorf("scan %s: %w", r.Kind, err)
		}
		at += int64(len(part))
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != r.Hash {
		return &DamagedError{r, fmt.Errorf("scan %s: %w: SHA-256 %s", r.object(), ErrCorrupt, have)}
	}
	return nil
}

// at reads parts of a file.
func at(f io.ReaderAt) func(at, n int64) ([]byte, error) {
	return func(at, n int64) ([]byte, error) {
		data := make([]byte, n)
		_, err := f.ReadAt(data, at)
		return data, err
	}
}

// batch decodes batch i of a file; end says that there is none.
func batch(mem memory.Allocator, f io.ReaderAt, size int64, i int) (t *Table, end bool, err error) {
	b := newBudget(mem, MaxDecoded)
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("damaged file: %v", p)
		}
		b.settle(err != nil)
	}()
	r, err := newFileReader(size, at(f))
	if err != nil {
		return nil, false, err
	}
	if i >= len(r.blocks) {
		return nil, true, nil
	}
	t, err = r.part(b, i)
	return t, false, err
}
