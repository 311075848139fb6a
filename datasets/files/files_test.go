package files

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/klauspost/compress/zstd"
)

func checked(t testing.TB) *memory.CheckedAllocator {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inMemory is a file in memory.
func inMemory(format Format, name, content string) File {
	return File{Name: name, Format: format, Size: int64(len(content)), open: func() (input, error) { return memoryFile{strings.NewReader(content)}, nil }}
}

type memoryFile struct{ *strings.Reader }

func (memoryFile) Close() error { return nil }

// drain reads a stream to its end, as one JSON object per row.
func drain(r Reader) (rows []string, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		var b bytes.Buffer
		err = array.RecordToJSON(rec, &b)
		rec.Release()
		if err != nil {
			return rows, err
		}
		rows = append(rows, strings.Split(strings.TrimSpace(b.String()), "\n")...)
	}
}

// foreign is a table as other tools: nested, null, dictionary, large and view columns.
func foreign(mem memory.Allocator, views bool) arrow.Record {
	dictionary := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	fields := []arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64},
		{Name: "text", Type: arrow.BinaryTypes.LargeString, Nullable: true},
		{Name: "source", Type: dictionary, Nullable: true},
		{Name: "prompt", Type: arrow.ListOf(arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String, Nullable: true}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.String, Nullable: true})), Nullable: true},
		{Name: "extra", Type: arrow.StructOf(arrow.Field{Name: "index", Type: arrow.PrimitiveTypes.Int32, Nullable: true}), Nullable: true},
	}
	if views {
		fields = append(fields, arrow.Field{Name: "view", Type: arrow.BinaryTypes.StringView, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	rows := `{"id":1,"text":"é","source":"a","prompt":[{"role":"user","content":"x"},{"role":null,"content":"y"}],"extra":{"index":7},"view":"a text that is longer than twelve bytes"}
{"id":2,"text":null,"source":null,"prompt":null,"extra":null,"view":null}
{"id":3,"text":"","source":"b","prompt":[],"extra":{"index":null},"view":"short"}`
	if !views {
		rows = strings.NewReplacer(`,"view":"a text that is longer than twelve bytes"`, "", `,"view":null`, "", `,"view":"short"`, "").Replace(rows)
	}
	rec, _, err := array.RecordFromJSON(mem, schema, strings.NewReader("["+strings.ReplaceAll(rows, "\n", ",")+"]"))
	if err != nil {
		panic(err)
	}
	return rec
}

func TestFormats(t *testing.T) {
	mem := memory.DefaultAllocator // Arrow's writers leave dictionaries behind
	rec := foreign(mem, true)
	defer rec.Release()
	plain := foreign(mem, false)
	defer plain.Release()
	write := map[string]func(io.Writer){
		"a.arrow": func(w io.Writer) {
			var b seeker
			f, err := ipc.NewFileWriter(&b, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(mem), ipc.WithZstd())
			noError(t, err)
			noError(t, errors.Join(f.Write(rec), f.Write(rec), f.Close()))
			_, err = w.Write(b.Bytes())
			noError(t, err)
		},
		"a.arrows": func(w io.Writer) {
			s := ipc.NewWriter(w, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(mem), ipc.WithLZ4())
			noError(t, errors.Join(s.Write(rec), s.Write(rec), s.Close()))
		},
		"a.parquet": func(w io.Writer) {
			p, err := pqarrow.NewFileWriter(plain.Schema(), struct{ io.Writer }{w}, parquet.NewWriterProperties(parquet.WithAllocator(mem), parquet.WithMaxRowGroupLength(2)), pqarrow.NewArrowWriterProperties(pqarrow.WithAllocator(mem)))
			noError(t, err)
			noError(t, errors.Join(p.Write(plain), p.Write(plain), p.Close()))
		},
		"a.jsonl": func(w io.Writer) {
			noError(t, errors.Join(array.RecordToJSON(plain, w), array.RecordToJSON(plain, w)))
		},
		"a.csv": func(w io.Writer) {
			fmt.Fprint(w, "\xEF\xBB\xBFid,text,note\r\n1,é,\"a, b\nc\"\r\n2,,007\r\n3,x,\r\n1,é,\"a, b\nc\"\r\n2,,007\r\n3,x,\r\n")
		},
	}
	for name, put := range write {
		for _, packed := range []string{"", ".gz", ".zst"} {
			var b bytes.Buffer
			var w io.WriteCloser
			switch packed {
			case ".gz":
				w = gzip.NewWriter(&b)
			case ".zst":
				z, err := zstd.NewWriter(&b)
				noError(t, err)
				w = z
			}
			if w == nil {
				put(&b)
			} else {
				put(w)
				noError(t, w.Close())
			}
			path := filepath.Join(t.TempDir(), name+packed)
			noError(t, os.WriteFile(path, b.Bytes(), 0o600))
			reading := memory.Allocator(checked(t))
			if name == "a.arrow" {
				reading = mem // Arrow's reader of files keeps their dictionaries
			}
			r, err := Open(t.Context(), path, Options{Mem: reading})
			noError(t, err)
			got, err := drain(r)
			noError(t, err)
			var first []string
			switch name {
			case "a.csv":
				first = []string{`{"id":1,"note":"a, b\nc","text":"é"}`, `{"id":2,"note":"007","text":""}`, `{"id":3,"note":"","text":"x"}`}
			case "a.arrow", "a.arrows":
				first = jsonRows(rec)
			default:
				first = jsonRows(plain)
			}
			if want := append(first, first...); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s%s:\n%s\nwant\n%s", name, packed, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			// Half of a file is an error or fewer rows, and never a panic.
			noError(t, os.WriteFile(path, b.Bytes()[:b.Len()/2], 0o600))
			if r, err := Open(t.Context(), path, Options{Mem: mem}); err == nil {
				got, err := drain(r)
				if err == nil && len(got) >= 6 {
					t.Errorf("half of %s%s has %d rows", name, packed, len(got))
				}
			} else if !strings.Contains(err.Error(), name) {
				t.Errorf("error %v does not name the file", err)
			}
		}
	}
}

func jsonRows(rec arrow.Record) []string {
	var b bytes.Buffer
	if err := array.RecordToJSON(rec, &b); err != nil {
		panic(err)
	}
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}

type seeker struct{ bytes.Buffer }

func (s *seeker) Seek(int64, int) (int64, error) { return int64(s.Len()), nil }

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b/2.jsonl": `{"y":2,"x":"b"}`, "a.jsonl": `{"x":"a","y":1}` + "\n", "_SUCCESS": "", ".hidden.jsonl": "{", "notes.txt": "x", "_logs/x.jsonl": "{",
	} {
		noError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		noError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	mem := checked(t)
	r, err := Open(t.Context(), dir, Options{Mem: mem})
	noError(t, err)
	got, err := drain(r)
	noError(t, err)
	if want := `{"x":"a","y":1}|{"x":"b","y":2}`; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	for text, want := range map[string]string{
		`{"x":"a"}`:                `z.jsonl: no column "y", which the files before it have`,
		`{"x":"a","y":1.5}`:        `z.jsonl: column "y" is float64, which is int64 in the files before it`,
		`{"x":"a","y":1,"z":true}`: `z.jsonl: column "z", which the files before it lack`,
		`{`:                        `z.jsonl: line 1, byte 2: want a field's name in quotes`,
	} {
		noError(t, os.WriteFile(filepath.Join(dir, "z.jsonl"), []byte(text), 0o600))
		r, err := Open(t.Context(), dir, Options{Mem: mem})
		noError(t, err)
		if _, err = drain(r); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "notes.txt"), t.TempDir()} {
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err = Open(ctx, filepath.Join(dir, "a.jsonl"), Options{Mem: mem})
	noError(t, err)
	cancel()
	if _, err = drain(r); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// parse reads JSON lines from memory.
func parse(t testing.TB, mem memory.Allocator, text string, sample int) ([]string, *arrow.Schema, error) {
	r, err := inMemory(JSONL, "f", text).Open(t.Context(), Options{Mem: mem, Sample: sample})
	if err != nil {
		return nil, nil, err
	}
	rows, err := drain(r)
	return rows, r.Schema(), err
}

func TestJSONLSchema(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1}` + "\n\n " + `{"a":null}`: `a:int64|{"a":1}|{"a":null}`,
		`{"a":1}` + "\n" + `{"a":0.5}`:     `a:float64|{"a":1}|{"a":0.5}`,
		`{"a":1}` + "\n" + `{"a":"x"}`:     `a:utf8|{"a":"1"}|{"a":"x"}`,
		`{"a":[1]}` + "\n" + `{"a":"x"}`:   `a:utf8|{"a":"[1]"}|{"a":"x"}`,
		`{"a":{"b":1}}` + "\n" + `{"a":{"c":[true,null]},"d":[]}`: `a:struct<b: int64, c: list<item: bool, nullable>>,d:list<item: utf8, nullable>|` +
			`{"a":{"b":1,"c":null},"d":null}|{"a":{"b":null,"c":[true,null]},"d":[]}`,
		`{"a":{}}`:    `a:utf8|{"a":"{}"}`,
		`{"a":1e999}`: `a:utf8|{"a":"1e999"}`,
		`{"a":9223372036854775807,"b":-9223372036854775808,"c":9223372036854775808}`: `a:int64,b:int64,c:float64|{"a":9223372036854775807,"b":-9223372036854775808,"c":9223372036854776000}`,
		`{ "x" : [ 1 , 2 ] , "y" : "\ud83d\ude00\n\u00e9\ud83d" }` + "\r\n":          `x:list<item: int64, nullable>,y:utf8|{"x":[1,2],"y":"😀\né�"}`,
	} {
		rows, schema, err := parse(t, checked(t), text, 0)
		noError(t, err)
		var fields []string
		for _, f := range schema.Fields() {
			fields = append(fields, f.Name+":"+f.Type.String())
		}
		if got := strings.Join(append([]string{strings.Join(fields, ",")}, rows...), "|"); got != want {
			t.Errorf("%s:\n%s, want\n%s", text, got, want)
		}
	}
}

func TestJSONLRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "f: an empty file",
		"\n \n":                            "f: no field in any row",
		"{}":                               "f: no field in any row",
		"[1]":                              "f: line 1, byte 1: want one JSON object per line",
		`{"a":1}` + "\n" + `{"a":1`:        `f: line 2, byte 7: want , or }`,
		`{"a":01}`:                         `f: line 1, byte 6: want a value`,
		`{"a":1.}`:                         `f: line 1, byte 6: want a value`,
		`{"a":"x` + "\n" + `"}`:            `f: line 1, byte 8: a control character 0x0a in a text`,
		`{"a":"x`:                          `f: line 1, byte 8: a text without end`,
		`{"a":"\x"}`:                       `f: line 1, byte 8: a backslash with 'x' behind it in a text`,
		"{\"a\":\"\xff\"}":                 `f: line 1, byte 8: a text that is not UTF-8`,
		`{"a":1,"a":2}`:                    `f: line 1, byte 8: field "a" is there twice`,
		`{"a":1} x`:                        `f: line 1, byte 9: want the end of the line`,
		`{"a":tru}`:                        `f: line 1, byte 6: want a value`,
		`{"a":` + strings.Repeat("[", 200): `nested deeper than 100`,
	} {
		if _, _, err := parse(t, checked(t), text, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: error %v, want %q", text, err, want)
		}
	}
}

// What the sample did not show is an error that says where, and none when all is read.
func TestJSONLSample(t *testing.T) {
	many := strings.Repeat(`{"a":1,"b":"`+strings.Repeat("x", 1000)+`"}`+"\n", 3000)
	for row, want := range map[string]string{
		`{"a":0.5,"b":""}`:       `f: line 3001, byte 6: field "a": "0.5,\"b\":\"\"}" where the first 1000 bytes of rows have int64`,
		`{"a":1,"b":"","c":1}`:   `f: line 3001, byte 15: field "c", which none of the first 1000 bytes of rows has`,
		`{"a":1,"b":""}` + "\n}": `f: line 3002, byte 1: want one JSON object per line`,
	} {
		rows, _, err := parse(t, checked(t), many+row, 1000)
		if err == nil || !strings.HasPrefix(err.Error(), want) || len(rows) == 0 {
			t.Errorf("error %v after %d rows, want %q", err, len(rows), want)
		}
		rows, _, err = parse(t, checked(t), many+row, -1)
		if whole := !strings.Contains(row, "}\n"); (err == nil) != whole || whole && len(rows) != 3001 {
			t.Errorf("%s: with all as a sample %d rows, error %v", row, len(rows), err)
		}
	}
}

// FuzzJSONL compares with encoding/json, row by row.
func FuzzJSONL(f *testing.F) {
	for _, s := range []string{
		`{"a":1,"b":[1.5,-0.25e-3,null],"c":"x\n\"é\u00e9","d":{"e":true}}` + "\n" + `{"b":[],"a":-12345678901}`,
		`{"a":0.1,"b":123456789.123456789,"c":12345678,"d":1e22,"e":1e23,"f":0.6931471824645996}`,
		`{"a":"x"}` + "\n" + `{"a":{"b":[1,{"c":null}]}}`, `{"":0,"\u0061":-0,"b":-0.0}`, `{"a":"` + strings.Repeat("y", 40) + `\\"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want []map[string]any
		valid := true
		for line := range strings.SplitSeq(text, "\n") {
			line = strings.Trim(line, " \t\r")
			if line == "" {
				continue
			}
			var row map[string]any
			d := json.NewDecoder(strings.NewReader(line))
			d.UseNumber()
			if line[0] != '{' || d.Decode(&row) != nil || d.More() || !json.Valid([]byte(line)) {
				valid = false
				break
			}
			want = append(want, row)
		}
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(t, 0)
		r, err := inMemory(JSONL, "f", text).Open(t.Context(), Options{Mem: mem})
		var got []map[string]any
		if err == nil {
			got, err = generic(r)
		}
		if err != nil {
			refusal := err.Error()
			for _, ours := range []string{"is there twice", "nested deeper", "no field in any row", "not UTF-8", "empty file"} {
				if strings.Contains(refusal, ours) {
					return
				}
			}
			if valid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if !valid && !strings.HasPrefix(text, string(bom)) {
			t.Fatalf("%q: no error", text)
		}
		if !valid {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d rows, want %d", text, len(got), len(want))
		}
		for i := range want {
			if !same(got[i], want[i]) {
				t.Fatalf("%q: row %d is %v, want %v", text, i, got[i], want[i])
			}
		}
	})
}

// generic reads a stream as rows of Go values.
func generic(r Reader) (rows []map[string]any, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		for i := range int(rec.NumRows()) {
			row := map[string]any{}
			for k, f := range rec.Schema().Fields() {
				row[f.Name] = value(rec.Column(k), i)
			}
			rows = append(rows, row)
		}
		rec.Release()
	}
}

func value(a arrow.Array, i int) any {
	if a.IsNull(i) {
		return nil
	}
	switch a := a.(type) {
	case *array.Int64:
		return a.Value(i)
	case *array.Float64:
		return a.Value(i)
	case *array.Boolean:
		return a.Value(i)
	case *array.String:
		return strings.Clone(a.Value(i))
	case *array.List:
		lo, hi := a.ValueOffsets(i)
		out := []any{}
		for k := lo; k < hi; k++ {
			out = append(out, value(a.ListValues(), int(k)))
		}
		return out
	case *array.Struct:
		out := map[string]any{}
		for k, f := range a.DataType().(*arrow.StructType).Fields() {
			out[f.Name] = value(a.Field(k), i)
		}
		return out
	}
	panic(a.DataType())
}

// same compares ours with encoding/json's. Text stands for values of any kind where a
// column has several.
func same(got, want any) bool {
	switch got := got.(type) {
	case nil:
		return want == nil
	case bool:
		return want == got
	case int64:
		n, ok := want.(json.Number)
		v, err := n.Int64()
		return ok && err == nil && v == got
	case float64:
		n, ok := want.(json.Number)
		v, err := n.Float64()
		return ok && err == nil && v == got
	case string:
		if s, ok := want.(string); ok {
			return s == got
		}
		var again any
		d := json.NewDecoder(strings.NewReader(got))
		d.UseNumber()
		a, b := "", ""
		if d.Decode(&again) == nil {
			a, b = fmt.Sprint(again), fmt.Sprint(want)
		}
		return a != "" && a == b
	case []any:
		list, ok := want.([]any)
		if !ok || len(list) != len(got) {
			return false
		}
		for i := range list {
			if !same(got[i], list[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		object, ok := want.(map[string]any)
		if !ok {
			return false
		}
		for k := range object {
			if _, known := got[k]; !known {
				return false
			}
		}
		for k, v := range got {
			if !same(v, object[k]) {
				return false
			}
		}
		return true
	}
	return false
}
