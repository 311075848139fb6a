package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gradus-rl/gradus/datasets"
)

// Fault is a way in which a store, a worker or the orchestration fails, or a thing
// that a user or an operator does, without any effect on what an experiment ends with.
type Fault int

// The faults of the model. The store keeps the contract of [datasets.Store] as S3
// and a file system do: a read sees every write that was acknowledged, and PutOnce
// has one winner. What lost, late and repeated messages can do within that contract
// is done. One thing goes beyond it: a write that fails may leave the first part of
// the object behind, as a disk does that lies about what it has written.
const (
	Lost       Fault = iota // an operation fails and has no effect: 5xx, time-out, no route
	Full                    // a write fails as there is no space left
	Late                    // a write fails and takes effect some operations later; until then reads are stale
	Unanswered              // a write takes effect and its answer is lost
	Repeated                // a write is sent twice: PutOnce finds its own object, Put takes effect again later
	Torn                    // a write fails and leaves the first part of the object
	Aged                    // an object looks hours old, so that whoever uses it writes it again
	Denied                  // the store refuses the credentials once: the run pauses, and is resumed
	Crash                   // the worker dies at an operation, before or after its effect, with all that it cached
	Frozen                  // the worker is given up for dead at an operation, and goes on later
	Racing                  // an attempt runs on two workers at once, their operations interleaved
	Orphaned                // the work is done and the answer is lost, so that it is done again
	Reordered               // the shards of a rollout end in another order
	Renewed                 // the workflow's history is renewed between two steps
	Paused                  // the run is paused and resumed
	Reused                  // another experiment has left its results in the store
	numFaults
)

func (f Fault) String() string {
	return [numFaults]string{"lost", "full", "late", "unanswered", "repeated", "torn", "aged", "denied", "crash", "frozen", "racing", "orphaned",
		"reordered", "renewed", "paused", "reused"}[f]
}

// Counts are the faults that took place, by kind.
type Counts [numFaults]int

// Total is how many there are of all kinds.
func (c Counts) Total() int {
	n := 0
	for _, v := range c {
		n += v
	}
	return n
}

func (c Counts) String() string {
	var parts []string
	for f, n := range c {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", Fault(f), n))
		}
	}
	return strings.Join(parts, ", ")
}

// disk is a [datasets.Store] in memory. Operations in the context of an attempt
// fail as the attempt has it; others never fail.
type disk struct {
	mu      sync.Mutex
	objects map[string][]byte
	late    []write
	aged    map[string]bool // written hours ago, as far as anybody can tell
}

// write is one that takes effect after some more operations.
type write struct {
	after int
	key   string
	data  []byte
	once  bool
}

var _ datasets.Store = (*disk)(nil)

func newDisk() *disk { return &disk{objects: map[string][]byte{}, aged: map[string]bool{}} }

// apply writes; it reports whether it did.
func (d *disk) apply(w write) bool {
	if _, ok := d.objects[w.key]; ok && w.once {
		return false
	}
	d.objects[w.key] = w.data
	delete(d.aged, w.key)
	return true
}

// land lets the writes that are due take effect, or all of them.
func (d *disk) land(all bool) {
	d.late = slices.DeleteFunc(d.late, func(w write) bool {
		due := all || w.after <= 0
		if due {
			d.apply(w)
		}
		return due
	})
}

// attempt is one attempt of an activity, and what goes wrong in it.
type attempt struct {
	rng     *rand.Rand
	process *process
	rate    float64 // chance of a fault at an operation
	kinds   []Fault // of the store, that may happen
	dies    int     // operation at which the worker dies, -1 = at none
	after   bool    // it dies after the operation's effect
	freezes int     // operation at which the attempt is given up for dead, -1 = at none
	ops     int     // operations begun
	turn    func()  // waits until the attempt may go on, if not nil
	freeze  func()  // waits until the attempt is thawed
	count   func(Fault)
}

type attemptKey struct{}

// errDead is what a dead worker's operations return; nobody gets to see it.
var errDead = errors.New("the worker is dead")

// do is one operation. Writes are given as such, reads as a function that returns
// an error of its own.
func (d *disk) do(ctx context.Context, op, key string, w *write, read func() error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %q: %w", op, key, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	effect := func() error {
		if w == nil {
			return read()
		}
		if !d.apply(*w) {
			return datasets.ErrExists
		}
		return nil
	}
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		return effect()
	}
	n := a.ops
	a.ops++
	if n == a.freezes {
		a.count(Frozen)
		a.freeze()
	}
	if a.turn != nil {
		a.turn()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.process.dead {
		return errDead
	}
	for i := range d.late {
		d.late[i].after--
	}
	d.land(false)
	if n == a.dies {
		a.count(Crash)
		a.process.dead = true
		if a.after {
			effect() // and nobody hears of it
		}
		return errDead
	}
	if a.rng.Float64() >= a.rate {
		return effect()
	}
	return d.fail(a, key, w, effect)
}

