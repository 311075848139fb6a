package datasets

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

type countParams struct {
	By int `json:"by"`
}

func (p countParams) Validate() error {
	if p.By < 0 {
		return fmt.Errorf("by is %d; it must not be negative", p.By)
	}
	return nil
}

var counting = []Stage[*int]{{
	Name: "count", Defaults: countParams{By: 2},
	Bind: Bind(countParams{By: 2}, func(p countParams, n *int, _ Env) error {
		if *n += p.By; *n > 100 {
			return errors.New("too far")
		}
		return nil
	}),
}}

func TestRun(t *testing.T) {
	n := 0
	if err := Run(counting, []Call{{Stage: "count"}, {Stage: "count", Params: json.RawMessage(`{"by":5}`)}}, &n, Env{}); err != nil || n != 7 {
		t.Fatalf("n = %d, %v; want 7", n, err)
	}
	for _, c := range []struct {
		call Call
		want string
	}{
		{Call{Stage: "cuont"}, `no stage "cuont"; there are ["count"]`},
		{Call{Stage: "count", Params: json.RawMessage(`{"bye":1}`)}, "bye"},
		{Call{Stage: "count", Params: json.RawMessage(`{"by":1} {"by":2}`)}, "more than one JSON value"},
		{Call{Stage: "count", Params: json.RawMessage(`{"by":-1}`)}, "count: by is -1"},
		{Call{Stage: "count", Params: json.RawMessage(`{"by":1000}`)}, "count: too far"},
	} {
		if err := Run(counting, []Call{c.call}, &n, Env{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.call.Params, err, c.want)
		}
	}
}

// Streams differ by every part, by its type and by where one part ends.
func TestStream(t *testing.T) {
	seen := map[uint64]string{}
	for _, c := range []struct {
		name string
		key  uint64
	}{
		{"seed 0", Stream(0)}, {"seed 1", Stream(1)}, {"int 1", Stream(0, 1)}, {"int 2", Stream(0, 2)}, {"text 1", Stream(0, "1")},
		{"1, 2", Stream(0, 1, 2)}, {"2, 1", Stream(0, 2, 1)}, {"ab, c", Stream(0, "ab", "c")}, {"a, bc", Stream(0, "a", "bc")}, {"abc", Stream(0, "abc")},
	} {
		if other, ok := seen[c.key]; ok {
			t.Errorf("%s and %s share a stream", c.name, other)
		}
		seen[c.key] = c.name
	}
	if Stream(3, 7, "x") != Stream(3, int32(7), "x") || Stream(3, 7) != Stream(3, uint64(7)) {
		t.Error("an integer's width changes its stream")
	}
	if a, b := (Env{Seed: 1, Step: 2}).RNG("x").Uint64(), (Env{Seed: 1, Step: 2}).RNG("x").Uint64(); a != b {
		t.Error("the same stage at the same step draws differently")
	}
}

func TestProgress(t *testing.T) {
	for _, c := range []struct {
		step, steps int
		want        float64
	}{{0, 11, 0}, {5, 11, 0.5}, {10, 11, 1}, {20, 11, 1}, {0, 1, 0}, {0, 0, 0}} {
		if got := (Env{Step: c.step, Steps: c.steps}).Progress(); got != c.want {
			t.Errorf("step %d of %d: %v, want %v", c.step, c.steps, got, c.want)
		}
	}
}
