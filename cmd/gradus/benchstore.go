package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/stack"
)

// benchStore measures the way of rollouts into the S3 store of a local stack and back,
// against the same bytes as raw objects, what one column costs, and what a token takes.
func benchStore(ctx context.Context, rollouts int, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "gradus-store-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := stack.Start(ctx, stack.Options{Dir: dir, Progress: progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	store, err := s.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	const rounds = 7
	var tables []*datasets.Table
	defer func() {
		for _, t := range tables {
			t.Release()
		}
	}()
	var refs []datasets.Ref
	var write, read, put, get, encode, decode []float64
	tokens := 0
	for round := range rounds {
		t, n, err := rolloutTable(rollouts, uint64(round))
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
		if round == 0 {
			tokens = n
		}
		var data []byte
		// Raw and ours by turns, so that a busy machine is busy for both.
		took, err := timed(func() error {
			ref, err := datasets.Save(ctx, store, t)
			refs = append(refs, ref)
			return err
		})
		if err != nil {
			return nil, err
		}
		write = append(write, took)
		if data, err = datasets.LoadBlob(ctx, store, refs[round]); err != nil {
			return nil, err
		}
		key := fmt.Sprintf("raw/%d", round)
		if took, err = timed(func() error { return store.Put(ctx, key, data) }); err != nil {
			return nil, err
		}
		put = append(put, took)
		if took, err = timed(func() error { _, err := store.Get(ctx, key); return err }); err != nil {
			return nil, err
		}
		get = append(get, took)
		// The same without the store: what no way to it can go below.
		if took, err = timed(func() error { _, err := datasets.Encode(t); return err }); err != nil {
			return nil, err
		}
		encode = append(encode, took)
		if took, err = timed(func() error { return released(datasets.Decode(memory.DefaultAllocator, data)) }); err != nil {
			return nil, err
		}
		decode = append(decode, took)
		if took, err = timed(func() error { return released(datasets.Load(ctx, store, memory.DefaultAllocator, refs[round])) }); err != nil {
			return nil, err
		}
		read = append(read, took)
	}
	share, err := columnShare(ctx, store, refs[0])
	if err != nil {
		return nil, err
	}
	var other bytes.Buffer
	if err := writeParquet(&other, tables[0]); err != nil {
		return nil, err
	}
	return []figure{
		atLeast("store/write-ratio", median(put)/median(write), "of raw", 0.8),
		atLeast("store/read-ratio", median(get)/median(read), "of raw", 0.8),
		atMost("store/encode-share", median(encode)/median(put), "of raw", 0.25),
		atMost("store/decode-share", median(decode)/median(get), "of raw", 0.25),
		atMost("store/column-share", share, "of bytes", 0.2),
		atMost("store/bytes-per-token", float64(refs[0].Bytes)/float64(tokens), "bytes", 12),
		atMost("store/bytes-of-parquet", float64(refs[0].Bytes)/float64(other.Len()), "of Parquet", 1),
	}, nil
}

// released drops a table that was only to be read.
func released(t *datasets.Table, err error) error {
	if err == nil {
		t.Release()
	}
	return err
}

// timed is how many seconds something takes.
func timed(do func() error) (float64, error) {
	start := time.Now()
	err := do()
	return time.Since(start).Seconds(), err
}

// rolloutTable is a table of rollouts and how many tokens of completions it has.
func rolloutTable(rows int, seed uint64) (*datasets.Table, int, error) {
	rng := rand.New(rand.NewPCG(seed, 3))
	var group, sample, level, hint []int32
	var problem, origin, parent, policy, completion, finish []string
	var promptIDs, completionIDs [][]int32
	var logprobs, entropies [][]float32
	tokens := 0
	for i := range rows {
		r := newRollout(i, rng)
		group, sample, level, hint = append(group, int32(r.Group)), append(sample, int32(r.Sample)), append(level, int32(r.Level)), append(hint, 0)
		problem, origin, parent, policy = append(problem, r.Problem), append(origin, "original"), append(parent, ""), append(policy, r.Policy)
		completion, finish = append(completion, r.Completion), append(finish, r.FinishReason)
		promptIDs, completionIDs = append(promptIDs, r.PromptIDs), append(completionIDs, r.CompletionIDs)
		logprobs, entropies = append(logprobs, r.LogProbs), append(entropies, r.Entropies)
		tokens += len(r.CompletionIDs)
	}
	t, err := datasets.NewTable(memory.DefaultAllocator, datasets.KindRollouts, datasets.Lineage{Stage: "bench"},
		datasets.Group.Of(group), datasets.Sample.Of(sample), datasets.ProblemID.Of(problem), datasets.Level.Of(level), datasets.Origin.Of(origin), datasets.Parent.Of(parent),
		datasets.HintLevel.Of(hint), datasets.PolicyVersion.Of(policy), datasets.PromptIDs.OfSlices(promptIDs), datasets.CompletionIDs.OfSlices(completionIDs),
		datasets.LogProbs.OfSlices(logprobs), datasets.Entropies.OfSlices(entropies), datasets.Completion.Of(completion), datasets.FinishReason.Of(finish))
	return t, tokens, err
}

// countedStore is a store that counts the bytes of ranges.
type countedStore struct {
	datasets.Store
	bytes atomic.Int64
}

func (c *countedStore) GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error) {
	data, err := c.Store.GetRange(ctx, key, offset, n)
	c.bytes.Add(int64(len(data)))
	return data, err
}

// columnShare is the mean share of the table's bytes that reading one column takes.
func columnShare(ctx context.Context, s datasets.Store, r datasets.Ref) (float64, error) {
	kind, err := datasets.LookupKind(r.Kind)
	if err != nil {
		return 0, err
	}
	c := &countedStore{Store: s}
	for _, column := range kind.Columns {
		a, err := datasets.LoadColumn(ctx, c, memory.DefaultAllocator, r, column)
		if err != nil {
			return 0, err
		}
		a.Release()
	}
	return float64(c.bytes.Load()) / float64(len(kind.Columns)) / float64(r.Bytes), nil
}

func writeParquet(w io.Writer, t *datasets.Table) error {
	p, err := pqarrow.NewFileWriter(t.Record().Schema(), struct{ io.Writer }{w}, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd)), pqarrow.DefaultWriterProps())
	if err != nil {
		return err
	}
	return errors.Join(p.Write(t.Record()), p.Close())
}