// fail is an operation that goes wrong, in one of the ways that the attempt may
// meet and that the operation can go wrong in.
func (d *disk) fail(a *attempt, key string, w *write, effect func() error) error {
	var can []Fault
	_, there := d.objects[key]
	for _, f := range a.kinds {
		switch {
		case f == Aged && (w != nil || !there), f == Torn && there, w == nil && f >= Full && f <= Torn:
		default:
			can = append(can, f)
		}
	}
	if len(can) == 0 {
		return effect()
	}
	f := can[a.rng.IntN(len(can))]
	a.count(f)
	switch f {
	case Full:
		return datasets.ErrNoSpace
	case Denied:
		a.kinds = slices.DeleteFunc(a.kinds, func(f Fault) bool { return f == Denied })
		return datasets.ErrDenied
	case Aged:
		d.aged[key] = true
		return effect()
	case Late:
		late := *w
		late.after = 1 + a.rng.IntN(40)
		d.late = append(d.late, late)
	case Unanswered:
		effect() // and nobody hears of it
	case Repeated:
		if w.once {
			effect()
			return datasets.ErrExists
		}
		late := *w
		late.after = 1 + a.rng.IntN(40)
		d.late = append(d.late, late)
		return effect()
	case Torn:
		torn := *w
		torn.data = torn.data[:a.rng.IntN(len(torn.data))]
		d.apply(torn)
	}
	if a.rng.IntN(2) == 0 {
		return fmt.Errorf("%w: 503 slow down", datasets.ErrUnavailable)
	}
	return fmt.Errorf("%w: i/o timeout", datasets.ErrUnavailable)
}

// Get implements [datasets.Store].
func (d *disk) Get(ctx context.Context, key string) (data []byte, err error) {
	err = d.do(ctx, "get", key, nil, func() error {
		var ok bool
		if data, ok = d.objects[key]; !ok {
			return datasets.ErrNotFound
		}
		data = bytes.Clone(data)
		return nil
	})
	return data, err
}

// GetRange implements [datasets.Store].
func (d *disk) GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error) {
	data, err := d.Get(ctx, key)
	offset = min(offset, int64(len(data)))
	return data[offset : offset+min(n, int64(len(data))-offset)], err
}

// PutFrom implements [datasets.Store].
func (d *disk) PutFrom(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	data, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		return err
	}
	return d.Put(ctx, key, data)
}

// Put implements [datasets.Store].
func (d *disk) Put(ctx context.Context, key string, data []byte) error {
	return d.do(ctx, "put", key, &write{key: key, data: bytes.Clone(data)}, nil)
}

// PutOnce implements [datasets.Store].
func (d *disk) PutOnce(ctx context.Context, key string, data []byte) error {
	return d.do(ctx, "put once", key, &write{key: key, data: bytes.Clone(data), once: true}, nil)
}

// Stat implements [datasets.Store].
func (d *disk) Stat(ctx context.Context, key string) (o datasets.Object, err error) {
	err = d.do(ctx, "stat", key, nil, func() error {
		if _, ok := d.objects[key]; !ok {
			return datasets.ErrNotFound
		}
		o = d.object(key)
		return nil
	})
	return o, err
}

func (d *disk) object(key string) datasets.Object {
	o := datasets.Object{Key: key, Bytes: int64(len(d.objects[key])), Modified: time.Now()}
	if d.aged[key] {
		o.Modified = o.Modified.Add(-3 * time.Hour)
	}
	return o
}

// List implements [datasets.Store].
func (d *disk) List(ctx context.Context, prefix string) (found []datasets.Object, err error) {
	err = d.do(ctx, "list", prefix, nil, func() error {
		for key := range d.objects {
			if strings.HasPrefix(key, prefix) {
				found = append(found, d.object(key))
			}
		}
		slices.SortFunc(found, func(a, b datasets.Object) int { return strings.Compare(a.Key, b.Key) })
		return nil
	})
	return found, err
}

// Delete implements [datasets.Store].
func (d *disk) Delete(ctx context.Context, key string) error {
	return d.do(ctx, "delete", key, nil, func() error { delete(d.objects, key); return nil })
}

// String implements [datasets.Store].
func (d *disk) String() string { return "simulated:" }
