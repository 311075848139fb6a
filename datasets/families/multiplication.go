package families

import (
	"fmt"
	"math/rand/v2"
)

// multiplication asks for a product; the solution multiplies by one digit at a time and adds up:
//
//	12*34=  →  12*4=48;12*30=360;48+360=408
//
// Level k has k+1 digits in both factors together, the first having as many as the second or one more.
func multiplication(rng *rand.Rand, level int) Problem {
	a, b := withDigits(rng, (level+2)/2), withDigits(rng, (level+1)/2)
	var steps []string
	sum := 0
	for rest, place := b, 1; rest > 0; rest, place = rest/10, place*10 {
		digit := rest % 10
		if digit == 0 {
			continue
		}
		part := a * digit * place
		steps = append(steps, fmt.Sprintf("%d*%d=%d;", a, digit*place, part))
		if sum > 0 {
			steps = append(steps, fmt.Sprintf("%d+%d=%d;", sum, part, sum+part))
		}
		sum += part
	}
	last := len(steps) - 1
	steps[last] = steps[last][:len(steps[last])-1]
	return problem(fmt.Sprintf("%d*%d=", a, b), fmt.Sprint(sum), steps)
}

// withDigits draws a number of n digits, without a leading zero; one of a single digit is at least 1.
func withDigits(rng *rand.Rand, n int) int {
	low := 1
	for range n - 1 {
		low *= 10
	}
	return between(rng, low, 10*low-1)
}

// diversifyMultiplication swaps the factors.
func diversifyMultiplication(p Problem) (string, bool) {
	var a, b int
	ok := scan(p.Prompt, "%d*%d=", &a, &b)
	return fmt.Sprintf("%d*%d=", b, a), ok
}
