package files

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

var writtenFields = []arrow.Field{
	{Name: "id", Type: arrow.BinaryTypes.String},
	{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "ok", Type: arrow.FixedWidthTypes.Boolean},
	{Name: "chat", Type: arrow.ListOfNonNullable(arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.String}))},
}

const written = `[
{"id":"a \"b\",\n<é>","n":9007199254740993,"x":1e-7,"ok":true,"chat":[{"role":"user","content":"1 + 1 = "}]},
{"id":"","n":null,"x":null,"ok":false,"chat":[]}]`

func writtenRecord(t *testing.T, fields []arrow.Field) arrow.Record {
	t.Helper()
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, arrow.NewSchema(fields, nil), strings.NewReader(written), array.WithUseNumber())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Release)
	return rec
}

// What is written is read back, row by row, in every format.
func TestCreate(t *testing.T) {
	flat := writtenRecord(t, writtenFields[:4])
	nested := writtenRecord(t, writtenFields)
	for _, x := range []struct {
		name string
		rec  arrow.Record
	}{
		{"a.jsonl", nested}, {"a.jsonl.gz", nested}, {"a.ndjson.zst", nested}, {"a.parquet", nested}, {"a.arrow", nested}, {"a.feather", nested},
		{"a.csv", flat}, {"a.csv.gz", flat}, {"a.tsv", flat},
	} {
		path := filepath.Join(t.TempDir(), x.name)
		w, err := Create(path, x.rec.Schema(), CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Write(x.rec); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there before it is whole: %v", x.name, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		rows := 0
		for {
			rec, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", x.name, err)
			}
			for _, f := range x.rec.Schema().Fields() {
				c := rec.Column(rec.Schema().FieldIndices(f.Name)[0])
				want := x.rec.Column(x.rec.Schema().FieldIndices(f.Name)[0])
				for i := range c.Len() {
					have, wanted := c.ValueStr(i), want.ValueStr((rows+i)%2)
					if (c.IsNull(i) || have == "") && (want.IsNull((rows+i)%2) || wanted == "") {
						continue // CSV has no other null
					}
					if have != wanted {
						t.Errorf("%s: row %d of %s is %s, want %s", x.name, rows+i, f.Name, have, wanted)
					}
				}
			}
			rows += int(rec.NumRows())
			rec.Release()
		}
		if err := r.Close(); err != nil || rows != 4 {
			t.Errorf("%s: %d rows, %v", x.name, rows, err)
		}
	}
}

// A file that is not finished is not there, and what was there before stays.
func TestCreateLeavesNoHalf(t *testing.T) {
	rec := writtenRecord(t, writtenFields)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.jsonl")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Create(path, rec.Schema(), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if err := w.Write(rec); err == nil {
		t.Error("something is written to a file given up")
	}
	for _, x := range []struct{ name, want string }{
		{"a.txt", "the name ends in none of"}, {"a.parquet.gz", "compressed inside"}, {"a.csv", `column "chat"`}, {"no/folder/a.jsonl", "no such file"},
	} {
		if _, err := Create(filepath.Join(dir, x.name), rec.Schema(), CreateOptions{}); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want an error with %q", x.name, err, x.want)
		}
	}
	if _, err := Create("-", rec.Schema(), CreateOptions{Format: Parquet}); err == nil || !strings.Contains(err.Error(), "standard output") {
		t.Errorf("parquet to the standard output: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "before" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestCreateStdout(t *testing.T) {
	rec := writtenRecord(t, writtenFields)
	var out bytes.Buffer
	w, err := Create("-", rec.Schema(), CreateOptions{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	want := `{"id":"a \"b\",\n<é>","n":9007199254740993,"x":1e-07,"ok":true,"chat":[{"role":"user","content":"1 + 1 = "}]}
{"id":"","n":null,"x":null,"ok":false,"chat":[]}
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
