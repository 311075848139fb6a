package activities

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// Policies keeps what is costly to have: loaded policies by version, compiled
// engines by architecture, and the trainers of the newest versions. It is
// bounded, and everything in it can be had again from the store.
type Policies struct {
	Trainers int           // idle trainers kept: one for each experiment that shares the worker
	Memory   int64         // bytes of weights kept; the version in use is kept in any case
	Idle     time.Duration // after which engines and trainers that nobody uses are freed

	store datasets.Store
	open  func(spec string) (Backend, error)
	loads singleflight.Group // of versions, by hash

	mu       sync.Mutex
	backends map[string]Backend
	models   []cachedModel // last used last
	engines  map[string][]idleEngine
	trainers []cachedTrainer // newest last
	counted  Loads

	tokenizer *policy.Tokenizer // the one last read, the shape beside it
	shape     policy.Config
	readerKey string // the hashes of their files
}

// Loads counts where policy versions came from.
type Loads struct {
	Memory int64 // were there
	Loaded int64 // were read from folder or store
}

type cachedModel struct {
	hash  string
	bytes int64
	state *policy.State
}

// cachedTrainer is an idle trainer and the version it holds.
type cachedTrainer struct {
	hash    string
	trainer Trainer
	since   time.Time
}

type idleEngine struct {
	Engine
	since time.Time
}

// Defaults of Policies.
const (
	DefaultMemory = 2 << 30
	DefaultIdle   = 5 * time.Minute
)

// Release frees what this worker holds on its accelerator between activities; a
// run that goes on loads it again. Workers that it does not reach do so by
// themselves after Policies.Idle.
func (a *Activities) Release(context.Context) error {
	a.Policies.Close()
	return nil
}

// NewPolicies returns an empty cache over a store.
func NewPolicies(store datasets.Store) *Policies { return NewPoliciesOn(store, OpenModels) }

// NewPoliciesOn returns an empty cache over a store, whose backends are opened by
// open: whatever a plan's backend is, who makes the worker says what computes.
func NewPoliciesOn(store datasets.Store, open func(spec string) (Backend, error)) *Policies {
	return &Policies{
		Trainers: 2, Memory: DefaultMemory, Idle: DefaultIdle,
		store: store, open: open, backends: map[string]Backend{}, engines: map[string][]idleEngine{},
	}
}

// Close frees engines and trainers that nobody uses, and with them the device's
// memory. What is asked for later is made anew.
func (p *Policies) Close() { p.free(0) }

// free closes the engines and trainers that nobody has used for some time.
func (p *Policies) free(idle time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, engines := range p.engines {
		p.engines[key] = slices.DeleteFunc(engines, func(e idleEngine) bool {
			if time.Since(e.since) < idle {
				return false
			}
			e.Close()
			return true
		})
	}
	p.trainers = slices.DeleteFunc(p.trainers, func(t cachedTrainer) bool {
		if time.Since(t.since) < idle {
			return false
		}
		t.trainer.Close()
		return true
	})
}

// rest is to be called when an engine or trainer becomes idle.
func (p *Policies) rest() { time.AfterFunc(p.Idle, func() { p.free(p.Idle) }) }

// Loads tells where the versions came from that were asked for.
func (p *Policies) Loads() Loads {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counted
}

func (p *Policies) backend(spec string) (Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.backends[spec]; ok {
		return b, nil
	}
	b, err := p.open(spec)
	if err != nil {
		return nil, invalid{err}
	}
	p.backends[spec] = b
	return b, nil
}

// model is the policy of a version, without its optimizer. It is shared:
// nobody changes it. Whoever asks while it is being loaded waits for that.
func (p *Policies) model(ctx context.Context, ref datasets.Ref) (*policy.State, error) {
	if s := p.kept(ref); s != nil {
		return s, nil
	}
	loaded := p.loads.DoChan(ref.Hash, func() (any, error) {
		if s := p.kept(ref); s != nil { // loaded between the look above and here
			return s, nil
		}
		// The end of the one who asked first is not the end of the others.
		s, err := policy.LoadModel(context.WithoutCancel(ctx), p.store, ref)
		if err != nil {
			return nil, fmt.Errorf("load policy: %w", err)
		}
		p.mu.Lock()
		p.counted.Loaded++
		p.mu.Unlock()
		p.keep(ref, s)
		return s, nil
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("load policy: %w", ctx.Err())
	case r := <-loaded:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*policy.State), nil
	}
}

