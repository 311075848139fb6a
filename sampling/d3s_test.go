package sampling

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func ExampleMaxVarianceSubset() {
	advantages := []float64{-0.4, 2.6, -0.4, 0.1, -1.5, 1.2}
	keep := make([]bool, len(advantages))
	MaxVarianceSubset(keep, advantages, 4)
	fmt.Println(keep)
	// Output: [true true false false true true]
}

// bestSubset is the argmax by looking at every subset, in exact arithmetic, with
// the rule for ties: the greatest sum, then the first rows.
func bestSubset(values []float64, n int) []bool {
	type candidate struct {
		variance, sum *big.Rat
		keep          []bool
	}
	var best candidate
	for set := range uint(1) << len(values) {
		if bits.OnesCount(set) != n {
			continue
		}
		c := candidate{new(big.Rat), new(big.Rat), make([]bool, len(values))}
		for i, v := range values {
			if set>>i&1 == 1 {
				x := new(big.Rat).SetFloat64(v)
				c.sum.Add(c.sum, x)
				c.variance.Add(c.variance, x.Mul(x, x))
				c.keep[i] = true
			}
		}
		// n²·Var = n·Σx² − (Σx)²
		c.variance.Mul(c.variance, big.NewRat(int64(n), 1))
		c.variance.Sub(c.variance, new(big.Rat).Mul(c.sum, c.sum))
		if best.keep == nil {
			best = c
			continue
		}
		order := c.variance.Cmp(best.variance)
		if order == 0 {
			order = c.sum.Cmp(best.sum)
		}
		if order == 0 {
			order = slices.CompareFunc(c.keep, best.keep, func(x, y bool) int { return toInt(x) - toInt(y) })
		}
		if order > 0 {
			best = c
		}
	}
	return best.keep
}

func checkBestSubset(t *testing.T, values []float64) {
	t.Helper()
	for n := range len(values) + 1 {
		keep := make([]bool, len(values))
		MaxVarianceSubset(keep, values, n)
		if want := bestSubset(values, n); !slices.Equal(keep, want) {
			t.Fatalf("%d of %v: %v, want %v", n, values, keep, want)
		}
	}
}

// All lists of up to five of four values and of seven of two, with every tie
// there is.
func TestMaxVarianceSubsetOfAllSmallLists(t *testing.T) {
	alphabet := []float64{-1, 0, 1, 3}
	var grow func(values []float64, length int)
	grow = func(values []float64, length int) {
		if len(values) == length {
			checkBestSubset(t, values)
			return
		}
		for _, v := range alphabet {
			grow(append(values, v), length)
		}
	}
	for length := range 6 {
		grow(nil, length)
	}
	alphabet = []float64{0, 1}
	grow(nil, 7)
}

// Up to ten values of every kind. Those such as 0.1 and 0.3 make ties, and near
// ties, of which rounding would be the judge.
func TestMaxVarianceSubsetOfRandomLists(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := []func() float64{
		func() float64 { return rng.NormFloat64() },
		func() float64 { return float64(rng.IntN(5)) / 10 },
		func() float64 { return float64(rng.IntN(7)-3) * 0.1 },
		func() float64 { return 1 + float64(rng.IntN(4))*0x1p-52 },
		func() float64 { return float64(rng.IntN(3)-1) * math.MaxFloat64 },
		func() float64 { return float64(rng.IntN(3)-1) * math.SmallestNonzeroFloat64 },
		func() float64 { return math.Copysign(float64(rng.IntN(2)), float64(rng.IntN(2))-0.5) },
		func() float64 { return math.Ldexp(rng.NormFloat64(), rng.IntN(200)-100) },
	}
	for round := range 80 {
		values := make([]float64, 1+rng.IntN(8+2*toInt(round%16 == 0)))
		for i := range values {
			values[i] = kinds[round%len(kinds)]()
		}
		checkBestSubset(t, values)
	}
}

