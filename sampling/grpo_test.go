package sampling

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gradus-rl/gradus/datasets"
)

// Values by hand: rewards 1, 0, 0, 0 have mean 1/4 and population deviation
// √3/4, so the advantages are √3 and −1/√3.
func TestGRPOAdvantageByHand(t *testing.T) {
	s3 := math.Sqrt(3)
	for _, c := range []struct {
		name, params string
		offsets      []int32
		reward, want []float64
	}{
		{"group", `{"advantage_epsilon":0}`, []int32{0, 4}, []float64{1, 0, 0, 0}, []float64{s3, -1 / s3, -1 / s3, -1 / s3}},
		{"none", `{"scale_rewards":"none"}`, []int32{0, 4}, []float64{1, 0, 0, 0}, []float64{.75, -.25, -.25, -.25}},
		// All eight rewards have mean 3/8 and deviation √15/8.
		{"batch", `{"scale_rewards":"batch","advantage_epsilon":0}`, []int32{0, 4, 8}, []float64{1, 0, 0, 0, 1, 1, 0, 0},
			[]float64{6 / math.Sqrt(15), -2 / math.Sqrt(15), -2 / math.Sqrt(15), -2 / math.Sqrt(15), 4 / math.Sqrt(15), 4 / math.Sqrt(15), -4 / math.Sqrt(15), -4 / math.Sqrt(15)}},
		{"epsilon", `{"advantage_epsilon":0.5}`, []int32{0, 2}, []float64{1, 0}, []float64{.5, -.5}},
		{"flat", `{"advantage_epsilon":0}`, []int32{0, 6}, []float64{.1, .1, .1, .1, .1, .1}, []float64{0, 0, 0, 0, 0, 0}},
		{"signed zeros are flat", `{"advantage_epsilon":0}`, []int32{0, 2}, []float64{0, math.Copysign(0, -1)}, []float64{0, 0}},
		{"opposites are not", `{"advantage_epsilon":0}`, []int32{0, 2}, []float64{1, -1}, []float64{1, -1}},
		{"an empty group", `{}`, []int32{0, 0, 2}, []float64{1, 1}, []float64{0, 0}},
		{"empty", `{}`, []int32{0}, nil, nil},
	} {
		b := run(t, c.offsets, c.reward, "grpo.advantage", c.params)
		if d := cmp.Diff(c.want, b.Advantage, cmpopts.EquateApprox(0, 1e-12), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// The formula as it is documented: sums in order over the kept rows.
func TestGRPOAdvantageIsTheFormulaToTheBit(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		offsets, reward := []int32{0}, []float64(nil)
		for range 1 + rng.IntN(6) {
			for range rng.IntN(12) {
				reward = append(reward, []float64{0, 1, 0.1, rng.Float64()}[rng.IntN(4)])
			}
			offsets = append(offsets, int32(len(reward)))
		}
		b := newBatch(t, offsets, reward)
		for i := range reward {
			b.Advantage[i] = 5 // of an earlier stage
			if rng.IntN(4) == 0 {
				b.Drop(i, "before")
			}
		}
		stats := func(lo, hi int) (mean, std float64, flat bool) {
			var kept []float64
			for i := lo; i < hi; i++ {
				if b.Reason[i] == "" {
					kept = append(kept, reward[i])
				}
			}
			for _, r := range kept {
				mean += r
			}
			mean /= float64(len(kept))
			for _, r := range kept {
				std += float64((r - mean) * (r - mean))
			}
			return mean, math.Sqrt(std / float64(len(kept))), Flat(kept)
		}
		for _, scale := range []string{"group", "batch", "none"} {
			if err := (GRPO{scale, 1e-6}).advantage(b, datasets.Env{}); err != nil {
				t.Fatal(err)
			}
			for g := range b.Groups() {
				lo, hi := b.Group(g)
				mean, std, flat := stats(lo, hi)
				divisor := std + 1e-6
				switch scale {
				case "batch":
					_, std, _ = stats(0, len(reward))
					divisor = std + 1e-6
				case "none":
					divisor = 1
				}
				for i := lo; i < hi; i++ {
					want := 0.0
					if b.Reason[i] == "" && !flat {
						want = (reward[i] - mean) / divisor
					}
					if math.Float64bits(b.Advantage[i]) != math.Float64bits(want) {
						t.Fatalf("%s: row %d of %v, reasons %q: %v, the formula gives %v", scale, i, reward, b.Reason, b.Advantage[i], want)
					}
				}
			}
		}
	}
}

// Advantages of a group sum to zero, do not change with a constant added to
// the rewards, and follow a permutation of the rows.
func TestGRPOAdvantageProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 2 + rng.IntN(15)
		reward, shifted, permuted := make([]float64, n), make([]float64, n), make([]float64, n)
		perm := rng.Perm(n)
		for i := range reward {
			reward[i] = float64(rng.IntN(4))
			shifted[i] = reward[i] + 8
		}
		for i, p := range perm {
			permuted[i] = reward[p]
		}
		for _, params := range []string{`{}`, `{"scale_rewards":"batch"}`, `{"scale_rewards":"none"}`} {
			offsets := []int32{0, int32(n)}
			a := run(t, offsets, reward, "grpo.advantage", params).Advantage
			sum := 0.0
			for _, v := range a {
				sum += v
			}
			if math.Abs(sum) > 1e-9 {
				t.Fatalf("%s: advantages of %v sum to %g", params, reward, sum)
			}
			if d := cmp.Diff(a, run(t, offsets, shifted, "grpo.advantage", params).Advantage, cmpopts.EquateApprox(0, 1e-9)); d != "" {
				t.Fatalf("%s: a constant changes the advantages: %s", params, d)
			}
			for i, v := range run(t, offsets, permuted, "grpo.advantage", params).Advantage {
				if math.Abs(v-a[perm[i]]) > 1e-9 {
					t.Fatalf("%s: row %d of the permuted group differs", params, i)
				}
			}
		}
	}
}
