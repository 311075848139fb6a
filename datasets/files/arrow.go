package files

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
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

func (b *batches) Schema() *arrow.Schema       { return b.schema }
func (b *batches) Next() (arrow.Record, error) { return b.next() }
func (b *batches) Place() (string, int64)      { return "", 0 }
func (b *batches) Close() error                { return b.close() }

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

func newArrow(whole *io.SectionReader, closer io.Closer, o Options) (Reader, error) {
	head := make([]byte, len(ipc.Magic))
	if _, err := whole.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(head, ipc.Magic) {
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

func newParquet(ctx context.Context, whole *io.SectionReader, closer io.Closer, o Options) (Reader, error) {
	pf, err := file.NewParquetReader(whole)
	if err != nil {
		return nil, err
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
				var err error
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
