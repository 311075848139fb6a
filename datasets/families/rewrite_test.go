package families_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/reward"
)

func ExampleRewrite() {
	for _, simplify := range []bool{true, false} {
		for _, p := range []struct{ family, prompt, answer string }{
			{"chain_sum", "7+12-3+5=", "21"},
			{"gcd", "gcd(120,84)=", "12"},
		} {
			prompt, prefill, ok := families.Rewrite(p.family, p.prompt, p.answer, nil, 3, simplify)
			fmt.Printf("%s %q %v\n", prompt, prefill, ok)
		}
	}
	// Some work can only be given as the beginning of the solution.
	prompt, prefill, ok := families.Rewrite("running_sums", "3574.....=", "3859", []string{"3", "8", "5", "9"}, 3, true)
	fmt.Printf("%s %q %v\n", prompt, prefill, ok)
	// Output:
	// 19-3+5= "" true
	// gcd(84,36)= "" true
	// 7+5-3+12= "" true
	// gcd(84,120)= "" true
	// 3574.....= "38" true
}

func TestRewriteByHand(t *testing.T) {
	for _, c := range []struct {
		family, prompt, answer string
		steps                  []string
		simplify               bool
		want, prefill          string // "" = there is none
	}{
		{"chain_sum", "7+12-3=", "16", []string{"19;", "16"}, true, "19-3=", ""},
		{"chain_sum", "3-9+4+5+6=", "9", nil, true, "-2+5+6=", ""},
		{"chain_sum", "7+12=", "19", []string{"19"}, true, "", ""},
		{"chain_sum", "7+12=", "19", nil, false, "12+7=", ""},
		{"chain_sum", "7-12=", "-5", nil, false, "", ""},
		{"chain_sum", "7+7=", "14", nil, false, "", ""},
		{"chain_sum", "7-3-3+2-3-3=", "-3", nil, false, "2-3-3+7-3-3=", ""},
		{"fractions", "1/2+1/6-1/3=", "1/3", nil, true, "2/3-1/3=", ""},
		{"fractions", "1/2-1/2+1/3=", "1/3", nil, true, "0+1/3=", ""},
		{"fractions", "1/2+1/6=", "2/3", []string{"s"}, true, "3/6+1/6=", ""},
		{"fractions", "1/4-2/3=", "-5/12", []string{"s"}, true, "3/12-8/12=", ""},
		{"fractions", "1/5+2/5=", "3/5", []string{"s"}, true, "", ""},
		{"fractions", "1/2+1/6-1/3=", "1/3", nil, false, "1/2-1/3+1/6=", ""},
		{"gcd", "gcd(84,36)=", "12", []string{"84%36=12;", "36%12=0;", "12"}, true, "gcd(84,36)=", "84%36=12;"},
		{"gcd", "gcd(84,12)=", "12", []string{"84%12=0;", "12"}, true, "gcd(84,12)=", "84%12=0;"},
		{"linear_equation", "3x+5=20;x=", "5", []string{"3x=15;", "x=5"}, true, "3x=15;x=", ""},
		{"linear_equation", "4(x-2)=2x+6;x=", "7", []string{"4x-8=2x+6;", "2x-8=6;", "2x=14;", "x=7"}, true, "4x-8=2x+6;x=", ""},
		{"linear_equation", "4(x-2)=2x+6;x=", "7", nil, false, "2x+6=4(x-2);x=", ""},
		{"modular_power", "7^12%10=", "1", nil, true, "9^6%10=", ""},
		{"modular_power", "7^13%10=", "7", []string{"7^2=9;", "7^3=3;", "7^6=9;", "7^12=1;", "7^13=7"}, true, "7^13%10=", "7^2=9;7^3=3;"},
		{"modular_power", "7^2%10=", "9", []string{"7^2=9"}, true, "", ""},
		{"modular_power", "7^2%10=", "9", nil, false, "17^2%10=", ""},
		{"multiplication", "12*34=", "408", []string{"12*4=48;", "12*30=360;", "48+360=408"}, true, "12*34=", "12*4=48;"},
		{"multiplication", "12*34=", "408", nil, false, "34*12=", ""},
		{"multiplication", "12*12=", "144", nil, false, "", ""},
		{"sequence_next", "1,4,9,16,25,?=", "36", nil, false, "4,9,16,25,?=", ""},
		{"sorting", "sort(3,1,2)=", "1,2,3", nil, false, "sort(2,1,3)=", ""},
		{"sorting", "sort(3,2,1)=", "1,2,3", nil, false, "sort(2,3,1)=", ""}, // backwards it would be the answer
		{"sorting", "sort(2,1,1)=", "1,1,2", nil, false, "sort(1,2,1)=", ""},
		{"sorting", "sort(4,4,4)=", "4,4,4", nil, false, "", ""},
		{"countdown", "24:3,8,6=", "24:3,8,6", nil, false, "24:6,8,3=", ""},
		{"countdown", "24:3,8,6=", "24:3,8,6", []string{"6-3=3;", "3*8=24;", "(6-3)*8"}, true, "24:3,8,6=", "6-3=3;"},
		{"reverse", "reverse(bca)=", "acb", []string{"a", "c", "b"}, true, "reverse(bca)=", "a"},
		{"reverse", "reverse(bca)=", "acb", nil, false, "", ""},
		{"base_conversion", "base(13,2)=", "1101", nil, false, "", ""},
		{"running_counts", "31527////=", "12334", nil, false, "53749////=", ""},
		{"running_counts", "890//////=", "011", nil, false, "012//////=", ""},
		{"running_maxima", "31527^^^^=", "33557", nil, false, "30517^^^^=", ""},
		{"running_maxima", "30527^^^^=", "33557", nil, false, "33517^^^^=", ""},
		{"running_maxima", "3578^^^^^=", "3578", nil, false, "", ""},
		{"running_minima", "73528____=", "73322", nil, false, "73629____=", ""},
		{"running_minima", "79_______=", "77", nil, false, "77_______=", ""},
		{"running_minima", "75=", "7555", nil, false, "", ""},
		// No problems of the family.
		{"riddles", "7+12-3=", "16", []string{"a", "b"}, true, "", ""},
		{"chain_sum", "seven+12-3=", "16", nil, true, "", ""},
		{"chain_sum", "", "16", []string{"a", "b"}, true, "", ""},
		{"chain_sum", "=", "16", nil, false, "", ""},
		{"fractions", "1/0+1/2+1/3=", "1", nil, true, "", ""},
		{"gcd", "gcd(84,36) please=", "12", nil, false, "", ""},
		{"gcd", "gcd(84,0)=", "84", nil, true, "", ""},
		{"modular_power", "7^4%0=", "1", nil, true, "", ""},
		{"countdown", "24=", "24", nil, false, "", ""},
		{"sorting", "3,1,2=", "1,2,3", nil, false, "", ""},
		{"linear_equation", "3x+5=20=", "5", nil, false, "", ""},
	} {
		prompt, prefill, ok := families.Rewrite(c.family, c.prompt, c.answer, c.steps, 3, c.simplify)
		if prompt != c.want || prefill != c.prefill || ok != (c.want != "") {
			t.Errorf("%s %q, simplify %v: %q, %q, %v; want %q, %q", c.family, c.prompt, c.simplify, prompt, prefill, ok, c.want, c.prefill)
		}
	}
	for _, level := range []int32{0, families.Levels + 1} {
		if _, _, ok := families.Rewrite("gcd", "gcd(120,84)=", "12", nil, level, true); ok {
			t.Errorf("a problem of level %d is rewritten", level)
		}
	}
}

