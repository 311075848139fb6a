package reward

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Patient is a [Verifier] whose answers take longer than a comparison: one that runs programs or asks a service.
type Patient interface {
	// Patience is the time that one answer may take.
	Patience() time.Duration
}

// Item is one completion to be judged: its text, the gold answer of its problem, and the name of the verifier.
type Item struct {
	Completion, Answer, Verifier string
}

// Counts says how a batch was judged.
type Counts struct {
	Correct, Wrong, NoAnswer, Timeout, Error int // answers by outcome; they add up to the batch

	Panics    int // of Error: verifiers that panicked
	Refused   int // of Error: not tried, as too many runs of that verifier hang
	Abandoned int // of Timeout: verifiers that did not even return soon after their time was up

	Reasons map[string]int // of Error by message, of others by Verdict.Reason; at most 32, the rest under "other"
}

// Defaults of [Scorer].
const (
	DefaultTimeout      = 2 * time.Second
	DefaultMaxAbandoned = 16
)

// grace is how long past its deadline a verifier may take to notice that its context has ended.
const grace = 50 * time.Millisecond

// Scorer judges batches of completions, several at once, each within a time limit.
//
// Whatever a verifier does costs one answer and never the batch: a panic or an error becomes the outcome Error, too
// long a run the outcome Timeout, both with reward 0 and counted. A run that returns past its time is tried once more.
//
// A goroutine cannot be killed, so one whose verifier ignores its context is left behind. Once MaxAbandoned of them
// exist for a verifier (a few more when several workers get there together, never more than Workers), its answers
// are refused at once (Error, counted in Counts.Refused) until some return. What hangs is remembered across calls, so keep one Scorer for the life of the process. The zero value is
// ready, and all methods may be called concurrently.
type Scorer struct {
	Timeout      time.Duration // per answer; 0 = DefaultTimeout; a [Patient] verifier that needs more has more
	Workers      int           // answers judged at once; 0 = GOMAXPROCS
	MaxAbandoned int           // hung runs per verifier; 0 = DefaultMaxAbandoned

	// Lookup finds a verifier by its name; nil = ByName.
	Lookup func(name string) (Verifier, error)

	mu   sync.Mutex
	hung map[string]int // runs left behind that have not returned, by verifier
}

// Score judges items and returns a verdict for each, in their order.
//
// It fails before judging anything if a verifier is unknown, and returns the error of ctx promptly when that ends.
// Given verifiers that keep their contract, the verdicts depend on items alone.
func (s *Scorer) Score(ctx context.Context, items []Item) ([]Verdict, Counts, error) {
	verifiers, err := s.verifiers(items)
	if err != nil {
		return nil, Counts{}, err
	}
	verdicts := make([]Verdict, len(items))
	var total tally
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(s.workers(), len(items)) {
		wg.Go(func() {
			var w runner
			defer w.release()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(items) || ctx.Err() != nil {
					return
				}
				verdicts[i] = s.judge(ctx, &w, verifiers[items[i].Verifier], items[i], &total)
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, Counts{}, fmt.Errorf("score: %w", err)
	}
	return verdicts, total.counts(verdicts), nil
}

// verifiers looks up every verifier that items name.
func (s *Scorer) verifiers(items []Item) (map[string]Verifier, error) {
	lookup := s.Lookup
	if lookup == nil {
		lookup = ByName
	}
	found := map[string]Verifier{}
	for i, item := range items {
		if found[item.Verifier] != nil {
			continue
		}
		v, err := lookup(item.Verifier)
		if err != nil {
			return nil, fmt.Errorf("score: item %d: %w", i, err)
		}
		found[item.Verifier] = v
	}
	return found, nil
}

func (s *Scorer) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return DefaultTimeout
}

func (s *Scorer) workers() int {
	if s.Workers > 0 {
		return s.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// judge runs one verifier in w and waits for it, for its time limit, or for ctx, whichever comes first.
func (s *Scorer) judge(ctx context.Context, w *runner, v Verifier, item Item, total *tally) Verdict {
	if limit := s.limit(); s.hanging(item.Verifier) >= limit {
		return total.fail(fmt.Sprintf("%s: refused while %d runs of it hang", item.Verifier, limit), func(c *Counts) { c.Refused++ })
	}
	for range 2 {
		v, late := s.try(ctx, w, v, item, total)
		if !late {
			return v
		}
	}
	return Verdict{Outcome: Timeout}
}

// try is one run within the time limit. late says that it returned, but past its
// time: its process may have been stopped meanwhile or the machine overloaded,
// which must not change a verdict.
func (s *Scorer) try(ctx context.Context, w *runner, v Verifier, item Item, total *tally) (verdict Verdict, late bool) {
	limit := s.timeout()
	if p, ok := v.(Patient); ok {
		limit = max(limit, p.Patience())
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := w.start(task{ctx: limited, verifier: v, item: item})
	select {
	case r := <-done:
		return total.settle(limited, r)
	case <-limited.Done():
	}
	if ctx.Err() == nil {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case r := <-done:
			return total.settle(limited, r)
		case <-timer.C:
		case <-ctx.Done():
		}
		total.add(func(c *Counts) { c.Abandoned++ })
	}
	s.abandon(w, item.Verifier)
	return Verdict{Outcome: Timeout}, false
}

func (s *Scorer) limit() int {
	if s.MaxAbandoned > 0 {
		return s.MaxAbandoned
	}
	return DefaultMaxAbandoned
}

func (s *Scorer) hanging(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hung[name]
}

// abandon leaves the goroutine of w to itself and remembers it until its verifier returns.
func (s *Scorer) abandon(w *runner, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hung == nil {
		s.hung = map[string]int{}
	}
	s.hung[name]++
	w.leave(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hung[name]--
	})
}

// task is one call of a verifier.
type task struct {
	ctx      context.Context
	verifier Verifier
	item     Item
}

// outcome is what a call of a verifier came to.
type outcome struct {
	verdict Verdict
	err     error
	panics  bool
}

// run calls the verifier and turns a panic into an error.
func (t task) run() (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = outcome{err: fmt.Errorf("%s: panic: %v", t.item.Verifier, p), panics: true}
		}
	}()
	o.verdict, o.err = t.verifier.Verify(t.ctx, t.item.Completion, t.item.Answer)
	return o
}

