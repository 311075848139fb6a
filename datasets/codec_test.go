package datasets_test

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

func TestCodec(t *testing.T) {
	mem := checked(t)
	for _, c := range []datasets.Compression{datasets.Zstd, datasets.LZ4} {
		for _, rows := range []int{0, 1, 2, 63, 64, 65, 1000} {
			table := rollouts(t, mem, rows, 7)
			data, err := datasets.Encode(table, c)
			noError(t, err)
			got, err := datasets.Decode(mem, data)
			noError(t, err)
			equal(t, "rows", rows, got.Rows())
			equal(t, "text", datasets.Completion.Get(table), datasets.Completion.Get(got))
			for i := range rows {
				equal(t, "tokens", datasets.CompletionIDs.Get(table).Row(i), datasets.CompletionIDs.Get(got).Row(i))
				equal(t, "log-probs", datasets.LogProbs.Get(table).Row(i), datasets.LogProbs.Get(got).Row(i))
			}
			again, err := datasets.Encode(got, c)
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
}

// The bytes are a function of the rows: not of processors, runs or builders.
func TestEncodeIsDeterministic(t *testing.T) {
	mem := checked(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range []datasets.Compression{datasets.Zstd, datasets.LZ4} {
		var first []byte
		for _, procs := range []int{1, 2, 8} {
			runtime.GOMAXPROCS(procs)
			for range 2 {
				table := rollouts(t, mem, 20000, 3) // several compression blocks
				data, err := datasets.Encode(table, c)
				noError(t, err)
				table.Release()
				if first == nil {
					first = data
				}
				if !bytes.Equal(first, data) {
					t.Fatalf("compression %d on %d processors gives other bytes", c, procs)
				}
			}
		}
	}
}

// Content addresses of stored tables must survive changes of code and of libraries.
func TestContentAddressIsStable(t *testing.T) {
	table := scores(t, checked(t), 1, 0, math.Inf(1), math.NaN())
	defer table.Release()
	for c, want := range map[datasets.Compression]string{
		datasets.Zstd: "blob:0:1346:c6c18d6c43feeefb3ecbb9144f198d09dd5c7b2e2780b2b085f7e98093435474",
		datasets.LZ4:  "blob:0:1346:72ba480e3075de634918710c8d0ff70ce405f15d2729332970d079e3cf38fa7a",
	} {
		data, err := datasets.Encode(table, c)
		noError(t, err)
		r, err := datasets.SaveBlob(t.Context(), datasets.NewMemory(), data)
		noError(t, err)
		equal(t, "address of the bytes", want, r.String())
	}
}

func TestSaveChoosesTheCompression(t *testing.T) {
	mem, s := checked(t), datasets.NewMemory()
	for rows, c := range map[int]datasets.Compression{100: datasets.LZ4, 5000: datasets.Zstd} {
		table := rollouts(t, mem, rows, 1)
		want, err := datasets.Encode(table, c)
		noError(t, err)
		r, err := datasets.Save(t.Context(), s, table)
		noError(t, err)
		got, err := datasets.LoadBlob(t.Context(), s, r)
		noError(t, err)
		if !bytes.Equal(want, got) {
			t.Errorf("%d rows are not stored with compression %d", rows, c)
		}
		table.Release()
	}
}

func TestDecodeRefuses(t *testing.T) {
	mem := checked(t)
	table := rollouts(t, mem, 10, 1)
	defer table.Release()
	data, err := datasets.Encode(table, datasets.Zstd)
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
	data, err := datasets.Encode(table, datasets.Zstd)
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
		for _, c := range []datasets.Compression{datasets.Zstd, datasets.LZ4} {
			data, err := datasets.Encode(table, c)
			noError(f, err)
			f.Add(data)
		}
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
	for name, c := range map[string]datasets.Compression{"zstd": datasets.Zstd, "lz4": datasets.LZ4} {
		data, err := datasets.Encode(table, c)
		noError(b, err)
		b.Run("encode-"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(len(data)), "file-bytes")
			for b.Loop() {
				if _, err := datasets.Encode(table, c); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode-"+name, func(b *testing.B) {
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
}
