package datasets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// Stage is one box of the training step: a value that names an algorithm,
// its paper, the columns it reads and writes, its default parameters, and how
// to run it. F is what it works on (the completions of a step, the curriculum
// state, …). Rooms list their stages in explicit tables; nothing registers
// itself.
type Stage[F any] struct {
	Name     string   // "grpo.advantage"
	Paper    string   // "DeepSeekMath, arXiv:2402.03300, §4.1.2"
	Version  int      // counts up whenever the same input may give another output
	Reads    []string // columns that must have been written before
	Writes   []string // columns that this stage fills
	Defaults any      // a struct with json tags: the published defaults
	Horizon  bool     // the result depends on how many steps are planned: Env.Steps is set for such stages only
	Bind     func(params json.RawMessage) (func(F, Env) error, error)
}

// Call is a stage by name with the parameters it is to run with; what a Plan
// holds and history keeps.
type Call struct {
	Stage  string          `json:"stage"`
	Params json.RawMessage `json:"params,omitempty"`
}

// Env is all that a stage may know of where it runs.
type Env struct {
	Seed  uint64 // the experiment's seed
	Step  int    // training step, from 0
	Steps int    // planned steps, the denominator of every schedule; 0 where no stage of the plan has one
}

// Progress is the share of planned steps done, in [0, 1].
func (e Env) Progress() float64 {
	if e.Steps <= 1 {
		return 0
	}
	return min(1, float64(e.Step)/float64(e.Steps-1))
}

// RNG is the only randomness a stage may use: a stream of its own, derived
// from seed, step and name, the same on every machine.
func (e Env) RNG(name string) *rand.Rand {
	return rand.New(rand.NewPCG(Stream(e.Seed, e.Step, name), uint64(e.Step)))
}

// Stream derives the key of a random stream from a seed and whatever
// identifies its use: integers and strings. It is FNV-1a over an unambiguous
// encoding, finished by a 64-bit mix. It panics on parts of other types.
func Stream(seed uint64, parts ...any) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	add := func(b byte) { h = (h ^ uint64(b)) * prime }
	word := func(v uint64) {
		for range 8 {
			add(byte(v))
			v >>= 8
		}
	}
	word(seed)
	for _, p := range parts {
		switch p := p.(type) {
		case uint64:
			add('u')
			word(p)
		case int:
			add('u')
			word(uint64(p))
		case int32:
			add('u')
			word(uint64(p))
		case string:
			add('s')
			word(uint64(len(p)))
			for i := range len(p) {
				add(p[i])
			}
		default:
			panic(fmt.Sprintf("datasets.Stream: part of type %T", p))
		}
	}
	// The finaliser of MurmurHash3, so that near keys give far streams.
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Bind makes a Stage's Bind out of its defaults and a function of its
// parameters: given parameters are decoded over the defaults, unknown ones are
// an error, and P's Validate, if it has one, is called.
func Bind[P, F any](defaults P, run func(P, F, Env) error) func(json.RawMessage) (func(F, Env) error, error) {
	return func(raw json.RawMessage) (func(F, Env) error, error) {
		p := defaults
		if err := DecodeStrict(raw, &p); err != nil {
			return nil, err
		}
		if v, ok := any(p).(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				return nil, err
			}
		}
		return func(f F, e Env) error { return run(p, f, e) }, nil
	}
}

// DecodeStrict decodes one JSON value over *into. Unknown fields, trailing
// data and wrong types are errors; empty input leaves *into as it is.
func DecodeStrict(raw []byte, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// FindStage returns the stage of that name.
func FindStage[F any](table []Stage[F], name string) (Stage[F], error) {
	names := make([]string, len(table))
	for i, s := range table {
		if s.Name == name {
			return s, nil
		}
		names[i] = s.Name
	}
	return Stage[F]{}, fmt.Errorf("no stage %q; there are %q", name, names)
}

// Run binds and runs calls one after another over f.
func Run[F any](table []Stage[F], calls []Call, f F, env Env) error {
	for _, c := range calls {
		s, err := FindStage(table, c.Stage)
		if err != nil {
			return err
		}
		run, err := s.Bind(c.Params)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Stage, err)
		}
		if err := run(f, env); err != nil {
			return fmt.Errorf("%s: %w", c.Stage, err)
		}
	}
	return nil
}
