// Package stack starts and stops the local stack: a Temporal server with its UI and an S3 gateway, all on the loopback
// interface, in one child process. The program is the nested module devstack, which is built on first use into the user's
// cache folder and reused until its sources change.
//
// The child cannot outlive its parent: it holds the reading end of a pipe whose only writing end is here, and stops when the
// pipe is closed, be it by Stop or by the death of this process, however sudden. (A parent-death signal is not used: Linux
// ties it to the thread that started the child, which the Go runtime may end at any time.)
package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var (
	// ErrNotRunning is the error of Attach where no stack serves the folder.
	ErrNotRunning = errors.New("no stack is running")
	// ErrInUse is the error of Start on a folder that a running stack holds; the message names folder and process.
	ErrInUse = errors.New("folder in use")
	// ErrDiskFull is the error of CheckSpace; the message names the folder and what is left.
	ErrDiskFull = errors.New("disk full")
)

// Options say how to start a stack. The zero value is a quiet one in a temporary folder, without UI, on free ports.
type Options struct {
	Dir        string    // state folder, created where absent; "" is a temporary one, removed at Stop
	UI         bool      // start the Temporal UI, too
	FixedPorts bool      // use ports 7233, 8233 and 9000 where they are free, and only else others
	Progress   io.Writer // told about a build that takes long; nil is quiet
}

// Stack is a running local stack. All of its methods may be called from several goroutines.
type Stack struct {
	Temporal  string // host:port of the Temporal frontend
	UI        string // address of the Temporal UI, http://host:port; "" without one
	Store     string // address of the object store, s3://bucket?endpoint=http://host:port
	Namespace string // Temporal namespace, with the search attributes of Gradus registered
	AccessKey string // credentials of the object store
	SecretKey string
	Dir       string // state folder
	PID       int    // process of the stack

	child *child // nil after Attach
}

const (
	startLimit = 60 * time.Second // from launch to the ready line
	stopLimit  = 30 * time.Second // from end of input to exit; the child gives up earlier by itself
)

// Start builds the stack's program where the cache does not have it yet, launches it and returns when every service answers.
// It fails with ErrInUse on a folder that another stack holds. If ctx ends before, what was started is stopped again;
// afterwards ctx has no influence.
func Start(ctx context.Context, o Options) (*Stack, error) {
	program, err := program(ctx, o.Progress)
	if err != nil {
		return nil, fmt.Errorf("stack: build: %w", err)
	}
	// Another process can take a free port between its choice and its use.
	const tries = 3
	var s *Stack
	for range tries {
		if s, err = launch(ctx, program, o); !errors.Is(err, errPortLost) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("stack: start: %w", err)
	}
	return s, nil
}

// Stop ends the stack and returns when its process is gone, after at most some 15 s. A temporary folder is removed, any other
// is left for the next start. Stop of a stopped stack, and of one that Attach returned, does nothing.
func (s *Stack) Stop() error {
	if s.child == nil {
		return nil
	}
	if err := s.child.stop(); err != nil {
		return fmt.Errorf("stack: stop: %w", err)
	}
	return nil
}

// Done is closed when the process of the stack has ended, by Stop or by itself; Stop then says why.
// It is nil, and so never ready, after Attach.
func (s *Stack) Done() <-chan struct{} {
	if s.child == nil {
		return nil
	}
	return s.child.exited
}

// minSpace is what the stack needs to go on: the log of the Temporal server's database alone takes some megabytes.
const minSpace = 16e6

// CheckSpace fails with ErrDiskFull where the disk that holds the state folder has less than 16 MB left. A server whose
// database finds no room does not say so to its clients: it answers late or not at all, and recovers when there is room again.
func (s *Stack) CheckSpace() error {
	left, err := space(s.Dir)
	if err != nil {
		return fmt.Errorf("stack: state folder %s: %w", s.Dir, err)
	}
	if left < minSpace {
		return fmt.Errorf("%w: %.1f MB are left where %s is; the local stack needs at least %d", ErrDiskFull, float64(left)/1e6, s.Dir, int(minSpace/1e6))
	}
	return nil
}

// Attach returns the stack that runs on dir now, whoever started it. It fails with ErrNotRunning where none does.
func Attach(dir string) (*Stack, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("stack: attach: %w", err)
	}
	s, err := readState(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("stack: attach: %w on %s", ErrNotRunning, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("stack: attach: %w", err)
	}
	if !alive(s.PID) {
		return nil, fmt.Errorf("stack: attach: %w on %s: process %d is gone", ErrNotRunning, dir, s.PID)
	}
	store, err := url.Parse(s.Store)
	if err != nil {
		return nil, fmt.Errorf("stack: attach: %w", err)
	}
	for _, address := range []string{s.Temporal, strings.TrimPrefix(store.Query().Get("endpoint"), "http://")} {
		conn, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			return nil, fmt.Errorf("stack: attach: %w on %s: %w", ErrNotRunning, dir, err)
		}
		_ = conn.Close()
	}
	return s, nil
}

