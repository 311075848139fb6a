package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/gradus-rl/gradus/datasets"
)

func newRecord(schema *arrow.Schema, columns []arrow.Array, rows int64) arrow.Record {
	return array.NewRecord(schema, columns, rows)
}

// batches is a Reader over a function that gives the next batch.
type batches struct {
	schema *arrow.Schema
	next   func() (arrow.Record, error)
	close  func() error
}

func (b *batches) Schema() *arrow.Schema { return b.schema }

func (b *batches) Next() (arrow.Record, error) {
	rec, err := b.next()
	if err != nil {
		return nil, err
	}
	for i, c := range rec.Columns() {
		if c.Len() != int(rec.NumRows()) {
			err = fmt.Errorf("damaged file: %d rows of %d", c.Len(), rec.NumRows())
		}
		if err == nil {
			err = valid(c.Data())
		}
		if err != nil {
			rec.Release()
			return nil, fmt.Errorf("column %q: %w", b.schema.Field(i).Name, err)
		}
	}
	return rec, nil
}
func (b *batches) Place() (string, int64) { return "", 0 }
func (b *batches) Close() error           { return b.close() }

// openArrow reads both forms of Arrow IPC: what does not start as a file is a stream.
func openArrow(_ context.Context, f File, o Options) (Reader, error) {
	whole, closer, err := f.seekable()
	if err != nil {
		return nil, err
	}
	r, err := guarded(func() (Reader, error) { return newArrow(whole, closer, o) })
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	return r, nil
}

// bounded is an allocator that panics, as guarded expects it, over what no file of its
// size can need.
type bounded struct {
	memory.Allocator
	most int // bytes at once
}

// bound allows for the best ratio of a compression, 32 KiB for a byte.
func bound(mem memory.Allocator, whole *io.SectionReader) bounded {
	return bounded{mem, int(min(4<<30, 1<<20+whole.Size()*32<<10))}
}

func (b bounded) check(size int) {
	if size < 0 || size > b.most {
		panic(fmt.Sprintf("it asks for %d bytes of memory", size))
	}
}

// Allocate implements memory.Allocator.
func (b bounded) Allocate(size int) []byte {
	b.check(size)
	return b.Allocator.Allocate(size)
}

// Reallocate implements memory.Allocator.
func (b bounded) Reallocate(size int, data []byte) []byte {
	b.check(size)
	return b.Allocator.Reallocate(size, data)
}

// checkArrow looks at the schema of a file or stream before Arrow's reader does, which
// takes memory for whatever length is stated there.
func checkArrow(whole *io.SectionReader, isFile bool) error {
	const footerSchema, messageHeader = 6, 8 // slots
	at, slot := int64(0), flatbuffers.VOffsetT(messageHeader)
	size := make([]byte, 4)
	if isFile {
		at, slot = whole.Size()-10, footerSchema
	}
	if _, err := whole.ReadAt(size, at); err != nil {
		return err
	}
	if !isFile && binary.LittleEndian.Uint32(size) == 0xffffffff {
		at += 4
		if _, err := whole.ReadAt(size, at); err != nil {
			return err
		}
	}
	n := int64(binary.LittleEndian.Uint32(size))
	if at += 4; isFile {
		at -= 4 + n
	}
	if at < 0 || n > whole.Size()-at || n < 8 {
		return fmt.Errorf("damaged file: a schema of %d bytes", n)
	}
	data := make([]byte, n)
	if _, err := whole.ReadAt(data, at); err != nil {
		return err
	}
	return datasets.CheckSchema(flatbuffers.Table{Bytes: data, Pos: flatbuffers.GetUOffsetT(data)}, slot)
}

