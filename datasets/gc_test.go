package datasets_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

func TestRefsIn(t *testing.T) {
	a := datasets.Ref{Hash: strings.Repeat("a", 64), Rows: 3, Bytes: 10, Kind: datasets.KindScores}
	b := datasets.Ref{Hash: strings.Repeat("b", 64), Bytes: 20, Kind: "policy"}
	text, err := json.Marshal(map[string]any{
		"rounds": []any{map[string]any{"scores": a}, a}, "policy": b.String(), "hash": b.Hash,
		"lineage": map[string]any{"inputs": []any{datasets.Ref{Hash: strings.Repeat("c", 64), Bytes: 1, Kind: "blob"}}},
	})
	noError(t, err)
	equal(t, "refs", []datasets.Ref{b, a}, datasets.RefsIn(text))
	for _, none := range []string{"", "nothing", `{"hash":"ab","bytes":1,"kind":"blob"}`, `[1, null, {`, "\x08\x00"} {
		if found := datasets.RefsIn([]byte(none)); found != nil {
			t.Errorf("%q holds %v", none, found)
		}
	}
}

// graph is a random store content: tables, blobs that name others, results, roots.
type graph struct {
	refs  []datasets.Ref
	names [][]int          // objects that an object names
	keys  map[string][]int // objects that a result names, by the record's key
	roots map[string][]int
}

func (g *graph) some(rng *rand.Rand, most int) (out []int) {
	for range rng.IntN(most + 1) {
		if len(g.refs) > 0 {
			out = append(out, rng.IntN(len(g.refs)))
		}
	}
	return out
}

func (g *graph) pick(numbers []int) []datasets.Ref {
	out := []datasets.Ref{}
	for _, n := range numbers {
		out = append(out, g.refs[n])
	}
	return out
}

// grow adds to the graph and the store.
func (g *graph) grow(t *testing.T, s datasets.Store, rng *rand.Rand, n int) {
	ctx := t.Context()
	for i := range n {
		var names []int
		var r datasets.Ref
		var err error
		if rng.IntN(2) == 0 {
			table := scores(t, memory.DefaultAllocator, rng.Float64(), 1)
			r, err = datasets.Save(ctx, s, table)
			table.Release()
		} else {
			names = g.some(rng, 2)
			data, _ := json.Marshal(map[string]any{"files": g.pick(names), "salt": rng.Uint64()})
			r, err = datasets.SaveBlob(ctx, s, data)
		}
		noError(t, err)
		g.refs, g.names = append(g.refs, r), append(g.names, names)
		if rng.IntN(2) == 0 {
			l := datasets.Lineage{Stage: "stage", Version: 1, Seed: rng.Uint64()}
			tables, named := map[string]datasets.Ref{}, g.some(rng, 3)
			for j, r := range g.pick(named) {
				tables[fmt.Sprint(j)] = r
			}
			_, _, err = datasets.Do(ctx, s, l, func(context.Context) (datasets.Result, error) { return datasets.Result{Tables: tables}, nil })
			noError(t, err)
			g.keys["keys/shared/stage/"+l.Key()+".json"] = named
		}
		if rng.IntN(6) == 0 {
			key, named := fmt.Sprintf("runs/r%d/steps/%d.json", len(g.refs), i), g.some(rng, 2)
			data, _ := json.Marshal(g.pick(named))
			noError(t, s.Put(ctx, key, data))
			g.roots[key] = named
		}
	}
}

// object is the key of an object.
func object(r datasets.Ref) string {
	if strings.Contains(r.Kind, "/") {
		return "objects/" + r.Hash + ".arrow"
	}
	return "objects/" + r.Hash
}

