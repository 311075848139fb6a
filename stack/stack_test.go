package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// parentVariable makes the test binary a parent that starts a stack on the named folder and waits to be killed.
const parentVariable = "GRADUS_STACK_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		s, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.PID)
		select {}
	}
	os.Exit(m.Run())
}

// start starts a stack that the test stops.
func start(t *testing.T, o Options) *Stack {
	t.Helper()
	o.Progress = os.Stderr
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, s *Stack) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: s.Temporal, Namespace: s.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// objects opens the store of s and names its bucket.
func objects(t *testing.T, s *Stack, secret string) (*minio.Client, string) {
	t.Helper()
	store, err := url.Parse(s.Store)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := url.Parse(store.Query().Get("endpoint"))
	if err != nil || store.Scheme != "s3" || endpoint.Scheme != "http" {
		t.Fatalf("store address %q", s.Store)
	}
	c, err := minio.New(endpoint.Host, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, secret, "")})
	if err != nil {
		t.Fatal(err)
	}
	return c, store.Host
}

func put(t *testing.T, s *Stack, key, content string, once bool) error {
	t.Helper()
	c, bucket := objects(t, s, s.SecretKey)
	o := minio.PutObjectOptions{DisableMultipart: true}
	if once {
		o.SetMatchETagExcept("*")
	}
	_, err := c.PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)), o)
	return err
}

func get(t *testing.T, s *Stack, key string) string {
	t.Helper()
	c, bucket := objects(t, s, s.SecretKey)
	object, err := c.GetObject(t.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	data, err := io.ReadAll(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func echo(_ workflow.Context, text string) (string, error) { return text, nil }

func TestServices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder, 100% new?")
	s := start(t, Options{Dir: dir, UI: true})

	t.Run("workflows run", func(t *testing.T) {
		c := dial(t, s)
		if _, err := c.CheckHealth(t.Context(), &client.CheckHealthRequest{}); err != nil {
			t.Error(err)
		}
		w := worker.New(c, "test", worker.Options{})
		w.RegisterWorkflow(echo)
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "echo", TaskQueue: "test"}, echo, "hello")
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := run.Get(t.Context(), &got); err != nil || got != "hello" {
			t.Errorf("workflow result %q, %v", got, err)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		service := dial(t, s).WorkflowService()
		got, err := service.DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: s.Namespace})
		if err != nil {
			t.Fatal(err)
		}
		if keep := got.Config.WorkflowExecutionRetentionTtl.AsDuration(); keep < 30*24*time.Hour {
			t.Errorf("closed workflows are kept for %s only", keep)
		}
	})
	t.Run("search attributes", func(t *testing.T) {
		got, err := dial(t, s).OperatorService().ListSearchAttributes(t.Context(),
			&operatorservice.ListSearchAttributesRequest{Namespace: s.Namespace})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]enums.IndexedValueType{
			"GradusRecipe":   enums.INDEXED_VALUE_TYPE_KEYWORD,
			"GradusRun":      enums.INDEXED_VALUE_TYPE_KEYWORD,
			"GradusState":    enums.INDEXED_VALUE_TYPE_KEYWORD,
			"GradusProblems": enums.INDEXED_VALUE_TYPE_KEYWORD,
			"GradusStep":     enums.INDEXED_VALUE_TYPE_INT,
			"GradusPassRate": enums.INDEXED_VALUE_TYPE_DOUBLE,
		}
		if diff := cmp.Diff(want, got.CustomAttributes); diff != "" {
			t.Errorf("search attributes (-want +got):\n%s", diff)
		}
	})
	t.Run("UI", func(t *testing.T) {
		for _, path := range []string{"/", "/namespaces/default/workflows", "/api/v1/namespaces/default/workflows"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.UI+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("GET %s: %s", path, response.Status)
			}
		}
	})
	t.Run("objects", func(t *testing.T) {
		if err := put(t, s, "a/plain", "one", false); err != nil {
			t.Fatal(err)
		}
		if err := put(t, s, "a/plain", "two", false); err != nil {
			t.Errorf("overwrite: %v", err)
		}
		if got := get(t, s, "a/plain"); got != "two" {
			t.Errorf("read %q, want two", got)
		}
		if err := put(t, s, "once", "first", true); err != nil {
			t.Fatal(err)
		}
		err := put(t, s, "once", "second", true)
		if status := minio.ToErrorResponse(err).StatusCode; status != http.StatusPreconditionFailed {
			t.Errorf("second conditional put: status %d (%v), want 412", status, err)
		}
		if got := get(t, s, "once"); got != "first" {
			t.Errorf("read %q after a refused put, want first", got)
		}
	})
	t.Run("store", func(t *testing.T) {
		store, err := s.OpenStore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.PutOnce(t.Context(), "stored/once", []byte("first")); err != nil {
			t.Fatal(err)
		}
		if err := store.PutOnce(t.Context(), "stored/once", []byte("second")); !errors.Is(err, datasets.ErrExists) {
			t.Errorf("second put: %v, want ErrExists", err)
		}
		if got := get(t, s, "stored/once"); got != "first" {
			t.Errorf("read %q, want first", got)
		}
	})
	t.Run("objects need the secret", func(t *testing.T) {
		c, bucket := objects(t, s, "wrong"+s.SecretKey)
		_, err := c.StatObject(t.Context(), bucket, "once", minio.StatObjectOptions{})
		if status := minio.ToErrorResponse(err).StatusCode; status != http.StatusForbidden {
			t.Errorf("status %d (%v) with a wrong secret, want 403", status, err)
		}
	})
	t.Run("secrets are private", func(t *testing.T) {
		for _, name := range []string{"stack.json", "credentials.json"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); mode != 0o600 {
				t.Errorf("%s has mode %o, want 600", name, mode)
			}
		}
	})
	t.Run("attach", func(t *testing.T) {
		got, err := Attach(dir)
		if err != nil {
			t.Fatal(err)
		}
		want := *s
		want.child = nil
		if *got != want {
			t.Errorf("attached to %+v, want %+v", *got, want)
		}
		if err := got.Stop(); err != nil || !alive(s.PID) {
			t.Errorf("stopping an attached stack: %v, process alive: %t; want no effect", err, alive(s.PID))
		}
	})
	t.Run("second start", func(t *testing.T) {
		_, err := Start(t.Context(), Options{Dir: dir})
		if !errors.Is(err, ErrInUse) {
			t.Fatalf("error %v, want ErrInUse", err)
		}
		for _, part := range []string{dir, strconv.Itoa(s.PID)} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not name %s", err, part)
			}
		}
		if strings.Count(err.Error(), ErrInUse.Error()) != 1 {
			t.Errorf("error %q repeats itself", err)
		}
	})

	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("attach after stop: %v, want ErrNotRunning", err)
	}

	again := start(t, Options{Dir: dir})
	if again.UI != "" {
		t.Errorf("UI at %s, asked for none", again.UI)
	}
	if again.SecretKey != s.SecretKey {
		t.Error("the second start has other credentials")
	}
	if got := get(t, again, "a/plain"); got != "two" {
		t.Errorf("read %q after restart, want two", got)
	}
	var result string
	if err := dial(t, again).GetWorkflow(t.Context(), "echo", "").Get(t.Context(), &result); err != nil || result != "hello" {
		t.Errorf("workflow result after restart %q, %v; want hello", result, err)
	}
}