// Longer lists against prefixes and suffixes in integers, which are exact.
func TestMaxVarianceSubsetOfLongLists(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{33, 200, 1500, 4000} {
		for _, spread := range []int{2, 3, 40, 1 << 20} {
			values := make([]float64, size)
			for i := range values {
				values[i] = float64(rng.IntN(spread) - spread/3)
			}
			sorted := slices.Sorted(slices.Values(values))
			for _, n := range []int{1, 2, size / 4, size / 3, size - 1} {
				best, bestSum := int64(-1), int64(0)
				for k := range n + 1 {
					var sum, square int64
					for _, part := range [][]float64{sorted[:n-k], sorted[size-k:]} {
						for _, v := range part {
							sum += int64(v)
							square += int64(v) * int64(v)
						}
					}
					if v := int64(n)*square - sum*sum; v > best || v == best && sum > bestSum {
						best, bestSum = v, sum
					}
				}
				keep := make([]bool, size)
				MaxVarianceSubset(keep, values, n)
				var sum, square int64
				count := 0
				for i, v := range values {
					if keep[i] {
						sum += int64(v)
						square += int64(v) * int64(v)
						count++
					}
				}
				if count != n || int64(n)*square-sum*sum != best || sum != bestSum {
					t.Errorf("%d of %d, %d kinds: keeps %d with n²Var %d and sum %d, want %d and %d", n, size, spread, count, int64(n)*square-sum*sum, sum, best, bestSum)
				}
			}
		}
	}
}

// Rows without advantage between as many of either sign: D is 0 for most k, and
// rounding cannot tell.
func TestMaxVarianceSubsetOfMostlyZeros(t *testing.T) {
	const size, n = 20000, 5000
	values := make([]float64, size)
	for i := range 100 {
		values[i*150] = 0.1 - 0.2*float64(i%2)
	}
	keep := make([]bool, size)
	MaxVarianceSubset(keep, values, n)
	zeros := n - 100
	for i, v := range values {
		want := v != 0
		if v == 0 && zeros > 0 {
			want = true
			zeros--
		}
		if keep[i] != want {
			t.Fatalf("row %d of value %v: kept is %v", i, v, keep[i])
		}
	}
}

// What is not finite has no variance, and is no reason to panic.
func TestMaxVarianceSubsetOfNonFinite(t *testing.T) {
	for _, v := range []float64{math.NaN(), -math.NaN(), math.Inf(1), math.Inf(-1)} {
		keep := make([]bool, 4)
		MaxVarianceSubset(keep, []float64{1, 2, v, 3}, 2)
		if !slices.Equal(keep, []bool{true, true, false, false}) {
			t.Errorf("%v: %v", v, keep)
		}
	}
}

func FuzzMaxVarianceSubset(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 2}, 3)
	f.Add([]byte{7, 7, 7}, 2)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		values := make([]float64, min(len(data), 9))
		for i := range values {
			values[i] = float64(int8(data[i])) / 10
		}
		keep := make([]bool, len(values))
		MaxVarianceSubset(keep, values, n)
		if want := bestSubset(values, min(max(n, 0), len(values))); !slices.Equal(keep, want) {
			t.Errorf("%d of %v: %v, want %v", n, values, keep, want)
		}
	})
}

// The first step is half of each group and a quarter of the step, the last one
// everything.
func TestSampleSelectionFollowsItsSchedule(t *testing.T) {
	offsets := []int32{0, 8, 16, 24, 32}
	var reward []float64
	for range 4 {
		reward = append(reward, 0, 0, .1, .2, .5, .6, 1, 1)
	}
	for _, c := range []struct {
		params      string
		step        int
		group, kept int // dropped within groups, kept in the end
	}{
		{`{}`, 0, 16, 8},
		{`{}`, 5, 8, 20}, // 0.75 of 8 in each group, then 0.625 of 32
		{`{}`, 10, 0, 32},
		{`{"cross":false}`, 0, 16, 16},
		{`{"intra":false}`, 0, 0, 8},
		{`{"intra":false,"cross":false}`, 0, 0, 32},
		{`{"random":true}`, 0, 16, 8},
		{`{"random":true}`, 5, 8, 20},
		{`{"intra_initial":0.01,"samples_initial":0.01}`, 0, 24, 2}, // never less than two
	} {
		b := newBatch(t, offsets, reward)
		env := datasets.Env{Seed: 1, Step: c.step, Steps: 11}
		apply(t, b, env, "grpo.advantage", `{}`, "d3s.samples", c.params)
		counts := map[string]int{}
		for _, r := range b.Reason {
			counts[r]++
		}
		if counts[ReasonLowVarianceGroup] != c.group || counts[""] != c.kept || counts[ReasonLowVarianceBatch] != 32-c.group-c.kept {
			t.Errorf("%s at step %d: %v, want %d dropped in their groups and %d kept", c.params, c.step, counts, c.group, c.kept)
		}
		again := newBatch(t, offsets, reward)
		apply(t, again, env, "grpo.advantage", `{}`, "d3s.samples", c.params)
		if d := cmp.Diff(b.Reason, again.Reason); d != "" {
			t.Errorf("%s: taken twice: %s", c.params, d)
		}
	}
}

