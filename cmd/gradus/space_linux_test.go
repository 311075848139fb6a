package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gradus-rl/gradus/stack"
)

// A full disk is named, to who imports and to who launches; with room again,
// everything goes on.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("a small disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := stack.Start(t.Context(), stack.Options{Dir: filepath.Join(disk, "stack")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	program := func(args ...string) error {
		r := root()
		r.SetOut(&bytes.Buffer{})
		r.SetErr(&bytes.Buffer{})
		r.SetArgs(append(args, "--dir", s.Dir))
		return r.ExecuteContext(t.Context())
	}
	problems := filepath.Join(t.TempDir(), "problems.jsonl")
	if err := os.WriteFile(problems, fmt.Appendf(nil, `{"prompt":%q,"answer":"2"}`, strings.Repeat("1+", 500)+"1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := program("run", "grpo", "--detach", "--id", "first"); err != nil {
		t.Fatal(err)
	}

	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := program("data", "import", problems); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("import: got %v, want an error that names the disk", err)
	}
	if err := program("run", "grpo", "--detach"); !errors.Is(err, stack.ErrDiskFull) || !strings.Contains(err.Error(), s.Dir) {
		t.Errorf("run: got %v, want %v with the folder", err, stack.ErrDiskFull)
	}
	if why := (&connection{stack: s}).trouble(context.Background(), "first"); !strings.Contains(why, stack.ErrDiskFull.Error()) {
		t.Errorf("a run that goes on waits for %q, want the disk", why)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := program("data", "import", problems); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
