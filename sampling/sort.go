package sampling

import (
	"math"
	"slices"
)

// orderedBits are the bits of a float as an integer that orders as the floats
// do. −0 counts as 0.
func orderedBits(v float64) int64 {
	b := int64(math.Float64bits(v + 0))
	return b ^ int64(uint64(b>>63)>>1)
}

// fromOrderedBits is the inverse of orderedBits.
func fromOrderedBits(k int64) float64 {
	return math.Float64frombits(uint64(k ^ int64(uint64(k>>63)>>1)))
}

// smallGroup is the longest list that is sorted by counting ranks.
const smallGroup = 32

// sortKeys sorts ascending.
func sortKeys(x []int64) {
	switch {
	case len(x) <= smallGroup:
		rankSort(x)
	case len(x) < 1<<10:
		slices.Sort(x)
	default:
		radixSort(x)
	}
}

// rankSort puts every key where it belongs by counting how many come before it,
// which takes no branch on a key: for small groups faster than any sort that
// does.
func rankSort(x []int64) {
	var keys [smallGroup]int64
	unsorted := keys[:copy(keys[:], x)]
	var ranks [smallGroup]int
	for i, k := range unsorted {
		rank := 0
		for j, other := range unsorted[:i] {
			after := toInt(k < other)
			ranks[j] += after
			rank += 1 - after
		}
		ranks[i] = rank
	}
	for i, k := range unsorted {
		x[ranks[i]] = k
	}
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// radixSort sorts by the upper 33 bits, in three passes of 11, the least
// significant first, and then sorts what these do not tell apart: few keys where
// they are spread, few different ones where they are not.
func radixSort(x []int64) {
	const bits, shift, digits, mask = 11, 31, 3, 1<<11 - 1
	var count [digits][1 << bits]uint32
	from, to := make([]uint64, len(x)), make([]uint64, len(x))
	for i, k := range x {
		u := uint64(k) ^ 1<<63
		from[i] = u
		for d := range count {
			count[d][u>>(shift+bits*d)&mask]++
		}
	}
	for d := range count {
		places := &count[d]
		place := uint32(0)
		for b, c := range places {
			places[b] = place
			place += c
		}
		for _, u := range from {
			b := u >> (shift + bits*d) & mask
			to[places[b]] = u
			places[b]++
		}
		from, to = to, from
	}
	for i, u := range from {
		x[i] = int64(u ^ 1<<63)
	}
	for lo := 0; lo < len(x); {
		hi := lo + 1
		for hi < len(x) && x[hi]>>shift == x[lo]>>shift {
			hi++
		}
		if hi-lo > 1 {
			slices.Sort(x[lo:hi])
		}
		lo = hi
	}
}