// Of three groups two are flat: their rows go first, and a filter before the
// stage does not change who is kept.
func TestSampleSelectionDropsZeroAdvantagesFirst(t *testing.T) {
	offsets, reward := []int32{0, 4, 8, 12}, []float64{0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1}
	const params = `{"intra":false,"samples_initial":0.3}` // four of twelve
	b := run(t, offsets, reward, "grpo.advantage", `{}`, "d3s.samples", params)
	filtered := run(t, offsets, reward, "dapo.filter", `{}`, "grpo.advantage", `{}`, "d3s.samples", params)
	for i := range reward {
		if want := i >= 4 && i < 8; (b.Reason[i] == "") != want || (filtered.Reason[i] == "") != want {
			t.Errorf("row %d: %q, behind the filter %q", i, b.Reason[i], filtered.Reason[i])
		}
	}
}

// Permuting the rows permutes the advantages that are kept.
func TestSampleSelectionPermutes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		n := 3 + rng.IntN(10)
		reward, permuted := make([]float64, n), make([]float64, n)
		for i := range reward {
			reward[i] = float64(rng.IntN(5))
		}
		for i, p := range rng.Perm(n) {
			permuted[i] = reward[p]
		}
		kept := func(advantage []float64) []float64 {
			b := newBatch(t, []int32{0, int32(n)}, advantage)
			b.Advantage = advantage
			apply(t, b, datasets.Env{}, "d3s.samples", `{}`)
			var out []float64
			for i, r := range b.Reason {
				if r == "" {
					out = append(out, advantage[i])
				}
			}
			slices.Sort(out)
			return out
		}
		if d := cmp.Diff(kept(reward), kept(permuted)); d != "" {
			t.Fatalf("%v: %s", reward, d)
		}
	}
}

func TestSampleSelectionRefusesNaN(t *testing.T) {
	b := newBatch(t, []int32{0, 4}, make([]float64, 4))
	b.Advantage[2] = math.NaN()
	for _, params := range []string{`{}`, `{"intra":false}`} {
		if err := try(b, datasets.Env{}, "d3s.samples", params); err == nil || !strings.Contains(err.Error(), "advantage of completion 2 is NaN; it must be finite") {
			t.Errorf("%s: error %v", params, err)
		}
	}
	b.Drop(2, "before")
	apply(t, b, datasets.Env{}, "d3s.samples", `{}`)
}

// choose takes as many as it is told, and every place equally often.
func TestChooseIsUniform(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const rounds = 6000
	counts := make([]int, 6)
	for range rounds {
		keep := make([]bool, 6)
		choose(keep, 2, rng)
		n := 0
		for i, k := range keep {
			counts[i] += toInt(k)
			n += toInt(k)
		}
		if n != 2 {
			t.Fatalf("%d chosen", n)
		}
	}
	for i, n := range counts {
		// The standard deviation of a count is 37.
		if n < rounds/3-185 || n > rounds/3+185 {
			t.Errorf("place %d is chosen %d times of %d", i, n, rounds)
		}
	}
}

// tokens is one group of completions with advantages and entropies given.
func tokens(t testing.TB, advantage []float64, entropy [][]float32) *Batch {
	t.Helper()
	lengths := make([]int32, len(entropy))
	for i, row := range entropy {
		lengths[i] = int32(len(row))
	}
	b, err := NewBatch([]int32{0, int32(len(advantage))}, make([]float64, len(advantage)), lengths)
	if err != nil {
		t.Fatal(err)
	}
	b.Advantage, b.Entropy = advantage, entropy
	return b
}

func TestTokenSelectionByHand(t *testing.T) {
	// Keys: 2, 0, 4 | 1, 2, 3 | 0, 0 | dropped.
	b := tokens(t, []float64{2, -1, 0, 9}, [][]float32{{1, -1e-6, 2}, {1, 2, 3}, {5, 6}, {9}})
	b.Drop(3, "before")
	apply(t, b, datasets.Env{}, "d3s.tokens", `{"tokens_initial":0.375}`) // three of eight
	want := [][]TokenReason{{TokenKept, TokenLowKey, TokenKept}, {TokenLowKey, TokenLowKey, TokenKept}, {TokenLowKey, TokenLowKey}, nil}
	if d := cmp.Diff(want, b.TokenReason); d != "" {
		t.Error(d)
	}
}

