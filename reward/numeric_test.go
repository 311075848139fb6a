package reward

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

func ExampleNumeric() {
	for _, completion := range []string{
		"She has 3 * 6 = 18 eggs.\n#### 18",
		`So the total is \boxed{\$18.00}.`,
		"The answer is eighteen.",
		"I count 81.",
	} {
		v, _ := Numeric{}.Verify(context.Background(), completion, "18")
		fmt.Printf("%v %s %q\n", v.Reward, v.Outcome, v.Extracted)
	}
	// Output:
	// 1 correct "18"
	// 1 correct "18"
	// 0 no_answer ""
	// 0 wrong "81"
}

func TestNumeric(t *testing.T) {
	tests := []struct {
		completion, answer string
		want               Outcome
	}{
		// where the answer is looked for
		{`first \boxed{4}, then \boxed{5}`, "5", Correct},
		{`first \boxed{4}, then \boxed{5}`, "4", Wrong},
		{`\boxed{\frac{1}{2}} and #### 7`, "0.5", Correct},
		{`\boxed{7} but then it was cut at \boxed{\frac{1}{`, "7", Correct},
		{`\boxed {7}`, "7", Correct},
		{`\boxed{\boxed{7}}`, "7", Correct},
		{`\{ 3 \} \boxed{7} }`, "7", Correct},
		{`\boxed{}`, "7", NoAnswer},
		{`$-\boxed{7}$`, "7", Wrong},
		{`$2\boxed{7}$`, "7", Wrong},
		{`$x = \boxed{7}$`, "7", Correct},
		{`\boxed{7}\pi`, "7", Wrong},
		{`\boxed{7} dollars`, "7", Correct},
		{`\boxed{7} million`, "7", Wrong},
		{`\boxed{7} million`, "7000000", Correct},
		{`not \boxed{7} but \boxed{8}`, "8", Correct},
		{`\boxed{7 \text{ million}}`, "7", Wrong},
		{"4 + 5\n#### 9\n", "9", Correct},
		{"4 + 5\n####\n9", "9", Correct},
		{"#### 8\nno, #### 9", "9", Correct},
		{"####", "9", NoAnswer},
		{"#### 9 or 10", "9", Wrong},
		{"The answer is 12. There were 5 of them", "12", Correct},
		{"The Answer Is: **12**", "12", Correct},
		{"Answer:\n12 apples", "12", Correct},
		{"**Answer:** $12", "12", Correct},
		{"The answer is 12 because 3*4 is what 7+5 is", "12", Correct},
		{"the answer is 3 + 4 = 7.", "7", Correct},
		{"the answer is 3 or 4", "3", Wrong},
		{"the answer is 3, 4", "3", Wrong},
		{"3+4, so 7. The answer is clear", "7", Correct},
		{"the answer isn't 3, it must be 4", "4", Correct},
		{"we take 3 and 4 to get 7", "7", Correct},
		{"7\n\nDone", "7", Correct},
		{"3;7;-4", "-4", Correct},
		{"864 inches^2", "864", Correct},
		{"It is 8, not 5.", "5", Wrong},
		{"It is 8, not 5.", "8", Correct},
		{"It is 8 rather than 5.", "8", Correct},
		{"It is 8 rather than 5.", "5", Wrong},
		{`so it is 5\pi`, "5", Wrong},
		{`so it is \sqrt{5}`, "5", Wrong},
		{`so we get \frac{12}{5`, "5", Wrong},
		{`so we get $\frac{12}{5`, "5", Wrong},
		{`so we get $x = \frac{1}{#5}$`, "5", Wrong},
		{"so we get $x = [3,5$", "5", Wrong},
		{"so we get x^5", "5", Wrong},
		{"so we get 2^{10}", "10", Wrong},
		{"the result is 5x", "5", Wrong},
		{"the result is x-5", "5", Wrong},
		{"the result is x-5", "-5", Wrong},
		{`\boxed{\frac{3}{5`, "5", Wrong},
		{`\boxed{3} or \boxed{5}`, "3", Wrong},
		{`\boxed{3} or \boxed{5}`, "5", Wrong},
		{"The answer is either 3 or 5.", "5", Wrong},
		{"The answer is 5, or possibly 6.", "5", Wrong},
		{"It is 5 or 6.", "5", Wrong},
		{"It is 5 or 6.", "6", Wrong},
		{"x=1, y=3", "3", Wrong},
		{"Hence x > 3.", "3", Wrong},
		{"so y ≤ 3", "3", Wrong},
		{"so it is 3 1/2", "7/2", Correct},
		{"so it is 3 1/2", "1/2", Wrong},
		{"so 3:4", "4", Wrong},
		{"so [3,4)", "4", Wrong},
		{"so 4 cm", "4", Correct},
		{"so 4 million", "4", Wrong},
		{"so 2*4", "4", Wrong},
		{"so x = - 4", "4", Wrong},
		{"so f(4)", "4", Wrong},
		{"so √4", "4", Wrong},
		{"so 4 pi", "4", Wrong},
		{"so √2 + 4", "4", Wrong},
		{"so y = x + 4", "4", Wrong},
		{"so n choose 4", "4", Wrong},
		{"so x = 3 (mod 4)", "4", Wrong},
		{"so at 12:30", "30", Wrong},
		{"so at 12:30", "12", Wrong},
		{"so it is –3", "-3", Correct},
		{"so it is –3", "3", Wrong},
		{"so negative 3", "3", Wrong},
		{"#### not 5", "5", Wrong},
		{"3 x 4 = 12, so 12 x 2 = 24 pens", "24", Correct},
		{"<<3*8=24>>24 pens", "24", Correct},
		{"$1,200 - $200 = $1,000", "1000", Correct},
		{"that makes $7/day", "7", Correct},
		{"it is 5 m^2 large", "5", Correct},
		{"x + 5 = 12", "12", Wrong},
		{"so 4 - x", "4", Wrong},
		{"so 4 * x", "4", Wrong},
		{"so 4 - see below", "4", Correct},
		{"x² = 4", "4", Wrong},
		{"4 ± 1", "4", Wrong},
		{"the ratio is 3 to 4", "4", Wrong},
		{"so 3 out of 4", "4", Wrong},
		{"so 4 squared", "4", Wrong},
		{"so the square root of 4", "4", Wrong},
		{"The answer is 4 squared.", "4", Wrong},
		{"The answer is 3 plus 4", "3", Wrong},
		{"it comes down to 4", "4", Correct},
		{"The answer is 4 over 2", "4", Wrong},
		{"The answer is 4 times x", "4", Wrong},
		{"The answer is 4 to 6", "4", Wrong},
		{"The answer is half of 4", "4", Wrong},
		{"The answer is less than 4", "4", Wrong},
		{"#### 4 and a half", "4", Wrong},
		{"#### 4 or more", "4", Wrong},
		{"It is false that the answer is 4", "4", NoAnswer},
		{`\boxed{4!}`, "4", Wrong},
		{"so $4$ million", "4", Wrong},
		{"The answer is 4 by symmetry", "4", Correct},
		{"#### 4 people", "4", Correct},
		{"so 4 times a day", "4", Correct},
		{"1. We add.\n2. We get **4**", "4", Correct},
		{"It isn't $5$.", "5", NoAnswer},
		{"The answer cannot be 12.", "12", NoAnswer},
		{"The answer can't be $12$", "12", NoAnswer},
		{"The question asks whether the answer is 12. I do not know.", "12", NoAnswer},
		{"", "7", NoAnswer},
		{"no idea", "7", NoAnswer},

		// signs
		{"#### -5", "-5", Correct},
		{"#### −5", "-5", Correct},
		{"#### - 5", "-5", Correct},
		{"#### +5", "5", Correct},
		{"#### -5", "5", Wrong},
		{"#### 5", "-5", Wrong},
		{"#### -$5", "-5", Correct},
		{"#### $-5", "-5", Correct},
		{"#### -0", "0", Correct},
		{"so 9-5", "5", Wrong},
		{"so 9 - 5", "5", Wrong},
		{"x=-5", "-5", Correct},
		{"x = - 5", "-5", Correct},
		{"She has:\n- 5 apples", "5", Correct}, // the dash of a list

		// digits
		{"#### 12", "21", Wrong},
		{"#### 1,000", "1000", Correct},
		{"#### 1000", "1,000", Correct},
		{"#### 1,234,567.50", "1234567.5", Correct},
		{`\boxed{1{,}000}`, "1000", Correct},
		{`\boxed{1\,000\,000}`, "1000000", Correct},
		{`\boxed{11,\! 111}`, "11111", Correct},
		{`\boxed{1\!000}`, "1000", Correct},
		{"#### 1\u202f000", "1000", Correct},
		{"#### 1,00", "100", Wrong},
		{"#### 1,0000", "10000", Wrong},
		{"#### 5 6", "56", Wrong},
		{"5 6", "56", Wrong},
		{"#### 5,6", "56", Wrong},
		{"#### 007", "7", Correct},
		{"#### 3.0", "3", Correct},
		{"#### 3.", "3", Correct},
		{"#### .5", "0.5", Correct},
		{"#### -.5", "-1/2", Correct},
		{"it is .5", "0.5", Correct},
		{"#### 0.3333", "1/3", Wrong},
		{"#### 1e3", "1000", Correct},
		{"#### 1.5E-3", "0.0015", Correct},
		{`\boxed{1.5 \times 10^{5}}`, "150000", Correct},
		{"#### 1.5×10^-2", "0.015", Correct},
		{"#### 2.5 million", "2500000", Correct},
		{"#### 2.5 million", "2.5", Wrong},
		{"#### 1e400000000", "1", Wrong},
		{"1e400000000", "1", Wrong},
		{"#### 1e-400000000", "0", Wrong},
		{"1/0", "1", Wrong},

		// fractions
		{"#### 1/2", "0.5", Correct},
		{"#### 0.5", "1/2", Correct},
		{"#### 2/4", "1/2", Correct},
		{"#### 1 / 2", "1/2", Correct},
		{`\boxed{\dfrac{3}{4}}`, "0.75", Correct},
		{`\boxed{-\tfrac34}`, "-0.75", Correct},
		{`\boxed{\frac{-3}{4}}`, "-0.75", Correct},
		{`\boxed{2\frac{1}{2}}`, "2.5", Correct},
		{`\boxed{-2\frac{1}{2}}`, "-2.5", Correct},
		{"#### 2 1/2", "5/2", Correct},
		{"#### 2 1/2", "21/2", Wrong},
		{"#### 1/3", "3", Wrong},

		// percent
		{"#### 50%", "0.5", Correct},
		{"#### 50%", "50%", Correct},
		{"#### 0.5", "50%", Correct},
		{"#### 50", "50%", Correct},
		{"#### 50%", "50", Correct},
		{`\boxed{50\%}`, "50%", Correct},
		{"#### 50 percent", "50%", Correct},
		{"#### 0.5%", "0.5", Wrong},
		{"#### 0.5%", "50", Wrong},
		{"#### 5%", "50", Wrong},

		// currencies, units, words
		{"#### $18", "18", Correct},
		{"#### 18 €", "18", Correct},
		{"#### 18", "$18", Correct},
		{"#### $18.", "18", Correct},
		{"#### 18 dollars", "18", Correct},
		{"#### 60 miles/hour", "60", Correct},
		{"#### $5/hour", "5", Correct},
		{"#### 12 cm^2", "12", Correct},
		{`\boxed{12\text{ cm}^2}`, "12", Correct},
		{`\boxed{45^\circ}`, "45", Correct},
		{`\boxed{x = 5}`, "5", Correct},
		{`\boxed{\text{about } 5}`, "5", Correct},
		{"#### about 5 days.", "5", Correct},
		{"$$x = 5$$", "5", Correct},
		{`\boxed{$5$}`, "5", Correct},

		// what contains a number but is none
		{`\boxed{2\pi}`, "2", Wrong},
		{`\boxed{\sqrt{5}}`, "5", Wrong},
		{`\boxed{5\sqrt{2}}`, "5", Wrong},
		{`The answer is $5\sqrt{2}$.`, "5", Wrong},
		{`\boxed{3x}`, "3", Wrong},
		{`\boxed{x^5}`, "5", Wrong},
		{`\boxed{2^{10}}`, "2", Wrong},
		{`\boxed{(3,4)}`, "3", Wrong},
		{`\boxed{5 - x}`, "5", Wrong},
		{`\boxed{x - 5}`, "5", Wrong},
		{`\boxed{2x + 3y = 7}`, "7", Wrong},
		{`\boxed{3 + 4 = 7}`, "7", Correct},
		{`\boxed{x=5 \text{ or } x=6}`, "6", Wrong},
		{`\boxed{3+4i}`, "3", Wrong},
		{"#### 3:30", "3", Wrong},
		{"#### H2", "2", Wrong},
		{"#### five", "5", Wrong},

		// gold answers
		{"#### 18", "3*6=18\n#### 18", Correct},
		{"#### 18", `so \boxed{18}`, Correct},
		{"#### 18", "", Error},
		{"#### 18", "eighteen", Error},
		{"#### 18", "18 or 19", Error},
		{"#### 18", "####", Error},
		{"#### 18", "1/0", Error},
		{"#### 18", "1e999999999", Error},
		{`\boxed{2\pi}`, `2\pi`, Error},
	}
	for _, tt := range tests {
		got, err := Numeric{}.Verify(context.Background(), tt.completion, tt.answer)
		if got.Outcome != tt.want {
			t.Errorf("%q for %q: %s %q, want %s", tt.completion, tt.answer, got.Outcome, got.Extracted, tt.want)
		}
		if (got.Reward == 1) != (tt.want == Correct) {
			t.Errorf("%q for %q: reward %v, outcome %s", tt.completion, tt.answer, got.Reward, got.Outcome)
		}
		if errors.Is(err, ErrGold) != (tt.want == Error) {
			t.Errorf("%q for %q: error %v, want %s", tt.completion, tt.answer, err, tt.want)
		}
	}
}

