package sampling

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestOrderedBits(t *testing.T) {
	ordered := []float64{math.Inf(-1), -math.MaxFloat64, -1, -math.SmallestNonzeroFloat64, 0, math.SmallestNonzeroFloat64, 1, 1 + 1e-15, math.MaxFloat64, math.Inf(1)}
	for i, v := range ordered {
		if got := fromOrderedBits(orderedBits(v)); got != v {
			t.Errorf("%v comes back as %v", v, got)
		}
		if i > 0 && orderedBits(v) <= orderedBits(ordered[i-1]) {
			t.Errorf("%v does not come after %v", v, ordered[i-1])
		}
	}
	if orderedBits(math.Copysign(0, -1)) != orderedBits(0) {
		t.Error("the zeros differ")
	}
}

func TestSortKeys(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := map[string]func() int64{
		"any":           func() int64 { return int64(rng.Uint64()) },
		"few":           func() int64 { return int64(rng.IntN(3)) - 1 },
		"low bits":      func() int64 { return 1<<40 + int64(rng.IntN(1000)) },
		"some low bits": func() int64 { return int64(rng.IntN(4))<<50 + int64(rng.IntN(1<<33)) },
		"one":           func() int64 { return 7 },
	}
	for name, key := range kinds {
		for _, n := range []int{0, 1, 2, 3, 8, 31, 32, 33, 500, 1023, 1024, 5000} {
			x := make([]int64, n)
			for i := range x {
				x[i] = key()
			}
			want := slices.Clone(x)
			slices.Sort(want)
			sortKeys(x)
			if !slices.Equal(x, want) {
				t.Errorf("%s: %d keys are not sorted", name, n)
			}
		}
	}
}