// kept is a version that is in memory, or nil.
func (p *Policies) kept(ref datasets.Ref) *policy.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.models, func(m cachedModel) bool { return m.hash == ref.Hash })
	if i < 0 {
		return nil
	}
	m := p.models[i]
	p.models = append(slices.Delete(p.models, i, i+1), m)
	p.counted.Memory++
	return m.state
}

// keep takes a version into memory, and drops those last used longest ago.
func (p *Policies) keep(ref datasets.Ref, s *policy.State) {
	m := cachedModel{ref.Hash, 0, s}
	for _, t := range s.Weights {
		m.bytes += 4 * int64(len(t.Data))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.models = append(slices.DeleteFunc(p.models, func(old cachedModel) bool { return old.hash == m.hash }), m)
	total := int64(0)
	for i := len(p.models) - 1; i >= 0; i-- {
		if total += p.models[i].bytes; total > p.Memory && i < len(p.models)-1 {
			p.models = slices.Delete(p.models, 0, i+1)
			return
		}
	}
}

// engine borrows an engine that has the weights of s; give it back by release.
func (p *Policies) engine(spec string, s *policy.State) (e Engine, release func(), err error) {
	b, err := p.backend(spec)
	if err != nil {
		return nil, nil, err
	}
	key := spec + string(s.Config.JSON())
	p.mu.Lock()
	if idle := p.engines[key]; len(idle) > 0 {
		e, p.engines[key] = idle[len(idle)-1].Engine, idle[:len(idle)-1]
	}
	p.mu.Unlock()
	if e == nil {
		if e, err = b.NewEngine(s.Config); err != nil {
			return nil, nil, fmt.Errorf("new engine: %w", err)
		}
	}
	if err := e.Load(s.Weights); err != nil {
		e.Close()
		return nil, nil, fmt.Errorf("load weights: %w", err)
	}
	return e, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.engines[key] = append(p.engines[key], idleEngine{e, time.Now()})
		p.rest()
	}, nil
}

// train runs work on a trainer at the given version and stores what comes out.
// fresh forgets the optimizer's moments and counts its steps from 0. A trainer
// whose work failed is thrown away, so no half-done update can be continued.
func (p *Policies) train(ctx context.Context, spec string, ref datasets.Ref, fresh bool, l datasets.Lineage, work func(Trainer, *policy.Tokenizer) error) (datasets.Ref, error) {
	b, err := p.backend(spec)
	if err != nil {
		return datasets.Ref{}, err
	}
	var t Trainer
	p.mu.Lock()
	if i := slices.IndexFunc(p.trainers, func(c cachedTrainer) bool { return c.hash == ref.Hash }); i >= 0 && !fresh {
		t = p.trainers[i].trainer
		p.trainers = slices.Delete(p.trainers, i, i+1)
	}
	p.mu.Unlock()
	if t == nil {
		s, err := policy.LoadState(ctx, p.store, ref)
		if err != nil {
			return datasets.Ref{}, fmt.Errorf("load policy: %w", err)
		}
		if fresh {
			s.Merge() // what the policy learnt before is its base
			s.Moments1, s.Moments2, s.Step = nil, nil, 0
		}
		if t, err = b.NewTrainer(s); err != nil {
			return datasets.Ref{}, fmt.Errorf("new trainer: %w", err)
		}
	}
	_, tokenizer := t.Model()
	if err := work(t, tokenizer); err != nil {
		t.Close()
		return datasets.Ref{}, err
	}
	s, err := t.State()
	if err != nil {
		t.Close()
		return datasets.Ref{}, err
	}
	out, err := policy.SaveState(ctx, p.store, s, l)
	if err != nil {
		t.Close()
		return datasets.Ref{}, fmt.Errorf("save policy: %w", err)
	}
	merged := &policy.State{Config: s.Config, Tokenizer: s.Tokenizer, Weights: s.Weights.Clone(), Adapter: s.Adapter}
	merged.Merge()
	p.keep(out, merged)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trainers = append(p.trainers, cachedTrainer{out.Hash, t, time.Now()})
	p.rest()
	for len(p.trainers) > p.Trainers {
		p.trainers[0].trainer.Close()
		p.trainers = slices.Delete(p.trainers, 0, 1)
	}
	return out, nil
}
