// Package families makes graded problems with verifiable answers, by procedure.
//
// A [Family] turns a random source and a level from 1 to 10 into a [Problem]: a short prompt in plain ASCII that ends
// with a cue such as "=", its answer, and a worked solution. [Make] draws distinct problems of several families and
// levels into a problem set, for one of three splits that never overlap. [Rewrite] makes another problem with the same
// answer out of one, without randomness.
//
// What a family draws depends on the random source alone, so equal seeds give equal problem sets, byte for byte.
package families

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Levels is the number of levels of every family: level 1 is the easiest and level Levels the hardest.
const Levels = 10

// Problem is one problem with its worked solution.
type Problem struct {
	Prompt string // what the policy reads
	Answer string // the gold answer, as the family's verifier reads it
	// Solution is the completion that a perfect policy writes; the verifier finds the answer at its end.
	Solution string
	// Steps are the pieces of Solution, one per step of the work: joined, they are Solution.
	Steps []string
}

// Family is a procedure that makes problems of one sort.
type Family struct {
	Name     string
	Doc      string // one line: what the problem is and what a level means
	Verifier string // name of the verifier that judges completions, as package reward knows it
	Alphabet string // characters of prompts and solutions, sorted

	// Generate draws a problem. It uses no randomness but rng, and no state. The level must be from 1 to Levels.
	Generate func(rng *rand.Rand, level int) Problem

	// Prompts of problems with the same answer, see [Rewrite]; nil where the family's notation has none.
	simplify  func(p Problem) (prompt string, ok bool) // with the first of the work done
	diversify func(p Problem) (prompt string, ok bool) // put differently
}

// All returns every family, sorted by name.
func All() []Family {
	return []Family{
		{
			Name: "base_conversion", Verifier: "numeric", Alphabet: "()*+,0123456789;=abes",
			Doc:      "write a number in a base from 2 to 9; level k has k+1 digits in that base",
			Generate: baseConversion,
		}, {
			Name: "chain_sum", Verifier: "numeric", Alphabet: "+-0123456789;=",
			Doc:      "add and subtract; level k has k operations, on terms of 1 digit (k to 3), 2 (to 7) or 3",
			Generate: chainSum, simplify: simplifyChainSum, diversify: diversifyChainSum,
		}, {
			Name: "countdown", Verifier: "countdown", Alphabet: "()*+,-/0123456789:;=",
			Doc:      "reach a target with given numbers, each used at most once; level k gives 2+k/2 numbers below 10+5k",
			Generate: countdown, diversify: diversifyCountdown,
		}, {
			Name: "fractions", Verifier: "numeric", Alphabet: "+-/0123456789;=",
			Doc:      "add and subtract fractions; level k has 2+(k-1)/3 terms with denominators up to 5+k",
			Generate: fractions, simplify: simplifyFractions, diversify: diversifyFractions,
		}, {
			Name: "gcd", Verifier: "numeric", Alphabet: "%(),0123456789;=cdg",
			Doc:      "greatest common divisor; level k takes k divisions of Euclid's algorithm",
			Generate: gcd, simplify: simplifyGCD, diversify: diversifyGCD,
		}, {
			Name: "linear_equation", Verifier: "numeric", Alphabet: "()+-0123456789;=x",
			Doc:      "solve ax+b=c (level k to 3), ax+b=cx+d (to 6) or a(x+b)=cx+d; numbers grow with k",
			Generate: linearEquation, simplify: simplifyLinearEquation, diversify: diversifyLinearEquation,
		}, {
			Name: "modular_power", Verifier: "numeric", Alphabet: "%0123456789;=^",
			Doc:      "a power modulo m; level k has an exponent of k+1 bits and a modulus below 20+10k",
			Generate: modularPower, simplify: simplifyModularPower, diversify: diversifyModularPower,
		}, {
			Name: "multiplication", Verifier: "numeric", Alphabet: "*+0123456789;=",
			Doc:      "multiply two numbers by partial products; level k has k+1 digits in both together",
			Generate: multiplication, diversify: diversifyMultiplication,
		}, {
			Name: "reverse", Verifier: "exact", Alphabet: "()=abcdefghijrsv",
			Doc:      "write a word backwards; level k has k+2 letters from a to j",
			Generate: reverse,
		}, {
			Name: "running_counts", Verifier: "exact", Alphabet: "/0123456789=",
			Doc:      "how many of the digits so far are odd, modulo 10; level k has k+1 digits",
			Generate: runningCounts, diversify: diversifyRunningCounts,
		}, {
			Name: "running_differences", Verifier: "exact", Alphabet: "-0123456789=",
			Doc:      "each digit less the difference before it, modulo 10; level k has k+1 digits",
			Generate: runningDifferences,
		}, {
			Name: "running_maxima", Verifier: "exact", Alphabet: "0123456789=^",
			Doc:      "running maxima of digits; level k has k+1 digits",
			Generate: runningMaxima, diversify: diversifyRunningMaxima,
		}, {
			Name: "running_minima", Verifier: "exact", Alphabet: "0123456789=_",
			Doc:      "running minima of digits; level k has k+1 digits",
			Generate: runningMinima, diversify: diversifyRunningMinima,
		}, {
			Name: "running_products", Verifier: "exact", Alphabet: "*123456=",
			Doc:      "running products of digits from 1 to 6 modulo 7; level k has k+1 digits",
			Generate: runningProducts,
		}, {
			Name: "running_sums", Verifier: "exact", Alphabet: ".0123456789=",
			Doc:      "running sums of digits modulo 10; level k has k+1 digits",
			Generate: runningSums,
		}, {
			Name: "sequence_next", Verifier: "numeric", Alphabet: ",0123456789;=?",
			Doc:      "continue a polynomial sequence; level k has degree 1+(k-1)/3, and numbers that grow with k",
			Generate: sequenceNext, diversify: diversifySequenceNext,
		}, {
			Name: "sorting", Verifier: "exact", Alphabet: "(),0123456789=orst",
			Doc:      "sort numbers; level k has k+2 of them, of 1 digit (k to 5) or 2",
			Generate: sorting, diversify: diversifySorting,
		},
	}
}

// Lookup returns the family of that name, or an error that lists the names there are.
func Lookup(name string) (Family, error) {
	var names []string
	for _, f := range All() {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Family{}, fmt.Errorf("unknown family %q, expected one of %s", name, strings.Join(names, ", "))
}

// Alphabet returns the distinct characters of the prompts and solutions that the named families make, sorted. No names
// means all families; a name that is not a family's adds nothing.
func Alphabet(names []string) string {
	var all []rune
	for _, f := range All() {
		if len(names) == 0 || slices.Contains(names, f.Name) {
			all = append(all, []rune(f.Alphabet)...)
		}
	}
	slices.Sort(all)
	return string(slices.Compact(all))
}

// problem assembles a problem from the steps of its solution.
func problem(prompt, answer string, steps []string) Problem {
	return Problem{Prompt: prompt, Answer: answer, Solution: strings.Join(steps, ""), Steps: steps}
}

// between draws an integer from lo to hi, both included.
func between(rng *rand.Rand, lo, hi int) int { return lo + rng.IntN(hi-lo+1) }

// join writes numbers with commas between them.
func join(numbers []int) string {
	text := make([]string, len(numbers))
	for i, n := range numbers {
		text[i] = fmt.Sprint(n)
	}
	return strings.Join(text, ",")
}

// divisor returns the greatest common divisor of a and b, both not negative.
func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