// formats writes the same value in every way that is read.
func formats(rng *rand.Rand, v int64) []string {
	text := strconv.FormatInt(v, 10)
	sign, digits := "", text
	if v < 0 {
		sign, digits = "-", text[1:]
	}
	grouped := digits
	for i := len(digits) - 3; i > 0; i -= 3 {
		grouped = grouped[:i] + "," + grouped[i:]
	}
	k := rng.Int64N(9) + 1
	return []string{
		text, text + ".", text + ".0", sign + "0" + digits, sign + grouped, sign + "$" + grouped, "$" + sign + grouped + ".00",
		sign + digits + "e0", sign + digits + "0e-1", sign + digits + "/1", fmt.Sprintf("%d/%d", v*k, k),
		fmt.Sprintf(`%s\frac{%s0}{10}`, sign, digits), fmt.Sprintf("%s%s00%%", sign, digits),
		strings.Replace(text, "-", "−", 1), text + " apples", "x = " + text, `\text{about } ` + text,
		sign + strings.ReplaceAll(grouped, ",", "{,}"), sign + strings.ReplaceAll(grouped, ",", `\,`),
	}
}

// wrappers are the places an answer may stand in.
var wrappers = []string{"%s", "#### %s", `so \boxed{%s}`, "3 + 4 is 7.\nThe answer is %s", "Answer: %s\n", "We get 12.\n#### %s\n"}

