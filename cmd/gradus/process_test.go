package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// process is a gradus of its own, as a user starts it.
type process struct {
	*exec.Cmd
	mu   sync.Mutex
	text bytes.Buffer // what it has printed
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// gradus starts the program.
func gradus(t testing.TB, args ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(program, args...)}
	p.Env = append(os.Environ(), asProgram+"=1", "AWS_ACCESS_KEY_ID="+local.AccessKey, "AWS_SECRET_ACCESS_KEY="+local.SecretKey)
	p.Stdout, p.Stderr = p, p
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	return p
}

// await waits until the program has printed text.
func (p *process) await(t testing.TB, text string) {
	t.Helper()
	for begin := time.Now(); !strings.Contains(p.output(), text); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("%v: no %q in\n%s", p.Args[1:], text, p.output())
		}
	}
}

// interrupt is Ctrl-C; the program must end well.
func (p *process) interrupt(t testing.TB) {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s", p.Args[1:], err, p.output())
	}
}

// run runs the program to its end, and fails the test unless it prints text.
func run(t *testing.T, text string, args ...string) string {
	t.Helper()
	p := gradus(t, args...)
	_ = p.Wait() // what it prints tells
	if !strings.Contains(p.output(), text) {
		t.Fatalf("%v: no %q in\n%s", args, text, p.output())
	}
	return p.output()
}

// A folder has one stack; the next one on it finds runs and problems again.
func TestDev(t *testing.T) {
	dir, problems := t.TempDir(), filepath.Join(t.TempDir(), "sums.jsonl")
	if err := os.WriteFile(problems, []byte(`{"prompt":"1+1=","answer":"2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	first := gradus(t, "dev", "--dir", dir)
	first.await(t, "try: gradus run")
	s, err := stack.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{s.Temporal, s.UI, s.Store} {
		first.await(t, address)
	}
	run(t, "a stack runs on "+dir+" already", "dev", "--dir", dir)
	run(t, "sums: 1 problems", "data", "import", problems, "--dir", dir)
	run(t, "refused-run", "run", "grpo", "problems=nowhere", "--id", "refused-run", "--detach", "--dir", dir)
	first.interrupt(t)
	run(t, "gradus dev", "status", "--dir", dir)

	second := gradus(t, "dev", "--dir", dir)
	second.await(t, "try: gradus run")
	run(t, "refused-run", "status", "--dir", dir)
	run(t, "sums", "data", "list", "--dir", dir)
	second.interrupt(t)
}

// Ctrl-C ends the following of a run, never the run, which can be followed
// again.
func TestInterruptedRunGoesOn(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	servers := []string{"--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir()}
	args := append([]string{"run", "grpo", "--id", "followed"}, servers...)
	p := gradus(t, append(args, tiny("steps=30")...)...)
	p.await(t, "run followed")
	p.interrupt(t)
	p.await(t, "the run goes on: gradus status followed --follow")
	run(t, "**grpo**", append([]string{"status", "followed"}, servers...)...)
	run(t, "  30/  30", append([]string{"status", "followed", "--follow"}, servers...)...)
	run(t, "policy policy:", append([]string{"status", "followed"}, servers...)...)
	run(t, `there is no run "unknown"`, append([]string{"status", "unknown"}, servers...)...)
}

// A run that stands still says what it waits for.
func TestTrouble(t *testing.T) {
	c, store := connectTest(t)
	given, err := planInput("grpo", []string{"steps=1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := launch(t.Context(), c, workflows.QueueCPU, "waiting", given); err != nil {
		t.Fatal(err)
	}
	conn := &connection{client: c, stack: local}
	if why := conn.trouble(t.Context(), "waiting"); !strings.Contains(why, "worker on task queue "+workflows.QueueCPU) {
		t.Errorf("without a worker: %q", why)
	}
	w, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleCPU}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var why string
	for begin := time.Now(); why != "Warm waits for a worker" && time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
		why = conn.trouble(t.Context(), "waiting")
	}
	if why != "Warm waits for a worker" {
		t.Errorf("without a worker that trains: %q", why)
	}
	if err := c.TerminateWorkflow(t.Context(), "waiting", "", "the test is over"); err != nil {
		t.Fatal(err)
	}
}

// Servers that are down or refuse are one clear error, at once.
func TestStoreRefuses(t *testing.T) {
	for _, c := range []struct{ secret, store, want string }{
		{local.SecretKey, "s3://gradus?endpoint=http://127.0.0.1:1", "store unavailable"},
		{local.SecretKey, strings.Replace(local.Store, "gradus", "ab", 1), `bucket "ab": Bucket name cannot be shorter than 3 characters`},
		{"wrong", local.Store, "access denied"},
		{"", local.Store, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", local.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
		r := root()
		r.SetArgs([]string{"data", "list", "--temporal", local.Temporal, "--store", c.store, "--dir", t.TempDir()})
		err := r.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "open store") != 1 ||
			c.want != "store unavailable" && strings.Contains(err.Error(), "store unavailable") {
			t.Errorf("%s: got %v, want one error with %q", c.store, err, c.want)
		}
	}
}