// What a rewritten prompt asks, worked out from its text alone, is what the original's answer says. A prefill begins
// the solution of the prompt, which is the original, and is not all of its steps.
func TestRewriteKeepsTheAnswer(t *testing.T) {
	draw(t, 150, func(t *testing.T, family families.Family, level int, p families.Problem) {
		for _, simplify := range []bool{true, false} {
			prompt, prefill, ok := families.Rewrite(family.Name, p.Prompt, p.Answer, p.Steps, int32(level), simplify)
			if !ok {
				if prompt+prefill != "" {
					t.Errorf("%q gives %q, %q with ok false", p.Prompt, prompt, prefill)
				}
				continue
			}
			again, start, _ := families.Rewrite(family.Name, p.Prompt, p.Answer, p.Steps, int32(level), simplify)
			if again != prompt || start != prefill {
				t.Errorf("%q: %q and %q are two rewrites of one problem", p.Prompt, prompt, again)
			}
			if prompt == p.Prompt && prefill == "" || !simplify && prefill != "" {
				t.Errorf("simplify %v: %q is no rewrite of %q, prefill %q", simplify, prompt, p.Prompt, prefill)
			}
			for _, r := range prompt + prefill {
				if !strings.ContainsRune(family.Alphabet, r) {
					t.Errorf("%q of %q has %q, which the family has not", prompt+prefill, p.Prompt, r)
				}
			}
			if prefill == "" {
				if !asks(t, family.Name, prompt, p.Answer) {
					t.Errorf("simplify %v: %q of %q does not have the answer %q", simplify, prompt, p.Prompt, p.Answer)
				}
				continue
			}
			rest, begins := strings.CutPrefix(p.Solution, prefill)
			last := p.Steps[len(p.Steps)-1]
			if prompt != p.Prompt || !begins || !strings.HasSuffix(rest, last) || prefill+last == p.Solution && len(p.Steps) > 3 {
				t.Errorf("%q: prefill %q of the solution %q", p.Prompt, prefill, p.Solution)
			}
			verifier, err := reward.ByName(family.Verifier)
			if err != nil {
				t.Fatal(err)
			}
			if v, err := verifier.Verify(t.Context(), prefill+rest, p.Answer); err != nil || v.Outcome != reward.Correct {
				t.Errorf("%q answered by %q: %+v, %v", p.Prompt, prefill+rest, v, err)
			}
		}
	})
}

