package chaos

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// fleet is a Temporal server and an S3 gateway behind proxies, and the worker
// processes that know only these.
type fleet struct {
	o        Options
	temporal *server
	s3       *server
	workers  []*process
	client   client.Client
	store    datasets.Store
	secrets  []string // planted, and the gateway's
	env      []string // of its processes, with the secrets

	mu        sync.Mutex
	following *process // the program that launched the run in hand
}

// server is a stack of which one of the two services is used, so that each can be
// killed alone, at an address that outlives it.
type server struct {
	name  string
	dir   string
	busy  atomic.Bool // a fault works on it
	stack *stack.Stack
	proxy *toxiproxy.Proxy
}

// address is where a stack's service listens.
func (s *server) address() string {
	if s.name == "temporal" {
		return s.stack.Temporal
	}
	u, err := url.Parse(s.stack.Store)
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(u.Query().Get("endpoint"), "http://")
}

// start launches the server, again after a kill, and points the proxy at it.
func (s *server) start(ctx context.Context) (err error) {
	if s.stack, err = stack.Start(ctx, stack.Options{Dir: s.dir}); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	if s.proxy == nil {
		api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
		s.proxy = toxiproxy.NewProxy(api, s.name, "127.0.0.1:0", s.address())
		return s.proxy.Start()
	}
	return s.proxy.Update(&toxiproxy.Proxy{Listen: s.proxy.Listen, Upstream: s.address(), Enabled: true})
}

