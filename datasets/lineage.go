package datasets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// Lineage says how a result comes about. A stage's result is a function of it, so
// its [Lineage.Key] is the result's name: equal lineage, equal bytes.
type Lineage struct {
	Stage   string          `json:"stage"`            // name of the stage
	Version int             `json:"version"`          // of the stage's code: raised when its results change
	Params  json.RawMessage `json:"params,omitempty"` // the stage's parameters, any JSON
	Inputs  []string        `json:"inputs,omitempty"` // hashes of the inputs, in the stage's order
	Seed    uint64          `json:"seed"`             // of the run
	Step    int             `json:"step"`             // of the run, 0 before the first
	Scope   string          `json:"scope,omitempty"`  // "" when any run may share the result, else who owns it
}

// zeroLineage is the canonical form of the zero Lineage.
var zeroLineage = must(Lineage{}.canonical())

// Key is the SHA-256, in hex, of the lineage's canonical JSON: fields in declared
// order, object members of Params sorted, numbers as written, no spaces. It is ""
// when Params is not JSON, which [Lineage.Validate] reports and [NewTable] and [Do]
// refuse.
func (l Lineage) Key() string {
	data, err := l.canonical()
	if err != nil {
		return ""
	}
	return hash(data)
}

// Validate reports what makes the lineage unusable as a name for a result.
func (l Lineage) Validate() error {
	if l.Stage == "" {
		return errors.New("lineage: no stage")
	}
	_, err := l.canonical()
	return err
}

func (l Lineage) canonical() ([]byte, error) {
	if l.Params != nil {
		p, err := Canonical(l.Params)
		if err != nil {
			return nil, fmt.Errorf("lineage of stage %q: params: %w", l.Stage, err)
		}
		l.Params = p
	}
	if len(l.Inputs) == 0 {
		l.Inputs = nil
	}
	return marshal(l)
}

// object is the store key under which the lineage's result is recorded.
func (l Lineage) object() string {
	scope := l.Scope
	if scope == "" {
		scope = "shared"
	}
	return "keys/" + scope + "/" + l.Stage + "/" + l.Key() + ".json"
}

// Canonical is v as JSON in the only spelling: object members sorted, no spaces,
// numbers as v's own marshalling writes them. It is the way to fill
// [Lineage.Params]. What has no JSON form (NaN, functions) is an error.
func Canonical(v any) (json.RawMessage, error) {
	raw, err := marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var generic any
	if err := d.Decode(&generic); err != nil {
		return nil, err
	}
	return marshal(generic)
}

// marshal is json.Marshal without the escapes meant for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Result is what one execution of a stage leaves: Refs to its tables and its
// figures. It is recorded once, under keys/<scope or "shared">/<stage>/<key>.json.
type Result struct {
	Tables  map[string]Ref     `json:"tables"`            // by the stage's own names
	Metrics map[string]float64 `json:"metrics,omitempty"` // finite figures
	Seconds float64            `json:"seconds,omitempty"` // wall time of the computation, set by Do; of a reused result what it took then
	Run     string             `json:"run,omitempty"`     // who computed it, where that matters to whoever reuses it
	Work    json.RawMessage    `json:"work,omitempty"`    // how it can be had again, in the words of who computed it
}

// record is the stored form of a result.
type record struct {
	Lineage Lineage `json:"lineage"`
	Result  Result  `json:"result"`
	Sum     string  `json:"sum"` // SHA-256 of the record without it
}

// encode is the only spelling of a record, with its checksum.
func (r record) encode() ([]byte, error) {
	r.Sum = ""
	data, err := marshal(r)
	if err != nil {
		return nil, err
	}
	r.Sum = hash(data)
	return marshal(r)
}

// read decodes a stored record and verifies its checksum.
func (r *record) read(key string, data []byte) error {
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("%s: %w: %v", key, ErrCorrupt, err)
	}
	again, err := r.encode()
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("%s: %w: not the record that was written", key, ErrCorrupt)
	}
	return nil
}

