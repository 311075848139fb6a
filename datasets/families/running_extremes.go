package families

import (
	"math/rand/v2"
	"strings"
)

// runningMaxima asks for the greatest of the first 1, 2, … digits, in the format of runningSums:
//
//	31527^^^^=  →  33557
//
// Level k has k+1 digits.
func runningMaxima(rng *rand.Rand, level int) Problem {
	return running(level, "^", 0, func() int { return rng.IntN(10) }, func(result, digit int) int { return max(result, digit) })
}

// runningMinima asks for the least of the first 1, 2, … digits, in the format of runningSums:
//
//	73528____=  →  73322
//
// Level k has k+1 digits.
func runningMinima(rng *rand.Rand, level int) Problem {
	return running(level, "_", 9, func() int { return rng.IntN(10) }, func(result, digit int) int { return min(result, digit) })
}

// diversifyRunningMaxima puts each digit that is no new maximum one down, and 0 up to the maximum.
func diversifyRunningMaxima(p Problem) (string, bool) {
	return unseen(p, func(digit, result byte) byte {
		if digit == '0' {
			return result
		}
		return digit - 1
	})
}

// diversifyRunningMinima puts each digit that is no new minimum one up, and 9 down to the minimum.
func diversifyRunningMinima(p Problem) (string, bool) {
	return unseen(p, func(digit, result byte) byte {
		if digit == '9' {
			return result
		}
		return digit + 1
	})
}

// unseen changes the digits that the results do not show, those after the first that differ from their result.
func unseen(p Problem, change func(digit, result byte) byte) (string, bool) {
	if len(p.Prompt) <= len(p.Answer) {
		return "", false
	}
	prompt := []byte(p.Prompt)
	for i := 1; i < len(p.Answer); i++ {
		if prompt[i] != p.Answer[i] && strings.IndexByte("0123456789", prompt[i]) >= 0 {
			prompt[i] = change(prompt[i], p.Answer[i])
		}
	}
	return string(prompt), string(prompt) != p.Prompt
}
