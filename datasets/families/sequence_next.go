package families

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// sequenceNext asks how a sequence goes on; the solution takes differences until they are constant, and adds up again:
//
//	1,4,9,16,25,?=  →  3,5,7,9;2,2,2;11;36
//
// Level k is a polynomial of degree d = 1+(k-1)/3 by Newton's forward differences, of which the lowest are from 1 to 9,
// 29 or 99 in turn; d+3 terms are shown.
func sequenceNext(rng *rand.Rand, level int) Problem {
	degree := 1 + (level-1)/3
	bound := [...]int{9, 29, 99}[(level-1)%3]
	// rows[i] holds the i-th differences, one fewer than rows[i-1]
	rows := make([][]int, degree+1)
	terms := degree + 3
	for i := degree; i >= 0; i-- {
		v := between(rng, 1, bound)
		rows[i] = make([]int, terms-i)
		for j := range rows[i] {
			rows[i][j] = v
			if i < degree && j < len(rows[i+1]) {
				v += rows[i+1][j]
			}
		}
	}
	var steps []string
	for _, row := range rows[1:] {
		steps = append(steps, join(row)+";")
	}
	next := rows[degree][0]
	for i := degree - 1; i >= 0; i-- {
		next += rows[i][len(rows[i])-1]
		step := fmt.Sprint(next)
		if i > 0 {
			step += ";"
		}
		steps = append(steps, step)
	}
	return problem(join(rows[0])+",?=", fmt.Sprint(next), steps)
}

// diversifySequenceNext leaves out the first term: of the d+3 terms shown d+2 still tell a polynomial of degree d, and
// that it is one.
func diversifySequenceNext(p Problem) (string, bool) {
	_, rest, ok := strings.Cut(p.Prompt, ",")
	return rest, ok && strings.Count(rest, ",") >= 3
}