// How much of a family can be rewritten: nearly all where it can at all.
func TestRewriteShares(t *testing.T) {
	diverse := []string{"chain_sum", "countdown", "fractions", "gcd", "linear_equation", "modular_power", "multiplication", "running_counts", "running_maxima", "running_minima", "sequence_next", "sorting"}
	for _, family := range families.All() {
		var simplified, diversified int
		for level := 4; level <= families.Levels; level++ {
			rng := rand.New(rand.NewPCG(11, uint64(level)))
			for range 100 {
				p := family.Generate(rng, level)
				if _, _, ok := families.Rewrite(family.Name, p.Prompt, p.Answer, p.Steps, int32(level), true); ok {
					simplified++
				}
				if _, _, ok := families.Rewrite(family.Name, p.Prompt, p.Answer, p.Steps, int32(level), false); ok {
					diversified++
				}
			}
		}
		if simplified < 680 {
			t.Errorf("%s: %d of 700 are simplified", family.Name, simplified)
		}
		if slices.Contains(diverse, family.Name) != (diversified > 690) || !slices.Contains(diverse, family.Name) && diversified > 0 {
			t.Errorf("%s: %d of 700 are diversified", family.Name, diversified)
		}
	}
}

// asks works out a prompt of a family by its text alone, by other means than the family's, and tells whether answer
// answers it.
func asks(t *testing.T, family, prompt, answer string) bool {
	t.Helper()
	body := strings.TrimSuffix(prompt, "=")
	number := func(text string) *big.Int {
		n, ok := new(big.Int).SetString(text, 10)
		if !ok {
			t.Fatalf("%s: %q in %q is no number", family, text, prompt)
		}
		return n
	}
	switch family {
	case "chain_sum", "fractions":
		want, ok := new(big.Rat).SetString(answer)
		return ok && sum(t, body).Cmp(want) == 0
	case "countdown":
		// The verifier reads the answer as the prompt has it, and takes the numbers in any order.
		target, numbers, _ := strings.Cut(body, ":")
		wantTarget, wantNumbers, _ := strings.Cut(answer, ":")
		a, b := strings.Split(numbers, ","), strings.Split(wantNumbers, ",")
		slices.Sort(a)
		slices.Sort(b)
		return target == wantTarget && slices.Equal(a, b)
	case "gcd":
		a, b, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(body, "gcd("), ")"), ",")
		return new(big.Int).GCD(nil, nil, number(a), number(b)).Cmp(number(answer)) == 0
	case "linear_equation":
		left, right, _ := strings.Cut(strings.TrimSuffix(body, ";x"), "=")
		x, err := strconv.Atoi(answer)
		if err != nil {
			t.Fatal(err)
		}
		difference := func(x int) int { return linear(t, left, x) - linear(t, right, x) }
		return difference(x) == 0 && difference(x+1) != 0
	case "modular_power":
		base, rest, _ := strings.Cut(body, "^")
		exponent, m, _ := strings.Cut(rest, "%")
		return new(big.Int).Exp(number(base), number(exponent), number(m)).Cmp(number(answer)) == 0
	case "multiplication":
		a, b, _ := strings.Cut(body, "*")
		return new(big.Int).Mul(number(a), number(b)).Cmp(number(answer)) == 0
	case "sequence_next":
		return next(t, strings.TrimSuffix(body, ",?")).Cmp(number(answer)) == 0
	case "running_counts":
		digits := strings.TrimRight(body, "/")
		odd := 0
		for i := range answer {
			odd += int(digits[i]) % 2
			if int(answer[i]-'0') != odd%10 {
				return false
			}
		}
		return len(digits) == len(answer)
	case "running_maxima", "running_minima":
		digits := strings.TrimRight(body, "^_")
		for i := range answer {
			best := slices.Max([]byte(digits[:i+1]))
			if family == "running_minima" {
				best = slices.Min([]byte(digits[:i+1]))
			}
			if answer[i] != best {
				return false
			}
		}
		return len(digits) == len(answer)
	case "sorting":
		numbers := strings.Split(strings.TrimSuffix(strings.TrimPrefix(body, "sort("), ")"), ",")
		slices.SortFunc(numbers, func(a, b string) int { return number(a).Cmp(number(b)) })
		return strings.Join(numbers, ",") == answer
	}
	t.Fatalf("the prompts of %s should not change", family)
	return false
}

