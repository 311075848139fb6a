package families

import (
	"fmt"
	"math/rand/v2"
)

// fraction is top/bottom, with bottom > 0.
type fraction struct{ top, bottom int }

func (f fraction) String() string {
	if f.bottom == 1 {
		return fmt.Sprint(f.top)
	}
	return fmt.Sprintf("%d/%d", f.top, f.bottom)
}

// lowest reduces f to lowest terms.
func (f fraction) lowest() fraction {
	d := divisor(max(f.top, -f.top), f.bottom)
	return fraction{f.top / d, f.bottom / d}
}

// fractions asks for a sum of fractions in lowest terms; the solution brings two at a time to their common denominator:
//
//	1/2+1/6-1/3=  →  1/2+1/6=3/6+1/6=4/6=2/3;2/3-1/3=2/3-1/3=1/3
//
// Level k has 2+(k-1)/3 terms between 0 and 1, in lowest terms, with denominators up to 5+k.
func fractions(rng *rand.Rand, level int) Problem {
	terms := 2 + (level-1)/3
	sum := properFraction(rng, 5+level)
	prompt := sum.String()
	var steps []string
	for i := range terms - 1 {
		term, sign := properFraction(rng, 5+level), "+"
		if rng.IntN(2) == 0 {
			sign = "-"
		}
		prompt += sign + term.String()
		common := sum.bottom / divisor(sum.bottom, term.bottom) * term.bottom
		left, right := sum.top*(common/sum.bottom), term.top*(common/term.bottom)
		step := fmt.Sprintf("%v%s%v=%d/%d%s%d/%d", sum, sign, term, left, common, sign, right, common)
		if sign == "-" {
			right = -right
		}
		raw := fraction{left + right, common}
		if sum = raw.lowest(); sum != raw {
			step += fmt.Sprintf("=%d/%d", raw.top, raw.bottom)
		}
		step += "=" + sum.String()
		if i < terms-2 {
			step += ";"
		}
		steps = append(steps, step)
	}
	return problem(prompt+"=", sum.String(), steps)
}

// properFraction draws a fraction between 0 and 1 and reduces it.
func properFraction(rng *rand.Rand, maxBottom int) fraction {
	bottom := between(rng, 2, maxBottom)
	return fraction{between(rng, 1, bottom-1), bottom}.lowest()
}