func TestNumericFormats(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		v := rng.Int64N(1_000_000_000) >> rng.IntN(30)
		if rng.IntN(2) == 0 {
			v = -v
		}
		all := formats(rng, v)
		for _, gold := range all {
			for _, completion := range all {
				wrapped := fmt.Sprintf(wrappers[rng.IntN(len(wrappers))], completion)
				if got, err := (Numeric{}).Verify(context.Background(), wrapped, gold); got.Outcome != Correct {
					t.Fatalf("%q for %q: %v %v", wrapped, gold, got, err)
				}
				other := strconv.FormatInt(v+1+rng.Int64N(100), 10)
				if got, err := (Numeric{}).Verify(context.Background(), wrapped, other); got.Outcome != Wrong {
					t.Fatalf("%q for %q: %v %v", wrapped, other, got, err)
				}
			}
		}
	}
}

// The value that is read is the one big.Rat reads, for any decimal within bounds.
func TestNumericValue(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + rng.IntN(10))
		}
		return string(b)
	}
	for range 2000 {
		text := digits(1+rng.IntN(40)) + "." + digits(1+rng.IntN(40)) + "e" + strconv.Itoa(rng.IntN(2*maxExponent+1)-maxExponent)
		want, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("big.Rat refuses %q", text)
		}
		got, ok := parseSpan(text, false)
		if !ok || got.value.Cmp(want) != 0 {
			t.Fatalf("%q: got %v %v, want %v", text, got.value.RatString(), ok, want.RatString())
		}
	}
}

