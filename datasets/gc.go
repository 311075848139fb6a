package datasets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Folders of a store that hold what is kept only as long as something needs it.
// Everything outside them is a root.
const (
	objectFolder = "objects/"
	resultFolder = "keys/"
)

// CollectOptions say what [Collect] may remove.
type CollectOptions struct {
	// Before spares objects written since. An experiment goes on with what it, or
	// another one, has just written and nothing names yet; whoever reuses or saves
	// again what is older than an hour writes it anew. So with runs going on Before
	// lies two hours back or more.
	Before time.Time
	// DryRun removes nothing and counts what would go.
	DryRun bool
	// Settle is a pause between removing result records and removing objects: longer
	// than a reader takes from finding an old record to writing it anew. 0 is for a
	// store that nobody else uses.
	Settle time.Duration
	// Held returns Refs that are in use and that the store itself does not know of,
	// such as those in the history of running experiments. nil means none.
	Held func(context.Context) ([]Ref, error)
}

// Count is a number of objects and their size.
type Count struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (c *Count) add(o Object) { c.Objects++; c.Bytes += o.Bytes }

// Counts are by kind.
type Counts struct {
	Tables  Count `json:"tables"`
	Blobs   Count `json:"blobs"`   // files of policies, manifests, plans
	Results Count `json:"results"` // records of what stages have computed, by key
	Roots   Count `json:"roots"`   // records of runs, published names, and whatever else is not removed
}

// of is where objects of a key's kind are counted.
func (c *Counts) of(key string) *Count {
	switch {
	case strings.HasPrefix(key, resultFolder):
		return &c.Results
	case !strings.HasPrefix(key, objectFolder):
		return &c.Roots
	case strings.HasSuffix(key, ".arrow"):
		return &c.Tables
	}
	return &c.Blobs
}

// Collected is what [Collect] has found.
type Collected struct {
	Kept    Counts `json:"kept"`
	Removed Counts `json:"removed"` // on a dry run: what would be
}

// Collect removes what nothing references: mark and sweep. These are kept:
//
//   - all outside objects/ and keys/, such as the records of runs and published names;
//   - objects written since Before;
//   - objects that a kept one, a kept result record or Held names by a Ref, in any
//     JSON (see [RefsIn]). Tables name nothing: the inputs in a lineage say where a
//     table comes from and keep nothing alive;
//   - a result record written since Before, or of which one table is kept otherwise.
//     Then all its tables are. An old record that names nothing goes, and one that
//     names an absent object, young or old.
//
// So the Refs of the records that stay resolve, and a second Collect removes nothing.
// It may run beside experiments: records go first, then, after a pause and with all
// marked anew, objects; each is looked at once more before it goes. What remains is
// that somebody writes an old object anew in the very moment between look and removal,
// milliseconds, which no store of ours can exclude. An interrupted Collect leaves only
// objects for the next one. What cannot be read is an error, before anything is removed.
func Collect(ctx context.Context, s Store, o CollectOptions) (Collected, error) {
	m, err := markStore(ctx, s, o, false)
	if err != nil {
		return Collected{}, fmt.Errorf("collect garbage in %s: %w", s, err)
	}
	var c Collected
	remove := func(garbage []Object) error {
		for _, x := range garbage {
			if !o.DryRun {
				switch now, err := s.Stat(ctx, x.Key); {
				case errors.Is(err, ErrNotFound):
					continue
				case err != nil:
					return err
				case now.Modified.Sub(x.Modified) >= time.Second && !now.Modified.Before(o.Before): // stores tell time by the second
					continue // in use again
				}
				if err := s.Delete(ctx, x.Key); err != nil {
					return err
				}
			}
			c.Removed.of(x.Key).add(x)
		}
		return nil
	}
	dead := m.deadResults()
	if err := remove(dead); err != nil {
		return c, fmt.Errorf("collect garbage in %s: %w", s, err)
	}
	if !o.DryRun && len(dead) > 0 {
		select {
		case <-ctx.Done():
			return c, ctx.Err()
		case <-time.After(o.Settle):
		}
		if m, err = markStore(ctx, s, o, true); err != nil {
			return c, fmt.Errorf("collect garbage in %s: %w", s, err)
		}
	}
	if err := remove(m.deadObjects(o.Before)); err != nil {
		return c, fmt.Errorf("collect garbage in %s: %w", s, err)
	}
	for _, x := range m.all {
		c.Kept.of(x.Key).add(x)
	}
	subtract := func(kept *Count, removed Count) { kept.Objects -= removed.Objects; kept.Bytes -= removed.Bytes }
	subtract(&c.Kept.Tables, c.Removed.Tables)
	subtract(&c.Kept.Blobs, c.Removed.Blobs)
	if o.DryRun { // else those removed were gone when all was marked anew
		subtract(&c.Kept.Results, c.Removed.Results)
	}
	return c, nil
}

// marking is what is reachable in a store.
type marking struct {
	all     []Object
	present map[string]bool // objects, by key
	reached map[string]bool // of them, those that something references
	results []storedResult
	naming  map[string][]int // results by the objects they name
	queue   []Ref
}

type storedResult struct {
	Object
	tables []Ref
	live   bool
}

// readers is how many objects are read at once.
const readers = 16

