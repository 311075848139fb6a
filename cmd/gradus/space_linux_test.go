package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gradus-rl/gradus/stack"
)

// inNamespace marks the process in which a user without the right to mount may.
const inNamespace = "GRADUS_TEST_NAMESPACE"

// A full disk is named, to who imports and to who launches; with room again,
// everything goes on.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=40m"); err != nil {
		if os.Getenv(inNamespace) != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		again := exec.Command(os.Args[0], "-test.run=^TestDiskFull$")
		again.Env = append(os.Environ(), inNamespace+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		out, err := again.CombinedOutput()
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			t.Skipf("a small disk needs the right to mount one, or a user namespace: %v", err)
		}
		if err != nil {
			t.Fatalf("in a user namespace: %v\n%s", err, out)
		}
		return
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
