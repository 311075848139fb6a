package families

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// baseConversion asks for a number in another base; the solution divides by the base until nothing is left, and reads
// the remainders backwards:
//
//	base(13,2)=  →  13=6*2+1;6=3*2+0;3=1*2+1;1=0*2+1;1101
//
// The base is drawn from 2 to 9. At level k the answer has k+1 digits.
func baseConversion(rng *rand.Rand, level int) Problem {
	base := between(rng, 2, 9)
	low := 1
	for range level {
		low *= base
	}
	n := between(rng, low, low*base-1)
	var steps []string
	for rest := n; rest > 0; rest /= base {
		steps = append(steps, fmt.Sprintf("%d=%d*%d+%d;", rest, rest/base, base, rest%base))
	}
	answer := strconv.FormatInt(int64(n), base)
	return problem(fmt.Sprintf("base(%d,%d)=", n, base), answer, append(steps, answer))
}
