package families

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// modularPower asks for a power modulo m; the solution squares, and multiplies once more where the exponent has a one
// bit, from its second highest bit down:
//
//	7^13%10=  →  7^2=9;7^3=3;7^6=9;7^12=1;7^13=7
//
// At level k the exponent has k+1 bits and m is from 5 to 19+10k.
func modularPower(rng *rand.Rand, level int) Problem {
	exponent := between(rng, 1<<level, 2<<level-1)
	m := between(rng, 5, 19+10*level)
	base := between(rng, 2, m-1)
	power, e := base, 1
	var steps []string
	for bit := bits.Len(uint(exponent)) - 2; bit >= 0; bit-- {
		power, e = power*power%m, 2*e
		steps = append(steps, fmt.Sprintf("%d^%d=%d;", base, e, power))
		if exponent>>bit&1 == 1 {
			power, e = power*base%m, e+1
			steps = append(steps, fmt.Sprintf("%d^%d=%d;", base, e, power))
		}
	}
	last := len(steps) - 1
	steps[last] = steps[last][:len(steps[last])-1]
	return problem(fmt.Sprintf("%d^%d%%%d=", base, exponent, m), fmt.Sprint(power), steps)
}

// simplifyModularPower squares the base once and halves an even exponent, unless that leaves no power.
func simplifyModularPower(p Problem) (string, bool) {
	var base, exponent, m int
	if !scan(p.Prompt, "%d^%d%%%d=", &base, &exponent, &m) || m < 1 || exponent%2 == 1 || exponent < 4 {
		return "", false
	}
	return fmt.Sprintf("%d^%d%%%d=", base*base%m, exponent/2, m), true
}

// diversifyModularPower adds the modulus to the base.
func diversifyModularPower(p Problem) (string, bool) {
	var base, exponent, m int
	ok := scan(p.Prompt, "%d^%d%%%d=", &base, &exponent, &m)
	return fmt.Sprintf("%d^%d%%%d=", base+m, exponent, m), ok
}
