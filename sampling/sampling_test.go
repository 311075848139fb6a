package sampling

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gradus-rl/gradus/datasets"
)

// run applies stages, by name and JSON parameters, to groups of rewards.
func run(t testing.TB, offsets []int32, reward []float64, stages ...string) *Batch {
	t.Helper()
	tokens := make([]int32, len(reward))
	for i := range tokens {
		tokens[i] = 3
	}
	b, err := NewBatch(offsets, reward, tokens)
	if err != nil {
		t.Fatal(err)
	}
	var calls []datasets.Call
	for i := 0; i < len(stages); i += 2 {
		calls = append(calls, datasets.Call{Stage: stages[i], Params: json.RawMessage(stages[i+1])})
	}
	if err := datasets.Run(Stages(), calls, b, datasets.Env{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func ExampleStage() {
	b, _ := NewBatch([]int32{0, 2, 4}, []float64{1, 0, 1, 1}, []int32{5, 5, 5, 5})
	calls := []datasets.Call{{Stage: "dapo.filter"}, {Stage: "grpo.advantage"}}
	if err := datasets.Run(Stages(), calls, b, datasets.Env{}); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%.3f %q\n", b.Advantage, b.Reason)
	// Output: [1.000 -1.000 0.000 0.000] ["" "" "group_all_right" "group_all_right"]
}

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
		{"empty", `{}`, []int32{0}, nil, nil},
	} {
		b := run(t, c.offsets, c.reward, "grpo.advantage", c.params)
		if d := cmp.Diff(c.want, b.Advantage, cmpopts.EquateApprox(0, 1e-12), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: %s", c.name, d)
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

func TestNewBatchRefuses(t *testing.T) {
	for _, offsets := range [][]int32{nil, {0}, {1, 2}, {0, 3}, {0, 2, 1, 2}} {
		if _, err := NewBatch(offsets, []float64{1, 0}, []int32{1, 1}); err == nil {
			t.Errorf("offsets %v are accepted for 2 rows", offsets)
		}
	}
}

func BenchmarkGRPOAdvantage(b *testing.B) {
	const groups, size = 1 << 14, 8
	reward, tokens, offsets := make([]float64, groups*size), make([]int32, groups*size), []int32{0}
	for i := range reward {
		reward[i] = float64(i * 2654435761 >> 7 & 1)
	}
	for g := range groups {
		offsets = append(offsets, int32((g+1)*size))
	}
	batch, err := NewBatch(offsets, reward, tokens)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := grpoDefaults.advantage(batch, datasets.Env{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*groups*size/b.Elapsed().Seconds(), "rows/s")
}