// kill ends the server's process at once and starts it again after a while.
func (s *server) kill(ctx context.Context, down time.Duration) error {
	if err := syscall.Kill(s.stack.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", s.name, err)
	}
	<-s.stack.Done()
	pause(ctx, down)
	return s.start(context.WithoutCancel(ctx))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// roles of the fleet: two workers of each.
var roles = []string{"cpu", "rollout", "train"}

func startFleet(ctx context.Context, o Options) (f *fleet, err error) {
	f = &fleet{o: o, temporal: &server{name: "temporal", dir: filepath.Join(o.Dir, "temporal")}, s3: &server{name: "s3", dir: filepath.Join(o.Dir, "s3")}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	for _, s := range []*server{f.temporal, f.s3} {
		if err := s.start(ctx); err != nil {
			return f, err
		}
	}
	secrets := plant(o.Seed)
	f.env = append(environment(secrets), "AWS_ACCESS_KEY_ID="+f.s3.stack.AccessKey, "AWS_SECRET_ACCESS_KEY="+f.s3.stack.SecretKey)
	f.secrets = append(secrets, f.s3.stack.SecretKey)
	if f.store, err = datasets.OpenS3(ctx, datasets.S3Config{
		Endpoint: "http://" + f.s3.proxy.Listen, Bucket: "gradus", AccessKey: f.s3.stack.AccessKey, SecretKey: f.s3.stack.SecretKey,
	}); err != nil {
		return f, err
	}
	if f.client, err = client.NewLazyClient(client.Options{HostPort: f.temporal.proxy.Listen, Logger: worker.Logger(zerolog.Nop())}); err != nil {
		return f, err
	}
	for _, role := range roles {
		for i := range 2 {
			f.workers = append(f.workers, f.worker(role, fmt.Sprintf("%s-%d", role, i)))
		}
	}
	return f, nil
}

// servers are the arguments by which a program finds the fleet's servers.
func (f *fleet) servers() []string {
	return []string{"--temporal", f.temporal.proxy.Listen, "--store", "s3://gradus?endpoint=http://" + f.s3.proxy.Listen, "--dir", filepath.Join(f.o.Dir, "state")}
}

// worker starts a worker that is started again whenever it ends.
func (f *fleet) worker(role, name string) *process {
	p := &process{f: f, name: name, args: append([]string{"worker", "--role", role, "--name", name, "--rollouts", "1", "--grace", "2s"}, f.servers()...), again: true}
	p.launch()
	return p
}

// launcher starts a run by the program, which then follows it; killed, it follows
// the run again.
func (f *fleet) launcher(id string, args []string) *process {
	p := &process{f: f, name: "cli-" + id, args: append(args, f.servers()...), again: true, done: true}
	p.launch()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.args = append([]string{"status", id, "--follow"}, f.servers()...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.following = p
	return p
}

// process is a program of the fleet under supervision, as an init system would do it.
type process struct {
	f     *fleet
	name  string
	again bool // start it again when it ends
	done  bool // but not after success
	mu    sync.Mutex
	args  []string
	cmd   *exec.Cmd
	gone  chan struct{}
	busy  bool // a fault works on it
}

// launch starts the process and its supervisor.
func (p *process) launch() {
	p.gone = make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(p.gone)
		for first := true; ; first = false {
			err := p.once(func() {
				if first {
					close(started)
				}
			})
			p.mu.Lock()
			again := p.again && (err != nil || !p.done)
			p.mu.Unlock()
			if !again {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	<-started
}

// once runs the process to its end. What it prints goes to a log of its own.
func (p *process) once(started func()) error {
	log, err := os.OpenFile(filepath.Join(p.f.o.Dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		started()
		return err
	}
	defer log.Close()
	p.mu.Lock()
	if !p.again {
		p.mu.Unlock()
		started()
		return nil
	}
	cmd := exec.Command(p.f.o.Program[0], append(p.f.o.Program[1:len(p.f.o.Program):len(p.f.o.Program)], p.args...)...)
	cmd.Env = append(os.Environ(), p.f.o.Env...)
	cmd.Env = append(cmd.Env, p.f.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	p.cmd = cmd
	p.mu.Unlock()
	started()
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// signal sends a signal to the process as it runs now.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(s) // it may have ended by itself
	}
}

// end kills the process for good.
func (p *process) end() {
	p.mu.Lock()
	p.again = false
	p.mu.Unlock()
	p.signal(syscall.SIGKILL)
	<-p.gone
}

// tail is the end of what the process has printed.
func (p *process) tail() string {
	data, err := os.ReadFile(filepath.Join(p.f.o.Dir, p.name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(data[max(0, len(data)-4000):]))
}

// stop ends everything.
func (f *fleet) stop() (err error) {
	for _, p := range f.workers {
		p.end()
	}
	if f.client != nil {
		f.client.Close()
	}
	for _, s := range []*server{f.temporal, f.s3} {
		if s.proxy != nil {
			s.proxy.Stop()
		}
		if s.stack != nil {
			err = errors.Join(err, s.stack.Stop())
		}
	}
	return err
}

// empty removes what earlier runs have left in the store.
func (f *fleet) empty(ctx context.Context) error {
	all, err := f.store.List(ctx, "")
	for _, o := range all {
		err = cmp.Or(err, f.store.Delete(ctx, o.Key))
	}
	return err
}

// result reads what a run returned, as often as the server needs to come back.
func (f *fleet) result(ctx context.Context, id string, into *workflows.Result) (err error) {
	for range 20 {
		if err = f.client.GetWorkflow(ctx, id, "").Get(ctx, into); err == nil || !strings.Contains(err.Error(), "navailable") {
			return err
		}
		pause(ctx, time.Second)
	}
	return err
}

func (f *fleet) status(ctx context.Context, id string) (s workflows.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := f.client.QueryWorkflow(ctx, id, "", workflows.QueryStatus)
	if err != nil {
		return s, err
	}
	return s, v.Get(&s)
}

// paused is why a run has paused itself, "" if it has not.
func (f *fleet) paused(ctx context.Context, id string) string {
	if s, err := f.status(ctx, id); err == nil && s.Paused {
		return s.Reason
	}
	return ""
}

// where says what a run that stands still waits for.
func (f *fleet) where(ctx context.Context, id string) string {
	d, err := f.client.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%v %v", d.PendingActivities, d.PendingWorkflowTask)
}

// retries counts in a run's history what was tried anew.
func (f *fleet) retries(ctx context.Context, id string) (activities, tasks int, err error) {
	for i := f.client.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		e, err := i.Next()
		if err != nil {
			return 0, 0, err
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil {
			activities += int(a.Attempt) - 1
		}
		if e.EventType == enums.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT || e.EventType == enums.EVENT_TYPE_WORKFLOW_TASK_FAILED {
			tasks++
		}
	}
	return activities, tasks, nil
}
