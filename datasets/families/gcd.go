package families

import (
	"fmt"
	"math/rand/v2"
)

// gcd asks for the greatest common divisor of two numbers; the solution is Euclid's algorithm:
//
//	gcd(84,36)=  →  84%36=12;36%12=0;12
//
// Level k takes k divisions. The numbers are built backwards from the divisor, 1 to 30, with the last quotient 2 to 9
// and the others 1 to 3.
func gcd(rng *rand.Rand, level int) Problem {
	b := between(rng, 1, 30)
	a := b * between(rng, 2, 9)
	for range level - 1 {
		a, b = a*between(rng, 1, 3)+b, a
	}
	prompt := fmt.Sprintf("gcd(%d,%d)=", a, b)
	var steps []string
	for b != 0 {
		steps = append(steps, fmt.Sprintf("%d%%%d=%d;", a, b, a%b))
		a, b = b, a%b
	}
	answer := fmt.Sprint(a)
	return problem(prompt, answer, append(steps, answer))
}

// simplifyGCD does one division, unless it leaves nothing or the answer.
func simplifyGCD(p Problem) (string, bool) {
	var a, b int
	if !scan(p.Prompt, "gcd(%d,%d)=", &a, &b) || b == 0 || a%b == 0 || fmt.Sprint(a%b) == p.Answer {
		return "", false
	}
	return fmt.Sprintf("gcd(%d,%d)=", b, a%b), true
}

// diversifyGCD swaps the arguments.
func diversifyGCD(p Problem) (string, bool) {
	var a, b int
	ok := scan(p.Prompt, "gcd(%d,%d)=", &a, &b)
	return fmt.Sprintf("gcd(%d,%d)=", b, a), ok
}