// runner is a worker's goroutine for calls of verifiers. It is used again for every call, since starting one costs
// as much as judging a short answer, and replaced once it hangs. The zero value has none yet.
type runner struct {
	tasks chan task
	done  chan outcome
	quit  *atomic.Pointer[func()] // set when the goroutine is left behind: called when it returns
}

// start hands t to the goroutine. Its outcome arrives on the channel.
func (w *runner) start(t task) <-chan outcome {
	if w.tasks == nil {
		tasks, done, quit := make(chan task), make(chan outcome, 1), new(atomic.Pointer[func()])
		w.tasks, w.done, w.quit = tasks, done, quit
		go func() {
			for t := range tasks {
				done <- t.run() // never blocks: a call is not started before the last one was received
			}
			if f := quit.Load(); f != nil {
				(*f)()
			}
		}()
	}
	w.tasks <- t
	return w.done
}

// release ends the goroutine once it is idle.
func (w *runner) release() {
	if w.tasks != nil {
		close(w.tasks)
		w.tasks = nil
	}
}

// leave ends the goroutine whenever its verifier returns, and calls returned then.
func (w *runner) leave(returned func()) {
	w.quit.Store(&returned)
	w.release()
}

// tally collects what verdicts do not tell.
type tally struct {
	mu sync.Mutex
	c  Counts
}

func (t *tally) add(f func(*Counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.c)
}

// settle turns the outcome of a call into a verdict. A call that outlived its context is late, whatever it says.
func (t *tally) settle(ctx context.Context, o outcome) (v Verdict, late bool) {
	switch {
	case o.panics:
		return t.fail(o.err.Error(), func(c *Counts) { c.Panics++ }), false
	case ctx.Err() != nil:
		return Verdict{}, true
	case o.err != nil:
		return t.fail(o.err.Error(), nil), false
	case math.IsNaN(o.verdict.Reward) || math.IsInf(o.verdict.Reward, 0):
		return t.fail(fmt.Sprintf("reward %v is not finite", o.verdict.Reward), nil), false
	}
	switch o.verdict.Outcome {
	case Correct, Wrong, NoAnswer, Timeout:
		return o.verdict, false
	case Error:
		return t.fail("the verifier reports an error", nil), false
	}
	return t.fail(fmt.Sprintf("unknown outcome %q", o.verdict.Outcome), nil), false
}

// fail counts a reason and returns the verdict of an answer that could not be judged.
func (t *tally) fail(reason string, also func(*Counts)) Verdict {
	t.add(func(c *Counts) {
		if also != nil {
			also(c)
		}
		c.reason(reason)
	})
	return Verdict{Outcome: Error}
}

// reason counts a reason under its text, or under "other" once there are many.
func (c *Counts) reason(text string) {
	if c.Reasons == nil {
		c.Reasons = map[string]int{}
	}
	if _, known := c.Reasons[text]; !known && len(c.Reasons) >= 32 {
		text = "other"
	}
	c.Reasons[text]++
}

// counts adds the verdicts by outcome.
func (t *tally) counts(verdicts []Verdict) Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range verdicts {
		if v.Reason != "" {
			t.c.reason(v.Reason)
		}
		switch v.Outcome {
		case Correct:
			t.c.Correct++
		case Wrong:
			t.c.Wrong++
		case NoAnswer:
			t.c.NoAnswer++
		case Timeout:
			t.c.Timeout++
		case Error:
			t.c.Error++
		}
	}
	return t.c
}
