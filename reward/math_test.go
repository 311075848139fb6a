package reward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func ExampleMath() {
	for _, completion := range []string{
		`Hence $x = \boxed{\dfrac{\sqrt{2}}{2}}$.`,
		"The answer is 1/sqrt(2).",
		`so it is about \boxed{0.7071}`,
		"I do not know.",
	} {
		v, _ := Math{}.Verify(context.Background(), completion, `\frac{1}{\sqrt2}`)
		fmt.Printf("%v %s %q %q\n", v.Reward, v.Outcome, v.Extracted, v.Reason)
	}
	// Output:
	// 1 correct "\\dfrac{\\sqrt{2}}{2}" ""
	// 1 correct "1/sqrt(2)" ""
	// 0 wrong "0.7071" ""
	// 0 no_answer "" "no_answer"
}

// mathTable is read from testdata: lines of a gold answer, ≡ or ≢, and answers with ¦ between them.
func mathTable(t testing.TB, name string, f func(line, gold, answer string, equal bool)) {
	t.Helper()
	file, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		gold, answers, equal := strings.Cut(line, "  ≡  ")
		if !equal {
			var ok bool
			if gold, answers, ok = strings.Cut(line, "  ≢  "); !ok {
				t.Fatalf("%s: %q is no case", name, line)
			}
		}
		for answer := range strings.SplitSeq(answers, " ¦ ") {
			f(line, gold, answer, equal)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// Each case of the table, as it is, and in the dresses in which models write answers.
func TestMathTable(t *testing.T) {
	mathTable(t, "math_cases.txt", func(line, gold, answer string, equal bool) {
		for _, dress := range []string{"$%s$", `\boxed{%s}`, "So the final answer is $%s$. I hope it is correct.", `First $x=17$, then \[ \boxed{%s} \]`} {
			completion := fmt.Sprintf(dress, answer)
			v, err := Math{}.Verify(t.Context(), completion, gold)
			if err != nil || (v.Outcome == Correct) != equal {
				t.Errorf("%s\n%q: %+v, %v", line[:min(len(line), 80)], completion, v, err)
			}
		}
		if equal && !(Math{}).Equal(gold, gold) {
			t.Errorf("%s: the gold answer does not equal itself", line)
		}
	})
}

func TestMathPlaces(t *testing.T) {
	for _, tt := range []struct {
		completion, gold string
		want             Outcome
	}{
		// boxes
		{`\boxed{4}, no: \boxed{5}`, "5", Correct},
		{`\boxed{4}, no: \boxed{5}`, "4", Wrong},
		{`\boxed{\frac{1}{\frac{2}{3}}}`, "3/2", Correct},
		{`\fbox{7}`, "7", Correct},
		{`\boxed {7}`, "7", Correct},
		{`\boxed{\boxed{7}}`, "7", Correct},
		{`\boxed{3} and \boxed{5}`, "3,5", Correct},
		{`\boxed{3} and \boxed{5}`, "5", Wrong},
		{`\[\boxed{3}, \quad \boxed{5}\]`, "5, 3", Correct},
		{`so \(x=\boxed{1}\) or \(x=\boxed{-2}\)`, `\{-2,1\}`, Correct},
		{"\\boxed{3} would be too small, and after some more work we find \\boxed{5}", "5", Correct},
		{`\boxed{}`, "5", NoAnswer},
		{`\boxed{12`, "12", Wrong}, // cut off: it may go on
		{`\boxed{28}\%`, `28\%`, Correct},
		{`\boxed{28} percent`, "28", Correct},
		{`\boxed{x = 5}`, "5", Correct},
		{`\boxed{5} The final answer is $6$. I hope it is correct.`, "6", Correct},
		// a box as a part of a formula
		{`$-\boxed{5}$`, "5", Wrong},
		{`$x = - \boxed{5}$`, "5", Wrong},
		{`$x = - \boxed{5}$`, "-5", Correct},
		{`so -\boxed{5}.`, "5", Wrong},
		{`so -$\boxed{5}$.`, "5", Wrong},
		{`so negative $\boxed{5}$.`, "5", Wrong},
		{`so 9 -\boxed{5}`, "-5", Wrong},
		{`so 3 + \boxed{5}`, "5", Wrong},
		{`$2 \boxed{5}$`, "5", Wrong},
		{`$\frac{1}{2}\boxed{5}$`, "5", Wrong},
		{`$\frac{\boxed{5}}{2}$`, "5", Wrong},
		{`$\frac{\boxed{5}}{2}$`, "2.5", Correct},
		{`$\sqrt{\boxed{5}}$`, "5", Wrong},
		{`$f(\boxed{5})$`, "5", Wrong},
		{`$(3, \boxed{5})$`, "5", Wrong},
		{`$(\boxed{3}, \boxed{5})$`, "(3,5)", Correct},
		{`$x^\boxed{5}$`, "5", Wrong},
		{`$x \ne \boxed{5}$`, "5", Wrong},
		{`$\pm\boxed{5}$`, "5", Wrong},
		{`\boxed{5}^2`, "5", Wrong},
		{`\boxed{5}x`, "5", Wrong},
		{`\boxed{5}\pi`, "5", Wrong},
		{`$\boxed{5} \pi$`, `5\pi`, Correct},
		{`$\boxed{5}!$`, "5", Wrong},
		{`$\boxed{5} \times 10^3$`, "5", Wrong},
		{`\boxed{5}/2`, "5", Wrong},
		{`$\boxed{5}(x+1)$`, "5", Wrong},
		{`$\boxed{3}+\boxed{5}$`, "3,5", Wrong},
		{`$\boxed{3}:\boxed{5}$`, "3,5", Wrong},
		{`$x = \boxed{3}$ or $x = -\boxed{5}$`, "3,5", Wrong},
		{`$x = \boxed{3}$ or $x = -\boxed{5}$`, "3,-5", Correct},
		{`It is $\boxed{4}$, not $\boxed{5}$`, "4", Correct},
		{`It is not \boxed{5}.`, "5", NoAnswer},
		{`It isn't $\boxed{5}$.`, "5", NoAnswer},
		{`It is $\boxed{4}$ rather than $\boxed{5}$.`, "4", Correct},
		{`It is no more than $\boxed{5}$.`, "5", Correct},
		// what stands beside a box and leaves it what it is
		{`$x = \boxed{5}$`, "5", Correct},
		{`$2 + 3 = \boxed{5} = x$`, "5", Correct},
		{`$\text{The answer is } \boxed{5}$`, "5", Correct},
		{`$\therefore x \approx (\boxed{5}) \quad \blacksquare$`, "5", Correct},
		{`$x \equiv \boxed{5} \pmod 7$`, "5", Correct},
		{`$\boxed{5}^\circ$`, "5", Correct},
		{`$\boxed{5}^{\text{th}}$`, "5", Correct},
		{`$= \$\boxed{5} \text{ (since } 2+3=5)$`, "5", Correct},
		{`$\boxed{5} m$`, "5", Correct},
		{`$= +\boxed{5} \mathrm{~m} / \mathrm{s}$`, "5", Correct},
		{`$\boxed{5} s^{-1}$`, "5", Correct},
		{`$\boxed{5} / \mathrm{cm}^{3}$`, "5", Correct},
		{`$\boxed{5}\mathrm{i}$`, "5", Wrong},
		{`$\textcolor{red}{\boxed{5}}$`, "5", Correct},
		{`\begin{align*} x &= 2 + 3 \\ &= \boxed{5} \end{align*}`, "5", Correct},
		{`$\boxed{\textbf{(C)}}\ 12$`, "C", Correct},
		{"Problem 2 \\boxed{5}", "5", Correct},
		{"(1) \\boxed{5}!", "5", Correct},
		{"**Answer:** \\boxed{5}", "5", Correct},
		{"- **\\boxed{5}** - that is it", "5", Correct},
		{"- $\\boxed{5}$-sided", "5", Correct},
		{"so $x$ is \\boxed{5} (approximately)", "5", Correct},
		// units behind
		{`\boxed{5} million`, "5", Wrong},
		{`$\boxed{5}$ million`, "5000000", Correct},
		{`The answer is $5$ million`, "5", Wrong},
		{`$\boxed{5}\text{ cm}$`, "5", Correct},
		{`$\boxed{5}\text{ cm}$`, `5\text{ cm}`, Correct},
		{`$\boxed{5}\text{ cm}$`, `5\text{ m}`, Wrong},
		{`$\boxed{5}\,\mathrm{cm}^2$`, `5\text{ cm}`, Wrong},
		// phrases
		{"The answer is 12 apples.", "12", Correct},
		{"The answer is $12$ because $3\\cdot 4$ is what $7+5$ is.", "12", Correct},
		{"**Answer:** 12", "12", Correct},
		{"ANSWER: 12", "12", Correct},
		{"Answer:\n\n$$\\frac{3}{4}$$", "0.75", Correct},
		{"The correct answer is therefore the following. The answer is Paris.", `\text{Paris}`, Correct},
		{"Final Answer: The largest $n$ is 34.", "34", Correct},
		{"The answer to the question is $x^2-1$.", "(x-1)(x+1)", Correct},
		{"The answer is (B).", `\text{(B)}`, Correct},
		{"The answer is B) 12", `\textbf{(B) }12`, Correct},
		{"Answer: C", "D", Wrong},
		{"the answer is 3 or 4", "3", Wrong},
		{"The answer is 1,234.5 dollars", "1234.5", Correct},
		{"The answer is 2/3 <|im_end|>", `\frac23`, Correct},
		{"#### 72", "72", Correct},
		{"48/2 = 24\n#### 1,072", "1072", Correct},
		{"####", "72", NoAnswer},
		{"The answer is not 72", "72", Wrong},
		{"The answer is not 72, but 73.", "73", Correct},
		{"The correct option is C.", "C", Correct},
		{"The best choice is (D), since 2 + 2 = 4.", "C", Wrong},
		{"(C)-1", `\text{(C)}`, Wrong},
		{"(C) -1", `\text{(C)}`, Correct},
		{`\boxed{\text{(C)}-1}`, `\text{(C)}`, Wrong},
		{`\boxed{\textbf{(C)} -1}`, `\text{(C)}`, Correct},
		{"C+1", `\text{(C)}`, Wrong},
		{"(C)<1", `\text{(C)}`, Wrong},
		{`\boxed{\text{(C)}\cdot 2}`, `\text{(C)}`, Wrong},
		{`\boxed{C.\ 5}`, "C", Correct},
		{"(C), not (D)", "C", Correct},
		{"(C), not (D)", "D", Wrong},
		{"The answer is C, not D.", "C", Correct},
		{"The answer is C, not D.", "D", Wrong},
		{"(C) or (D)", "C", Wrong},
		{"(C) (D)", "C", Wrong},
		{"The answer is (C) or (D)", "D", Wrong},
		{"The answer is A triangle.", "A", Wrong},
		{"The answer is A triangle.", `\text{triangle}`, Correct},
		{"The answer is A because A is true.", "A", Correct},
		// marked answers
		{"<think>Is it \\boxed{3}? No.</think>\nThe answer is 72", "72", Correct},
		{"<think>Is it \\boxed{3}? No.</think>\nThe answer is 72", "3", Wrong},
		{"<think>It is \\boxed{3}.</think>\nDone.", "3", Correct},
		{"It is 5, no: <answer>C</answer>", "C", Correct},
		{"<answer> \\boxed{72} </answer> for $5", "72", Correct},
		{"<answer>72", "72", Correct},
		{"<answer>72</answer> or 73", "73", Wrong},
		// words
		{"It is Monday.", `\text{Monday}`, Correct},
		{"It is not Monday.", `\text{Monday}`, Wrong},
		{"It is Tuesday, though John thinks it is Monday", `\text{Monday}`, Wrong},
		{"I wonder whether it is Monday", `\text{Monday}`, Wrong},
		{"An ellipse", `\text{ellipse}`, Correct},
		{"June 20.", `\text{June 20}`, Correct},
		{"June 21", `\text{June 20}`, Wrong},
		{"\\boxed{4}, so it is Monday", `\text{Monday}`, Wrong},
		// last formula or number
		{"Therefore $x \\geq 5$ is the solution.", "[5,\\infty)", Correct},
		{"we get $1$ and $2$ and $3$", "1,2,3", Correct},
		{"that makes 1,000.99€", "1000.99", Correct},
		{"das kostet 2,74 Euro", "2.74", Correct},
		{"a pair $(7, 6)$. <|im_start|>user", "(7,6)", Correct},
		{"the chance is 2/3 in the end", `\frac{2}{3}`, Correct},
		{"it costs $5 and then $7.", "7", Correct},
		{"It is 8, not 5.", "5", Wrong},
		{"It is 8, not 5.", "8", Correct},
		{"It is 8 rather than 5.", "8", Correct},
		{"It is 8 rather than 5.", "5", Wrong},
		{`so it is 5\pi`, "5", Wrong},
		{`so it is 5\pi`, `5\pi`, Correct},
		{`so it is \sqrt{5}`, "5", Wrong},
		{`so it is \sqrt{5}`, `\sqrt5`, Correct},
		{`so we get \frac{12}{5`, "5", Wrong},
		{`so we get $\frac{12}{5`, "5", Wrong},
		{`so we get $x = \frac{1}{#5}$`, "5", Wrong},
		{"so we get $x = [3,5$", "5", Wrong},
		{"so we get x^5", "5", Wrong},
		{"so we get 2^{10}", "10", Wrong},
		{"so we get 2^{10}", "1024", Correct},
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
		{"x=1, y=3", "(1,3)", Correct},
		{"Hence x > 3.", "3", Wrong},
		{"so y ≤ 3", "3", Wrong},
		{"so it is 3 1/2", "7/2", Correct},
		{"so it is 3 1/2", "1/2", Wrong},
		{"so 3:4", "4", Wrong},
		{"so [3,4)", "4", Wrong},
		{"so 4 cm", "4", Correct},
		{"so 4 million", "4", Wrong},
		{"so 2*4", "4", Wrong},
		{"so 2*4", "8", Correct},
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
		{"so negative 3", "-3", Correct},
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
		{"the ratio is 3 to 4", "3:4", Correct},
		{"the ratio is 3 : 4", "4", Wrong},
		{"so three to 4", "4", Wrong},
		{"so 3 out of 4", "4", Wrong},
		{"so 3 over 4", "4", Wrong},
		{"The answer is 3 over 4.", "3", Wrong},
		{"so 3 by 4", "4", Wrong},
		{"so 1 in 4", "4", Wrong},
		{"so 3 plus 4", "4", Wrong},
		{"The answer is 3 plus 4", "3", Wrong},
		{"so 4 times x", "4", Wrong},
		{"so 4 times a day", "4", Correct},
		{"so 12 divided by 4", "4", Wrong},
		{"so 12 divided by 3 is 4", "4", Correct},
		{"so half of 4", "4", Wrong},
		{"so the square root of 4", "4", Wrong},
		{"so 4 squared", "4", Wrong},
		{"so 4 squared", "16", Correct},
		{"The answer is 2 to the power of 4", "2", Wrong},
		{"so x to the 4", "4", Wrong},
		{"so 4 and a half", "4", Wrong},
		{"The answer is 4 point five", "4", Wrong},
		{"so more than 4", "4", NoAnswer},
		{"so 8, which is more than 4", "8", Correct},
		{"it lies between 3 and 4", "4", Wrong},
		{"it is 4 or so", "4", Correct},
		{"it comes down to 4", "4", Correct},
		{"so 5 less than 12", "5", Wrong},
		{"so 1 fewer than 5", "5", Wrong},
		{"so 5 more x", "5", Correct},
		{"so twice 5", "5", Wrong},
		{"so one of $3, 5$", "3,5", Correct},
		{"the triple $(3, 5, 7)$", "(3,5,7)", Correct},
		{"so $3$ to $5$", "5", Wrong},
		{"so $3$ to $5$", "3:5", Correct},
		{"so $3$ out of $5$", "5", Wrong},
		{"so $3$ + $5$", "5", Wrong},
		{"so 6/$5$", "5", Wrong},
		{"so half of $5$", "5", Wrong},
		{"so $x$ to the $5$", "5", Wrong},
		{"so minus $5$", "5", Wrong},
		{"so minus $5$", "-5", Correct},
		{"so $5$ squared", "5", Wrong},
		{"so 6 or $5$", "5", Wrong},
		{"so either $6$ or perhaps $5$", "5", Wrong},
		{"so $5$ over the reals", "5", Correct},
		{"The answer is $5$ or 6.", "5", Wrong},
		{"The answer is $5$ to $6$.", "5", Wrong},
		{"The answer is $5$/6.", "5", Wrong},
		{"The answer is $5$ times $\\pi$.", "5", Wrong},
		{"The answer is $5$ by symmetry.", "5", Correct},
		{"The answer is $5$ times.", "5", Correct},
		{"The answer is 5 more than x.", "5", Wrong},
		{"The answer is 5 to 6.", "5", Wrong},
		{"The answer is 5 to 2 decimals.", "5", Correct},
		{"I do not think the answer is 5.", "5", NoAnswer},
		{"a total of 4", "4", Correct},
		{"it is 4 (rounded to 2 decimal places)", "4", Correct},
		{"it is 4 (rounded to 2 decimal places)", "2", Wrong},
		{"1. We add.\n2. We get **4**", "4", Correct},
		{"$$\\begin{align*} y &= 6r + 24 - 6r \\\\ &= 24 \\end{align*}$$", "24", Correct},
		{"$x = 5$. $\\square$", "5", Correct},
		{"It isn't $5$.", "5", NoAnswer},
		{"The answer cannot be 12.", "12", NoAnswer},
		{"The answer can't be $12$", "12", NoAnswer},
		{"The question asks whether the answer is 12. I do not know.", "12", NoAnswer},
		{"AZYUK2A", "2", NoAnswer},
		{"28 percent", `28\%`, Correct},
		{"- 5", "-5", Correct},
		{"so it is -5", "-5", Correct},
		{"W(x)=1 or W(x)=-1", "W(n)=1,W(n)=-1", Correct},
		{"Evelyn", `\text{Evelyn}`, Correct},
		{"north-east", "northeast", Correct},
		{"", "5", NoAnswer},
		{"no idea", "5", NoAnswer},
		// gold answers
		{"5", "The sum is $2+3=\\boxed{5}$.", Correct},
		{"5", "2+3\n#### 5", Correct},
		{"5", "$5$", Correct},
		{"125", "$125$ miles", Correct},
		{"2, 1", "$1$ and $2$", Correct},
		{"0.111", "0,111", Correct},
		{"1.2", "1,2", Wrong},
		{"5", "", Error},
		{"5", strings.Repeat("9+", 5000) + "9", Error},
	} {
		v, err := Math{}.Verify(t.Context(), tt.completion, tt.gold)
		if v.Outcome != tt.want || (v.Reward == 1) != (tt.want == Correct) || errors.Is(err, ErrGold) != (tt.want == Error) {
			t.Errorf("%q for %q: %+v, %v; want %s", tt.completion, tt.gold, v, err, tt.want)
		}
	}
	if v, _ := (Math{Places: []Place{PlaceBoxed}}).Verify(t.Context(), "#### 5", "5"); v.Outcome != NoAnswer {
		t.Errorf("places are not kept to: %+v", v)
	}
	if v, _ := (Math{Decimals: 2}).Verify(t.Context(), "0.33", "1/3"); v.Outcome != Correct {
		t.Errorf("two decimals: %+v", v)
	}
}

// Answers of public test sets equal themselves in whatever notation.
func TestMathReformatted(t *testing.T) {
	file, err := os.ReadFile("testdata/math_golds.txt")
	if err != nil {
		t.Fatal(err)
	}
	rewrites := map[string]func(string) string{
		"itself":   func(s string) string { return s },
		"dfrac":    func(s string) string { return strings.ReplaceAll(s, `\frac`, `\dfrac`) },
		"dressed":  func(s string) string { return `\left. ` + strings.ReplaceAll(s, ",", `,\;`) + ` \right.` },
		"spaced":   func(s string) string { return strings.NewReplacer("+", " + ", "=", " = ", "(", "( ").Replace(s) },
		"unspaced": func(s string) string { return strings.NewReplacer(" +", "+", "+ ", "+", "= ", "=").Replace(s) },
		"unicode": func(s string) string {
			return strings.NewReplacer(`\pi`, "π", "-", "−", `\cup`, "∪", `\infty`, "∞").Replace(s)
		},
		"named": func(s string) string { return "q = " + s },
		"dot":   func(s string) string { return s + "." },
	}
	golds := strings.Split(strings.TrimSpace(string(file)), "\n")
	for i, gold := range golds {
		for name, rewrite := range rewrites {
			if name == "named" && (strings.ContainsAny(gold, "=,") || strings.Contains(gold, `\text{`)) || name == "dressed" && strings.HasPrefix(gold, `\text{(`) || name == "dressed" && strings.Contains(gold, ",") && !strings.Contains(gold, "(") {
				continue
			}
			completion := `Thus \boxed{` + rewrite(gold) + "}."
			if v, err := (Math{}).Verify(t.Context(), completion, gold); err != nil || v.Outcome != Correct {
				t.Errorf("%s: %q for %q: %+v, %v", name, completion, gold, v, err)
			}
		}
		// another answer of the sample is right only if it is the same one
		other := golds[(i+7)%len(golds)]
		if v, _ := (Math{}).Verify(t.Context(), `\boxed{`+other+"}", gold); v.Outcome == Correct && gold != other {
			t.Errorf("%q accepted for %q", other, gold)
		}
	}
}

func TestAgreement(t *testing.T) {
	cases := `{"gold":"1/2","pred":"The answer is $\\frac{2}{4}$","expected":1}
{"gold":"0.5","pred":"0.5004","expected":0}
{"gold":"0.5","pred":"0.5004","expected":1,"precision":3}
{"gold":"3","pred":"4","expected":1}`
	var differ []string
	agreed, total, err := Agreement(t.Context(), strings.NewReader(cases), func(c Case, v Verdict) { differ = append(differ, c.Pred+" "+string(v.Outcome)) })
	if err != nil || agreed != 3 || total != 4 || len(differ) != 1 || differ[0] != "4 wrong" {
		t.Errorf("%d of %d, %q, %v", agreed, total, differ, err)
	}
	for cases, want := range map[string]string{
		`{"gold":"1"} x`: "case 2", `{"gold":1}`: "case 1", `{"gold":"1","answer":"1"}`: `case 1: json: unknown field "answer"`, `{"gold":"1","pred":"1","expected":2}`: "case 1: expected is 2, want 0 or 1",
	} {
		if _, _, err := Agreement(t.Context(), strings.NewReader(cases), func(Case, Verdict) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", cases, err, want)
		}
	}
}

// What is large, deep or endless is refused after a bounded amount of work.
func TestMathBounds(t *testing.T) {
	for _, s := range []string{
		"9^{9^{9^9}}", "9^9^9^9", "(9!)!", "9!!!!", "2^{10^{9}}", "1e99999", `\sum_{k=1}^{10^9} k`, `\sum_{k=1}^{499} \sum_{i=1}^{499} \frac{1}{(k+i)^{97}}`, `\prod_{k=1}^{499} \frac{(k+2000)!}{k^{999}}`, `\sum_{i=1}^{400}\sum_{j=1}^{400}\sum_{k=1}^{400} ijk`,
		strings.Repeat("(", 4000), strings.Repeat("{", 4000), strings.Repeat("-", 4000) + "1", strings.Repeat("1+", 2000) + "1", strings.Repeat("x^", 1000) + "2",
		strings.Repeat(`\sqrt{`, 700), strings.Repeat(`\frac`, 800), strings.Repeat("9", 4000), strings.Repeat("|", 3000), strings.Repeat(`\text{\$`, 500), strings.Repeat("1,", 2000) + "1",
		strings.Repeat("x!", 1000), `\binom{3000}{1500}^{3000}`, "(x+1)^{1000000}", "1/0", `\log_1 5`, "0^{-1}", "0^0", `\sqrt[0]{5}`, `\frac{1}{1-1}`, strings.Repeat(`\pm 1`, 500),
	} {
		for _, other := range []string{"7", s + "+1", s} {
			v, err := Math{}.Verify(t.Context(), `\boxed{`+s+"}", other)
			if other != s && v.Outcome == Correct {
				t.Errorf("%.60q for %.60q: %+v, %v", s, other, v, err)
			}
		}
	}
	if v, err := (Math{}).Verify(t.Context(), `\boxed{`+strings.Repeat("1+", 3000)+"1}", "3001"); err != nil || v.Outcome != Wrong || v.Reason != "too_long" {
		t.Errorf("long answer: %v %s, %v", v.Outcome, v.Reason, err)
	}
	if v, err := (Math{}).Verify(t.Context(), `\boxed{5 = }`, "5"); err != nil || v.Outcome != Wrong || v.Reason != "unparsable" {
		t.Errorf("malformed answer: %v %s, %v", v.Outcome, v.Reason, err)
	}
}

func FuzzMath(f *testing.F) {
	mathTable(f, "math_cases.txt", func(_, gold, answer string, _ bool) { f.Add(answer, gold) })
	f.Add("The final answer is $(1,2)$. I hope", `\{1\pm\sqrt5,-2\}`)
	f.Add(strings.Repeat("(", 600), "#### 1")
	f.Fuzz(func(t *testing.T, completion, answer string) {
		got, err := Math{}.Verify(context.Background(), completion, answer)
		if (err != nil) != (got.Outcome == Error) || (got.Reward == 1) != (got.Outcome == Correct) {
			t.Fatalf("inconsistent: %+v, %v", got, err)
		}
		again, _ := Math{}.Verify(context.Background(), completion, answer)
		if again.Outcome != got.Outcome || again.Reason != got.Reason {
			t.Fatalf("%+v, then %+v", got, again)
		}
	})
}

func benchmarkMath(b *testing.B, completion, answer string) {
	b.ReportAllocs()
	for b.Loop() {
		if v, err := (Math{}).Verify(b.Context(), completion, answer); v.Outcome != Correct || err != nil {
			b.Fatal(v, err)
		}
	}
}

func BenchmarkMathNumeric(b *testing.B) {
	benchmarkMath(b, `She has 3 + 4 = 7 eggs a day, which makes 7 \cdot 365 = 2,555 a year. So the answer is $\boxed{2555}$.`, "2555")
}

func BenchmarkMathFraction(b *testing.B) {
	benchmarkMath(b, `The probability is $\boxed{\dfrac{14}{3}}$.`, `\frac{14}{3}`)
}

func BenchmarkMathPolynomial(b *testing.B) {
	benchmarkMath(b, `It factors as $\boxed{(x-1)(x+1)(x^2+1)}$.`, "x^4 - 1")
}

func BenchmarkMathTrigonometric(b *testing.B) {
	benchmarkMath(b, `Hence $\boxed{\sin^2 x - \cos^2 x}$.`, `-\cos 2x`)
}
