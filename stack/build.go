package stack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

const (
	// programVariable names the environment variable with the path of a program built elsewhere.
	programVariable = "GRADUS_DEVSTACK"
	programPrefix   = "devstack-"
	moduleLine      = "module github.com/gradus-rl/gradus/devstack"
	// keepUnused is how long programs of former sources stay in the cache.
	keepUnused = 30 * 24 * time.Hour
)

// program returns the path of the stack's program, and builds it first where the cache lacks it.
// Processes that need it at the same time build it once.
func program(ctx context.Context, out io.Writer) (string, error) {
	if path := os.Getenv(programVariable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", programVariable, err)
		}
		return path, nil
	}
	sources, err := findSources()
	if err != nil {
		return "", err
	}
	key, err := sourceKey(sources)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder (or set %s): %w", programVariable, err)
	}
	cache = filepath.Join(cache, "gradus")
	path := filepath.Join(cache, programPrefix+key)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if markUsed(path) {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}

	p := newProgress(out)
	defer p.end()
	lock := flock.New(filepath.Join(cache, programPrefix+key+".lock"))
	if err := acquire(ctx, lock, p); err != nil {
		return "", err
	}
	defer lock.Unlock()
	if markUsed(path) {
		return path, nil
	}
	if err := build(ctx, sources, path, p); err != nil {
		return "", err
	}
	return path, prune(cache, path, time.Now())
}

