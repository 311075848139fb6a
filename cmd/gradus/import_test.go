package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// The command reads a folder of a bucket, whatever its formats, and what it makes is
// what the same files give from disk; it is listed and shown.
func TestImportFromS3(t *testing.T) {
	_, store := connectTest(t)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write([]byte(`{"prompt":"1+1=","answer":2}` + "\n" + `{"prompt":"2+3=","answer":"5"}` + "\n"))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	for key, data := range map[string][]byte{
		"theirs/sums/a.jsonl.gz": packed.Bytes(),
		"theirs/sums/b.csv":      []byte("prompt,answer\n7-4=,3\n\"9-\n1=\",008\n"),
		"theirs/sums/_SUCCESS":   []byte("left by others\n"),
		"theirs/sums-2/c.jsonl":  []byte("no part of the folder\n"),
	} {
		if err := store.Put(t.Context(), key, data); err != nil {
			t.Fatal(err)
		}
	}
	at, err := url.Parse(local.Store)
	if err != nil {
		t.Fatal(err)
	}
	bucket := *at
	at.Path = "/theirs/sums"
	ours := []string{"--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir()}
	command := func(want string, args ...string) string { return run(t, want, append(args, ours...)...) }

	command("habit plain", "data", "import", at.String(), "--dry-run")
	command("sums: 4 problems, 0 rejected", "data", "import", at.String())
	ref, err := datasets.Resolve(t.Context(), store, "sums")
	if err != nil {
		t.Fatal(err)
	}
	problems, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, ref)
	if err != nil {
		t.Fatal(err)
	}
	defer problems.Release()
	if got := strings.Join(datasets.Answer.Get(problems), " "); got != "2 5 3 008" {
		t.Errorf("answers %q", got)
	}
	command("sums", "data", "list")
	command("7-4=", "data", "show", "sums")

	bucket.Host = "no-such-bucket"
	command("not found", "data", "import", bucket.String(), "--name", "none")
	command("no such file", "data", "import", filepath.Join(t.TempDir(), "none.jsonl"))
}
