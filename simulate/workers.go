package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
)

// process is a worker process: what it has cached, until it dies.
type process struct {
	acts *activities.Activities
	dead bool
}

// computing is what activities compute with.
type computing struct {
	open   func(spec string) (activities.Backend, error)
	lookup func(name string) (reward.Verifier, error)
}

// fleet is the workers of a run. One attempt runs at a time, but for those that
// race, whose operations take turns; so a schedule depends on its seed alone.
type fleet struct {
	disk *disk
	with computing
	faults
	first func(name string, input any) // called before the first attempt of each activity

	mu        sync.Mutex
	processes []*process
	tries     map[string]int // by activity and input
	frozen    []*frozen
	rounds    map[string]*round
	counts    Counts
	denied    bool // a refusal of the credentials has reached the run
}

// faults say what may go wrong in a run; the zero value is a calm one.
type faults struct {
	seed    uint64
	workers int     // at least 1
	rate    float64 // chance of a fault at an operation of the store
	kinds   []Fault // of the store, that may happen
	// Chances, by attempt.
	crash, freeze, race, orphan float64
	reorder                     bool
}

// frozen is an attempt that was given up for dead.
type frozen struct {
	attempts int           // of others that begin before it goes on
	thaw     chan struct{} // closed to let it go on
	done     <-chan []reflect.Value
}

func newFleet(d *disk, with computing, f faults) *fleet {
	h := &fleet{disk: d, with: with, faults: f, tries: map[string]int{}, rounds: map[string]*round{}}
	for range max(1, f.workers) {
		h.processes = append(h.processes, h.process())
	}
	return h
}

func (h *fleet) process() *process {
	policies := activities.NewPoliciesOn(h.disk, h.with.open)
	policies.Idle = 5 * time.Second // far longer than a schedule, which is held in memory for as long
	return &process{acts: &activities.Activities{
		Store: h.disk, Policies: policies, Log: zerolog.Nop(),
		// A machine under load may take its time: what the verdict is must not depend on it.
		Scorer: &reward.Scorer{Lookup: h.with.lookup, Workers: 1, Timeout: time.Minute},
	}}
}

// close lets what is frozen go on to its end, and frees what the workers hold.
func (h *fleet) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.thaw(math.MaxInt)
	for _, p := range h.processes {
		p.acts.Policies.Close()
	}
}

// activities are all of a worker's, by name, each run by one of the fleet.
func (h *fleet) activities() map[string]any {
	out := map[string]any{}
	t := reflect.TypeFor[*activities.Activities]()
	for i := range t.NumMethod() {
		m := t.Method(i)
		in, results := []reflect.Type{}, []reflect.Type{}
		for j := 1; j < m.Type.NumIn(); j++ {
			in = append(in, m.Type.In(j))
		}
		for j := range m.Type.NumOut() {
			results = append(results, m.Type.Out(j))
		}
		out[m.Name] = reflect.MakeFunc(reflect.FuncOf(in, results, false), func(args []reflect.Value) []reflect.Value {
			return h.run(m, args)
		}).Interface()
	}
	return out
}

// errLost is how the orchestration hears of a worker that is gone.
var errLost = errors.New("the worker is gone")

// failed is the results of an activity that returns err.
func failed(m reflect.Method, err error) []reflect.Value {
	var out []reflect.Value
	for i := range m.Type.NumOut() - 1 {
		out = append(out, reflect.Zero(m.Type.Out(i)))
	}
	return append(out, reflect.ValueOf(&err).Elem())
}

// mostTries bounds the faults of one activity: the test environment tries ten times.
const mostTries = 4

// removing are the activities that remove records. Nothing fences one that goes on
// long after it was given up for dead: it removes what has been recorded since.
var removing = []string{"Open", "Rewind", "Discard"}

