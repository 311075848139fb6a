package files

import (
	"errors"
	"io"
	"os"
	"testing"
)

// BenchmarkJSONL reads the file that GRADUS_JSONL names.
func BenchmarkJSONL(b *testing.B) {
	path := os.Getenv("GRADUS_JSONL")
	info, err := os.Stat(path)
	if err != nil {
		b.Skip("GRADUS_JSONL names no file")
	}
	b.SetBytes(info.Size())
	for range b.N {
		r, err := Open(b.Context(), path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		for {
			rec, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			rec.Release()
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
