package families

import "math/rand/v2"

// runningProducts asks for the products modulo 7 of the first 1, 2, … digits, in the format of runningSums:
//
//	354******=  →  314        3, 3*5 = 15 = 2*7+1, 1*4 = 4
//
// Digits are from 1 to 6, and so are the products, as 7 is prime. Level k has k+1 digits.
func runningProducts(rng *rand.Rand, level int) Problem {
	return running(level, "*", 1, func() int { return between(rng, 1, 6) }, func(product, digit int) int { return product * digit % 7 })
}
