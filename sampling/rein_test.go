package sampling

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func TestReinAdvantageIsTheReward(t *testing.T) {
	b := newBatch(t, []int32{0, 3}, []float64{1, 0.5, -1})
	b.Advantage[1] = 5 // of an earlier stage
	b.Drop(1, "before")
	apply(t, b, datasets.Env{}, "rein.advantage", `{}`)
	if d := cmp.Diff([]float64{1, 0, -1}, b.Advantage); d != "" {
		t.Error(d)
	}
}
