package families

import (
	"math/rand/v2"
	"strings"
)

// reverse asks for a word backwards:
//
//	reverse(bca)=  →  acb
//
// Level k has k+2 letters from a to j.
func reverse(rng *rand.Rand, level int) Problem {
	n := level + 2
	word := make([]byte, n)
	steps := make([]string, n)
	for i := range word {
		word[i] = byte('a' + rng.IntN(10))
		steps[n-1-i] = string(word[i : i+1])
	}
	return problem("reverse("+string(word)+")=", strings.Join(steps, ""), steps)
}