// sum adds up fractions and integers with signs.
func sum(t *testing.T, text string) *big.Rat {
	t.Helper()
	total := new(big.Rat)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "+", " "), "-", " -")
	for _, term := range strings.Fields(text) {
		r, ok := new(big.Rat).SetString(term)
		if !ok {
			t.Fatalf("%q in %q is no number", term, text)
		}
		total.Add(total, r)
	}
	return total
}

// linear is the value of 3x+5, 4(x-2), -8 and the like.
func linear(t *testing.T, text string, x int) int {
	t.Helper()
	var a, b int
	if n, _ := fmt.Sscanf(text, "%d(x%d)", &a, &b); n == 2 {
		return a * (x + b)
	}
	n, err := strconv.Atoi(text)
	if err == nil {
		return n
	}
	if n, _ = fmt.Sscanf(text, "%dx%d", &a, &b); n == 0 {
		t.Fatalf("%q is not linear", text)
	}
	return a*x + b
}

// next is the value at n of the polynomial of degree n−2 or less through (0, y0) … (n−2, …) by Lagrange, which must go
// through the last point, too.
func next(t *testing.T, list string) *big.Int {
	t.Helper()
	var y []*big.Rat
	for _, text := range strings.Split(list, ",") {
		r, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%q in %q is no number", text, list)
		}
		y = append(y, r)
	}
	at := func(n, x int) *big.Rat {
		total := new(big.Rat)
		for i := range n {
			term := new(big.Rat).Set(y[i])
			for j := range n {
				if j != i {
					term.Mul(term, big.NewRat(int64(x-j), int64(i-j)))
				}
			}
			total.Add(total, term)
		}
		return total
	}
	n := len(y)
	if at(n-1, n-1).Cmp(y[n-1]) != 0 {
		t.Fatalf("%q is not a polynomial of degree %d", list, n-2)
	}
	value := at(n-1, n)
	if !value.IsInt() {
		t.Fatalf("%q goes on with %v", list, value)
	}
	return value.Num()
}
