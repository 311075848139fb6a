package activities

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// Policies keeps what is costly to have: loaded policies by version, compiled
// engines by architecture, and the trainers of the newest versions. It is
// bounded, and everything in it can be had again from the store.
type Policies struct {
	Trainers int // idle trainers kept: one for each experiment that shares the worker

	store datasets.Store

	mu       sync.Mutex
	backends map[string]*policy.Backend
	models   []cachedModel // newest last
	engines  map[string][]*policy.Engine
	trainers []cachedTrainer // newest last

	tokenizer     *policy.Tokenizer // the one last read
	tokenizerHash string
}

type cachedModel struct {
	hash  string
	state *policy.State
}

// cachedTrainer is an idle trainer and the version it holds.
type cachedTrainer struct {
	hash    string
	trainer *policy.Trainer
}

// maxModels bounds the versions kept, of a few experiments that share a worker.
const maxModels = 8

// Release frees what this worker holds on its accelerator between activities; a
// run that goes on loads it again.
func (a *Activities) Release(context.Context) error {
	a.Policies.Close()
	return nil
}

// NewPolicies returns an empty cache over a store.
func NewPolicies(store datasets.Store) *Policies {
	return &Policies{Trainers: 2, store: store, backends: map[string]*policy.Backend{}, engines: map[string][]*policy.Engine{}}
}

// Close frees engines and trainers that nobody uses, and with them the device's
// memory. What is asked for later is made anew.
func (p *Policies) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, idle := range p.engines {
		for _, e := range idle {
			e.Close()
		}
	}
	p.engines = map[string][]*policy.Engine{}
	for _, t := range p.trainers {
		t.trainer.Close()
	}
	p.trainers = nil
}

func (p *Policies) backend(spec string) (*policy.Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.backends[spec]; ok {
		return b, nil
	}
	b, err := policy.OpenBackend(spec)
	if err != nil {
		return nil, invalid{err}
	}
	p.backends[spec] = b
	return b, nil
}

// model is the policy of a version, without its optimizer. It is shared:
// nobody changes it.
func (p *Policies) model(ctx context.Context, ref datasets.Ref) (*policy.State, error) {
	p.mu.Lock()
	for _, m := range p.models {
		if m.hash == ref.Hash {
			p.mu.Unlock()
			return m.state, nil
		}
	}
	p.mu.Unlock()
	s, err := policy.LoadModel(ctx, p.store, ref)
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	p.keep(ref, s)
	return s, nil
}

func (p *Policies) keep(ref datasets.Ref, s *policy.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.models = append(p.models, cachedModel{ref.Hash, s}); len(p.models) > maxModels {
		p.models = append([]cachedModel(nil), p.models[1:]...)
	}
}

// engine borrows an engine that has the weights of s; give it back by release.
func (p *Policies) engine(spec string, s *policy.State) (e *policy.Engine, release func(), err error) {
	b, err := p.backend(spec)
	if err != nil {
		return nil, nil, err
	}
	key := spec + string(s.Config.JSON())
	p.mu.Lock()
	if idle := p.engines[key]; len(idle) > 0 {
		e, p.engines[key] = idle[len(idle)-1], idle[:len(idle)-1]
	}
	p.mu.Unlock()
	if e == nil {
		if e, err = policy.NewEngine(b, s.Config); err != nil {
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
		p.engines[key] = append(p.engines[key], e)
	}, nil
}

// train runs work on a trainer at the given version and stores what comes out.
// fresh forgets the optimizer's moments and counts its steps from 0. A trainer
// whose work failed is thrown away, so no half-done update can be continued.
func (p *Policies) train(ctx context.Context, spec string, ref datasets.Ref, fresh bool, l datasets.Lineage, work func(*policy.Trainer, *policy.Tokenizer) error) (datasets.Ref, error) {
	b, err := p.backend(spec)
	if err != nil {
		return datasets.Ref{}, err
	}
	var t *policy.Trainer
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
			s.Moments1, s.Moments2, s.Step = nil, nil, 0
		}
		if t, err = policy.NewTrainer(b, s); err != nil {
			return datasets.Ref{}, fmt.Errorf("new trainer: %w", err)
		}
	}
	if err := work(t, t.State().Tokenizer); err != nil {
		t.Close()
		return datasets.Ref{}, err
	}
	s := t.State()
	out, err := policy.SaveState(ctx, p.store, s, l)
	if err != nil {
		t.Close()
		return datasets.Ref{}, fmt.Errorf("save policy: %w", err)
	}
	p.keep(out, &policy.State{Config: s.Config, Tokenizer: s.Tokenizer, Weights: s.Weights.Clone()})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trainers = append(p.trainers, cachedTrainer{out.Hash, t})
	for len(p.trainers) > p.Trainers {
		p.trainers[0].trainer.Close()
		p.trainers = slices.Delete(p.trainers, 0, 1)
	}
	return out, nil
}
