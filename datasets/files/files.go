// Package files reads the files of other tools as streams of Arrow batches: JSON
// lines, Parquet, Arrow IPC and CSV, plain or compressed by gzip or zstd, from a file,
// a folder or an S3 bucket.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Options say how files are read. The zero value is a good start.
type Options struct {
	Mem    memory.Allocator // nil = Go's
	Sample int              // bytes of JSON lines or CSV whose columns tell the schema; 0 = 8 MiB, below 0 = the whole file
	Text   bool             // CSV: all columns are text; else their values tell
}

// sample is how much of a file tells its schema unless asked otherwise.
const sample = 8 << 20

// Reader is a stream of batches of one schema.
type Reader interface {
	// Schema is what all batches have.
	Schema() *arrow.Schema
	// Next returns the next batch, which the caller releases, or io.EOF. An error
	// names the file, and the line where the format has lines; the stream ends there.
	Next() (arrow.Record, error)
	// Place is where the last batch comes from: its file, and the number of its first
	// row in that file, from 1.
	Place() (file string, row int64)
	// Close ends the stream, also before its end.
	Close() error
}

// Open opens the file, or all files of a folder or of a prefix s3://bucket/prefix
// whose names end as a known format's do, in the order of their names; see [List].
// The files of one stream must have the same columns, in any order. ctx ends the
// stream.
func Open(ctx context.Context, path string, o Options) (Reader, error) {
	list, err := List(ctx, path)
	if err != nil {
		return nil, err
	}
	first, err := list[0].Open(ctx, o)
	if err != nil || len(list) == 1 {
		return first, err
	}
	return &several{ctx: ctx, options: o, rest: list[1:], Reader: first, schema: first.Schema()}, nil
}

// several reads files one after the other.
type several struct {
	Reader  // of the current file
	ctx     context.Context
	options Options
	rest    []File
	schema  *arrow.Schema
}

func (s *several) Schema() *arrow.Schema { return s.schema }

func (s *several) Next() (arrow.Record, error) {
	for {
		rec, err := s.Reader.Next()
		if err == nil {
			return s.align(rec)
		}
		if !errors.Is(err, io.EOF) || len(s.rest) == 0 {
			return nil, err
		}
		if err := s.Reader.Close(); err != nil {
			return nil, err
		}
		next, err := s.rest[0].Open(s.ctx, s.options)
		if err != nil {
			s.Reader, s.rest = none{s.schema}, nil
			return nil, err
		}
		s.Reader, s.rest = next, s.rest[1:]
	}
}

// align gives a batch the first file's order of columns.
func (s *several) align(rec arrow.Record) (arrow.Record, error) {
	if rec.Schema().Equal(s.schema) {
		return rec, nil
	}
	defer rec.Release()
	file, _ := s.Place()
	columns := make([]arrow.Array, s.schema.NumFields())
	for i, f := range s.schema.Fields() {
		at := rec.Schema().FieldIndices(f.Name)
		if len(at) != 1 {
			return nil, fmt.Errorf("%s: no column %q, which the files before it have", file, f.Name)
		}
		columns[i] = rec.Column(at[0])
		if have := columns[i].DataType(); !arrow.TypeEqual(have, f.Type) {
			return nil, fmt.Errorf("%s: column %q is %s, which is %s in the files before it", file, f.Name, have, f.Type)
		}
	}
	for _, f := range rec.Schema().Fields() {
		if !s.schema.HasField(f.Name) {
			return nil, fmt.Errorf("%s: column %q, which the files before it lack", file, f.Name)
		}
	}
	return newRecord(s.schema, columns, rec.NumRows()), nil
}

// none is a stream after its end.
type none struct{ schema *arrow.Schema }

func (n none) Schema() *arrow.Schema       { return n.schema }
func (none) Next() (arrow.Record, error)   { return nil, io.EOF }
func (none) Place() (file string, r int64) { return "", 0 }
func (none) Close() error                  { return nil }

// Format is how a file holds its rows.
type Format string

// The formats that are read.
const (
	JSONL   Format = "jsonl"   // one JSON object per line
	Parquet Format = "parquet" //
	Arrow   Format = "arrow"   // IPC, file or stream
	CSV     Format = "csv"     // with a header; tabs in files that end in .tsv
)

// endings are the formats by the ends of names, before .gz or .zst.
var endings = map[string]Format{
	".jsonl": JSONL, ".ndjson": JSONL, ".json": JSONL, ".parquet": Parquet, ".arrow": Arrow, ".arrows": Arrow, ".feather": Arrow, ".ipc": Arrow, ".csv": CSV, ".tsv": CSV,
}

// Open opens one file as a stream of batches.
func (f File) Open(ctx context.Context, o Options) (Reader, error) {
	if o.Mem == nil {
		o.Mem = memory.DefaultAllocator
	}
	if o.Sample == 0 {
		o.Sample = sample
	}
	open := map[Format]func(context.Context, File, Options) (Reader, error){JSONL: openJSONL, Parquet: openParquet, Arrow: openArrow, CSV: openCSV}[f.Format]
	r, err := open(ctx, f, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return &named{Reader: r, file: f.Name, ctx: ctx, next: 1}, nil
}

// named adds the file's name to errors, counts rows and minds the context.
type named struct {
	Reader
	ctx       context.Context
	file      string
	row, next int64
}

func (n *named) Next() (arrow.Record, error) {
	if err := n.ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", n.file, err)
	}
	rec, err := guarded(n.Reader.Next)
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.file, err)
	}
	n.row, n.next = n.next, n.next+rec.NumRows()
	return rec, nil
}

func (n *named) Place() (string, int64) { return n.file, n.row }

// guarded turns the panics of Arrow's and Parquet's readers on damaged files into errors.
func guarded[T any](do func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged file: %v", p)
		}
	}()
	return do()
}

func knownEndings() []string {
	var out []string
	for e := range endings {
		out = append(out, e)
	}
	slices.Sort(out)
	return out
}
