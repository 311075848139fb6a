package activities

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// slowly is a store whose answers take a minute, and which counts them by key.
type slowly struct {
	datasets.Store
	mu   sync.Mutex
	gets map[string]int
}

func (s *slowly) Get(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	s.gets[key]++
	s.mu.Unlock()
	time.Sleep(time.Minute)
	return s.Store.Get(ctx, key)
}

// versions are policies of 0, 1, 2, … optimizer steps.
func versions(t *testing.T, s datasets.Store, n int) (refs []datasets.Ref, bytes int64) {
	t.Helper()
	tokenizer, err := policy.NewCharTokenizer("0123456789+=")
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Config{VocabSize: tokenizer.Size(), HiddenSize: 8, IntermediateSize: 16, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2, RMSNormEps: 1e-6, RopeTheta: 1e4, MaxPositionEmbeddings: 16, TieWordEmbeddings: true}
	for i := range n {
		w := policy.NewWeights(c, uint64(i))
		bytes = 0
		for _, tensor := range w {
			bytes += 4 * int64(len(tensor.Data))
		}
		ref, err := policy.SaveState(t.Context(), s, &policy.State{Config: c, Tokenizer: tokenizer, Weights: w}, datasets.Lineage{Stage: "test"})
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	return refs, bytes
}

// However many ask for a version at once, it is fetched once; one who gives up
// takes nothing from the others.
func TestPolicyIsFetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{Store: datasets.NewMemory(), gets: map[string]int{}}
		refs, _ := versions(t, s.Store, 1)
		p := NewPolicies(s)
		impatient, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := p.model(impatient, refs[0]); err == nil {
				t.Error("whoever gave up got an answer")
			}
		})
		synctest.Wait()
		for range 8 {
			all.Go(func() {
				if _, err := p.model(t.Context(), refs[0]); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
		for key, n := range s.gets {
			if n != 1 {
				t.Errorf("%s was fetched %d times", key, n)
			}
		}
		if l := p.Loads(); l.Loaded != 1 {
			t.Errorf("loads %+v", l)
		}
	})
}

// Memory holds what fits, and loses what was used longest ago.
func TestPoliciesAreBounded(t *testing.T) {
	s := datasets.NewMemory()
	refs, bytes := versions(t, s, 3)
	p := NewPolicies(s)
	p.Memory = 2 * bytes
	for _, i := range []int{0, 1, 0, 2, 0, 1} { // 2 takes the place of 1, and 1 that of 2
		if _, err := p.model(t.Context(), refs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if l := p.Loads(); l != (Loads{Memory: 2, Loaded: 4}) {
		t.Errorf("loads %+v", l)
	}
	p.Memory = bytes / 2
	for range 2 {
		if _, err := p.model(t.Context(), refs[2]); err != nil {
			t.Fatal(err)
		}
	}
	if l := p.Loads(); l != (Loads{Memory: 3, Loaded: 5}) || len(p.models) != 1 {
		t.Errorf("with a version larger than the bound: loads %+v, %d kept", l, len(p.models))
	}
}

// What nobody has used for some time is freed by itself; what is in use is not.
func TestIdleEnginesAreFreed(t *testing.T) {
	s := datasets.NewMemory()
	refs, _ := versions(t, s, 1)
	p := NewPolicies(s)
	p.Idle = time.Millisecond
	m, err := p.model(t.Context(), refs[0])
	if err != nil {
		t.Fatal(err)
	}
	count := func() (engines, trainers int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range p.engines {
			engines += len(e)
		}
		return engines, len(p.trainers)
	}
	var releases []func()
	for range 2 {
		_, release, err := p.engine("go", m)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	if _, err := p.train(t.Context(), "go", refs[0], true, datasets.Lineage{Stage: "test"}, func(Trainer, *policy.Tokenizer) error { return nil }); err != nil {
		t.Fatal(err)
	}
	releases[0]()
	for e, n := count(); e+n > 0; e, n = count() {
		time.Sleep(time.Millisecond)
	}
	e, again, err := p.engine("go", m)
	if err != nil {
		t.Fatal(err)
	}
	p.free(0)
	if _, err := e.Generate(t.Context(), []policy.Prompt{{IDs: []int32{3}}}, policy.Sampling{MaxCompletionLength: 1, Temperature: 1, TopP: 1}, nil); err != nil {
		t.Errorf("an engine in use was freed: %v", err)
	}
	again()
	releases[1]()
	p.Close()
}
