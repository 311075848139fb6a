package sampling

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// posed is groups as text, as hinted takes them, each with its origin.
func posed(t testing.TB, groups ...[2]string) *Batch {
	t.Helper()
	var text []string
	for _, g := range groups {
		text = append(text, g[1])
	}
	b := hinted(t, text...)
	for g := range groups {
		lo, hi := b.Group(g)
		for i := lo; i < hi; i++ {
			if b.Origin[i] != OriginHinted {
				b.Origin[i] = groups[g][0]
			}
		}
	}
	return b
}

func TestKLScale(t *testing.T) {
	for _, c := range []struct {
		name, params, origin, group string
		want                        []float64
	}{
		{"at most tau is hard", `{"tau_hard":0.25}`, OriginOriginal, "1000", []float64{.5, .5, .5, .5}},
		{"above it is not", `{"tau_hard":0.24}`, OriginOriginal, "1000", []float64{1, 1, 1, 1}},
		{"all wrong is hard", `{"tau_hard":0}`, OriginOriginal, "00", []float64{.5, .5}},
		{"simplified is hard", `{}`, OriginSimplified, "11", []float64{.5, .5}},
		{"diversified is other", `{}`, OriginDiversified, "00", []float64{1, 1}},
		{"hinted successes do not count", `{}`, OriginOriginal, "000AB", []float64{.5, .5, .5, .5, .5}},
		{"hinted failures neither", `{}`, OriginOriginal, "10aaa", []float64{1, 1, 1, 1, 1}},
		{"none but hinted", `{}`, OriginOriginal, "AA", []float64{.5, .5}},
		{"scales", `{"hard_scale":0.1,"other_scale":2}`, OriginOriginal, "11", []float64{2, 2}},
	} {
		b := posed(t, [2]string{c.origin, c.group})
		b.Drop(0, "before") // which changes no difficulty
		apply(t, b, datasets.Env{}, "clpo.kl_scale", c.params)
		if d := cmp.Diff(c.want, b.KLScale); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestMixedBatch(t *testing.T) {
	groups := [][2]string{
		{OriginDiversified, "01"}, {OriginOriginal, "01"}, {OriginSimplified, "00"}, {OriginOriginal, "10"},
		{OriginSimplified, "10"}, {OriginDiversified, "01"}, {OriginOriginal, "01"},
	}
	for _, c := range []struct {
		params string
		want   []bool // group by group
	}{
		{`{}`, []bool{true, true, false, true, true, true, true}},
		{`{"max_groups":6}`, []bool{true, true, false, true, true, true, true}},
		{`{"max_groups":5}`, []bool{true, true, false, true, true, false, true}},
		{`{"max_groups":4}`, []bool{false, true, false, true, true, false, true}},
		{`{"max_groups":3}`, []bool{false, true, false, true, true, false, false}},
		{`{"max_groups":1}`, []bool{false, false, false, false, true, false, false}},
	} {
		b := posed(t, groups...)
		apply(t, b, datasets.Env{}, "dapo.filter", `{}`, "clpo.mix", c.params) // the filter takes group 2
		for g, want := range c.want {
			lo, hi := b.Group(g)
			for i := lo; i < hi; i++ {
				reason := ReasonOverBatch
				if g == 2 {
					reason = ReasonAllWrong
				}
				if want {
					reason = ""
				}
				if b.Reason[i] != reason {
					t.Errorf("%s: row %d of group %d is %q, want %q", c.params, i, g, b.Reason[i], reason)
				}
			}
		}
	}
}
