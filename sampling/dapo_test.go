package sampling

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gradus-rl/gradus/datasets"
)

func TestDynamicFilter(t *testing.T) {
	b := run(t, []int32{0, 2, 4, 6, 8}, []float64{0, 0, 1, 1, .5, .5, 1, 0}, "dapo.filter", `{}`, "grpo.advantage", `{}`)
	want := []string{ReasonAllWrong, ReasonAllWrong, ReasonAllRight, ReasonAllRight, ReasonFlat, ReasonFlat, "", ""}
	if d := cmp.Diff(want, b.Reason); d != "" {
		t.Error(d)
	}
	for i, reason := range b.Reason {
		if kept := b.KeptTokens(i); (reason == "") != (kept == 3) {
			t.Errorf("row %d with reason %q keeps %d tokens", i, reason, kept)
		}
	}
}

// A row that is out already neither saves its group nor spoils it.
func TestDynamicFilterLooksAtKeptRowsOnly(t *testing.T) {
	b := newBatch(t, []int32{0, 3, 6, 8}, []float64{0, 0, 1, 1, 0, 1, 1, 0})
	for _, i := range []int{2, 3, 6, 7} {
		b.Drop(i, "before")
	}
	apply(t, b, datasets.Env{}, "dapo.filter", `{}`)
	want := []string{ReasonAllWrong, ReasonAllWrong, "before", "before", "", "", "before", "before"}
	if d := cmp.Diff(want, b.Reason); d != "" {
		t.Error(d)
	}
}

// Behind the overlong penalty an all-right group of different lengths has
// different rewards; what DAPO filters by is whether they are right.
func TestDynamicFilterByAccuracy(t *testing.T) {
	batch := func() *Batch {
		b, err := NewBatch([]int32{0, 2, 4, 6}, []float64{1, 1, 0, 0, 1, 0}, []int32{2, 10, 2, 10, 2, 10})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := batch()
	apply(t, b, datasets.Env{}, "dapo.overlong", `{"overlong_cache":4}`, "dapo.filter", `{"metric":"acc"}`)
	if d := cmp.Diff([]string{ReasonAllRight, ReasonAllRight, ReasonAllWrong, ReasonAllWrong, "", ""}, b.Reason); d != "" {
		t.Error(d)
	}
	b = batch()
	apply(t, b, datasets.Env{}, "dapo.overlong", `{"overlong_cache":4}`, "dapo.filter", `{}`)
	if d := cmp.Diff(make([]string, 6), b.Reason); d != "" {
		t.Errorf("by reward: %s", d)
	}
}

// With L = 16 and c = 4 the punishment begins above 12 tokens.
func TestOverlongPenaltyByHand(t *testing.T) {
	tokens := []int32{0, 12, 13, 14, 16, 17}
	for _, c := range []struct {
		params string
		want   []float64
	}{
		{`{}`, []float64{1, 1, .75, .5, 0, 0}}, // a quarter of 16
		{`{"overlong_cache":4,"overlong_penalty":2}`, []float64{1, 1, .5, 0, -1, -1}},
		{`{"overlong_cache":16}`, []float64{1, .25, 1 - 13./16, 1 - 14./16, 0, 0}},
		{`{"overlong_penalty":0}`, []float64{1, 1, 1, 1, 1, 1}},
	} {
		given := []float64{1, 1, 1, 1, 1, 1}
		reward := slices.Clone(given)
		b, err := NewBatch([]int32{0, 6}, reward, tokens)
		if err != nil {
			t.Fatal(err)
		}
		b.MaxTokens = 16
		apply(t, b, datasets.Env{}, "dapo.overlong", c.params)
		if d := cmp.Diff(c.want, b.Reward, cmpopts.EquateApprox(0, 1e-15)); d != "" {
			t.Errorf("%s: %s", c.params, d)
		}
		if !slices.Equal(reward, given) {
			t.Errorf("%s: the caller's rewards are %v", c.params, reward)
		}
	}
}

func TestOverlongCacheBeyondTheLimit(t *testing.T) {
	b := newBatch(t, []int32{0, 1}, []float64{1})
	err := try(b, datasets.Env{}, "dapo.overlong", `{"overlong_cache":4}`)
	if err == nil || !strings.Contains(err.Error(), "overlong_cache is 4; it must be at most max_completion_length, which is 3") {
		t.Errorf("error %v", err)
	}
}
