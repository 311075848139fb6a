package datasets_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

func TestLineageKey(t *testing.T) {
	base := datasets.Lineage{Stage: "score", Version: 1, Params: json.RawMessage(`{"a":1,"b":[2.50,"<&>"],"c":{"d":null,"e":1e3}}`), Inputs: []string{"x", "y"}, Seed: 1, Step: 2}
	same := base
	same.Params = json.RawMessage(" { \"c\" : {\"e\":1e3, \"d\":null},\n\"b\":[2.50,\"\\u003c&>\"], \"a\":1 } ")
	equal(t, "key of the same parameters", base.Key(), same.Key())

	seen := map[string]string{base.Key(): "base"}
	for name, change := range map[string]func(*datasets.Lineage){
		"stage":       func(l *datasets.Lineage) { l.Stage = "scores" },
		"version":     func(l *datasets.Lineage) { l.Version++ },
		"params":      func(l *datasets.Lineage) { l.Params = json.RawMessage(`{}`) },
		"no params":   func(l *datasets.Lineage) { l.Params = nil },
		"big numbers": func(l *datasets.Lineage) { l.Params = json.RawMessage(`9007199254740993`) },
		"big number2": func(l *datasets.Lineage) { l.Params = json.RawMessage(`9007199254740992`) },
		"input order": func(l *datasets.Lineage) { l.Inputs = []string{"y", "x"} },
		"inputs":      func(l *datasets.Lineage) { l.Inputs = nil },
		"seed":        func(l *datasets.Lineage) { l.Seed = math.MaxUint64 },
		"seed2":       func(l *datasets.Lineage) { l.Seed = math.MaxUint64 - 1 },
		"step":        func(l *datasets.Lineage) { l.Step++ },
		"scope":       func(l *datasets.Lineage) { l.Scope = "run-1" },
	} {
		l := base
		change(&l)
		if other, taken := seen[l.Key()]; taken || len(l.Key()) != 64 {
			t.Errorf("%s has the key %q of %s", name, l.Key(), other)
		}
		seen[l.Key()] = name
	}

	empty, none := base, base
	empty.Inputs, none.Inputs = []string{}, nil
	equal(t, "key of no inputs", none.Key(), empty.Key())
	// Keys name stored results: a change here orphans them all.
	equal(t, "golden key", "f2ee793773e98986d4f300ccec6a2a72c29b91f2d2b959cd542085eb9f6a0ae9", base.Key())
}

func TestLineageValidate(t *testing.T) {
	for want, l := range map[string]datasets.Lineage{
		"no stage": {},
		"params":   {Stage: "s", Params: json.RawMessage(`{"a":`)},
		"params: ": {Stage: "s", Params: json.RawMessage(`{} {}`)},
	} {
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", l, err, want)
		}
	}
	equal(t, "key of bad params", "", datasets.Lineage{Stage: "s", Params: json.RawMessage(`{`)}.Key())
}

func TestCanonical(t *testing.T) {
	got, err := datasets.Canonical(struct {
		Z float64 `json:"z"`
		A []int   `json:"a"`
		S string  `json:"s"`
	}{Z: 1e-6, S: "a<b"})
	noError(t, err)
	equal(t, "canonical", `{"a":null,"s":"a<b","z":0.000001}`, string(got))
	if _, err := datasets.Canonical(math.NaN()); err == nil {
		t.Error("NaN: no error")
	}
}

var someLineage = datasets.Lineage{Stage: "grpo.advantage", Version: 1, Params: json.RawMessage(`{"epsilon":0.2}`)}

func TestDoOnce(t *testing.T) {
	for _, scope := range []string{"", "run-7"} {
		s := datasets.NewMemory()
		l := someLineage
		l.Scope = scope
		want := datasets.Result{Tables: map[string]datasets.Ref{"advantages": {Hash: someHash, Rows: 3, Bytes: 9, Kind: datasets.KindSelections}}, Metrics: map[string]float64{"kept": .5}}
		calls := 0
		compute := func(context.Context) (datasets.Result, error) { calls++; return want, nil }
		first, reused, err := datasets.Do(t.Context(), s, l, compute)
		noError(t, err)
		if reused || first.Seconds <= 0 {
			t.Errorf("first: reused %v, %v seconds", reused, first.Seconds)
		}
		second, reused, err := datasets.Do(t.Context(), s, l, compute)
		noError(t, err)
		equal(t, "second", first, second) // the seconds are those of the computation
		second.Seconds = 0
		equal(t, "second", want, second)
		equal(t, "calls", 1, calls)
		if !reused {
			t.Error("second: not reused")
		}
		objects, err := s.List(t.Context(), "")
		noError(t, err)
		folder := map[string]string{"": "shared", "run-7": "run-7"}[scope]
		equal(t, "record", "keys/"+folder+"/grpo.advantage/"+l.Key()+".json", objects[0].Key)
		data, err := s.Get(t.Context(), objects[0].Key)
		noError(t, err)
		var stored struct{ Lineage datasets.Lineage }
		noError(t, json.Unmarshal(data, &stored))
		equal(t, "recorded lineage", l, stored.Lineage)
	}
}

