package datasets_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/storetest"
	"github.com/gradus-rl/gradus/stack"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) datasets.Store { return datasets.NewMemory() })
}

func TestDirectory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) datasets.Store {
		d, err := datasets.NewDirectory(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// A crash leaves temporary files at worst; they are no objects.
func TestDirectoryLeavesNothingHalfWritten(t *testing.T) {
	root := t.TempDir()
	d, err := datasets.NewDirectory(filepath.Join(root, "new", "folder"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := d.PutOnce(t.Context(), "a/b", []byte("x")); err != nil && !errors.Is(err, datasets.ErrExists) {
			t.Fatal(err)
		}
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, filepath.Base(path))
		}
		return err
	})
	if err != nil || len(files) != 1 || files[0] != "b" {
		t.Fatalf("files %v (%v), want only b", files, err)
	}
	if err := os.WriteFile(filepath.Join(root, "new", "folder", "a", ".put-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, err := d.List(t.Context(), "")
	if err != nil || len(objects) != 1 {
		t.Fatalf("list: %v, %v", objects, err)
	}
}

func TestDirectoryInTheWayOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := datasets.NewDirectory(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatalf("error %v, want one that names %s", err, file)
	}
}

// service is a running S3 service.
type service struct{ endpoint, accessKey, secretKey string }

// config gives each call a prefix of its own in one bucket.
func (s service) config() datasets.S3Config {
	return datasets.S3Config{
		Endpoint: s.endpoint, Bucket: "gradus-test", Prefix: fmt.Sprintf("run/%d", prefixes.Add(1)),
		AccessKey: s.accessKey, SecretKey: s.secretKey,
	}
}

var prefixes atomic.Int64

func TestGateway(t *testing.T) {
	running, err := stack.Start(t.Context(), stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	address, err := url.Parse(running.Store)
	if err != nil {
		t.Fatal(err)
	}
	testS3(t, service{address.Query().Get("endpoint"), running.AccessKey, running.SecretKey})
}

func TestMinIO(t *testing.T) { testS3(t, startMinIO(t)) }

// testS3 holds a service to the contract, and the client to its errors.
func testS3(t *testing.T, s service) {
	storetest.Run(t, func(t *testing.T) datasets.Store {
		store, err := datasets.OpenS3(t.Context(), s.config())
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
	t.Run("open by address", func(t *testing.T) { openByAddress(t, s) })
	t.Run("denied", func(t *testing.T) { denied(t, s) })
}

func openByAddress(t *testing.T, s service) {
	t.Setenv("AWS_ACCESS_KEY_ID", s.accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.secretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	address := "s3://new-bucket/a/prefix?endpoint=" + url.QueryEscape(s.endpoint)
	for range 2 { // the first makes the bucket
		store, err := datasets.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), "k", []byte("v")); err != nil {
			t.Fatal(err)
		}
		again, err := datasets.Open(t.Context(), store.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Get(t.Context(), "k"); err != nil || string(got) != "v" {
			t.Fatalf("%q, %v", got, err)
		}
		if again.String() != store.String() || strings.Contains(store.String(), s.secretKey) || strings.Contains(store.String(), s.accessKey) {
			t.Fatalf("address %q", store)
		}
	}
}

func denied(t *testing.T, s service) {
	for name, change := range map[string]func(*datasets.S3Config){
		"wrong secret": func(c *datasets.S3Config) { c.SecretKey = "not-the-secret-at-all" },
		"wrong key":    func(c *datasets.S3Config) { c.AccessKey = "nobody-we-know" },
	} {
		c := s.config()
		change(&c)
		_, err := datasets.OpenS3(t.Context(), c)
		if !errors.Is(err, datasets.ErrDenied) || !strings.Contains(err.Error(), s.endpoint) && !strings.Contains(err.Error(), url.QueryEscape(s.endpoint)) {
			t.Errorf("%s: %v, want %v and the endpoint", name, err, datasets.ErrDenied)
		}
		if err != nil && strings.Contains(err.Error(), c.SecretKey) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

// A service that is down is reported in seconds, and as that.
func TestS3Down(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + listener.Addr().String()
	listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = datasets.OpenS3(ctx, datasets.S3Config{Endpoint: nobody, Bucket: "b-1", AccessKey: "a", SecretKey: "very-secret"})
	if !errors.Is(err, datasets.ErrUnavailable) || strings.Contains(err.Error(), "very-secret") {
		t.Fatalf("error %v, want %v without the secret", err, datasets.ErrUnavailable)
	}
}

// A bucket that no service would take is refused as that, before one is asked.
func TestS3BucketName(t *testing.T) {
	for _, name := range []string{"ab", "Upper-Case", "under_score", "127.0.0.1"} {
		_, err := datasets.OpenS3(t.Context(), datasets.S3Config{Endpoint: "http://127.0.0.1:1", Bucket: name, AccessKey: "a", SecretKey: "b"})
		if err == nil || errors.Is(err, datasets.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("bucket %q", name)) {
			t.Errorf("bucket %q: error %v, want one that names it", name, err)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	folder := t.TempDir()
	for address, want := range map[string]string{"mem:": "mem:", "file://" + folder: "file://" + folder} {
		s, err := datasets.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != want {
			t.Errorf("open %q: %q, want %q", address, s, want)
		}
	}
	for address, want := range map[string]string{
		"":                                 "want mem:",
		"/tmp/folder":                      "want mem:",
		"ftp://host/x":                     "want mem:",
		"file://host/x":                    "want mem:",
		"s3://":                            "want mem:",
		"s3://b/p?endpont=http://h":        `"endpont" is not known`,
		"s3://b?endpoint=h:9000":           "want http://host:port",
		"s3://b?endpoint=http://u:p@h":     "belong in the environment",
		"s3://key:secret@b":                "belong in the environment",
		"s3://b/../p?endpoint=http://h":    "prefix",
		"s3://bucket?endpoint=http://h:90": "AWS_ACCESS_KEY_ID",
		"s3://b?endpoint=http://h/path":    "want http://host:port",
	} {
		_, err := datasets.Open(t.Context(), address)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("open %q: error %v, want %q", address, err, want)
		}
	}
}

// What services answer, as the reasons that callers act upon.
func TestS3Answers(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{http.StatusForbidden, "AccessDenied", datasets.ErrDenied},
		{http.StatusForbidden, "SignatureDoesNotMatch", datasets.ErrDenied},
		{http.StatusNotFound, "InvalidAccessKeyId", datasets.ErrDenied},
		{http.StatusPreconditionFailed, "PreconditionFailed", datasets.ErrExists},
		{http.StatusInsufficientStorage, "XMinioStorageFull", datasets.ErrNoSpace},
		{http.StatusServiceUnavailable, "SlowDown", datasets.ErrUnavailable},
		{http.StatusBadRequest, "EntityTooLarge", nil},
	} {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel() // the client waits before it asks again
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					return // the bucket is there
				}
				w.WriteHeader(c.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>says the test</Message></Error>", c.code)
			}))
			s, err := datasets.OpenS3(t.Context(), datasets.S3Config{Endpoint: server.URL, Bucket: "bucket", AccessKey: "a", SecretKey: "b"})
			noError(t, err)
			err = s.PutOnce(t.Context(), "key", []byte("data"))
			for _, reason := range []error{datasets.ErrDenied, datasets.ErrExists, datasets.ErrNoSpace, datasets.ErrUnavailable, datasets.ErrNotFound} {
				if err == nil || errors.Is(err, reason) != (reason == c.want) {
					t.Errorf("%d %s: error %v, want %v", c.status, c.code, err, c.want)
				}
			}
			server.Close()
			if _, err := s.Get(t.Context(), "key"); !errors.Is(err, datasets.ErrUnavailable) {
				t.Errorf("a service that went away: error %v, want %v", err, datasets.ErrUnavailable)
			}
		})
	}
}

// A service that refuses a conditional PUT before it has read the body, and
// hangs up, loses its answer: that the key exists must still come out.
func TestS3LostRefusal(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			return // the bucket and the key are there
		}
		connection, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			connection.Close()
		}
	}))
	defer server.Close()
	s, err := datasets.OpenS3(t.Context(), datasets.S3Config{Endpoint: server.URL, Bucket: "bucket", AccessKey: "a", SecretKey: "b"})
	noError(t, err)
	if err := s.PutOnce(t.Context(), "key", make([]byte, 8<<20)); !errors.Is(err, datasets.ErrExists) {
		t.Errorf("error %v, want %v", err, datasets.ErrExists)
	}
	if err := s.Put(t.Context(), "key", make([]byte, 8<<20)); !errors.Is(err, datasets.ErrUnavailable) {
		t.Errorf("error %v of a plain put, want %v", err, datasets.ErrUnavailable)
	}
}

// No error of an address shows what may be a secret in it.
func TestOpenShowsNoSecrets(t *testing.T) {
	for _, address := range []string{
		"s3://user:canary@bucket?endpoint=http://127.0.0.1:1", "s3://user:canary@bucket:port", "s3://bucket?endpoint=http://user:canary@127.0.0.1:1",
		"s3://bucket?endpoint=http://user:canary@127.0.0.1:1&regio=x", "s3://bucket?endpoint=http://127.0.0.1:1/?key=canary",
		"s3://bucket?endpoint=http://user:canary@host:port", "s3://bucket?secret=canary", "s3://bucket#canary", "https://user:canary@host/bucket",
		"file://user:canary@host/folder", "file:///folder?key=canary", "nothing?canary",
	} {
		_, err := datasets.Open(t.Context(), address)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v", address, err)
		}
	}
}
