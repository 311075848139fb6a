package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/gradus-rl/gradus/policy"
)

// row is one completion that is asked for.
type row struct {
	ctx      context.Context
	prompt   []int32
	stream   uint64 // key of its randomness
	sampling policy.Sampling
	stops    []string
	top      int // alternatives wanted per token
	model    *model
	tokens   chan token // closed when there are no more; holds a whole completion

	// Set before tokens is closed.
	version string
	reason  string
	met     *string // the stop text that ended it
	err     error

	ids  []int32
	over bool
}

// token is one that was drawn.
type token struct {
	id      int32
	logprob float32
	top     []alternative // likeliest first
}

type alternative struct {
	id      int32
	logprob float32
}

// errGone ends a row whose client has left.
var errGone = errors.New("the client has gone")

// batcher gives an engine whatever waits, as one batch: rows with equal sampling
// join, and those that come meanwhile make the next one.
type batcher struct {
	most int // rows of a batch

	mu      sync.Mutex
	waiting []*row
	wake    chan struct{} // has room for one
}

func (b *batcher) add(rows ...*row) {
	b.mu.Lock()
	b.waiting = append(b.waiting, rows...)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default: // awake already
	}
}

// take removes the next batch: the row that has waited longest, and those that
// can be generated with it. The longest completion asked for must fit behind
// every prompt; a row ends its own completion where it wants.
func (b *batcher) take(context int) []*row {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch, rest []*row
	prompt, length := 0, 0
	for _, r := range b.waiting {
		p, l := max(prompt, len(r.prompt)), max(length, r.sampling.MaxCompletionLength)
		if len(batch) < b.most && p+l <= context && (len(batch) == 0 || alike(batch[0].sampling, r.sampling)) {
			batch, prompt, length = append(batch, r), p, l
		} else {
			rest = append(rest, r)
		}
	}
	b.waiting = rest
	return batch
}

// alike reports whether rows may share a batch.
func alike(a, b policy.Sampling) bool {
	a.MaxCompletionLength = b.MaxCompletionLength
	return a == b
}

// run generates batches until ctx ends, and refuses what waits then.
func (s *Server) run(ctx context.Context) {
	for {
		s.engine.Lock()
		batch := s.batcher.take(s.model.state.Config.MaxPositionEmbeddings)
		if len(batch) > 0 {
			s.generate(ctx, batch)
		}
		s.engine.Unlock()
		if len(batch) > 0 && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			for _, r := range s.batcher.drain() {
				r.end("", errClosed)
			}
			return
		case <-s.batcher.wake:
		}
	}
}

// errClosed refuses what a server that ends has not begun.
var errClosed = errors.New("the server is shutting down")

func (b *batcher) drain() []*row {
	b.mu.Lock()
	defer b.mu.Unlock()
	rows := b.waiting
	b.waiting = nil
	return rows
}

// generate computes one batch. Whoever calls it has the engine.
func (s *Server) generate(ctx context.Context, batch []*row) {
	prompts := make([]policy.Prompt, len(batch))
	sampling := batch[0].sampling
	for i, r := range batch {
		sampling.MaxCompletionLength = max(sampling.MaxCompletionLength, r.sampling.MaxCompletionLength)
		r.version = s.model.version
		prompts[i] = policy.Prompt{IDs: r.prompt, Stream: r.stream, Watch: r.watch}
	}
	_, err := s.policy.Generate(ctx, prompts, sampling, nil)
	for _, r := range batch {
		if !r.over {
			r.end("", cmp.Or(err, fmt.Errorf("the engine ended early")))
		}
	}
}

// watch takes the next token, and tells whether the completion goes on.
func (r *row) watch(id int32, logprob float32, logits []float32) bool {
	if r.ctx.Err() != nil {
		return r.end("", errGone)
	}
	r.ids = append(r.ids, id)
	t := token{id: id, logprob: logprob}
	if r.top > 0 {
		t.top = likeliest(logits, r.top, r.sampling.Temperature)
	}
	r.tokens <- t
	switch {
	case slices.Contains(r.model.state.Config.EOSTokenID, id):
		return r.end(policy.FinishStop, nil)
	case r.stopped():
		return r.end(policy.FinishStop, nil)
	case len(r.ids) == r.sampling.MaxCompletionLength:
		return r.end(policy.FinishLength, nil)
	}
	return true
}

// stopped notes whether a stop text has come up.
func (r *row) stopped() bool {
	if len(r.stops) == 0 {
		return false
	}
	text := r.model.state.Tokenizer.Decode(r.ids)
	if i := cut(text, r.stops); i >= 0 {
		for _, s := range r.stops {
			if strings.HasPrefix(text[i:], s) {
				r.met = &s
				return true
			}
		}
	}
	return false
}

// cut is where the first of the stop texts begins, −1 if there is none.
func cut(text string, stops []string) int {
	first := -1
	for _, s := range stops {
		if i := strings.Index(text, s); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	return first
}

// end closes the row. It returns false, which ends the completion.
func (r *row) end(reason string, err error) bool {
	r.reason, r.err, r.over = reason, err, true
	close(r.tokens)
	return false
}

// likeliest are the n likeliest tokens with their log-probabilities over the full
// vocabulary, at the temperature, or at 1 where that is 0. Ties go to the lower id.
func likeliest(logits []float32, n int, temperature float64) []alternative {
	if temperature == 0 {
		temperature = 1
	}
	peak := math.Inf(-1)
	for _, l := range logits {
		peak = max(peak, float64(l))
	}
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp((float64(l) - peak) / temperature)
	}
	var best []alternative // logprob is the logit until the end
	for id, l := range logits {
		if len(best) == n && l <= best[n-1].logprob {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, l, func(a alternative, l float32) int {
			if a.logprob >= l {
				return -1
			}
			return 1
		})
		best = slices.Insert(best, at, alternative{int32(id), l})
		best = best[:min(len(best), n)]
	}
	for i := range best {
		best[i].logprob = float32((float64(best[i].logprob)-peak)/temperature - math.Log(sum))
	}
	return best
}
