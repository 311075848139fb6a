package main

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{{"-s3-port", "65536"}, {"-ui-port=-1"}, {"-temporal-port", "x"}, {"-unknown"}, {"folder"}} {
		_, err := parse(args, io.Discard)
		if !errors.Is(err, errUsage) {
			t.Errorf("%q: error %v, want wrong usage", args, err)
		}
	}
}

func TestChoosePorts(t *testing.T) {
	taken, err := net.Listen("tcp4", loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port

	_, err = choosePorts(options{s3Port: port})
	if !errors.Is(err, errPortTaken) || !strings.Contains(err.Error(), "port "+strconv.Itoa(port)) || !strings.Contains(err.Error(), "object store") {
		t.Errorf("error %v, want one that names port %d and the object store", err, port)
	}

	p, err := choosePorts(options{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{0: true, port: true}
	for _, got := range []int{p.frontend, p.ui, p.s3, p.history, p.matching, p.worker} {
		if seen[got] {
			t.Errorf("ports %+v: %d is zero, taken or used twice", p, got)
		}
		seen[got] = true
	}
	again, err := choosePorts(options{temporalPort: p.frontend})
	if err != nil || again.frontend != p.frontend {
		t.Errorf("asked for %d, got %d, %v", p.frontend, again.frontend, err)
	}
}

func TestFolderIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	f, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openFolder(dir)
	if !errors.Is(err, errDirInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("error %v, want one that names %s and process %d", err, dir, os.Getpid())
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if f, err = openFolder(dir); err != nil {
		t.Fatalf("after close: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}

func TestTemporaryFolder(t *testing.T) {
	f, err := openFolder("")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", f.dir, err)
	}
}

func TestCredentialsAreKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "credentials.json")
	first, err := loadCredentials(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := loadCredentials(path); err != nil || second != first {
		t.Errorf("credentials %+v, %v; want the first ones again", second, err)
	}
	if other, err := loadCredentials(filepath.Join(dir, "other.json")); err != nil || other.SecretKey == first.SecretKey {
		t.Errorf("two folders share a secret, or %v", err)
	}
	for _, content := range []string{"", "{", `{"access_key":"a"}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadCredentials(path); err == nil {
			t.Errorf("credentials file %q is accepted", content)
		}
	}
}

func TestStateFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stack.json")
	s := newState(dir, ports{frontend: 1, ui: 2, s3: 3}, true)
	if s.SecretKey != "" {
		t.Error("the announced state holds a secret")
	}
	if err := s.withKeys(credentials{AccessKey: "a", SecretKey: "b"}).write(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files in the folder, %v; want the state file alone", len(entries), err)
	}
	if err := s.write(filepath.Join(dir, "absent", "stack.json")); err == nil {
		t.Error("a state file in an absent folder is reported as written")
	}
}

func TestCreateDatabaseAfterInterruption(t *testing.T) {
	path := filepath.Join(t.TempDir(), "half way #1%20?.db")
	for _, leftover := range []string{path + ".new", path + ".new-journal"} {
		if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := createDatabase(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := createDatabase(path); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("an existing database was made anew, or %v", err)
	}
}

func TestLogIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "temporal.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, logLimit+1); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string]int64{path: 0, path + ".old": logLimit + 1} {
		if info, err := os.Stat(name); err != nil || info.Size() != want {
			t.Errorf("%s: %v; want %d bytes", name, err, want)
		}
	}
}
