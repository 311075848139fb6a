package families

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// chainSum asks for a sum of signed terms; the solution is its running results:
//
//	7+12-3=  →  19;16
//
// Level k has k operations. Terms have one digit to level 3, at most two to level 7 and at most three above.
func chainSum(rng *rand.Rand, level int) Problem {
	bound := 10
	if level > 3 {
		bound = 100
	}
	if level > 7 {
		bound = 1000
	}
	sum := rng.IntN(bound)
	prompt := fmt.Sprint(sum)
	var steps []string
	for i := range level {
		term, sign := rng.IntN(bound), "+"
		if rng.IntN(2) == 0 {
			sign, sum = "-", sum-term
		} else {
			sum += term
		}
		prompt += sign + fmt.Sprint(term)
		step := fmt.Sprint(sum)
		if i < level-1 {
			step += ";"
		}
		steps = append(steps, step)
	}
	return problem(prompt+"=", fmt.Sprint(sum), steps)
}

// simplifyChainSum does the first half of the operations.
func simplifyChainSum(p Problem) (string, bool) {
	terms := signedTerms(p.Prompt)
	half := (len(terms) - 1) / 2 // a sum has one operation less than terms
	if half < 1 {
		return "", false
	}
	sum := 0
	for _, t := range terms[:half+1] {
		n, err := strconv.Atoi(t)
		if err != nil {
			return "", false
		}
		sum += n
	}
	return fmt.Sprint(sum) + strings.Join(terms[half+1:], "") + "=", true
}

// diversifyChainSum puts the terms in another order.
func diversifyChainSum(p Problem) (string, bool) { return commute(p.Prompt) }
