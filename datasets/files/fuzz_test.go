package files

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
)

// Every text that encoding/csv reads comes as it reads it, and no other text comes.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"a,b\n1,x\n2,\"y\n,\"\"\"\n", "\ufeffa\n\n1.5\n", "a,b\n1\n", "a,a\n1,2\n", "a\n\xff\n", "a;b\r\n\"1\r\n2\"\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, wrong := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, string(bom)))).ReadAll()
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(t, 0)
		r, err := inMemory(CSV, "f", text).Open(t.Context(), Options{Mem: mem, Text: true})
		var got [][]string
		if err == nil {
			for _, field := range r.Schema().Fields() {
				if got == nil {
					got = append(got, nil)
				}
				got[0] = append(got[0], field.Name)
			}
			got, err = cells(got, r)
		}
		if err != nil {
			for _, ours := range []string{"has no name", "is there twice", "is no utf8", "empty file"} {
				if strings.Contains(err.Error(), ours) {
					return
				}
			}
			if wrong == nil {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if wrong != nil {
			t.Fatalf("%q: read, where encoding/csv has: %v", text, wrong)
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d rows, want %d", text, len(got), len(want))
		}
		for i := range want {
			if a, b := strings.Join(got[i], "\x00"), strings.Join(want[i], "\x00"); a != b {
				t.Fatalf("%q: row %d is %q, want %q", text, i, a, b)
			}
		}
	})
}

// cells appends the rows of columns of text.
func cells(rows [][]string, r Reader) ([][]string, error) {
	for {
		rec, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return rows, errors.Join(err, r.Close())
		}
		for i := range int(rec.NumRows()) {
			var row []string
			for _, c := range rec.Columns() {
				row = append(row, c.(*array.String).Value(i))
			}
			rows = append(rows, row)
		}
		rec.Release()
	}
}

// FuzzDamaged changes a byte in files of Arrow and Parquet, and cuts them: that is an
// error with the file's name or other rows, never a panic.
func FuzzDamaged(f *testing.F) {
	wholes := damageable(f)
	for i := range len(wholes) {
		f.Add(uint8(i), uint32(100), uint8(0xff), uint32(0))
		f.Add(uint8(i), uint32(8), uint8(0x80), uint32(9))
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint32, flip uint8, cut uint32) {
		damage(t, wholes[int(which)%len(wholes)], int(at), flip, int(cut))
	})
}

// Each byte of the files, changed.
func TestDamaged(t *testing.T) {
	for _, w := range damageable(t) {
		for at := range len(w.data) {
			damage(t, w, at, 0xff, 0)
			damage(t, w, at, 0x01, 0)
		}
		for cut := range len(w.data) {
			damage(t, w, 0, 0, cut)
		}
	}
}

type intact struct {
	format Format
	name   string
	data   []byte
}

func damage(t *testing.T, w intact, at int, flip uint8, cut int) {
	data := bytes.Clone(w.data)
	data[at%len(data)] ^= flip
	data = data[:len(data)-cut%len(data)]
	r, err := inMemory(w.format, w.name, string(data)).Open(t.Context(), Options{})
	for err == nil {
		var rec arrow.Record
		if rec, err = r.Next(); err == nil {
			var b bytes.Buffer
			_ = array.RecordToJSON(rec, &b) // touches all values
			rec.Release()
		}
	}
	if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), w.name) {
		t.Errorf("%s: byte %d ^ %#x, %d cut off: the error does not name the file: %v", w.name, at, flip, cut, err)
	}
	if r != nil {
		_ = r.Close() // what is damaged may not close well
	}
}

// damageable are small files of all forms.
func damageable(t testing.TB) []intact {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "ids", Type: arrow.ListOf(arrow.PrimitiveTypes.Int32), Nullable: true},
		{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "word", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}, Nullable: true},
		{Name: "chat", Type: arrow.ListOf(arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String, Nullable: true}, arrow.Field{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true})), Nullable: true},
	}, nil)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(
		`[{"text":"a","ids":[1,2],"x":0.5,"word":"u","chat":[{"role":"user","n":1}]},{"text":null,"ids":[],"x":null,"word":"v","chat":null},{"text":"ccc","ids":null,"x":2,"word":"u","chat":[{"role":"a","n":2},{"role":null,"n":null}]}]`))
	noError(t, err)
	defer rec.Release()
	var out []intact
	for name, option := range map[string]ipc.Option{"plain": ipc.WithSchema(schema), "zstd": ipc.WithZstd(), "lz4": ipc.WithLZ4()} {
		var b bytes.Buffer
		w := ipc.NewWriter(&b, ipc.WithSchema(schema), option)
		noError(t, errors.Join(w.Write(rec), w.Close()))
		out = append(out, intact{Arrow, name + ".arrows", b.Bytes()})
	}
	// Without objects, whose fields Parquet's reader decodes where a panic cannot be caught.
	schema = arrow.NewSchema(schema.Fields()[:4], nil)
	flat := array.NewRecord(schema, rec.Columns()[:4], rec.NumRows())
	defer flat.Release()
	for _, codec := range []compress.Compression{compress.Codecs.Uncompressed, compress.Codecs.Snappy, compress.Codecs.Zstd} {
		var b bytes.Buffer
		w, err := pqarrow.NewFileWriter(schema, &b, parquet.NewWriterProperties(parquet.WithCompression(codec)), pqarrow.DefaultWriterProps())
		noError(t, err)
		noError(t, errors.Join(w.Write(flat), w.Close()))
		out = append(out, intact{Parquet, codec.String() + ".parquet", b.Bytes()})
	}
	return out
}
