package families

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// runningSums asks for the sums modulo 10 of the first 1, 2, … digits, one digit each:
//
//	357......=  →  385        3, 3+5 = 8, 8+7 = 15
//
// Level k has k+1 digits.
func runningSums(rng *rand.Rand, level int) Problem {
	return running(level, ".", 0, func() int { return rng.IntN(10) }, func(sum, digit int) int { return (sum + digit) % 10 })
}

// running asks for the results of an operation on the first 1, 2, … of level+1 digits, one digit each. step makes
// each result of the one before it, the first of start, and of its own digit.
//
// The digits stand at the left of a field that pad fills, so that each stands at one constant distance from its result.
// The field is as wide at levels 1 to 8, which makes all their prompts 10 characters; levels 9 and 10 need 11 and 12.
func running(level int, pad string, start int, digit func() int, step func(result, digit int) int) Problem {
	const width = 9
	digits := make([]byte, level+1)
	steps := make([]string, level+1)
	result := start
	for i := range digits {
		d := digit()
		digits[i] = byte('0' + d)
		result = step(result, d)
		steps[i] = fmt.Sprint(result)
	}
	fill := strings.Repeat(pad, max(0, width-len(digits)))
	return problem(string(digits)+fill+"=", strings.Join(steps, ""), steps)
}
