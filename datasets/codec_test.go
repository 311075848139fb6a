package datasets_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

func TestCodec(t *testing.T) {
	mem := checked(t)
	for _, rows := range []int{0, 1, 2, 63, 64, 65, 1000} {
		table := rollouts(t, mem, rows, 7)
		data, err := datasets.Encode(table)
		noError(t, err)
		got, err := datasets.Decode(mem, data)
		noError(t, err)
		equal(t, "rows", rows, got.Rows())
		equal(t, "text", datasets.Completion.Get(table), datasets.Completion.Get(got))
		for i := range rows {
			equal(t, "tokens", datasets.CompletionIDs.Get(table).Row(i), datasets.CompletionIDs.Get(got).Row(i))
			equal(t, "log-probs", datasets.LogProbs.Get(table).Row(i), datasets.LogProbs.Get(got).Row(i))
		}
		again, err := datasets.Encode(got)
		noError(t, err)
		if !bytes.Equal(data, again) {
			t.Errorf("%d rows: the decoded table encodes to other bytes", rows)
		}
		want, err := table.Lineage()
		noError(t, err)
		lineage, err := got.Lineage()
		noError(t, err)
		equal(t, "lineage", want, lineage)
		table.Release()
		got.Release()
	}
}

// The bytes are a function of the rows: not of processors, runs or builders.
func TestEncodeIsDeterministic(t *testing.T) {
	mem := checked(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	var first []byte
	for _, procs := range []int{1, 2, 8} {
		runtime.GOMAXPROCS(procs)
		for range 2 {
			table := rollouts(t, mem, 20000, 3) // several compression blocks
			data, err := datasets.Encode(table)
			noError(t, err)
			table.Release()
			if first == nil {
				first = data
			}
			if !bytes.Equal(first, data) {
				t.Fatalf("%d processors give other bytes", procs)
			}
		}
	}
}

// Content addresses of stored tables must survive changes of code and of libraries.
func TestContentAddressIsStable(t *testing.T) {
	mem := checked(t)
	for want, table := range map[string]*datasets.Table{
		"blob:0:1282:63e7c82c6ab5e1a34f445402cddad731fd2f03c0294bc33328fc7318c1eee783":    scores(t, mem, 1, 0, math.Inf(1), math.NaN()),
		"blob:0:1931170:2b385c76ad837c039cd5489fdb77b312c55ef758b06dc8623fa366f85f3ceadd": rollouts(t, mem, 5000, 1),
	} {
		data, err := datasets.Encode(table)
		table.Release()
		noError(t, err)
		r, err := datasets.SaveBlob(t.Context(), datasets.NewMemory(), data)
		noError(t, err)
		equal(t, "address of the bytes", want, r.String())
	}
}

// Arrow's own library reads what is ours, and we what it writes, however it is compressed.
func TestEncodeAsArrowDoes(t *testing.T) {
	mem := checked(t)
	for _, rows := range []int{0, 1, 9, 20000} {
		table := rollouts(t, mem, rows, 5)
		data, err := datasets.Encode(table)
		noError(t, err)
		r, err := ipc.NewFileReader(bytes.NewReader(data), ipc.WithAllocator(mem))
		noError(t, err)
		equal(t, "batches", 1, r.NumRecords())
		rec, err := r.RecordAt(0)
		noError(t, err)
		if !array.RecordEqual(table.Record(), rec) || !rec.Schema().Equal(table.Record().Schema()) {
			t.Errorf("%d rows: Arrow reads another table", rows)
		}
		rec.Release()
		noError(t, r.Close())
		for name, option := range map[string]ipc.Option{"none": ipc.WithAllocator(mem), "zstd": ipc.WithZstd(), "lz4": ipc.WithLZ4()} {
			path := filepath.Join(t.TempDir(), "table.arrow")
			f, err := os.Create(path)
			noError(t, err)
			w, err := ipc.NewFileWriter(f, ipc.WithSchema(table.Record().Schema()), option)
			noError(t, err)
			noError(t, errors.Join(w.Write(table.Record()), w.Close(), f.Close()))
			theirs, err := os.ReadFile(path)
			noError(t, err)
			got, err := datasets.Decode(mem, theirs)
			noError(t, err)
			if !array.RecordEqual(table.Record(), got.Record()) {
				t.Errorf("%d rows, %s: we read another table than Arrow wrote", rows, name)
			}
			got.Release()
		}
		table.Release()
	}
}

func TestDecodeRefuses(t *testing.T) {
	mem := checked(t)
	table := rollouts(t, mem, 10, 1)
	defer table.Release()
	data, err := datasets.Encode(table)
	noError(t, err)
	for name, bad := range map[string][]byte{
		"nothing":   nil,
		"text":      []byte(strings.Repeat("no table ", 100)),
		"half":      data[:len(data)/2],
		"no start":  data[len(data)/2:],
		"one short": data[:len(data)-1],
	} {
		if _, err := datasets.Decode(mem, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := datasets.Decode(mem, bytes.Replace(data, []byte("rollouts/1"), []byte("rollouts/9"), -1)); err == nil || !strings.Contains(err.Error(), `"rollouts/9" is not known`) {
		t.Errorf("unknown kind: error %v", err)
	}
}

// Each damaged byte is an error or another table, and leaks nothing.
func TestDecodeDamaged(t *testing.T) {
	mem := checked(t)
	table := scores(t, mem, 1, 0, 1)
	defer table.Release()
	data, err := datasets.Encode(table)
	noError(t, err)
	for i := range data {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(data)
			bad[i] ^= flip
			read(mem, bad)
		}
	}
}

// read decodes data and touches all of it.
func read(mem memory.Allocator, data []byte) {
	table, err := datasets.Decode(mem, data)
	if err != nil {
		return
	}
	defer table.Release()
	if err := datasets.WriteJSONL(&bytes.Buffer{}, table, 0); err != nil {
		panic(err)
	}
}

func FuzzDecode(f *testing.F) {
	mem := memory.DefaultAllocator
	for _, table := range []*datasets.Table{scores(f, mem, 1, 0), rollouts(f, mem, 2, 1), rollouts(f, mem, 0, 1)} {
		data, err := datasets.Encode(table)
		noError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(_ *testing.T, data []byte) { read(mem, data) })
}

func TestSaveAndLoad(t *testing.T) {
	mem, s := checked(t), datasets.NewMemory()
	table := rollouts(t, mem, 10, 1)
	defer table.Release()
	r, err := datasets.Save(t.Context(), s, table)
	noError(t, err)
	again, err := datasets.Save(t.Context(), s, table)
	noError(t, err)
	equal(t, "second ref", r, again)
	equal(t, "rows", 10, r.Rows)
	got, err := datasets.Load(t.Context(), s, mem, r)
	noError(t, err)
	defer got.Release()
	equal(t, "completion", datasets.Completion.Get(table), datasets.Completion.Get(got))

	blob, err := datasets.SaveBlob(t.Context(), s, []byte("weights"))
	noError(t, err)
	equal(t, "blob ref", datasets.Ref{Hash: blob.Hash, Bytes: 7, Kind: datasets.KindBlob}, blob)
	data, err := datasets.LoadBlob(t.Context(), s, blob)
	noError(t, err)
	equal(t, "blob", "weights", string(data))

	// What is left of a write that failed is replaced.
	noError(t, s.Put(t.Context(), "objects/"+blob.Hash, []byte("wei")))
	_, err = datasets.SaveBlob(t.Context(), s, []byte("weights"))
	noError(t, err)
	data, err = datasets.LoadBlob(t.Context(), s, blob)
	noError(t, err)
	equal(t, "mended blob", "weights", string(data))

	absent := r
	absent.Hash = someHash
	if _, err := datasets.Load(t.Context(), s, mem, absent); !errors.Is(err, datasets.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := datasets.Load(t.Context(), s, mem, datasets.Ref{}); err == nil {
		t.Error("zero Ref: no error")
	}
	other := r
	other.Kind = datasets.KindScores
	if _, err := datasets.Load(t.Context(), s, mem, other); err == nil || !strings.Contains(err.Error(), "want scores/1") {
		t.Errorf("other kind: %v", err)
	}
	noError(t, s.Put(t.Context(), "objects/"+r.Hash+".arrow", []byte("damaged")))
	if _, err := datasets.Load(t.Context(), s, mem, r); !errors.Is(err, datasets.ErrCorrupt) || !strings.Contains(err.Error(), r.Hash) {
		t.Errorf("damaged: %v", err)
	}
}

func BenchmarkCodec(b *testing.B) {
	mem := memory.DefaultAllocator
	table := rollouts(b, mem, 1000, 1)
	data, err := datasets.Encode(table)
	noError(b, err)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.ReportMetric(float64(len(data)), "file-bytes")
		for b.Loop() {
			if _, err := datasets.Encode(table); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got, err := datasets.Decode(mem, data)
			if err != nil {
				b.Fatal(err)
			}
			got.Release()
		}
	})
}