// findSources returns the folder of the nested module: that of the checkout around the working directory, else that of the
// checkout this package was compiled from.
func findSources() (string, error) {
	var tried []string
	if dir, err := os.Getwd(); err == nil {
		for {
			tried = append(tried, filepath.Join(dir, "devstack"))
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		tried = append(tried, filepath.Join(filepath.Dir(filepath.Dir(file)), "devstack"))
	}
	for _, dir := range tried {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte(moduleLine)) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the folder devstack of a Gradus checkout was not found; run inside a checkout, or set %s to a built program", programVariable)
}

// sourceKey identifies what would be built: the sources, the compiler and the platform.
func sourceKey(dir string) (string, error) {
	version, _, _ := strings.Cut(runtime.Version(), " ") // without the experiments this program was built with
	h := sha256.New()
	fmt.Fprintf(h, "%s %s/%s %q\n", version, runtime.GOOS, runtime.GOARCH, buildFlags())
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := entry.Name()
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !source && name != "go.mod" && name != "go.sum" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		fmt.Fprintf(h, "%s %d\n%s", filepath.ToSlash(relative), len(data), data)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the sources: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// markUsed says whether the program exists, and if so keeps it from being pruned.
func markUsed(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// acquire takes the lock, and says so where another process builds meanwhile.
func acquire(ctx context.Context, lock *flock.Flock, p *progress) error {
	start := time.Now()
	for {
		locked, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if locked {
			return nil
		}
		p.show("another process builds the local stack; waiting for it (%s)", time.Since(start).Round(time.Second))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// prune removes what was built from other sources and not used for long.
func prune(cache, current string, now time.Time) error {
	old, err := filepath.Glob(filepath.Join(cache, programPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		info, err := os.Stat(path)
		if err != nil || strings.HasPrefix(path, current) || now.Sub(info.ModTime()) < keepUnused {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old program: %w", err)
		}
	}
	return nil
}

func buildFlags() []string { return []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w"} }

// build compiles the module in dir to path.
func build(ctx context.Context, dir, path string, p *progress) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the local stack is built once with Go, and there is no go command in PATH; "+
			"install Go from https://go.dev/dl or set %s to a built program: %w", programVariable, err)
	}
	p.show("the local stack is built, once for this version; this downloads some 200 modules and takes some minutes")
	packages, err := listPackages(ctx, dir, p)
	if err != nil {
		return fmt.Errorf("download the modules of %s: %w", dir, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), programPrefix+"building-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if err := temporary.Close(); err != nil {
		return err
	}
	start := time.Now()
	if err := compile(ctx, dir, temporary.Name(), packages, p); err != nil {
		return fmt.Errorf("compile %s: %w", dir, err)
	}
	if err := os.Chmod(temporary.Name(), 0o755); err != nil {
		return err
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return err
	}
	p.print("the local stack is built (%s)", time.Since(start).Round(time.Second))
	return nil
}

// listPackages returns the weight of every package to compile, by import path, and so downloads all that is needed.
// The weight is the size of the sources in bytes: the time a package takes is roughly proportional to it.
func listPackages(ctx context.Context, dir string, p *progress) (map[string]float64, error) {
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil, err
	}
	modules := bytes.Count(mod, []byte("\n\t")) // each requirement is a line of a block
	var list bytes.Buffer
	downloads := 0
	err = goCommand(ctx, dir, &list, p,
		func(line string) bool {
			downloading := strings.HasPrefix(line, "go: downloading ")
			if downloading {
				downloads++
			}
			return downloading
		},
		func(time.Duration) string {
			return fmt.Sprintf("building the local stack: downloaded %d modules of at most %d", downloads, modules)
		},
		"list", "-deps", "-f", `{{.ImportPath}}{{"\t"}}{{.Dir}}{{range .GoFiles}}{{"\t"}}{{.}}{{end}}`, ".")
	if err != nil {
		return nil, err
	}
	packages := map[string]float64{}
	for line := range strings.Lines(list.String()) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if fields[0] == "unsafe" {
			continue // exists in the compiler only
		}
		const overhead = 20_000 // a package costs something even when it is empty
		weight := float64(overhead)
		for _, file := range fields[min(2, len(fields)):] {
			if info, err := os.Stat(filepath.Join(fields[1], file)); err == nil {
				weight += float64(info.Size())
			}
		}
		packages[fields[0]] = weight
	}
	return packages, nil
}

// compile runs go build and follows it: with -v it names every package that it begins to compile.
func compile(ctx context.Context, dir, output string, packages map[string]float64, p *progress) error {
	total := 0.0
	for _, weight := range packages {
		total += weight
	}
	begun, weight := 0, 0.0
	arguments := append([]string{"build", "-v", "-o", output}, buildFlags()...)
	return goCommand(ctx, dir, io.Discard, p,
		func(line string) bool {
			w, known := packages[line]
			if known {
				begun++
				weight += w
			}
			return known
		},
		func(elapsed time.Duration) string {
			return compileStatus(begun, len(packages), weight/total, elapsed)
		},
		append(arguments, ".")...)
}

// compileStatus describes a compilation of which a share (0 to 1) of the work is done. Packages of an earlier build are not
// compiled again and never counted, so the time left is an upper bound, and not worth a word before there is something to go by.
func compileStatus(begun, packages int, share float64, elapsed time.Duration) string {
	text := fmt.Sprintf("building the local stack: compiled %d of %d packages", begun, packages)
	if begun == packages {
		return text + ", linking"
	}
	if share < 0.03 || elapsed < 5*time.Second {
		return text
	}
	left := time.Duration(float64(elapsed) * (1 - share) / share)
	return fmt.Sprintf("%s, about %s left", text, left.Round(5*time.Second))
}

// goCommand runs the go command in dir, in an environment that gives the same build whatever the caller is built with.
// Every line of its standard error goes to take; those that take refuses become part of the error.
// The status is shown while it runs; take and status never run at the same time.
func goCommand(ctx context.Context, dir string, stdout io.Writer, p *progress,
	take func(line string) bool, status func(elapsed time.Duration) string, arguments ...string) error {
	cmd := exec.CommandContext(ctx, "go", arguments...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOEXPERIMENT=", "GOFLAGS=", "CGO_ENABLED=0", "GOOS=", "GOARCH=", "PWD="+dir)
	cmd.Stdout = stdout
	cmd.WaitDelay = 5 * time.Second
	stderr, writer := io.Pipe()
	cmd.Stderr = writer

	var mu sync.Mutex
	var messages tail
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			mu.Lock()
			if !take(lines.Text()) {
				fmt.Fprintln(&messages, lines.Text())
			}
			mu.Unlock()
		}
		_, _ = io.Copy(io.Discard, stderr) // a line beyond the scanner's limit must not block the command
	}()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- cmd.Run() }()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			_ = writer.Close()
			<-read
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil && messages.String() != "":
				return fmt.Errorf("%w:\n%s", err, messages.String())
			}
			return err
		case <-ticker.C:
			mu.Lock()
			text := status(time.Since(start))
			mu.Unlock()
			p.show("%s", text)
		}
	}
}