// Workers that race agree on one result.
func TestDoRace(t *testing.T) {
	s, fresh := datasets.NewMemory(), atomic.Int32{}
	results := make([]datasets.Result, 8)
	var all, started sync.WaitGroup
	started.Add(len(results))
	for i := range results {
		all.Go(func() {
			r, reused, err := datasets.Do(t.Context(), s, someLineage, func(context.Context) (datasets.Result, error) {
				started.Done()
				started.Wait() // all of them have looked the key up in vain
				return datasets.Result{Metrics: map[string]float64{"worker": float64(i)}}, nil
			})
			if err != nil {
				t.Error(err)
			}
			if !reused {
				fresh.Add(1)
			}
			results[i] = r
		})
	}
	all.Wait()
	equal(t, "winners", 1, fresh.Load())
	for _, r := range results {
		equal(t, "result", results[0].Metrics, r.Metrics)
	}
}

func TestDoFails(t *testing.T) {
	failure := errors.New("no luck")
	for name, c := range map[string]struct {
		lineage datasets.Lineage
		result  datasets.Result
		err     error
		want    string
	}{
		"compute":   {lineage: someLineage, err: failure, want: "stage grpo.advantage: no luck"},
		"NaN":       {lineage: someLineage, result: datasets.Result{Metrics: map[string]float64{"a": 1, "loss": math.NaN()}}, want: `metric "loss" is NaN`},
		"infinity":  {lineage: someLineage, result: datasets.Result{Metrics: map[string]float64{"kl": math.Inf(1)}}, want: `metric "kl" is +Inf`},
		"no stage":  {want: "no stage"},
		"bad scope": {lineage: datasets.Lineage{Stage: "s", Scope: "../up"}, want: "not a key"},
	} {
		s := datasets.NewMemory()
		_, _, err := datasets.Do(t.Context(), s, c.lineage, func(context.Context) (datasets.Result, error) { return c.result, c.err })
		if err == nil || !strings.Contains(err.Error(), c.want) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		objects, err := s.List(t.Context(), "")
		noError(t, err)
		if len(objects) != 0 {
			t.Errorf("%s: %v was recorded", name, objects)
		}
	}
}

// A record that is not the one that was written is no result: it is made anew,
// whichever byte is wrong.
func TestDoReplacesADamagedRecord(t *testing.T) {
	other := someLineage
	other.Seed++
	s := datasets.NewMemory()
	key := "keys/shared/grpo.advantage/" + someLineage.Key() + ".json"
	compute := func(context.Context) (datasets.Result, error) {
		return datasets.Result{Metrics: map[string]float64{"tokens": 17}, Run: "one"}, nil
	}
	for _, l := range []datasets.Lineage{someLineage, other} {
		_, _, err := datasets.Do(t.Context(), s, l, compute)
		noError(t, err)
	}
	whole, err := s.Get(t.Context(), key)
	noError(t, err)
	elsewhere, err := s.Get(t.Context(), "keys/shared/grpo.advantage/"+other.Key()+".json")
	noError(t, err)
	damaged := [][]byte{whole[:20], elsewhere, append(slices.Clone(whole), '}'), {}}
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] ^= 1
		damaged = append(damaged, flipped)
	}
	for i, data := range damaged {
		noError(t, s.Put(t.Context(), key, data))
		r, reused, err := datasets.Do(t.Context(), s, someLineage, compute)
		if err != nil || reused || r.Metrics["tokens"] != 17 {
			t.Errorf("damage %d: %v, reused %v: %v", i, r, reused, err)
		}
		if _, reused, err := datasets.Do(t.Context(), s, someLineage, compute); err != nil || !reused {
			t.Errorf("damage %d: not recorded anew: %v", i, err)
		}
	}
}

// Redo computes what is recorded, and Maker finds who made a table, its own
// scope first.
func TestRedoAndMaker(t *testing.T) {
	s := datasets.NewMemory()
	ref, err := datasets.SaveBlob(t.Context(), s, []byte("x"))
	noError(t, err)
	scoped := someLineage
	scoped.Scope = "mine"
	for _, l := range []datasets.Lineage{someLineage, scoped} {
		_, _, err = datasets.Do(t.Context(), s, l, func(context.Context) (datasets.Result, error) {
			return datasets.Result{Tables: map[string]datasets.Ref{"t": ref}, Run: "by " + l.Scope}, nil
		})
		noError(t, err)
	}
	for scope, want := range map[string]string{"mine": "by mine", "other": "by "} {
		if r, err := datasets.Maker(t.Context(), s, scope, ref); err != nil || r.Run != want {
			t.Errorf("scope %q: made %q (%v), want %q", scope, r.Run, err, want)
		}
	}
	if _, err := datasets.Maker(t.Context(), s, "mine", datasets.Ref{Hash: ref.Hash, Kind: "rollouts/1"}); !errors.Is(err, datasets.ErrNotFound) {
		t.Errorf("a table nobody made: %v", err)
	}
	noError(t, datasets.Remove(t.Context(), s, ref))
	_, err = datasets.LoadBlob(t.Context(), s, ref)
	var damaged *datasets.DamagedError
	if !errors.As(err, &damaged) || damaged.Ref != ref || !errors.Is(err, datasets.ErrNotFound) {
		t.Errorf("a removed object: %v", err)
	}
	again, err := datasets.Redo(t.Context(), s, someLineage, func(ctx context.Context) (datasets.Result, error) {
		ref, err := datasets.SaveBlob(ctx, s, []byte("x"))
		return datasets.Result{Tables: map[string]datasets.Ref{"t": ref}}, err
	})
	if err != nil || again.Tables["t"] != ref {
		t.Errorf("made anew: %v, %v", again, err)
	}
	_, err = datasets.LoadBlob(t.Context(), s, ref)
	noError(t, err)
}
