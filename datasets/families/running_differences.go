package families

import "math/rand/v2"

// runningDifferences asks for each digit less the result before it, modulo 10, in the format of runningSums:
//
//	357------=  →  325        3, 5-3 = 2, 7-2 = 5
//
// Level k has k+1 digits.
func runningDifferences(rng *rand.Rand, level int) Problem {
	return running(level, "-", 0, func() int { return rng.IntN(10) }, func(difference, digit int) int { return (digit - difference + 10) % 10 })
}
