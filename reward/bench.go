package reward

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"
)

// Speed is answers a second on one core.
type Speed struct{ Numeric, Symbolic float64 }

// Bench measures [Math] on completions with numbers and on ones with expressions, radicals, tuples, intervals and
// matrices. It takes the best of several rounds, each of which judges every sample, right and wrong ones.
func Bench(ctx context.Context) (Speed, error) {
	numeric, err := benchRound(ctx, [][3]string{
		{"She eats 3 for breakfast and bakes 4, so 16 - 3 - 4 = 9 are left, which makes 9 * 2 = 18 dollars.\n#### 18", "18", "1"},
		{`Adding both, we get $64 + 2491 = 2555$. Thus the answer is $\boxed{2555}$.`, "2555", "1"},
		{`The total is $\boxed{1{,}250}$ dollars.`, "1250", "1"},
		{`The ratio is $\boxed{0.75}$.`, `\frac{3}{4}`, "1"},
		{"Therefore, the answer is 42.", "41", ""},
		{`So $n = \boxed{-17}$.`, "17", ""},
	})
	if err != nil {
		return Speed{}, err
	}
	symbolic, err := benchRound(ctx, [][3]string{
		{`It factors as $\boxed{(x-1)(x+1)(x^2+1)}$.`, "x^4 - 1", "1"},
		{`The length is $\boxed{\sqrt{242}}$.`, `11\sqrt2`, "1"},
		{`The point is $\boxed{\left(3, \frac{1}{2}\pi\right)}$.`, `\left( 3, \frac{\pi}{2} \right)`, "1"},
		{`Hence $x \in \boxed{(12,102)\cup(2,12)}$.`, `(2,12) \cup (12,102)`, "1"},
		{`We find $\boxed{\begin{pmatrix} -1 \\ 2 \end{pmatrix}}$.`, `\begin{pmatrix} -1 \\ 3 \end{pmatrix}`, ""},
		{`This is $\boxed{\frac{9a+11}{20}}$.`, `\frac{11+9a}{20}`, "1"},
		{`The roots are $\boxed{1-\sqrt{19}}$ and $\boxed{1+\sqrt{19}}$.`, `1 \pm \sqrt{19}`, "1"},
		{`The line is $\boxed{2x-y+4=0}$.`, "y = 2x + 3", ""},
		{`We get $\boxed{6+5i}$.`, "6 - 5i", ""},
		{`So $\boxed{2\sin b\cos a}$.`, `2 \cos a \sin b`, "1"},
	})
	return Speed{Numeric: numeric, Symbolic: symbolic}, err
}

// benchRound returns the answers a second of samples: completion, gold answer, and "1" where that is right.
func benchRound(ctx context.Context, samples [][3]string) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := 0.0
	for range 20 {
		const repeat = 200
		start := time.Now()
		for range repeat {
			for _, s := range samples {
				v, err := Math{}.Verify(ctx, s[0], s[1])
				if err != nil {
					return 0, err
				}
				if (v.Outcome == Correct) != (s[2] == "1") {
					return 0, fmt.Errorf("%q for %q is judged %s", s[0], s[1], v.Outcome)
				}
			}
		}
		best = max(best, float64(repeat*len(samples))/time.Since(start).Seconds())
	}
	return best, nil
}

// Case is a case of another verifier's suite.
type Case struct {
	Gold      string `json:"gold"`
	Pred      string `json:"pred"`      // what is judged
	Expected  int    `json:"expected"`  // 1: the other accepts it, 0: it does not
	Precision int    `json:"precision"` // decimals, as [Math.Decimals]
}

// Agreement judges the cases that r has, JSON objects one after the other, by [Math]
// and counts those whose verdict is the expected one. differ is told of the others.
func Agreement(ctx context.Context, r io.Reader, differ func(Case, Verdict)) (agreed, total int, err error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	for d.More() {
		total++
		var c Case
		if err := d.Decode(&c); err != nil {
			return agreed, total, fmt.Errorf("case %d: %w", total, err)
		}
		if c.Expected != 0 && c.Expected != 1 {
			return agreed, total, fmt.Errorf("case %d: expected is %d, want 0 or 1", total, c.Expected)
		}
		v, err := Math{Decimals: c.Precision}.Verify(ctx, c.Pred, c.Gold)
		if err != nil {
			return agreed, total, fmt.Errorf("case %d: %w", total, err)
		}
		if (v.Outcome == Correct) == (c.Expected == 1) {
			agreed++
		} else {
			differ(c, v)
		}
	}
	return agreed, total, nil
}