// run is one attempt of an activity as the orchestration sees it.
func (h *fleet) run(m reflect.Method, args []reflect.Value) []reflect.Value {
	ctx := args[0].Interface().(context.Context)
	var input any
	if len(args) > 1 {
		input = args[1].Interface()
	}
	raw, err := json.Marshal(input)
	if err != nil {
		return failed(m, err)
	}
	key := m.Name + string(raw)
	if in, ok := input.(activities.RolloutInput); ok {
		defer h.queue(key, in)()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.tries[key]
	h.tries[key]++
	if n == 0 && h.first != nil {
		h.first(m.Name, input)
	}
	rng := rand.New(rand.NewPCG(datasets.Stream(h.seed, key), uint64(n)))
	calm := n >= mostTries || h.seed == 0 || m.Name == "Release"
	h.thaw(1)
	at := rng.IntN(len(h.processes))
	a := &attempt{process: h.processes[at], dies: -1, freezes: -1, count: func(f Fault) { h.counts[f]++ }}
	call := func(a *attempt) []reflect.Value {
		ctx := context.WithValue(context.WithoutCancel(ctx), attemptKey{}, a)
		return m.Func.Call(append([]reflect.Value{reflect.ValueOf(a.process.acts), reflect.ValueOf(ctx)}, args[1:]...))
	}
	if calm {
		a.rng = rng
		return call(a)
	}
	faulty := func(a *attempt) {
		a.rng, a.rate, a.kinds = rand.New(rand.NewPCG(rng.Uint64(), 0)), h.rate, slices.Clone(h.kinds)
	}
	faulty(a)
	if m.Name == "Tune" { // refused, it fails an update and not the run
		a.kinds = without(a.kinds, Denied)
	}
	denials := h.counts[Denied]
	var out []reflect.Value
	switch u := rng.Float64(); {
	case u < h.crash:
		a.kinds = nil // the store's own faults would only hide where it dies
		a.dies, a.after = rng.IntN(12), rng.IntN(2) == 0
		if out = call(a); !a.process.dead {
			h.counts[Crash]++ // after its work, before its answer
			a.process.dead = true
		}
	case u < h.crash+h.freeze && !slices.Contains(removing, m.Name):
		a.kinds = nil
		a.freezes = rng.IntN(12)
		if out = h.freezing(a, rng.IntN([]int{4, 64}[rng.IntN(2)]), call); out == nil {
			h.processes[at] = h.process() // others may wait for what the frozen one has begun to load
		}
	case u < h.crash+h.freeze+h.race:
		b := &attempt{process: h.process(), dies: -1, freezes: -1, count: a.count}
		faulty(b)
		a.kinds, b.kinds = without(a.kinds, Denied), without(b.kinds, Denied)
		h.counts[Racing]++
		both := race(rng, a, b, call)
		out = both[rng.IntN(2)]
	case u < h.crash+h.freeze+h.race+h.orphan:
		a.kinds = without(a.kinds, Denied)
		call(a)
		h.counts[Orphaned]++
	default:
		out = call(a)
		h.denied = h.denied || h.counts[Denied] > denials
	}
	if a.process.dead {
		h.processes[at], out = h.process(), nil
	}
	if h.counts[Denied] > 0 {
		h.kinds = without(h.kinds, Denied)
	}
	if out == nil {
		return failed(m, errLost)
	}
	return out
}

func without(kinds []Fault, f Fault) []Fault {
	return slices.DeleteFunc(slices.Clone(kinds), func(k Fault) bool { return k == f })
}

// freezing runs an attempt until it is over, or given up: then there is no result,
// and it goes on once so many attempts of others have begun.
func (h *fleet) freezing(a *attempt, attempts int, call func(*attempt) []reflect.Value) []reflect.Value {
	given, done := make(chan struct{}), make(chan []reflect.Value, 1)
	f := &frozen{attempts: attempts, thaw: make(chan struct{}), done: done}
	a.freeze = func() {
		close(given)
		<-f.thaw
	}
	go func() { done <- call(a) }()
	select {
	case out := <-done:
		return out
	case <-given:
		h.frozen = append(h.frozen, f)
		return nil
	}
}

// thaw lets those frozen attempts go on to their end that have waited long enough.
func (h *fleet) thaw(passed int) {
	h.frozen = slices.DeleteFunc(h.frozen, func(f *frozen) bool {
		if f.attempts -= passed; f.attempts > 0 {
			return false
		}
		close(f.thaw)
		<-f.done
		return true
	})
}

// race runs two attempts at once; whose operation comes next is drawn.
func race(rng *rand.Rand, a, b *attempt, call func(*attempt) []reflect.Value) (out [2][]reflect.Value) {
	var turn [2]chan struct{}
	var over [2]bool
	var wait sync.WaitGroup
	for i := range turn {
		turn[i] = make(chan struct{}, 1)
	}
	for i, x := range []*attempt{a, b} {
		x.turn = func() {
			if next := rng.IntN(2); next != i && !over[next] {
				turn[next] <- struct{}{}
				<-turn[i]
			}
		}
		wait.Go(func() {
			<-turn[i]
			out[i] = call(x)
			if over[i] = true; !over[1-i] {
				turn[1-i] <- struct{}{}
			}
		})
	}
	turn[rng.IntN(2)] <- struct{}{}
	wait.Wait()
	return out
}

// round is the first attempts of a rollout's shards.
type round struct {
	order   []int
	arrived map[int]bool
	next    int // place in the order
	cond    *sync.Cond
}

// queue waits until it is the shard's turn to be tried for the first time, and
// returns what lets the next one begin.
func (h *fleet) queue(key string, in activities.RolloutInput) (done func()) {
	if in.Shards == 1 {
		return func() {}
	}
	shard := in.Shard
	in.Shard = 0
	raw, err := json.Marshal(in)
	if err != nil {
		return func() {}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tries[key] > 0 {
		return func() {}
	}
	r, ok := h.rounds[string(raw)]
	if !ok {
		r = &round{arrived: map[int]bool{}, cond: sync.NewCond(&h.mu)}
		for i := range in.Shards {
			r.order = append(r.order, i)
		}
		if h.reorder {
			rng := rand.New(rand.NewPCG(datasets.Stream(h.seed, string(raw)), 1))
			rng.Shuffle(len(r.order), func(i, j int) { r.order[i], r.order[j] = r.order[j], r.order[i] })
			if !slices.IsSorted(r.order) {
				h.counts[Reordered]++
			}
		}
		h.rounds[string(raw)] = r
	}
	for r.next < len(r.order) && r.order[r.next] != shard {
		r.cond.Wait()
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		r.next++
		r.cond.Broadcast()
	}
}