// stateName is the file in the state folder by which Attach finds a running stack.
const stateName = "stack.json"

// readState reads what the child wrote about itself.
func readState(path string) (*Stack, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var state struct {
		PID       int    `json:"pid"`
		Dir       string `json:"dir"`
		Temporal  string `json:"temporal"`
		Namespace string `json:"namespace"`
		UI        string `json:"ui"`
		S3        string `json:"s3"`
		Bucket    string `json:"bucket"`
		AccessKey string `json:"access_key"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Stack{
		Temporal: state.Temporal, UI: state.UI, Namespace: state.Namespace,
		Store:     fmt.Sprintf("s3://%s?endpoint=%s", state.Bucket, state.S3),
		AccessKey: state.AccessKey, SecretKey: state.SecretKey,
		Dir: state.Dir, PID: state.PID,
	}, nil
}

// Exit statuses of the child, see the documentation of devstack.
const (
	exitDirInUse   = 3
	exitPortsTaken = 4
)

var errPortLost = errors.New("port lost")

// launch starts the program and waits until it is ready.
func launch(ctx context.Context, program string, o Options) (*Stack, error) {
	args := []string{"-dir", o.Dir}
	if !o.UI {
		args = append(args, "-no-ui")
	}
	if o.FixedPorts {
		args = append(args, "-standard-ports")
	}
	c, err := newChild(program, args)
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(startLimit)
	defer timeout.Stop()
	select {
	case <-c.ready.seen:
	case <-c.exited:
		return nil, c.failure()
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), c.stop())
	case <-timeout.C:
		return nil, errors.Join(fmt.Errorf("not ready after %s", startLimit), c.stop())
	}
	var announced struct {
		Dir string `json:"dir"`
	}
	if err := json.Unmarshal(c.ready.line(), &announced); err != nil {
		return nil, errors.Join(fmt.Errorf("ready line: %w", err), c.stop())
	}
	if o.Dir == "" {
		c.temporary = announced.Dir
	}
	s, err := readState(filepath.Join(announced.Dir, stateName))
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	s.child = c
	return s, nil
}

// child is the process of a stack.
type child struct {
	cmd       *exec.Cmd
	stdin     io.Closer
	ready     firstLine
	messages  tail
	exited    chan struct{} // closed after the fields below are set
	exitError error
	temporary string // folder to remove in case the child could not
	stopOnce  sync.Once
	stopError error
}

// newChild starts program in a process group of its own: an interrupt from the keyboard reaches only this process,
// which then stops what uses the stack before the stack.
func newChild(program string, args []string) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	c.ready.seen = make(chan struct{})
	c.cmd.Stdout, c.cmd.Stderr = &c.ready, &c.messages
	c.cmd.SysProcAttr = ownGroup()
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.exitError = c.cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// failure says why a child that has exited did so.
func (c *child) failure() error {
	message := c.messages.String()
	if message == "" {
		message = fmt.Sprintf("ended without a word (%v)", c.cmd.ProcessState)
	}
	switch code := c.cmd.ProcessState.ExitCode(); {
	case code == exitDirInUse:
		return fmt.Errorf("%w: %s", ErrInUse, strings.TrimPrefix(message, "devstack: folder in use: "))
	case code == exitPortsTaken, strings.Contains(message, "address already in use"):
		return fmt.Errorf("%w: %s", errPortLost, message)
	}
	return errors.New(message)
}

// stop ends the child, once.
func (c *child) stop() error {
	c.stopOnce.Do(func() {
		_ = c.stdin.Close()
		timeout := time.NewTimer(stopLimit)
		defer timeout.Stop()
		select {
		case <-c.exited:
			if c.exitError != nil {
				c.stopError = c.failure()
			}
		case <-timeout.C:
			c.stopError = fmt.Errorf("process %d did not end within %s and was killed", c.cmd.Process.Pid, stopLimit)
			_ = c.cmd.Process.Kill()
			<-c.exited
		}
		if c.temporary != "" {
			c.stopError = errors.Join(c.stopError, os.RemoveAll(c.temporary))
		}
	})
	return c.stopError
}

// firstLine is a writer that keeps everything up to the first newline and then says so.
type firstLine struct {
	mu   sync.Mutex
	data []byte
	seen chan struct{} // closed with the newline
}

// Write implements io.Writer.
func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if bytes.IndexByte(f.data, '\n') >= 0 {
		return len(p), nil
	}
	f.data = append(f.data, p...)
	if bytes.IndexByte(f.data, '\n') >= 0 {
		close(f.seen)
	}
	return len(p), nil
}

// line is the first line.
func (f *firstLine) line() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	line, _, _ := bytes.Cut(f.data, []byte("\n"))
	return line
}

// tail is a writer that keeps the last 8 KiB.
type tail struct {
	mu   sync.Mutex
	data []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const keep = 8 << 10
	t.data = append(t.data, p...)
	if extra := len(t.data) - keep; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

// String is what was kept, without the newline at its end.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.data))
}
