package files

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/klauspost/compress/zstd"

	"github.com/gradus-rl/gradus/datasets"
)

// CreateOptions say how a file is written.
type CreateOptions struct {
	Format Format    // "" = by the end of the name
	Stdout io.Writer // where "-" writes; nil = os.Stdout
}

// Writer writes batches of one schema to a file.
type Writer struct {
	path   string
	schema *arrow.Schema
	layers []io.Closer // outermost first; the last is the temporary file
	temp   string      // its name, "" for the standard output
	write  func(arrow.Record) error
	err    error
	closed bool
}

// Create begins a file of the format that its name ends in, or that o names: JSON
// lines and CSV, which may end in .gz or .zst, Parquet, or an Arrow IPC file. CSV
// takes no lists and no structs. "-" is the standard output, for JSON lines (unless o
// says otherwise) and CSV. The file appears under its name at [Writer.Close], whole;
// what was there is replaced then.
func Create(path string, schema *arrow.Schema, o CreateOptions) (*Writer, error) {
	w := &Writer{path: path, schema: schema}
	if err := w.open(o); err != nil {
		w.Abort()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return w, nil
}

func (w *Writer) open(o CreateOptions) error {
	name, compression := strings.ToLower(filepath.Base(w.path)), ""
	if e := filepath.Ext(name); e == ".gz" || e == ".zst" {
		name, compression = strings.TrimSuffix(name, e), e
	}
	format := cmp.Or(o.Format, endings[filepath.Ext(name)])
	if w.path == "-" {
		format = cmp.Or(format, JSONL)
	}
	text := format == JSONL || format == CSV
	switch {
	case format == "":
		return fmt.Errorf("the name ends in none of %s: name a format", strings.Join(knownEndings(), ", "))
	case !text && compression != "":
		return fmt.Errorf("%s is compressed inside: leave out %s", format, compression)
	case !text && w.path == "-":
		return fmt.Errorf("%s does not go to the standard output: name a file", format)
	}
	var out io.Writer = cmp.Or[io.Writer](o.Stdout, os.Stdout)
	if w.path != "-" {
		f, err := os.CreateTemp(filepath.Dir(w.path), ".gradus-*")
		if err != nil {
			return err
		}
		w.temp, w.layers, out = f.Name(), []io.Closer{f}, f
		if err := f.Chmod(0o644); err != nil {
			return err
		}
	}
	if text {
		buffered := bufio.NewWriterSize(out, 1<<18)
		w.on(closer(buffered.Flush))
		out = buffered
	}
	switch compression {
	case ".gz":
		z := gzip.NewWriter(out)
		w.on(z)
		out = z
	case ".zst":
		z, err := zstd.NewWriter(out)
		if err != nil {
			return err
		}
		w.on(z)
		out = z
	}
	switch format {
	case JSONL:
		w.write = func(rec arrow.Record) error { return datasets.WriteJSON(out, rec) }
		return nil
	case CSV:
		return w.openCSV(out, filepath.Ext(name))
	case Parquet:
		return w.openParquet(out)
	case Arrow:
		file, err := ipc.NewFileWriter(w.layers[0].(*os.File), ipc.WithSchema(w.schema), ipc.WithZstd())
		if err != nil {
			return err
		}
		w.on(file)
		w.write = file.Write
		return nil
	}
	return fmt.Errorf("format %q is not known: want %s, %s, %s or %s", format, JSONL, CSV, Parquet, Arrow)
}

// on adds a layer over the ones that are there.
func (w *Writer) on(c io.Closer) { w.layers = append([]io.Closer{c}, w.layers...) }

type closer func() error

func (c closer) Close() error { return c() }

func (w *Writer) openCSV(out io.Writer, ending string) error {
	table := csv.NewWriter(out)
	if ending == ".tsv" {
		table.Comma = '\t'
	}
	row := make([]string, w.schema.NumFields())
	for i, f := range w.schema.Fields() {
		if _, nested := f.Type.(arrow.NestedType); nested {
			return fmt.Errorf("column %q is %s, which CSV cannot hold: choose the columns, or another format", f.Name, f.Type)
		}
		row[i] = f.Name
	}
	w.on(closer(func() error { table.Flush(); return table.Error() }))
	w.write = func(rec arrow.Record) error {
		for i := range int(rec.NumRows()) {
			for j, c := range rec.Columns() {
				row[j] = ""
				if c.IsValid(i) {
					row[j] = c.ValueStr(i)
				}
			}
			if err := table.Write(row); err != nil {
				return err
			}
		}
		return nil
	}
	return table.Write(row)
}

// openParquet writes with the Arrow schema beside, so that Arrow readers get the
// same types back.
func (w *Writer) openParquet(out io.Writer) error {
	properties := parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd))
	file, err := pqarrow.NewFileWriter(w.schema, open{out}, properties, pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	if err != nil {
		return err
	}
	w.on(file)
	w.write = file.Write
	return nil
}

// open hides the Close method of a file that is to be closed later.
type open struct{ io.Writer }

// Write adds the rows of a batch, which has the writer's schema. After an error
// nothing more is written, and Close tells it again.
func (w *Writer) Write(rec arrow.Record) error {
	if w.err == nil {
		w.err = w.write(rec)
	}
	if w.err != nil {
		return fmt.Errorf("write %s: %w", w.path, w.err)
	}
	return nil
}

// Close ends the file and gives it its name. Where anything failed there is no
// file, and the error says why.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.err
	for _, l := range w.layers {
		if f, ok := l.(*os.File); ok && err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, l.Close())
	}
	if w.temp != "" && err == nil {
		err = os.Rename(w.temp, w.path)
	}
	if err != nil {
		if w.temp != "" {
			err = errors.Join(err, os.Remove(w.temp))
		}
		return fmt.Errorf("write %s: %w", w.path, err)
	}
	return nil
}

// Abort ends the writing without a file; after Close it does nothing.
func (w *Writer) Abort() {
	if w.err == nil {
		w.err = errors.New("given up")
	}
	_ = w.Close() // says only that
}
