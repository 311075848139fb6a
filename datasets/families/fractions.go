package families

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
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

// simplifyFractions adds the first two of three terms or more, and brings two to their common denominator.
func simplifyFractions(p Problem) (string, bool) {
	terms := signedTerms(p.Prompt)
	if len(terms) < 2 {
		return "", false
	}
	a, okA := parseFraction(terms[0])
	b, okB := parseFraction(terms[1])
	if !okA || !okB {
		return "", false
	}
	common := a.bottom / divisor(a.bottom, b.bottom) * b.bottom
	a, b = fraction{a.top * (common / a.bottom), common}, fraction{b.top * (common / b.bottom), common}
	if len(terms) == 2 {
		return fmt.Sprintf("%d/%d%+d/%d=", a.top, common, b.top, common), true
	}
	return fraction{a.top + b.top, common}.lowest().String() + strings.Join(terms[2:], "") + "=", true
}

// parseFraction reads a fraction with its sign, if it has one.
func parseFraction(text string) (f fraction, ok bool) {
	top, bottom, _ := strings.Cut(text, "/")
	t, err := strconv.Atoi(top)
	if err != nil {
		return f, false
	}
	b, err := strconv.Atoi(bottom)
	return fraction{t, b}, err == nil && b > 0
}

// diversifyFractions puts the terms in another order.
func diversifyFractions(p Problem) (string, bool) { return commute(p.Prompt) }
