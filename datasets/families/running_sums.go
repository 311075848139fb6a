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
// Level k has k+1 digits. They stand at the left of a field that '.' fills, so that each stands at one constant
// distance from its sum. The field is as wide at levels 1 to 8, which makes all their prompts 10 characters; levels 9
// and 10 need 11 and 12.
func runningSums(rng *rand.Rand, level int) Problem {
	const width = 9
	digits := make([]byte, level+1)
	steps := make([]string, level+1)
	sum := 0
	for i := range digits {
		d := rng.IntN(10)
		digits[i] = byte('0' + d)
		sum = (sum + d) % 10
		steps[i] = fmt.Sprint(sum)
	}
	pad := strings.Repeat(".", max(0, width-len(digits)))
	return problem(string(digits)+pad+"=", strings.Join(steps, ""), steps)
}
