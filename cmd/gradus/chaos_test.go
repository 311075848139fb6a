package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/chaos"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/worker"
)

// stackedRun is a tiny experiment of all four methods.
func stackedRun(t *testing.T, c client.Client, store datasets.Store, id string) string {
	t.Helper()
	r := runTest(t, c, id, tiny("recipe=gradus", "levels=[1,3]", "train_levels=[3]", "exemption=0"))
	digest, err := chaos.Digest(t.Context(), store, id, *r)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// wire stands between a worker and the store and signals the worker at writes of
// its own choice.
type wire struct {
	*httptest.Server
	mu   sync.Mutex
	trip func(r *http.Request, body []byte) syscall.Signal // before a write; 0 lets it through
	done func(r *http.Request, body []byte) syscall.Signal // after one, before its answer
	at   *process
}

func newWire(t *testing.T) *wire {
	t.Helper()
	u, err := url.Parse(local.Store)
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(u.Query().Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	none := func(*http.Request, []byte) syscall.Signal { return 0 }
	w.trip, w.done = none, none
	proxy := httputil.NewSingleHostReverseProxy(to) // the host that was signed stays in the request
	proxy.ErrorLog = nil
	w.Server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			proxy.ServeHTTP(out, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the worker is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w.mu.Lock()
		defer w.mu.Unlock()
		if s := w.trip(r, body); s != 0 {
			_ = w.at.Process.Signal(s)
			if s == syscall.SIGKILL {
				return // the write never was
			}
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		if s := w.done(r, body); s != 0 {
			_ = w.at.Process.Signal(s)
			if s == syscall.SIGKILL {
				return
			}
		}
		for name, values := range answer.Header() {
			out.Header()[name] = values
		}
		out.WriteHeader(answer.Code)
		_, _ = out.Write(answer.Body.Bytes()) // the worker may be gone
	}))
	t.Cleanup(w.Close)
	return w
}

// keep runs a worker behind the wire, again and again, until halt is called. ended
// is told how each one ended.
func (w *wire) keep(t *testing.T, ended func(*process), roles ...string) (halt func()) {
	args := []string{"worker", "--temporal", local.Temporal, "--store", "s3://gradus?endpoint=" + w.URL, "--dir", t.TempDir()}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	start := func() *process {
		p := gradus(t, args...)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.at = p
		return p
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	p := start()
	go func() {
		defer close(stopped)
		for {
			_ = p.Wait() // ended tells
			select {
			case <-stop:
				return
			default:
			}
			ended(p)
			p = start()
		}
	}()
	return func() {
		close(stop)
		for {
			w.mu.Lock()
			_ = w.at.Process.Signal(os.Kill)
			w.mu.Unlock()
			select {
			case <-stopped:
				return
			case <-time.After(50 * time.Millisecond): // one may just have been started
			}
		}
	}
}

// A trainer that is killed before it writes a policy's manifest, when that is
// written but not yet known to be, and when the result is recorded, changes
// nothing.
func TestKilledTrainer(t *testing.T) {
	c, store := connectTest(t)
	others, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleCPU, worker.RoleRollout}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer others.Stop()
	w := newWire(t)
	manifest := func(r *http.Request, body []byte) bool {
		return strings.Contains(r.URL.Path, "/objects/") && bytes.Contains(body, []byte(`"stage":"update"`)) && bytes.Contains(body, []byte(`"files":`))
	}
	recorded := func(r *http.Request, _ []byte) bool { return strings.Contains(r.URL.Path, "/keys/killed/update/") }
	kills := 0
	once := func(n int, when func(*http.Request, []byte) bool) func(*http.Request, []byte) syscall.Signal {
		return func(r *http.Request, body []byte) syscall.Signal {
			if kills != n || !when(r, body) {
				return 0
			}
			kills++
			return syscall.SIGKILL
		}
	}
	before, during, after := once(0, manifest), once(1, manifest), once(2, recorded)
	w.trip = before
	w.done = func(r *http.Request, body []byte) syscall.Signal { return max(during(r, body), after(r, body)) }
	defer w.keep(t, func(*process) {}, worker.RoleTrain)()
	got := stackedRun(t, c, store, "killed")
	w.mu.Lock()
	n := kills
	w.mu.Unlock()
	if n != 3 {
		t.Errorf("the trainer was killed %d times, want 3", n)
	}
	if want := stackedRun(t, c, store, "unharmed"); got != want {
		t.Error("a run whose trainer was killed leaves something else")
	}
}

// SIGTERM in the midst of every stage: the worker ends well each time, and nothing
// changes.
func TestTerminatedInEveryStage(t *testing.T) {
	c, store := connectTest(t)
	w := newWire(t)
	left := map[string]bool{}
	for _, stage := range []string{"prepare", "warm", "pose", "rollout", "summarise", "propose", "score", "respond", "select", "mask", "update"} {
		left[stage] = true
	}
	w.trip = func(r *http.Request, _ []byte) syscall.Signal {
		_, key, _ := strings.Cut(r.URL.Path, "/keys/terminated/")
		stage, _, _ := strings.Cut(key, "/")
		if !left[stage] {
			return 0
		}
		delete(left, stage)
		return syscall.SIGTERM
	}
	halt := w.keep(t, func(p *process) {
		if p.ProcessState.ExitCode() != 0 {
			t.Errorf("a worker that was told to stop ended with %v:\n%s", p.ProcessState, p.output())
		}
	})
	defer halt()
	got := stackedRun(t, c, store, "terminated")
	w.mu.Lock()
	for stage := range left {
		t.Errorf("no worker was terminated in stage %s", stage)
	}
	w.mu.Unlock()
	others, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer others.Stop()
	if want := stackedRun(t, c, store, "untouched"); got != want {
		t.Error("a run whose workers were terminated leaves something else")
	}
}

// The bench in a short form: every kind of fault in turn, no difference, and none
// of the planted secrets anywhere.
func TestChaos(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var progress bytes.Buffer
	r, err := chaos.Bench(t.Context(), chaos.Options{
		Minutes: 0.3, Seed: 7, Every: time.Second, Plan: []string{"steps=6"},
		Program: []string{program}, Env: []string{asProgram + "=1"}, Dir: t.TempDir(), Progress: &progress,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if r.Divergences() > 0 || len(r.Leaks) > 0 || r.Total() == 0 || len(r.Pairs) == 0 {
		t.Errorf("%s\n%s", r, progress.String())
	}
}