// Do returns the result recorded for l, or computes and records it. reused says
// that the result is an earlier or concurrent execution's: when two workers race,
// the first to record wins and both return its result. compute saves its tables
// before it returns; a crash between leaves objects that the next try finds.
// Deleting an object that a record names therefore means deleting the record too,
// as [Collect] does. A record that is damaged, as a write that failed may leave it,
// is computed and written anew.
//
// Metrics must be finite, because JSON has no NaN; a figure that does not exist is
// left out by compute.
func Do(ctx context.Context, s Store, l Lineage, compute func(context.Context) (Result, error)) (r Result, reused bool, err error) {
	if err := l.Validate(); err != nil {
		return Result{}, false, err
	}
	record := s.PutOnce
	switch r, err := reuse(ctx, s, l); {
	case err == nil:
		return r, true, nil
	case errors.Is(err, ErrCorrupt):
		record = s.Put
	case !errors.Is(err, ErrNotFound):
		return Result{}, false, fmt.Errorf("stage %s: look up: %w", l.Stage, err)
	}
	err = perform(ctx, l, compute, &r, record)
	if errors.Is(err, ErrExists) {
		switch won, lost := recorded(ctx, s, l); {
		case lost == nil:
			return won, true, nil
		case !errors.Is(lost, ErrCorrupt):
			return Result{}, false, fmt.Errorf("stage %s: read the winner: %w", l.Stage, lost)
		}
		err = keep(ctx, l, r, s.Put)
	}
	return r, false, err
}

// Redo computes and records the result of l whatever is recorded already. It is
// for tables that are damaged or gone: equal lineage gives equal bytes.
func Redo(ctx context.Context, s Store, l Lineage, compute func(context.Context) (Result, error)) (r Result, err error) {
	if err := l.Validate(); err != nil {
		return Result{}, err
	}
	err = perform(ctx, l, compute, &r, s.Put)
	return r, err
}

// perform computes the result of l into r and hands its record to write.
func perform(ctx context.Context, l Lineage, compute func(context.Context) (Result, error), r *Result, write func(context.Context, string, []byte) error) (err error) {
	start := time.Now()
	if *r, err = compute(ctx); err != nil {
		return fmt.Errorf("stage %s: %w", l.Stage, err)
	}
	r.Seconds = time.Since(start).Seconds()
	return keep(ctx, l, *r, write)
}

// keep hands the record of a result to write.
func keep(ctx context.Context, l Lineage, r Result, write func(context.Context, string, []byte) error) error {
	data, err := encodeResult(l, r)
	if err == nil {
		err = write(ctx, l.object(), data)
	}
	if err != nil {
		return fmt.Errorf("stage %s: record: %w", l.Stage, err)
	}
	return nil
}

// Maker returns the recorded result that has r among its tables, or ErrNotFound.
// It reads the records of the scope, then those that any run may share, then all:
// on a large store that takes a while.
func Maker(ctx context.Context, s Store, scope string, r Ref) (Result, error) {
	for _, prefix := range []string{resultFolder + scope + "/", resultFolder + "shared/", resultFolder} {
		records, err := s.List(ctx, prefix)
		if err != nil {
			return Result{}, err
		}
		var mu sync.Mutex
		var found *Result
		err = readAll(ctx, s, records, func(x Object, data []byte) error {
			var stored record
			if stored.read(x.Key, data) != nil {
				return nil // whoever needs it makes it anew
			}
			for _, t := range stored.Result.Tables {
				if t == r {
					mu.Lock()
					defer mu.Unlock()
					found = &stored.Result
				}
			}
			return nil
		})
		if err != nil {
			return Result{}, err
		}
		if found != nil {
			return *found, nil
		}
	}
	return Result{}, fmt.Errorf("a record of what made %s: %w", r, ErrNotFound)
}

func encodeResult(l Lineage, r Result) ([]byte, error) {
	for _, name := range slices.Sorted(maps.Keys(r.Metrics)) {
		if v := r.Metrics[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("metric %q is %v, want a finite number", name, v)
		}
	}
	if l.Params != nil { // as a reader finds them
		p, err := Canonical(l.Params)
		if err != nil {
			return nil, err
		}
		l.Params = p
	}
	return record{Lineage: l, Result: r}.encode()
}

// reuse reads the result of l, or ErrNotFound, for somebody who goes on with it: an
// old record is written again, as [Collect] keeps what young ones name.
func reuse(ctx context.Context, s Store, l Lineage) (Result, error) {
	r, err := recorded(ctx, s, l)
	if err != nil {
		return Result{}, err
	}
	o, err := s.Stat(ctx, l.object())
	if err == nil && time.Since(o.Modified) > fresh {
		var data []byte
		if data, err = encodeResult(l, r); err == nil {
			err = s.Put(ctx, l.object(), data)
		}
	}
	return r, err
}

// recorded reads the result of l, or ErrNotFound.
func recorded(ctx context.Context, s Store, l Lineage) (Result, error) {
	data, err := s.Get(ctx, l.object())
	if err != nil {
		return Result{}, err
	}
	var rec record
	if err := rec.read(l.object(), data); err != nil {
		return Result{}, err
	}
	if rec.Lineage.Key() != l.Key() {
		return Result{}, fmt.Errorf("%s: %w: not the record of this lineage", l.object(), ErrCorrupt)
	}
	return rec.Result, nil
}
