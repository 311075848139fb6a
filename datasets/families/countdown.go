package families

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// countdown asks for an expression that reaches a target with given numbers, each used at most once; the solution
// computes one result at a time and then writes them as one expression:
//
//	24:3,8,6=  →  6-3=3;3*8=24;(6-3)*8
//
// Level k gives 2+k/2 numbers from 1 to 9+5k. The target is from 1 to 999 and not one of the numbers. The answer is the
// target with the numbers, as many expressions are right.
func countdown(rng *rand.Rand, level int) Problem {
	numbers := make([]int, 2+level/2)
	for i := range numbers {
		numbers[i] = between(rng, 1, 9+5*level)
	}
	result := combine(rng, numbers)
	for range 20 {
		if !slices.Contains(numbers, result.value) {
			break
		}
		result = combine(rng, numbers)
	}
	if slices.Contains(numbers, result.value) { // the sum is larger than each of them
		result = total(numbers)
	}
	answer := fmt.Sprintf("%d:%s", result.value, join(numbers))
	return problem(answer+"=", answer, append(result.steps, result.text))
}

// term is a value on the way to the target.
type term struct {
	value      int
	text       string
	precedence byte // of the outermost operator: '+' or '*', 0 for a number
	steps      []string
}

// combine joins all numbers with random operators, in a random order.
func combine(rng *rand.Rand, numbers []int) term {
	terms := make([]term, len(numbers))
	for i, n := range numbers {
		terms[i] = term{value: n, text: fmt.Sprint(n)}
	}
	var steps []string
	for len(terms) > 1 {
		rng.Shuffle(len(terms), func(i, j int) { terms[i], terms[j] = terms[j], terms[i] })
		t := apply(terms[0], terms[1], "+-*/"[rng.IntN(4)])
		steps = append(steps, t.steps...)
		terms[1], terms = t, terms[1:]
	}
	return term{value: terms[0].value, text: terms[0].text, steps: steps}
}

// total adds all numbers from left to right.
func total(numbers []int) term {
	sum := term{value: numbers[0], text: fmt.Sprint(numbers[0])}
	var steps []string
	for _, n := range numbers[1:] {
		sum = apply(sum, term{value: n, text: fmt.Sprint(n)}, '+')
		steps = append(steps, sum.steps...)
	}
	sum.steps = steps
	return sum
}

// apply joins two terms and says so in one step. An operator whose result is not an integer from 1 to 999 gives way to
// the sum; where that is too large, to the difference; and where there is none, to the quotient of equals.
func apply(a, b term, operator byte) term {
	value := 0
	switch operator {
	case '-':
		value = a.value - b.value
	case '*':
		value = a.value * b.value
	case '/':
		if a.value%b.value == 0 {
			value = a.value / b.value
		}
	}
	if value < 1 || value > 999 {
		operator, value = '+', a.value+b.value
	}
	if value > 999 {
		if a.value < b.value {
			a, b = b, a
		}
		operator, value = '-', a.value-b.value
	}
	if value < 1 {
		operator, value = '/', 1
	}
	precedence := byte('+')
	if operator == '*' || operator == '/' {
		precedence = '*'
	}
	left, right := a.text, b.text
	if precedence == '*' && a.precedence == '+' {
		left = "(" + left + ")"
	}
	if b.precedence == '+' && operator != '+' || b.precedence == '*' && operator == '/' {
		right = "(" + right + ")"
	}
	return term{
		value: value, text: fmt.Sprintf("%s%c%s", left, operator, right), precedence: precedence,
		steps: []string{fmt.Sprintf("%d%c%d=%d;", a.value, operator, b.value, value)},
	}
}

// diversifyCountdown puts the numbers in another order.
func diversifyCountdown(p Problem) (string, bool) {
	target, numbers, ok := strings.Cut(strings.TrimSuffix(p.Prompt, "="), ":")
	list, other := reorder(numbers, "")
	return target + ":" + list + "=", ok && other
}
