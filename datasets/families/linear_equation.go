package families

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// linearEquation asks for the integer x that solves an equation; the solution gathers the terms and divides:
//
//	level 1 to 3   3x+5=20;x=       →  3x=15;x=5
//	level 4 to 6   5x+4=2x-8;x=     →  3x+4=-8;3x=-12;x=-4
//	level 7 to 10  4(x-2)=2x+6;x=   →  4x-8=2x+6;2x-8=6;2x=14;x=7
//
// Coefficients reach 2+2k and |x| reaches 5k at level k.
func linearEquation(rng *rand.Rand, level int) Problem {
	x := between(rng, -5*level, 5*level)
	c := 0 // coefficient on the right
	if level > 3 {
		c = between(rng, 2, 2+level)
	}
	a := c + between(rng, 2, 2+level) // on the left
	b := between(rng, 1, 5*level)
	if rng.IntN(2) == 0 {
		b = -b
	}
	var left string
	var steps []string
	if level > 6 {
		left = fmt.Sprintf("%d(x%+d)", a, b)
		b *= a
	} else {
		left = fmt.Sprintf("%dx%+d", a, b)
	}
	d := (a-c)*x + b
	right := fmt.Sprint(d)
	if c > 0 {
		right = fmt.Sprintf("%dx", c)
		if d != 0 {
			right += fmt.Sprintf("%+d", d)
		}
	}
	if level > 6 {
		steps = append(steps, fmt.Sprintf("%dx%+d=%s;", a, b, right))
	}
	if c > 0 {
		steps = append(steps, fmt.Sprintf("%dx%+d=%d;", a-c, b, d))
	}
	steps = append(steps, fmt.Sprintf("%dx=%d;", a-c, d-b), fmt.Sprintf("x=%d", x))
	return problem(left+"="+right+";x=", fmt.Sprint(x), steps)
}

// simplifyLinearEquation does the first step, unless it is the last.
func simplifyLinearEquation(p Problem) (string, bool) {
	if len(p.Steps) < 2 || !strings.HasSuffix(p.Steps[0], ";") {
		return "", false
	}
	return p.Steps[0] + "x=", true
}

// diversifyLinearEquation swaps the sides.
func diversifyLinearEquation(p Problem) (string, bool) {
	equation, ok := strings.CutSuffix(p.Prompt, ";x=")
	left, right, found := strings.Cut(equation, "=")
	return right + "=" + left + ";x=", ok && found
}
