package stack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"
)

// module writes a small module with this main file.
func module(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module example.test/small\n\ngo 1.26\n", "main.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBuild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	var out bytes.Buffer
	err := build(t.Context(), module(t, `package main; func main() { println("it runs") }`), path, newProgress(&out))
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), path).CombinedOutput()
	if err != nil || string(got) != "it runs\n" {
		t.Errorf("program says %q, %v", got, err)
	}
	if !strings.Contains(out.String(), "the local stack is built (") {
		t.Errorf("progress %q lacks the end", out.String())
	}
}

func TestBuildErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	err := build(t.Context(), module(t, `package main; func main() { unknown() }`), path, newProgress(nil))
	if err == nil || !strings.Contains(err.Error(), "undefined: unknown") {
		t.Errorf("compile error %v does not say what is wrong", err)
	}
	err = build(t.Context(), module(t, `package main; import _ "example.test/absent"; func main() {}`), path, newProgress(nil))
	if err == nil || !strings.Contains(err.Error(), "example.test/absent") {
		t.Errorf("download error %v does not name the module", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := build(ctx, module(t, `package main; func main() {}`), path, newProgress(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a cancelled build, want context.Canceled", err)
	}
	t.Setenv("PATH", "")
	err = build(t.Context(), module(t, `package main; func main() {}`), path, newProgress(nil))
	if err == nil || !strings.Contains(err.Error(), "install Go") || !strings.Contains(err.Error(), programVariable) {
		t.Errorf("error %v without Go does not say what to do", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("failed builds leave %v, %v", left, err)
	}
}

func TestProgramVariable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine")
	t.Setenv(programVariable, path)
	if _, err := program(t.Context(), nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name the absent program", err)
	}
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := program(t.Context(), nil); err != nil || got != path {
		t.Errorf("program %q, %v; want %q", got, err, path)
	}
}

func TestFindSources(t *testing.T) {
	want, err := filepath.Abs("../devstack")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	for _, dir := range []string{".", "..", "../devstack", elsewhere} {
		t.Run(dir, func(t *testing.T) {
			t.Chdir(dir)
			if got, err := findSources(); err != nil || got != want {
				t.Errorf("sources %q, %v; want %q", got, err, want)
			}
		})
	}
	other := filepath.Join(elsewhere, "devstack")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "go.mod"), []byte(moduleLine+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(elsewhere)
	if got, err := findSources(); err != nil || got != other {
		t.Errorf("sources %q, %v; want those of the checkout around, %q", got, err, other)
	}
}

func TestSourceKey(t *testing.T) {
	dir := module(t, "package main")
	key := func() string {
		t.Helper()
		k, err := sourceKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := key()
	write("main_test.go", "package main")
	write("README.md", "text")
	if key() != first {
		t.Error("a file that is not compiled changes the key")
	}
	seen := map[string]string{first: "the first"}
	for _, change := range [][2]string{{"main.go", "package main "}, {"more.go", "package main"}, {"go.mod", "module m"}, {"go.sum", "x"}} {
		write(change[0], change[1])
		k := key()
		if other, ok := seen[k]; ok {
			t.Errorf("key after a change of %s is that of %s", change[0], other)
		}
		seen[k] = change[0]
	}
}

func TestPrune(t *testing.T) {
	cache := t.TempDir()
	now := time.Now()
	old := now.Add(-keepUnused - time.Hour)
	for name, used := range map[string]time.Time{
		"devstack-current": old, "devstack-current.lock": old, "devstack-recent": now,
		"devstack-old": old, "devstack-old.lock": old, "devstack-building-1": old, "other": old,
	} {
		path := filepath.Join(cache, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(cache, filepath.Join(cache, "devstack-current"), now); err != nil {
		t.Fatal(err)
	}
	var got []string
	left, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff([]string{"devstack-current", "devstack-current.lock", "devstack-recent", "other"}, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestAcquireWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := flock.New(path)
	if err := holder.Lock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	if err := acquire(ctx, flock.New(path), newProgress(&out)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v while another holds the lock, want deadline exceeded", err)
	}
	if !strings.Contains(out.String(), "another process builds") {
		t.Errorf("progress %q does not say what is waited for", out.String())
	}
	var group sync.WaitGroup
	group.Go(func() {
		if err := acquire(t.Context(), flock.New(path), newProgress(nil)); err != nil {
			t.Error(err)
		}
	})
	if err := holder.Unlock(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
}

func TestCompileStatus(t *testing.T) {
	for _, test := range []struct {
		begun   int
		share   float64
		elapsed time.Duration
		want    string
	}{
		{0, 0, 0, "building the local stack: compiled 0 of 1000 packages"},
		{20, 0.02, time.Minute, "building the local stack: compiled 20 of 1000 packages"},
		{300, 0.25, time.Second, "building the local stack: compiled 300 of 1000 packages"},
		{300, 0.25, time.Minute, "building the local stack: compiled 300 of 1000 packages, about 3m0s left"},
		{1000, 1, 4 * time.Minute, "building the local stack: compiled 1000 of 1000 packages, linking"},
	} {
		if got := compileStatus(test.begun, 1000, test.share, test.elapsed); got != test.want {
			t.Errorf("status %q, want %q", got, test.want)
		}
	}
}

func TestProgressIsSparse(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	for i := range 100 {
		p.show("step %d", i)
	}
	p.print("done")
	p.end()
	if want := "step 0\ndone\n"; out.String() != want {
		t.Errorf("progress %q, want %q", out.String(), want)
	}
}

func TestProgressRefreshes(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, terminal: true}
	p.show("one")
	p.show("one")
	p.show("two")
	p.print("done")
	p.show("three")
	p.end()
	if want := "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[Kdone\n\r\x1b[Kthree\n"; out.String() != want {
		t.Errorf("progress %q, want %q", out.String(), want)
	}
}

func TestFirstLine(t *testing.T) {
	f := firstLine{seen: make(chan struct{})}
	for _, part := range []string{"{", "}", "\nmore", "\n"} {
		if _, err := f.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-f.seen:
	default:
		t.Error("the line was not noticed")
	}
	if got := string(f.line()); got != "{}" {
		t.Errorf("line %q, want {}", got)
	}
}

func TestTail(t *testing.T) {
	var kept tail
	for range 10_000 {
		if _, err := kept.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kept.Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	got := kept.String()
	if len(got) > 8<<10 || !strings.HasSuffix(got, "line\nthe end") {
		t.Errorf("kept %d bytes that end with %q", len(got), got[max(0, len(got)-20):])
	}
}
