package datasets_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// minioVersion is the last release of the server that can be built from source.
const minioVersion = "v0.0.0-20260212201848-7aac2a2c5b7c"

// startMinIO runs a MinIO server until the test ends.
func startMinIO(t *testing.T) service {
	t.Helper()
	program, err := buildMinIO(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := service{accessKey: rand.Text(), secretKey: rand.Text()}
	for range 3 { // another process can take the port between its choice and its use
		address := freeAddress(t)
		s.endpoint = "http://" + address
		if err = launchMinIO(t, program, address, s); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return s
}

// buildMinIO builds the server once per machine, into the user's cache folder.
func buildMinIO(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "gradus", "minio-"+minioVersion)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	lock := flock.New(folder + ".lock")
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	defer lock.Unlock()
	program := filepath.Join(folder, "minio")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	build := exec.CommandContext(ctx, "go", "install", "github.com/minio/minio@"+minioVersion)
	build.Dir = folder
	build.Env = append(os.Environ(), "GOBIN="+folder, "GOFLAGS=-mod=mod", "GOWORK=off", "GOEXPERIMENT=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build minio: %w\n%s", err, out)
	}
	return program, nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// launchMinIO starts the server and returns when it serves.
func launchMinIO(t *testing.T, program, address string, s service) error {
	t.Helper()
	home := t.TempDir()
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	server := exec.Command(program, "server", "--quiet", "--address", address, "--console-address", freeAddress(t), filepath.Join(home, "data"))
	server.Env = append(os.Environ(), "HOME="+home, "MINIO_ROOT_USER="+s.accessKey, "MINIO_ROOT_PASSWORD="+s.secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	server.Stdout, server.Stderr = log, log
	dieWithParent(server)

	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The death signal is tied to the thread that starts the child, so this
		// thread stays until the child is gone.
		runtime.LockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			_ = server.Wait() // it is killed: how it ends says nothing
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start minio: %w", err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-exited
	})
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		select {
		case <-exited:
			out, _ := os.ReadFile(log.Name())
			return fmt.Errorf("minio ended at once:\n%s", out)
		case <-time.After(50 * time.Millisecond):
		}
		if ready(s.endpoint + "/minio/health/ready") {
			return nil
		}
	}
	return fmt.Errorf("minio at %s is not ready after a minute", address)
}

func ready(url string) bool {
	answer, err := http.Get(url)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
