package main

import (
	"bufio"
	"context"
	_ "embed" // the script
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/files"
)

// benchData measures the import of generated problems and the reading of JSON lines.
// The import's memory is this process's peak, so it comes first.
func benchData(ctx context.Context, rows, rollouts int, o others, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "gradus-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	problems := filepath.Join(dir, "problems.jsonl")
	if err := generate(problems, rows, problemLine); err != nil {
		return nil, err
	}
	store, err := datasets.NewDirectory(filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if _, err := (&problemsImport{paths: []string{problems}}).run(ctx, io.Discard, store); err != nil {
		return nil, err
	}
	perSecond := float64(rows) / time.Since(start).Seconds()
	figures = append(figures,
		atLeast("data/import-rows-per-second", perSecond, "rows/s", 20_000),
		atMost("data/import-peak-mb", memoryMB(os.Getpid(), "VmHWM"), "MB", 1000))
	if err := os.Remove(problems); err != nil {
		return nil, err
	}
	read, err := benchJSONL(ctx, filepath.Join(dir, "rollouts.jsonl"), rollouts, o, progress)
	return append(figures, read...), err
}

// others are the libraries of Python that read the same file for comparison.
type others struct {
	python string
	names  []string // polars, duckdb
}

//go:embed ndjson.py
var ndjson string

// seconds is how long a library takes for the rows of a file.
func (o others) seconds(ctx context.Context, library, path string, rows int) (float64, error) {
	out, err := exec.CommandContext(ctx, o.python, "-c", ndjson, library, path).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = errors.New(lastLine(string(exit.Stderr)))
		}
		return 0, fmt.Errorf("%s of %s: %w", library, o.python, err)
	}
	var read int
	var seconds float64
	if _, err := fmt.Sscan(string(out), &read, &seconds); err != nil || read != rows {
		return 0, fmt.Errorf("%s: %q, want %d rows and seconds", library, out, rows)
	}
	return seconds, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// benchJSONL writes rollouts to a file and measures how many MB of it a second become
// Arrow, and how many times as fast that is as the fastest of the other libraries: each
// the best of three by turns.
func benchJSONL(ctx context.Context, path string, rows int, o others, progress io.Writer) ([]figure, error) {
	if err := generate(path, rows, rolloutLine); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	ours, fastest := math.Inf(1), math.Inf(1)
	for range 3 {
		took, err := timed(func() error {
			n, err := countRows(ctx, path)
			if err == nil && n != int64(rows) {
				err = fmt.Errorf("%s: %d rows of %d", path, n, rows)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		ours = min(ours, took)
		o.names = slices.DeleteFunc(o.names, func(library string) bool {
			took, err := o.seconds(ctx, library, path, rows)
			if err != nil {
				fmt.Fprintf(progress, "not compared: %v\n", err)
				return true
			}
			fmt.Fprintf(progress, "%s: %.2f s\n", library, took)
			fastest = min(fastest, took)
			return false
		})
	}
	figures := []figure{atLeast("data/ndjson-mb-per-second", float64(info.Size())/1e6/ours, "MB/s", 1300)}
	if len(o.names) > 0 {
		figures = append(figures, atLeast("data/ndjson-ratio", fastest/ours, "of "+strings.Join(o.names, ", "), 1))
	}
	return figures, ctx.Err()
}

func countRows(ctx context.Context, path string) (n int64, err error) {
	r, err := files.Open(ctx, path, files.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += rec.NumRows()
		rec.Release()
	}
}

// generate writes rows made by a number and a source of randomness to a file.
func generate(path string, rows int, line func(i int, rng *rand.Rand) any) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	e := json.NewEncoder(w)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range rows {
		if err = e.Encode(line(i, rng)); err != nil {
			break
		}
	}
	return errors.Join(err, w.Flush(), f.Close())
}

var words = strings.Fields("the a sum of all primes below it is then we have so number train leaves at noon 17 speed each apple costs more than twice as many pears in basket how much does she pay")

func sentence(rng *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(words[rng.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

func problemLine(i int, rng *rand.Rand) any {
	return struct {
		ID       string `json:"id"`
		Prompt   string `json:"prompt"`
		Answer   int    `json:"answer"`
		Solution string `json:"solution"`
		Level    int    `json:"level"`
	}{fmt.Sprintf("set-%d", i), sentence(rng, 30), rng.IntN(1000), sentence(rng, 20), 1 + i%5}
}

// rollout is a row as gradus writes rollouts, some 1,170 bytes of JSON.
type rollout struct {
	Group         int       `json:"group"`
	Sample        int       `json:"sample"`
	Problem       string    `json:"problem"`
	Level         int       `json:"level"`
	Policy        string    `json:"policy"`
	PromptIDs     []int32   `json:"prompt_ids"`
	CompletionIDs []int32   `json:"completion_ids"`
	LogProbs      []float32 `json:"logprobs"`
	Entropies     []float32 `json:"entropies"`
	Completion    string    `json:"completion"`
	FinishReason  string    `json:"finish_reason"`
}

func newRollout(i int, rng *rand.Rand) rollout {
	r := rollout{Group: i / 8, Sample: i % 8, Problem: fmt.Sprintf("set-%d", i/8), Level: 1 + i%5, Policy: "0f3a9c", FinishReason: "stop"}
	for range 15 + rng.IntN(20) {
		r.PromptIDs = append(r.PromptIDs, rng.Int32N(32000))
	}
	for range 20 + rng.IntN(25) {
		r.CompletionIDs = append(r.CompletionIDs, rng.Int32N(32000))
		r.LogProbs = append(r.LogProbs, -float32(rng.ExpFloat64()))
		r.Entropies = append(r.Entropies, float32(rng.ExpFloat64()))
	}
	r.Completion = sentence(rng, len(r.CompletionIDs)/2) + "\n\\boxed{" + fmt.Sprint(rng.IntN(100)) + "}"
	return r
}

func rolloutLine(i int, rng *rand.Rand) any { return newRollout(i, rng) }