// markStore finds what is reachable; with spare, every result record is a root
// unless it names what is absent.
func markStore(ctx context.Context, s Store, o CollectOptions, spare bool) (*marking, error) {
	m := &marking{present: map[string]bool{}, reached: map[string]bool{}, naming: map[string][]int{}}
	var err error
	// In this order nothing slips through: a run that ends meanwhile has left its
	// records by then, and what a record names was written before it.
	if o.Held != nil {
		if m.queue, err = o.Held(ctx); err != nil {
			return nil, err
		}
	}
	records, err := s.List(ctx, resultFolder)
	if err != nil {
		return nil, err
	}
	if m.all, err = s.List(ctx, ""); err != nil {
		return nil, err
	}
	m.all = slices.DeleteFunc(m.all, func(x Object) bool { return strings.HasPrefix(x.Key, resultFolder) })
	m.all = append(m.all, records...)
	var roots []Object
	for _, x := range m.all {
		if strings.HasPrefix(x.Key, objectFolder) {
			m.present[x.Key] = true
		} else if !strings.HasPrefix(x.Key, resultFolder) {
			roots = append(roots, x)
		}
	}
	if err := m.readRefs(ctx, s, roots); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = readAll(ctx, s, records, func(x Object, data []byte) error {
		var stored record
		if err := stored.read(x.Key, data); err != nil {
			return err
		}
		r := storedResult{Object: x}
		for _, t := range stored.Result.Tables {
			r.tables = append(r.tables, t)
		}
		mu.Lock()
		defer mu.Unlock()
		m.results = append(m.results, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range m.results {
		r := &m.results[i]
		if slices.ContainsFunc(r.tables, func(t Ref) bool { return !m.present[t.object()] }) {
			continue
		}
		if spare || !r.Modified.Before(o.Before) {
			m.use(r)
		}
		for _, t := range r.tables {
			m.naming[t.object()] = append(m.naming[t.object()], i)
		}
	}
	// Young objects are kept, and so is what they name: the record that will name
	// them may be about to be written. Of their kind nothing is known but the key.
	for _, x := range m.all {
		if strings.HasPrefix(x.Key, objectFolder) && !x.Modified.Before(o.Before) {
			m.queue = append(m.queue, refOf(x))
		}
	}
	return m, m.spread(ctx, s)
}

// refOf is a Ref to the object, as far as its key tells.
func refOf(x Object) Ref {
	name := strings.TrimPrefix(x.Key, objectFolder)
	if table, ok := strings.CutSuffix(name, ".arrow"); ok {
		return Ref{Hash: table, Bytes: x.Bytes, Kind: "table/0"}
	}
	return Ref{Hash: name, Bytes: x.Bytes, Kind: KindBlob}
}

func (m *marking) use(r *storedResult) {
	r.live = true
	m.queue = append(m.queue, r.tables...)
}

// mostJSON bounds the blobs that are searched for Refs: plans have kilobytes, and
// what is larger holds weights. Of other kinds, such as manifests, all are searched.
const mostJSON = 1 << 20

// spread follows Refs until there is nothing new.
func (m *marking) spread(ctx context.Context, s Store) error {
	for len(m.queue) > 0 {
		var unread []Object
		for len(m.queue) > 0 {
			r := m.queue[len(m.queue)-1]
			m.queue = m.queue[:len(m.queue)-1]
			key := r.object()
			if m.reached[key] || !m.present[key] {
				continue
			}
			m.reached[key] = true
			for _, i := range m.naming[key] {
				if !m.results[i].live {
					m.use(&m.results[i])
				}
			}
			if !strings.HasSuffix(key, ".arrow") && (r.Kind != KindBlob || r.Bytes <= mostJSON) {
				unread = append(unread, Object{Key: key})
			}
		}
		if err := m.readRefs(ctx, s, unread); err != nil {
			return err
		}
	}
	return nil
}

// readRefs queues what objects name.
func (m *marking) readRefs(ctx context.Context, s Store, objects []Object) error {
	var mu sync.Mutex
	return readAll(ctx, s, objects, func(_ Object, data []byte) error {
		refs := RefsIn(data)
		mu.Lock()
		defer mu.Unlock()
		m.queue = append(m.queue, refs...)
		return nil
	})
}

func (m *marking) deadResults() []Object {
	var out []Object
	for _, r := range m.results {
		if !r.live {
			out = append(out, r.Object)
		}
	}
	sortObjects(out)
	return out
}

func (m *marking) deadObjects(before time.Time) []Object {
	var out []Object
	for _, x := range m.all {
		if m.present[x.Key] && !m.reached[x.Key] && x.Modified.Before(before) {
			out = append(out, x)
		}
	}
	return out
}

// readAll reads objects, several at once, and passes over what is gone by now.
func readAll(ctx context.Context, s Store, objects []Object, each func(Object, []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, x := range objects {
		g.Go(func() error {
			data, err := s.Get(ctx, x.Key)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return each(x, data)
		})
	}
	return g.Wait()
}

// RefsIn returns the Refs in a JSON document, at any depth: objects with the members
// of a [Ref], and texts in the form of [Ref.String]. Members named "lineage" are
// passed over: they say where something comes from. What is not JSON holds none.
func RefsIn(data []byte) []Ref {
	if trimmed := bytes.TrimSpace(data); len(trimmed) == 0 || !strings.ContainsRune(`{["`, rune(trimmed[0])) {
		return nil
	}
	var document any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&document) != nil {
		return nil
	}
	var found []Ref
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			if r, err := ParseRef(v); err == nil {
				found = append(found, r)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if r, ok := refFrom(v); ok {
				found = append(found, r)
				return
			}
			for name, e := range v {
				if name != "lineage" {
					walk(e)
				}
			}
		}
	}
	walk(document)
	slices.SortFunc(found, func(a, b Ref) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(found)
}

// refFrom reads a decoded JSON object as a Ref.
func refFrom(v map[string]any) (r Ref, ok bool) {
	r.Hash, _ = v["hash"].(string)
	r.Kind, _ = v["kind"].(string)
	for name, into := range map[string]*int64{"rows": &r.Rows, "bytes": &r.Bytes} {
		if n, given := v[name].(json.Number); given {
			*into, _ = n.Int64()
		}
	}
	return r, r.check() == nil
}