func TestTemporaryFolderIsRemoved(t *testing.T) {
	s := start(t, Options{})
	if _, err := os.Stat(s.Dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is left: %v", s.Dir, err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("Done is not closed after Stop")
	}
	if err := s.Stop(); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStandardPortTaken(t *testing.T) {
	if l, err := net.Listen("tcp4", "127.0.0.1:7233"); err == nil { // else somebody else has it, which is as good
		defer l.Close()
	}
	s := start(t, Options{FixedPorts: true})
	if _, port, _ := net.SplitHostPort(s.Temporal); port == "7233" {
		t.Errorf("Temporal at %s, which is taken", s.Temporal)
	}
	if _, err := dial(t, s).CheckHealth(t.Context(), &client.CheckHealthRequest{}); err != nil {
		t.Error(err)
	}
}

func TestStackKilled(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, s, "kept", "yes", true); err != nil {
		t.Fatal(err)
	}
	kill(t, s.PID)
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("Done is not closed though the process was killed")
	}
	if err := s.Stop(); err == nil {
		t.Error("stop of a killed stack reports nothing")
	}
	if _, err := Attach(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("attach: %v, want ErrNotRunning", err)
	}
	again := start(t, Options{Dir: dir})
	if got := get(t, again, "kept"); got != "yes" {
		t.Errorf("read %q after a crash, want yes", got)
	}
}

func TestParentKilled(t *testing.T) {
	start(t, Options{}) // so that the build is no part of what follows
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(dir); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for deadline := time.Now().Add(stopLimit); alive(pid); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			kill(t, pid)
			t.Fatalf("process %d of the stack outlives its parent", pid)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, stateName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is left: %v", err)
	}
	start(t, Options{Dir: dir})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStartCancelled(t *testing.T) {
	start(t, Options{})
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v, want deadline exceeded", err)
	}
	start(t, Options{Dir: dir}) // nothing half-made is in the way, and nobody holds the folder
}

func TestStartErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "credentials.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	noDatabase := t.TempDir()
	if err := os.WriteFile(filepath.Join(noDatabase, "temporal.db"), bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, dir string
		want      []string
	}{
		{"file in place of the folder", file, []string{file, "not a directory"}},
		{"broken credentials", broken, []string{"credentials"}},
		{"broken database", noDatabase, []string{"temporal", "not a database"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Start(t.Context(), Options{Dir: test.dir})
			if err == nil {
				t.Fatal(errors.Join(errors.New("started"), s.Stop()))
			}
			if missing := slices.DeleteFunc(test.want, func(part string) bool { return strings.Contains(err.Error(), part) }); len(missing) > 0 {
				t.Errorf("error %q lacks %q", err, missing)
			}
		})
	}
}

func TestAttachNotRunning(t *testing.T) {
	if _, err := Attach(t.TempDir()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("empty folder: %v, want ErrNotRunning", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateName), []byte(`{"pid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(dir); err == nil || !strings.Contains(err.Error(), stateName) {
		t.Errorf("broken state file: %v, want an error that names it", err)
	}
}
