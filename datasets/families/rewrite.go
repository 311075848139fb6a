package families

import (
	"fmt"
	"slices"
	"strings"
)

// Rewrite makes another problem with the same answer out of a family's problem: an easier one, or one that is put
// differently. It draws nothing; equal problems give equal rewrites.
//
// A simplified problem has the first of its work done. Where the family's own notation can say so, the prompt does:
//
//	chain_sum        7+12-3+5=        →  19-3+5=           the first half of the operations, rounded down
//	fractions        1/2+1/6-1/3=     →  2/3-1/3=          the first two terms
//	                 1/2+1/6=         →  3/6+1/6=          the common denominator of two terms that differ in it
//	gcd              gcd(120,84)=     →  gcd(84,36)=       one division that leaves neither 0 nor the answer
//	linear_equation  5x+4=2x-8;x=     →  3x+4=-8;x=        one step
//	modular_power    7^12%10=         →  9^6%10=           one squaring, of an even exponent from 4 up
//
// Else the prompt stays and prefill, the given beginning of the solution, is the first half of its steps, rounded down:
// never all of them, and never none.
//
// A diversified problem has
//
//	chain_sum, fractions  another order of its terms         7+12-3=      →  7-3+12=
//	countdown, sorting    another order of its numbers       sort(3,1,2)= →  sort(2,1,3)=
//	gcd                   its arguments swapped              gcd(84,36)=  →  gcd(36,84)=
//	linear_equation       its sides swapped                  3x+5=20;x=   →  20=3x+5;x=
//	modular_power         another base of the same residue   7^2%10=      →  17^2%10=
//	multiplication        its factors swapped                12*34=       →  34*12=
//	running_counts        other digits as odd or even        31527////=   →  53749////=
//	running_maxima        other digits below a maximum       31527^^^^=   →  30517^^^^=
//	running_minima        other digits above a minimum       73528____=   →  73629____=
//	sequence_next         one term less at its beginning     1,4,9,16,25,?= →  4,9,16,25,?=
//
// ok is false where there is no such problem: for a family that is not in the second list, for terms, numbers or
// arguments that have no other order, for work of one step, and for what is no problem of the family.
func Rewrite(family string, prompt, answer string, steps []string, level int32, simplify bool) (newPrompt, prefill string, ok bool) {
	f, err := Lookup(family)
	if err != nil || level < 1 || level > Levels || !strings.HasSuffix(prompt, "=") {
		return "", "", false
	}
	p := problem(prompt, answer, steps)
	change := f.diversify
	if simplify {
		change = f.simplify
	}
	if change != nil {
		if newPrompt, ok = change(p); ok && newPrompt != prompt {
			return newPrompt, "", true
		}
	}
	half := len(steps) / 2
	if !simplify || half == 0 {
		return "", "", false
	}
	return prompt, strings.Join(steps[:half], ""), true
}

// signedTerms cuts a sum such as 7+12-3= into its terms, each with its sign; the first has none.
func signedTerms(prompt string) []string {
	var terms []string
	sum := strings.TrimSuffix(prompt, "=")
	for from := 0; from < len(sum); {
		to := len(sum)
		if i := strings.IndexAny(sum[from+1:], "+-"); i >= 0 {
			to = from + 1 + i
		}
		terms, from = append(terms, sum[from:to]), to
	}
	return terms
}

// commute is a sum in another order that begins with a term without a sign: with the other terms reversed; where that
// changes nothing, with the first and the last added term swapped.
func commute(prompt string) (string, bool) {
	terms := signedTerms(prompt)
	if len(terms) < 2 {
		return "", false
	}
	reversed := slices.Clone(terms)
	slices.Reverse(reversed[1:])
	if slices.Equal(reversed, terms) {
		for i := len(terms) - 1; i > 0; i-- {
			if strings.HasPrefix(terms[i], "+") && terms[i] != "+"+terms[0] {
				reversed[0], reversed[i] = terms[i][1:], "+"+terms[0]
				return strings.Join(reversed, "") + "=", true
			}
		}
		return "", false
	}
	return strings.Join(reversed, "") + "=", true
}

// reorder is a list with commas in another order that is not the answer either: backwards, or else turned until it is
// neither.
func reorder(list, answer string) (string, bool) {
	items := strings.Split(list, ",")
	slices.Reverse(items)
	for range items {
		if other := strings.Join(items, ","); other != list && other != answer {
			return other, true
		}
		items = append(items[1:], items[0])
	}
	return "", false
}

// scan reads the numbers of a prompt of the given form. It is false where the prompt has another form.
func scan(prompt, form string, numbers ...any) bool {
	if n, err := fmt.Sscanf(prompt, form, numbers...); err != nil || n != len(numbers) {
		return false
	}
	values := make([]any, len(numbers))
	for i, n := range numbers {
		values[i] = *n.(*int)
	}
	return fmt.Sprintf(form, values...) == prompt
}
