package sampling

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"sort"
	"strconv"

	"github.com/gradus-rl/gradus/datasets"
)

// Reasons of sample selection.
const (
	ReasonLowVarianceGroup = "low_variance_group" // not in its group's subset of greatest variance
	ReasonLowVarianceBatch = "low_variance_batch" // not in the batch's
)

// SampleLevel is the parameters of D³S's sample selection. The paper's numbers
// are not published: the shares and their schedule are ours.
type SampleLevel struct {
	Intra          bool    `json:"intra"`           // select within each group
	Cross          bool    `json:"cross"`           // select across the batch
	IntraInitial   float64 `json:"intra_initial"`   // share of a group's kept completions to keep, in the first step
	IntraFinal     float64 `json:"intra_final"`     // and in the last
	SamplesInitial float64 `json:"samples_initial"` // share of the step's completions to keep, in the first step
	SamplesFinal   float64 `json:"samples_final"`   // and in the last
	// Random keeps as many at random instead: the control of an ablation.
	Random bool `json:"random"`
}

// Validate names the parameter that is out of range.
func (p SampleLevel) Validate() error {
	for _, s := range []struct {
		name  string
		value float64
	}{
		{"intra_initial", p.IntraInitial}, {"intra_final", p.IntraFinal},
		{"samples_initial", p.SamplesInitial}, {"samples_final", p.SamplesFinal},
	} {
		if err := validateShare(s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}

func validateShare(name string, v float64) error {
	if !(v > 0 && v <= 1) {
		return fmt.Errorf("%s is %v; it must be in (0, 1]", name, v)
	}
	return nil
}

// SampleSelection keeps the completions whose advantages vary most: the sample
// level of D³S (Dynamic Dual-Level Down-Sampling, arXiv:2509.22115),
//
//	S_q     = argmax { Var(A_S) : S ⊆ group q, |S| = N_q }      intra
//	S_batch = argmax { Var(A_S) : S ⊆ ∪ S_q,   |S| = N }        cross
//
// where the second does not normalise A anew, so that completions without
// advantage are the first to go. The sizes grow with the progress p of the run,
//
//	share(p) = (1 − p)·initial + p·final
//	N_q = max(2, ⌈intra(p)·|kept of group q|⌉),  N = max(2, ⌈samples(p)·|completions of the step|⌉) .
//
// N counts all completions, so that a filter before this stage does not lower
// it; where no more than that are kept, none is dropped. Rows that were dropped
// before take no part. The paper's variants: D1S is cross false, D1S-Cross both
// levels, D2S that with d3s.tokens, each of them with initial = final; D3S is D2S
// with the schedule, the default.
var SampleSelection = Stage{
	Name: "d3s.samples", Paper: "D³S, arXiv:2509.22115", Version: 1,
	Reads: []string{Advantage, Kept}, Writes: []string{Kept},
	Horizon:  true,
	Defaults: sampleDefaults,
	Bind:     datasets.Bind(sampleDefaults, SampleLevel.selectSamples),
}

var sampleDefaults = SampleLevel{Intra: true, Cross: true, IntraInitial: 0.5, IntraFinal: 1, SamplesInitial: 0.25, SamplesFinal: 1}

func (p SampleLevel) selectSamples(b *Batch, env datasets.Env) error {
	var s sampler
	if p.Intra {
		share := schedule(env, p.IntraInitial, p.IntraFinal)
		for g := range b.Groups() {
			lo, hi := b.Group(g)
			if err := s.gather(b, lo, hi); err != nil {
				return err
			}
			n := shareOf(share, len(s.values), 2)
			if n >= len(s.values) {
				continue
			}
			if p.Random {
				choose(s.keep, n, env.RNG("d3s.samples/"+strconv.Itoa(g)))
			} else {
				MaxVarianceSubset(s.keep, s.values, n)
			}
			s.drop(b, lo, hi, ReasonLowVarianceGroup)
		}
	}
	if p.Cross {
		if err := s.gather(b, 0, len(b.Advantage)); err != nil {
			return err
		}
		n := shareOf(schedule(env, p.SamplesInitial, p.SamplesFinal), len(b.Advantage), 2)
		if n >= len(s.values) {
			return nil
		}
		if p.Random {
			choose(s.keep, n, env.RNG("d3s.samples"))
		} else {
			MaxVarianceSubset(s.keep, s.values, n)
		}
		s.drop(b, 0, len(b.Advantage), ReasonLowVarianceBatch)
	}
	return nil
}

// sampler holds the advantages of the kept rows of a range, and which of these
// to keep on.
type sampler struct {
	values []float64
	keep   []bool
}

func (s *sampler) gather(b *Batch, lo, hi int) error {
	if n := hi - lo; n > cap(s.values) {
		s.values, s.keep = make([]float64, n), make([]bool, n)
	}
	values, reason := s.values[:hi-lo], b.Reason[lo:hi]
	n := 0
	for i, a := range b.Advantage[lo:hi] {
		if reason[i] != "" {
			continue
		}
		if !(math.Abs(a) <= math.MaxFloat64) {
			return fmt.Errorf("advantage of completion %d is %v; it must be finite", lo+i, a)
		}
		values[n] = a
		n++
	}
	s.values, s.keep = values[:n], s.keep[:n]
	return nil
}

func (s *sampler) drop(b *Batch, lo, hi int, reason string) {
	reasons := [2]string{reason, ""} // looked up, since a branch on keep would be a coin toss
	k := 0
	for i, r := range b.Reason[lo:hi] {
		if r == "" {
			b.Reason[lo+i] = reasons[toInt(s.keep[k])]
			k++
		}
	}
}

// schedule is the share at the run's progress, as D³S has it: linear from
// initial in the first step to final in the last.
func schedule(env datasets.Env, initial, final float64) float64 {
	p := env.Progress()
	return float64((1-p)*initial) + float64(p*final)
}

// shareOf is ⌈share·n⌉, but not below least. The slack keeps a product such as
// 0.28·25 = 7.000000000000001 at 7.
func shareOf(share float64, n, least int) int {
	return max(least, int(math.Ceil(float64(share*float64(n))-1e-9)))
}

// choose marks n of the places at random, every subset of that size being as
// likely (selection sampling: Knuth, The Art of Computer Programming 2, §3.4.2,
// algorithm S).
func choose(keep []bool, n int, rng *rand.Rand) {
	for i := range keep {
		keep[i] = rng.IntN(len(keep)-i) < n
		if keep[i] {
			n--
		}
	}
}

// MaxVarianceSubset marks in keep the n values that together have the greatest
// variance, exactly: the argmax over all subsets of that size, of the values as
// the numbers that they are, whatever floating-point sums would make of them. Of
// subsets of equal variance it is the one of the greatest sum, and of equal
// values those that come first. keep is as long as values, and n may be any
// number; where a value is not finite the first n are marked. It sorts, but for
// values of two kinds, and is linear beyond that.
//
// Such a subset is the n−k smallest values together with the k largest, for
// some k. Going from k to k+1 swaps b, the largest of the smallest, for t, the
// largest of the rest, and with the sum S of the subset
//
//	n²·Var grows by (t − b)·D_k ,   D_k = (n−1)·t + (n+1)·b − 2·S .
//
// t and b fall and S rises with k, so D_k falls: the first k with D_k < 0 is the
// one.
func MaxVarianceSubset(keep []bool, values []float64, n int) {
	if n <= 0 || n >= len(values) {
		for i := range keep {
			keep[i] = n > 0
		}
		return
	}
	var small [smallGroup]int64
	keys := small[:]
	if len(values) > smallGroup {
		keys = make([]int64, len(values))
	}
	keys = keys[:len(values)]
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for i, v := range values {
		k := orderedBits(v)
		keys[i], low, high = k, min(low, k), max(high, k)
	}
	if high >= orderedBits(math.Inf(1)) || low <= orderedBits(math.Inf(-1)) {
		for i := range keep {
			keep[i] = i < n
		}
		return
	}
	lows, highs := 0, 0
	for _, k := range keys {
		lows += toInt(k == low)
		highs += toInt(k == high)
	}
	switch {
	case low == high:
		lows, highs = n, 0
	case lows+highs == len(keys): // of two values: half of each is best
		k := min(max((n+1)/2, n-lows), highs)
		lows, highs = n-k, k
	default:
		sortKeys(keys)
		low, high, lows, highs = ends(keys, n, bestSplit(keys, n))
	}
	keep = keep[:len(values)]
	for i, v := range values {
		k := orderedBits(v)
		atLow, atHigh := toInt(k == low), toInt(k == high)
		keep[i] = toInt(k < low)|toInt(k > high)|atLow&toInt(lows > 0)|atHigh&toInt(highs > 0) != 0
		lows -= atLow
		highs -= atHigh
	}
}

// ends describes the subset of the n−k smallest and the k largest: everything
// below low and above high, and so many of the keys equal to these.
func ends(sorted []int64, n, k int) (low, high int64, lows, highs int) {
	low, high = math.MinInt64, math.MaxInt64
	if k < n {
		low = sorted[n-k-1]
		for i := n - k - 1; i >= 0 && sorted[i] == low; i-- {
			lows++
		}
	}
	if k > 0 {
		high = sorted[len(sorted)-k]
		for i := len(sorted) - k; i < len(sorted) && sorted[i] == high; i++ {
			highs++
		}
	}
	if low == high {
		return low, math.MaxInt64, lows + highs, 0
	}
	return low, high, lows, highs
}

// bestSplit is the k of MaxVarianceSubset.
func bestSplit(sorted []int64, n int) int {
	x := func(i int) float64 { return fromOrderedBits(sorted[i]) }
	sum := 0.0
	for i := range n {
		sum += x(i)
	}
	// The sum is one of at most 3n terms and never above n·m, where m bounds the
	// values, so it is off by less than 3n·n·m/2⁵³. With what the other terms of D
	// round by, D is off by less than 12·n²·m/2⁵².
	m := max(math.Abs(x(0)), math.Abs(x(len(sorted)-1)))
	bound := 12 * float64(n) * float64(n) * m * 0x1p-52
	lo, hi := 0, n // where rounding leaves open which k it is
	for k := range n {
		t, b := x(len(sorted)-k-1), x(n-k-1)
		d := float64(float64(n-1)*t) + float64(float64(n+1)*b) - float64(2*sum)
		if d > bound {
			lo = k + 1
		} else if d < -bound {
			hi = k
			break
		}
		sum += t - b
	}
	return lo + sort.Search(hi-lo, func(i int) bool { return exactSlope(sorted, n, lo+i) < 0 })
}

// exactSlope is the sign of D_k, without rounding: the sum of any number of
// float64 that fits in memory is exact in 2200 bits.
func exactSlope(x []int64, n, k int) int {
	d, term := new(big.Float).SetPrec(2200), new(big.Float).SetPrec(2200)
	add := func(key int64, times int) {
		term.SetInt64(int64(times))
		d.Add(d, term.Mul(term, big.NewFloat(fromOrderedBits(key))))
	}
	add(x[len(x)-k-1], n-1)
	add(x[n-k-1], n+1)
	for _, part := range [][]int64{x[:n-k], x[len(x)-k:]} {
		for len(part) > 0 {
			run := 1
			for run < len(part) && part[run] == part[0] {
				run++
			}
			add(part[0], -2*run)
			part = part[run:]
		}
	}
	return d.Sign()
}

// TokenLevel is the parameters of D³S's token selection. The paper's numbers are
// not published (below 20 % is said of the tokens kept): the shares are ours.
type TokenLevel struct {
	TokensInitial float64 `json:"tokens_initial"` // share of the kept completions' tokens to learn from, in the first step
	TokensFinal   float64 `json:"tokens_final"`   // and in the last
	// Random keeps as many at random instead: the control of an ablation.
	Random bool `json:"random"`
}

// Validate names the parameter that is out of range.
func (p TokenLevel) Validate() error {
	if err := validateShare("tokens_initial", p.TokensInitial); err != nil {
		return err
	}
	return validateShare("tokens_final", p.TokensFinal)
}

// TokenSelection keeps the tokens of large advantage and entropy: the token
// level of D³S (arXiv:2509.22115),
//
//	key_{i,t} = |A_i| · H_{i,t}
//
// with the full-vocabulary entropy H, in float32; an entropy that rounding has
// put below 0 counts as 0. Of all tokens of the kept completions together the
// ⌈share(p)·tokens⌉ with the largest keys are kept, share as for d3s.samples; of
// equal keys those that come first by row and place. Tokens that were dropped
// before take no part.
var TokenSelection = Stage{
	Name: "d3s.tokens", Paper: "D³S, arXiv:2509.22115", Version: 1,
	Reads: []string{Advantage, Kept, Entropy}, Writes: []string{TokenMask},
	Horizon:  true,
	Defaults: tokenDefaults,
	Bind:     datasets.Bind(tokenDefaults, TokenLevel.selectTokens),
}

var tokenDefaults = TokenLevel{TokensInitial: 0.2, TokensFinal: 1}

func (p TokenLevel) selectTokens(b *Batch, env datasets.Env) error {
	keys, err := b.tokenKeys()
	if err != nil {
		return err
	}
	n := shareOf(schedule(env, p.TokensInitial, p.TokensFinal), len(keys), 1)
	if n >= len(keys) {
		return nil
	}
	// The mask of all rows in one piece.
	mask := make([]TokenReason, len(keys))
	if p.Random {
		keep := make([]bool, len(keys))
		choose(keep, n, env.RNG("d3s.tokens"))
		for j, k := range keep {
			mask[j] = TokenLowKey * TokenReason(1-toInt(k))
		}
	} else {
		threshold, ties := kthLargest(keys, n)
		for j, key := range keys {
			mask[j] = TokenLowKey * TokenReason(toInt(key <= threshold))
		}
		for j := 0; ties > 0; j++ {
			if keys[j] == threshold {
				mask[j] = TokenKept
				ties--
			}
		}
	}
	for i, reason := range b.Reason {
		switch n := int(b.Tokens[i]); {
		case reason != "":
		case b.TokenReason[i] == nil:
			b.TokenReason[i], mask = mask[:n:n], mask[n:]
		default:
			for t, r := range b.TokenReason[i] {
				if r == TokenKept {
					b.TokenReason[i][t], mask = mask[0], mask[1:]
				}
			}
		}
	}
	return nil
}

// tokenKeys are the keys of the tokens that are trained on so far, row by row.
func (b *Batch) tokenKeys() ([]float32, error) {
	total := 0
	for i := range b.Reason {
		total += b.KeptTokens(i)
	}
	keys := make([]float32, total)
	n := 0
	for i, reason := range b.Reason {
		if reason != "" {
			continue
		}
		entropy, mask := b.Entropy[i], b.TokenReason[i]
		if len(entropy) != int(b.Tokens[i]) {
			return nil, fmt.Errorf("completion %d has %d tokens and %d entropies", i, b.Tokens[i], len(entropy))
		}
		if mask != nil {
			kept := make([]float32, 0, len(entropy))
			for t, h := range entropy {
				if mask[t] == TokenKept {
					kept = append(kept, h)
				}
			}
			entropy = kept
		}
		a, row := float32(math.Abs(b.Advantage[i])), keys[n:n+len(entropy)]
		n += len(entropy)
		for t, h := range entropy {
			key := a * h
			if !(key > 0) {
				if key != key {
					return nil, fmt.Errorf("completion %d has an advantage of %v and an entropy of %v, which make no key", i, b.Advantage[i], h)
				}
				key = 0
			}
			row[t] = key
		}
	}
	return keys, nil
}

// kthLargest is the k-th largest of the keys, and how many of those equal to it
// are among the k largest. No key may be negative, −0 or NaN; k is in
// [1, len(keys)]. It narrows the key down by its bits, which order as such
// floats do: the sign is 0, then 11, 10 and 10 bits.
func kthLargest(keys []float32, k int) (key float32, ties int) {
	var count [2048]int
	for _, key := range keys {
		count[math.Float32bits(key)>>20]++
	}
	top, k := descend(count[:], k)
	prefix := uint32(top)
	rest := make([]uint32, count[top]+1)
	n := 0
	for _, key := range keys {
		u := math.Float32bits(key)
		rest[n] = u
		n += toInt(u>>20 == prefix)
	}
	rest = rest[:n]
	for _, shift := range [...]int{10, 0} {
		count = [2048]int{}
		for _, u := range rest {
			count[u>>shift&1023]++
		}
		top, k = descend(count[:], k)
		prefix = prefix<<10 | uint32(top)
		n = 0
		for _, u := range rest {
			rest[n] = u
			n += toInt(u>>shift == prefix)
		}
		rest = rest[:n]
	}
	return math.Float32frombits(prefix), k
}

// descend finds the bin of the k-th largest, and its rank within the bin.
func descend(count []int, k int) (bin, rank int) {
	for bin = len(count) - 1; count[bin] < k; bin-- {
		k -= count[bin]
	}
	return bin, k
}