// Against sorting all tokens by key, ties in order of row and place; tokens that
// were out before stay so and take no part.
func TestTokenSelectionIsTheTopShare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		rows := rng.IntN(6)
		advantage, entropy := make([]float64, rows), make([][]float32, rows)
		for i := range rows {
			advantage[i] = float64(rng.IntN(5) - 2)
			entropy[i] = make([]float32, rng.IntN(40))
			for j := range entropy[i] {
				entropy[i][j] = float32(rng.IntN(4))
				if round%2 == 0 {
					entropy[i][j] = rng.Float32()
				}
			}
		}
		share := rng.Float64()
		for _, params := range []string{fmt.Sprintf(`{"tokens_initial":%v}`, share), fmt.Sprintf(`{"tokens_initial":%v,"random":true}`, share)} {
			b := tokens(t, advantage, entropy)
			type place struct {
				row, t int
				key    float32
			}
			var all []place
			for i := range rows {
				if rng.IntN(5) == 0 {
					b.Drop(i, "before")
					continue
				}
				masked := rng.IntN(2) == 0
				for j := range entropy[i] {
					if masked && rng.IntN(3) == 0 {
						b.DropToken(i, j, TokenFisher)
						continue
					}
					all = append(all, place{i, j, float32(math.Abs(advantage[i])) * entropy[i][j]})
				}
			}
			slices.SortStableFunc(all, func(a, b place) int { return toInt(a.key < b.key) - toInt(a.key > b.key) })
			want := min(len(all), max(1, int(math.Ceil(share*float64(len(all))))))
			apply(t, b, datasets.Env{Seed: uint64(round)}, "d3s.tokens", params)
			kept := 0
			for n, p := range all {
				got := TokenKept
				if b.TokenReason[p.row] != nil {
					got = b.TokenReason[p.row][p.t]
				}
				kept += toInt(got == TokenKept)
				if !strings.Contains(params, "random") && (got == TokenKept) != (n < want) || got != TokenKept && got != TokenLowKey {
					t.Fatalf("round %d: token %d of row %d, number %d of %d by key, is %v; %d are to be kept", round, p.t, p.row, n, len(all), got, want)
				}
			}
			if kept != want {
				t.Fatalf("round %d, %s: %d tokens of %d are kept, want %d", round, params, kept, len(all), want)
			}
			total := 0
			for i := range rows {
				total += b.KeptTokens(i)
			}
			if total != want {
				t.Fatalf("round %d, %s: the batch keeps %d tokens, want %d", round, params, total, want)
			}
		}
	}
}

func TestTokenSelectionKeepsAllInTheEnd(t *testing.T) {
	b := tokens(t, []float64{1, 2}, [][]float32{{1, 2}, {3}})
	apply(t, b, datasets.Env{Step: 9, Steps: 10}, "d3s.tokens", `{}`)
	if d := cmp.Diff([][]TokenReason{nil, nil}, b.TokenReason); d != "" {
		t.Error(d)
	}
}

func TestTokenSelectionRefuses(t *testing.T) {
	for _, c := range []struct {
		advantage float64
		entropy   []float32
		want      string
	}{
		{1, []float32{1, float32(math.NaN())}, "completion 0 has an advantage of 1 and an entropy of NaN"},
		{math.NaN(), []float32{1, 2}, "completion 0 has an advantage of NaN and an entropy of 1"},
		{1, nil, "completion 0 has 2 tokens and 0 entropies"},
	} {
		b := tokens(t, []float64{c.advantage}, [][]float32{{1, 2}})
		b.Entropy[0] = c.entropy
		if err := try(b, datasets.Env{}, "d3s.tokens", `{}`); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one that says %s", err, c.want)
		}
	}
}

func FuzzKthLargest(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 128, 63}, 2)
	f.Fuzz(func(t *testing.T, data []byte, k int) {
		var keys []float32
		for ; len(data) >= 4; data = data[4:] {
			key := math.Float32frombits(uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3]&127)<<24)
			if key == key {
				keys = append(keys, key)
			}
		}
		if k < 1 || k > len(keys) {
			return
		}
		sorted := slices.Clone(keys)
		slices.Sort(sorted)
		slices.Reverse(sorted)
		want, above := sorted[k-1], 0
		for _, key := range keys {
			above += toInt(key > want)
		}
		if key, ties := kthLargest(keys, k); key != want || ties != k-above {
			t.Errorf("number %d of %v is %v with %d of its equals, want %v with %d", k, keys, key, ties, want, k-above)
		}
	})
}