// Long inputs take time in proportion to their length, whatever they hold.
func TestNumericIsLinear(t *testing.T) {
	for _, unit := range []string{`\boxed{`, "{", "####", "answer is ", "answer: 1. ", "r", "9", "1,", ",000", "1/", `\frac{`, "-", "1e9", "$", " ", "\\", "1\n", `\,1`, "é"} {
		text := strings.Repeat(unit, 1<<20/len(unit))
		start := time.Now()
		for _, completion := range []string{text, text + " 5", `\boxed{` + text + "}", "#### " + text, "the answer is 1" + text} {
			if got, err := (Numeric{}).Verify(context.Background(), completion, "123454321"); got.Outcome == Correct || err != nil {
				t.Errorf("repeated %q: %v %v", unit, got, err)
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("repeated %q: took %v", unit, took)
		}
	}
}

func FuzzNumeric(f *testing.F) {
	for _, s := range []string{"#### 1,000", `\boxed{-2\frac{1}{2}}`, "the answer is $5.00.", "1e400", "50%", "− 5", "1.5×10^{3}", "2.5 million", "..5", "\xff1"} {
		f.Add(s, "7")
		f.Add("7", s)
	}
	f.Fuzz(func(t *testing.T, completion, answer string) {
		start := time.Now()
		got, err := Numeric{}.Verify(context.Background(), completion, answer)
		if took := time.Since(start); took > 3*time.Second {
			t.Fatalf("took %v", took)
		}
		if (err != nil) != (got.Outcome == Error) || (got.Reward == 1) != (got.Outcome == Correct) || len(got.Extracted) > 4*maxSpan {
			t.Fatalf("inconsistent: %+v, %v", got, err)
		}
		gold, ok := readGold(answer)
		if text := gold.value.RatString(); ok && len(text) <= maxDigits {
			if got, err := (Numeric{}).Verify(context.Background(), `\boxed{`+text+"}", answer); got.Outcome != Correct {
				t.Fatalf("%q does not answer itself as %q: %+v, %v", answer, text, got, err)
			}
		}
	})
}

func BenchmarkNumeric(b *testing.B) {
	for _, bb := range []struct{ name, completion, answer string }{
		{"short", "3;7;-4", "-4"},
		{"gsm8k", "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72", "72"},
		{"boxed", `The area of the square is $12^2 = 144$ and half of it is $\frac{144}{2} = 72$, so the answer is $\boxed{\frac{144}{2}}$.`, "72"},
		{"prose", strings.Repeat("She buys 3 pears for $2 each, which costs $6 in total. ", 8) + "The answer is 72.", "72"},
		{"last", strings.Repeat("She buys 3 pears for $2 each, which costs $6 in total. ", 8) + "So it’s $72.", "72"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v, err := (Numeric{}).Verify(context.Background(), bb.completion, bb.answer); v.Outcome != Correct {
					b.Fatal(v, err)
				}
			}
		})
	}
}
