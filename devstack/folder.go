package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

var errDirInUse = errors.New("folder in use")

// folder is the state folder of one running stack, locked against a second one.
type folder struct {
	dir       string // absolute
	temporary bool   // removed by close
	lock      *flock.Flock
}

// openFolder creates dir where it is absent, or a temporary folder for an empty dir, and locks it.
// The error of a folder in use names the folder and the process that holds it, and is errDirInUse.
func openFolder(dir string) (*folder, error) {
	f := &folder{temporary: dir == ""}
	var err error
	if f.temporary {
		f.dir, err = os.MkdirTemp("", "gradus-devstack-")
	} else if f.dir, err = filepath.Abs(dir); err == nil {
		err = os.MkdirAll(f.dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	f.lock = flock.New(f.path("lock"), flock.SetPermissions(0o600))
	locked, err := f.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("state folder %s: lock: %w", f.dir, err)
	}
	if !locked {
		holder := "another process"
		if pid, err := os.ReadFile(f.path("lock")); err == nil && len(pid) > 0 {
			holder = "process " + strings.TrimSpace(string(pid))
		}
		return nil, fmt.Errorf("%w: a stack already runs on %s (%s); stop it or choose another folder", errDirInUse, f.dir, holder)
	}
	if err := os.WriteFile(f.path("lock"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("state folder %s: %w", f.dir, err), f.close())
	}
	return f, nil
}

// path is a name inside the folder.
func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// close gives the folder up, and removes it where it is temporary.
func (f *folder) close() error {
	err := f.lock.Unlock()
	if f.temporary {
		err = errors.Join(err, os.RemoveAll(f.dir))
	}
	return err
}

// state is what a client needs to know of a running stack.
type state struct {
	PID       int    `json:"pid"`
	Dir       string `json:"dir"`
	Temporal  string `json:"temporal"` // host:port of the frontend
	Namespace string `json:"namespace"`
	UI        string `json:"ui,omitempty"` // URL
	S3        string `json:"s3"`           // URL of the gateway
	Bucket    string `json:"bucket"`
	AccessKey string `json:"access_key,omitempty"`
	SecretKey string `json:"secret_key,omitempty"`
}

func newState(dir string, p ports, ui bool) state {
	s := state{
		PID: os.Getpid(), Dir: dir,
		Temporal: loopback(p.frontend), Namespace: namespace,
		S3: "http://" + loopback(p.s3), Bucket: bucket,
	}
	if ui {
		s.UI = "http://" + loopback(p.ui)
	}
	return s
}

// withKeys is s with the credentials of the gateway: for the state file, never for a terminal.
func (s state) withKeys(c credentials) state {
	s.AccessKey, s.SecretKey = c.AccessKey, c.SecretKey
	return s
}

// write stores s in a file that only the user can read.
func (s state) write(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	if err := writeAtomically(path, append(data, '\n')); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}

// credentials open the gateway.
type credentials struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}

// loadCredentials reads the credentials of the folder, which are drawn once and then kept: what other programs were
// configured with stays right over restarts.
func loadCredentials(path string) (credentials, error) {
	var c credentials
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c = credentials{AccessKey: "gradus", SecretKey: rand.Text() + rand.Text()}
		if data, err = json.Marshal(c); err == nil {
			err = writeAtomically(path, append(data, '\n'))
		}
	case err == nil:
		if err = json.Unmarshal(data, &c); err == nil && (c.AccessKey == "" || c.SecretKey == "") {
			err = fmt.Errorf("%s: access_key or secret_key is empty", path)
		}
	}
	if err != nil {
		return credentials{}, fmt.Errorf("credentials: %w", err)
	}
	return c, nil
}

// writeAtomically writes a file of mode 0600 that is seen whole or not at all.
func writeAtomically(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func removeIfPresent(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// logLimit is the size, in bytes, from which a log of former runs is set aside.
const logLimit = 16 << 20

// openLog opens the log for appending; a long one is renamed to <path>.old first.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return f, nil
}