func newArrow(whole *io.SectionReader, closer io.Closer, o Options) (Reader, error) {
	head := make([]byte, len(ipc.Magic))
	if _, err := whole.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	isFile := bytes.Equal(head, ipc.Magic)
	if err := checkArrow(whole, isFile); err != nil {
		return nil, err
	}
	o.Mem = bound(o.Mem, whole)
	if !isFile {
		r, err := ipc.NewReader(whole, ipc.WithAllocator(o.Mem))
		if err != nil {
			return nil, err
		}
		return &batches{r.Schema(), func() (arrow.Record, error) {
			rec, err := r.Read()
			if err == nil {
				rec.Retain() // the reader releases it when it reads on
			}
			return rec, err
		}, func() error { r.Release(); return closer.Close() }}, nil
	}
	r, err := ipc.NewFileReader(whole, ipc.WithAllocator(o.Mem))
	if err != nil {
		return nil, err
	}
	i := 0
	return &batches{r.Schema(), func() (arrow.Record, error) {
		if i == r.NumRecords() {
			return nil, io.EOF
		}
		i++
		return r.RecordAt(i - 1)
	}, func() error { return errors.Join(r.Close(), closer.Close()) }}, nil
}

// parquetRows is how many rows of a Parquet file make a batch.
const parquetRows = 8192

// openParquet reads row group by row group.
func openParquet(ctx context.Context, f File, o Options) (Reader, error) {
	whole, closer, err := f.seekable()
	if err != nil {
		return nil, err
	}
	r, err := guarded(func() (Reader, error) { return newParquet(ctx, whole, closer, o) })
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	return r, nil
}

// checkParquet looks at where the columns are before Parquet's reader does, in
// goroutines whose panics would end the process.
func checkParquet(pf *file.Reader, size int64) error {
	for g := range pf.NumRowGroups() {
		meta := pf.MetaData().RowGroup(g)
		for i := range meta.NumColumns() {
			c, err := meta.ColumnChunk(i)
			if err != nil {
				return err
			}
			at := c.DataPageOffset()
			if c.HasDictionaryPage() && c.DictionaryPageOffset() > 0 {
				at = min(at, c.DictionaryPageOffset())
			}
			if n := c.TotalCompressedSize(); at < 0 || n < 0 || at > size || n > size-at {
				return fmt.Errorf("damaged file: column %d of row group %d is %d bytes at %d of %d", i, g, n, at, size)
			}
		}
	}
	return nil
}

// checkPages reads the pages of nested columns once before Parquet's reader does: it
// reads the fields of objects in goroutines, where a panic cannot be caught. Pages that
// can be read and whose values are damaged may still end the process.
func checkPages(g *file.RowGroupReader) error {
	for i := range g.NumColumns() {
		if c := g.MetaData().Schema.Column(i); c.Path() == c.Name() {
			continue
		}
		pages, err := g.GetColumnPageReader(i)
		if err != nil {
			return err
		}
		for pages.Next() { // which releases the page before
		}
		if err := pages.Err(); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func newParquet(ctx context.Context, whole *io.SectionReader, closer io.Closer, o Options) (Reader, error) {
	o.Mem = bound(o.Mem, whole)
	pf, err := file.NewParquetReader(whole, file.WithReadProps(parquet.NewReaderProperties(o.Mem)))
	if err != nil {
		return nil, err
	}
	if err := checkParquet(pf, whole.Size()); err != nil {
		return nil, errors.Join(err, pf.Close())
	}
	r, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: parquetRows}, o.Mem)
	if err != nil {
		return nil, errors.Join(err, pf.Close())
	}
	schema, err := r.Schema()
	if err != nil {
		return nil, errors.Join(err, pf.Close())
	}
	group := 0
	var rows pqarrow.RecordReader
	release := func() {
		if rows != nil {
			rows.Release()
			rows = nil
		}
	}
	return &batches{schema, func() (arrow.Record, error) {
		for {
			if rows == nil {
				if group == pf.NumRowGroups() {
					return nil, io.EOF
				}
				err := checkPages(pf.RowGroup(group))
				if err != nil {
					return nil, err
				}
				if rows, err = r.GetRecordReader(ctx, nil, []int{group}); err != nil {
					return nil, err
				}
				group++
			}
			rec, err := rows.Read()
			if err == nil {
				rec.Retain()
				return rec, nil
			}
			release()
			if !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
	}, func() error { release(); return errors.Join(pf.Close(), closer.Close()) }}, nil
}