// expected are the keys that a collection keeps, found by going over all edges
// until nothing changes.
func (g *graph) expected(young map[string]bool, held []int) []string {
	live := map[string]bool{}
	add := func(numbers []int) {
		for _, n := range numbers {
			live[object(g.refs[n])] = true
		}
	}
	add(held)
	for key := range young {
		live[key] = true
	}
	for key, named := range g.roots {
		live[key] = true
		add(named)
	}
	for before := -1; before != len(live); {
		before = len(live)
		for i, r := range g.refs {
			if live[object(r)] {
				add(g.names[i])
			}
		}
		for key, named := range g.keys {
			if live[key] || slices.ContainsFunc(named, func(n int) bool { return live[object(g.refs[n])] }) {
				live[key] = true
				add(named)
			}
		}
	}
	var out []string
	for key := range live {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

func content(t *testing.T, s datasets.Store) (keys []string) {
	t.Helper()
	objects, err := s.List(t.Context(), "")
	noError(t, err)
	for _, o := range objects {
		keys = append(keys, o.Key)
	}
	return keys
}

// Of any graph of references exactly what is reachable stays, records that stay
// resolve, and a second collection finds nothing.
func TestCollect(t *testing.T) {
	for name, open := range map[string]func() datasets.Store{
		"memory": func() datasets.Store { return datasets.NewMemory() },
		"directory": func() datasets.Store {
			s, err := datasets.NewDirectory(t.TempDir())
			noError(t, err)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(6) {
				s, rng := open(), rand.New(rand.NewPCG(seed, 1))
				g := &graph{keys: map[string][]int{}, roots: map[string][]int{}}
				g.grow(t, s, rng, 30)
				old := content(t, s)
				time.Sleep(15 * time.Millisecond) // file systems tell time coarsely
				before := time.Now()
				time.Sleep(15 * time.Millisecond)
				g.grow(t, s, rng, 6)
				young := map[string]bool{}
				for _, key := range content(t, s) {
					if !slices.Contains(old, key) {
						young[key] = true
					}
				}
				held := g.some(rng, 2)
				o := datasets.CollectOptions{Before: before, Held: func(context.Context) ([]datasets.Ref, error) { return g.pick(held), nil }}

				all, want := content(t, s), g.expected(young, held)
				dry := o
				dry.DryRun = true
				planned, err := datasets.Collect(t.Context(), s, dry)
				noError(t, err)
				equal(t, "after a dry run", all, content(t, s))
				done, err := datasets.Collect(t.Context(), s, o)
				noError(t, err)
				equal(t, "what a dry run foretells", planned, done)
				equal(t, fmt.Sprintf("seed %d: kept", seed), want, content(t, s))
				gone := done.Removed.Tables.Objects + done.Removed.Blobs.Objects + done.Removed.Results.Objects
				equal(t, "counted", len(all)-len(want), gone)
				if gone == 0 {
					t.Error("nothing was garbage")
				}
				again, err := datasets.Collect(t.Context(), s, o)
				noError(t, err)
				equal(t, "second collection", datasets.Counts{}, again.Removed)
				equal(t, "kept", done.Kept, again.Kept)
			}
		})
	}
}

// A record that names what somebody has removed by hand goes, so that the result
// is computed anew.
func TestCollectBrokenResult(t *testing.T) {
	s := datasets.NewMemory()
	compute := func(context.Context) (datasets.Result, error) {
		r, err := datasets.SaveBlob(t.Context(), s, []byte("result"))
		return datasets.Result{Tables: map[string]datasets.Ref{"out": r}}, err
	}
	r, _, err := datasets.Do(t.Context(), s, someLineage, compute)
	noError(t, err)
	noError(t, s.Delete(t.Context(), object(r.Tables["out"])))
	_, err = datasets.Collect(t.Context(), s, datasets.CollectOptions{Before: time.Now().Add(-time.Hour)})
	noError(t, err)
	r, reused, err := datasets.Do(t.Context(), s, someLineage, compute)
	noError(t, err)
	if reused {
		t.Error("a result without its object was reused")
	}
	_, err = datasets.LoadBlob(t.Context(), s, r.Tables["out"])
	noError(t, err)
}

// What cannot be read ends a collection before it removes anything.
func TestCollectUnreadable(t *testing.T) {
	s := datasets.NewMemory()
	_, err := datasets.SaveBlob(t.Context(), s, []byte("garbage"))
	noError(t, err)
	noError(t, s.Put(t.Context(), "keys/shared/stage/bad.json", []byte("{")))
	all := content(t, s)
	if _, err := datasets.Collect(t.Context(), s, datasets.CollectOptions{Before: time.Now().Add(time.Hour)}); err == nil || !strings.Contains(err.Error(), "bad.json") {
		t.Errorf("error %v, want one that names the record", err)
	}
	equal(t, "content", all, content(t, s))
}

// aged is a store whose first content is two days old. It lets somebody else act
// in between: just before the operation that is numbered.
type aged struct {
	*datasets.Memory
	old  map[string]bool
	left int
	act  func()
}

func (s *aged) step() {
	if s.left--; s.left == 0 && s.act != nil {
		act := s.act
		s.act = nil
		act()
	}
}

func (s *aged) age(o datasets.Object) datasets.Object {
	if s.old[o.Key] {
		o.Modified = o.Modified.Add(-48 * time.Hour)
	}
	return o
}

func (s *aged) Stat(ctx context.Context, key string) (datasets.Object, error) {
	s.step()
	o, err := s.Memory.Stat(ctx, key)
	return s.age(o), err
}

func (s *aged) List(ctx context.Context, prefix string) ([]datasets.Object, error) {
	s.step()
	objects, err := s.Memory.List(ctx, prefix)
	for i, o := range objects {
		objects[i] = s.age(o)
	}
	return objects, err
}

func (s *aged) Put(ctx context.Context, key string, data []byte) error {
	delete(s.old, key)
	return s.Memory.Put(ctx, key, data)
}

func (s *aged) PutOnce(ctx context.Context, key string, data []byte) error {
	err := s.Memory.PutOnce(ctx, key, data)
	if err == nil {
		delete(s.old, key)
	}
	return err
}

// An experiment that takes up an old result, and makes an old object anew, at any
// moment of a collection, loses nothing.
func TestCollectBesideExperiment(t *testing.T) {
	taken := 0
	for at := 1; ; at++ {
		s := &aged{Memory: datasets.NewMemory(), old: map[string]bool{}}
		compute := func(text string) func(context.Context) (datasets.Result, error) {
			return func(context.Context) (datasets.Result, error) {
				file, err := datasets.SaveBlob(t.Context(), s, []byte("weights of "+text))
				noError(t, err)
				manifest, _ := json.Marshal(file)
				r, err := datasets.SaveBlob(t.Context(), s, manifest)
				return datasets.Result{Tables: map[string]datasets.Ref{"policy": r}}, err
			}
		}
		other := someLineage
		other.Step = 7
		_, _, err := datasets.Do(t.Context(), s, someLineage, compute("first"))
		noError(t, err)
		_, err = compute("second")(t.Context())
		noError(t, err)
		for _, key := range content(t, s) {
			s.old[key] = true
		}
		acted := false
		s.left, s.act = at, func() {
			acted = true
			for text, l := range map[string]datasets.Lineage{"first": someLineage, "second": other} {
				r, reused, err := datasets.Do(t.Context(), s, l, compute(text))
				noError(t, err)
				if reused {
					taken++
				}
				data, _ := json.Marshal(r.Tables)
				noError(t, s.Put(t.Context(), "runs/r/"+text, data))
			}
		}
		_, err = datasets.Collect(t.Context(), s, datasets.CollectOptions{Before: time.Now().Add(-24 * time.Hour)})
		noError(t, err)
		if !acted {
			break
		}
		for _, text := range []string{"first", "second"} {
			root, err := s.Get(t.Context(), "runs/r/"+text)
			noError(t, err)
			for _, r := range datasets.RefsIn(root) {
				manifest, err := datasets.LoadBlob(t.Context(), s, r)
				noError(t, err)
				for _, file := range datasets.RefsIn(manifest) {
					_, err := datasets.LoadBlob(t.Context(), s, file)
					noError(t, err)
				}
			}
		}
	}
	if taken == 0 {
		t.Error("the experiment took up no old result")
	}
}
