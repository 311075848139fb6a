package families

import "math/rand/v2"

// runningCounts asks how many of the first 1, 2, … digits are odd, modulo 10, in the format of runningSums:
//
//	31527////=  →  12334
//
// Level k has k+1 digits.
func runningCounts(rng *rand.Rand, level int) Problem {
	return running(level, "/", 0, func() int { return rng.IntN(10) }, func(count, digit int) int { return (count + digit%2) % 10 })
}

// diversifyRunningCounts puts each digit two up, 8 and 9 to 0 and 1.
func diversifyRunningCounts(p Problem) (string, bool) {
	prompt := []byte(p.Prompt)
	for i, c := range prompt {
		if c >= '0' && c <= '9' {
			prompt[i] = '0' + (c-'0'+2)%10
		}
	}
	return string(prompt), true
}
