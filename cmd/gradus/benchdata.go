package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/files"
)

// benchData measures the import of generated problems and the reading of JSON lines.
// The import's memory is this process's peak, so it comes first.
func benchData(ctx context.Context, rows, rollouts int) (figures []figure, err error) {
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
	speed, err := benchJSONL(ctx, filepath.Join(dir, "rollouts.jsonl"), rollouts)
	if err != nil {
		return nil, err
	}
	return append(figures, atLeast("data/ndjson-mb-per-second", speed, "MB/s", 1300)), nil
}

// benchJSONL writes rollouts to a file and returns how many MB of it a second become
// Arrow, the best of three.
func benchJSONL(ctx context.Context, path string, rows int) (best float64, err error) {
	if err := generate(path, rows, rolloutLine); err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	for range 3 {
		start := time.Now()
		n, err := countRows(ctx, path)
		if err != nil {
			return 0, err
		}
		if n != int64(rows) {
			return 0, fmt.Errorf("%s: %d rows of %d", path, n, rows)
		}
		best = max(best, float64(info.Size())/1e6/time.Since(start).Seconds())
	}
	return best, nil
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
