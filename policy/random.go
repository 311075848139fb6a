package policy

import (
	"math"
	"math/bits"
)

// philox is Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy
// as 1, 2, 3" (SC 2011): a bijection of the 128-bit counter chosen by the key.
// Being counter-based it has no state: the number drawn for a token or a
// weight is a function of where it belongs, whatever was drawn before it, in
// what order, and by which process.
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, counter[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, counter[2])
		counter = [4]uint32{hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0}
		key[0] += 0x9E3779B9
		key[1] += 0xBB67AE85
	}
	return counter
}

// uniform2 draws two independent numbers from [0, 1) with 53 random bits each,
// for the key and the counter (a, b).
func uniform2(key, a, b uint64) (float64, float64) {
	r := philox(
		[4]uint32{uint32(a), uint32(a >> 32), uint32(b), uint32(b >> 32)},
		[2]uint32{uint32(key), uint32(key >> 32)})
	unit := func(hi, lo uint32) float64 { return float64((uint64(hi)<<32|uint64(lo))>>11) / (1 << 53) }
	return unit(r[1], r[0]), unit(r[3], r[2])
}

// normal draws a standard normal number for the key and the counter (a, b), by
// Box and Muller's transform.
func normal(key, a, b uint64) float64 {
	u, v := uniform2(key, a, b)
	return math.Sqrt(-2*math.Log(1-u)) * math.Cos(2*math.Pi*v) // 1−u is in (0, 1]
}
