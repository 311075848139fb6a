package reward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestByName(t *testing.T) {
	if !slices.IsSorted(Names()) {
		t.Errorf("Names() = %v, not sorted", Names())
	}
	for _, name := range Names() {
		v, err := ByName(name)
		if err != nil || v == nil {
			t.Errorf("ByName(%q) = %v, %v", name, v, err)
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := v.Verify(ctx, "1", "1"); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: after its context ended: %v", name, err)
		}
	}
	_, err := ByName("telepathy")
	if err == nil || !strings.Contains(err.Error(), "telepathy") || !strings.Contains(err.Error(), "code, countdown, exact, math, numeric") {
		t.Errorf("unknown name: %v", err)
	}
}

func TestExact(t *testing.T) {
	for _, tt := range []struct {
		completion, answer string
		want               Verdict
	}{
		{"385", "385", Verdict{Reward: 1, Outcome: Correct, Extracted: "385"}},
		{" 385\n", "385 ", Verdict{Reward: 1, Outcome: Correct, Extracted: "385"}},
		{"0385", "385", Verdict{Outcome: Wrong, Extracted: "0385"}},
		{"38", "385", Verdict{Outcome: Wrong, Extracted: "38"}},
		{"3855", "385", Verdict{Outcome: Wrong, Extracted: "3855"}},
		{"abc", "Abc", Verdict{Outcome: Wrong, Extracted: "abc"}},
		{" \n", "385", Verdict{Outcome: NoAnswer}},
		{strings.Repeat("é", 500), "1", Verdict{Outcome: Wrong, Extracted: strings.Repeat("é", 128)}},
	} {
		got, err := Exact{}.Verify(t.Context(), tt.completion, tt.answer)
		if err != nil {
			t.Errorf("%q for %q: %v", tt.completion, tt.answer, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q for %q (-want +got):\n%s", tt.completion, tt.answer, diff)
		}
	}
	if got, err := (Exact{}).Verify(t.Context(), "", " "); !errors.Is(err, ErrGold) || got.Outcome != Error {
		t.Errorf("empty gold answer: %v, %v", got, err)
	}
}

func ExampleCountdown() {
	for _, completion := range []string{"(6-3)*8", "First 6-3=3, then 8*3.\n<answer>8 * (6 - 3)</answer>", "3*8", "no way"} {
		v, _ := Countdown{}.Verify(context.Background(), completion, "24:3,4,6,8")
		fmt.Printf("%v %s %q\n", v.Reward, v.Outcome, v.Extracted)
	}
	// Output:
	// 1 correct "(6-3)*8"
	// 1 correct "8*(6-3)"
	// 1 correct "3*8"
	// 0 no_answer ""
}

func TestCountdown(t *testing.T) {
	for _, tt := range []struct {
		completion, answer string
		want               Outcome
	}{
		{"(6-3)*8", "24:3,4,6,8", Correct},
		{"(6-3)*8=24", "24:3,4,6,8", Correct},
		{"(6 − 3) × 8 = 24", "24:3,4,6,8", Correct},
		{`\boxed{(6-3) \times 8}`, "24:3,4,6,8", Correct},
		{"hm\n#### 3*8", "24:3,4,6,8", Correct},
		{"no\n3*8\n", "24: 3, 4, 6, 8", Correct},
		{"8/(3-8/3)", "24:3,3,8,8", Correct}, // needs exact fractions
		{"-(3-27)", "24:3,27", Correct},
		{"6-3=3;3*8=24;(6-3)*8", "24:3,4,6,8", Correct},
		{"1-2-3", "-4:1,2,3", Correct},
		{"8/4/2", "1:2,4,8", Correct},
		{"2+3*4", "14:2,3,4", Correct},
		{"24", "24:3,4,6,8", Wrong},         // not given
		{"(6-3)*8=25", "24:3,4,6,8", Wrong}, // says what is not so
		{"8*3=24=24", "24:3,4,6,8", Wrong},  //
		{"3*8", "25:3,4,6,8", Wrong},        // another target
		{"3+3+3+3*6-3", "24:3,6", Wrong},    // used more often than given
		{"6*4+3-3", "24:3,4,6", Wrong},      //
		{"8*3+", "24:3,8", Wrong},           // not an expression
		{"(8*3", "24:3,8", Wrong},           //
		{"8*3)", "24:3,8", Wrong},           //
		{"8 3", "24:3,8", Wrong},            //
		{"8*x3", "24:3,8", Wrong},           //
		{"8/(3-3)", "24:3,3,8", Wrong},      //
		{"99999999999999", "24:3,8", Wrong}, //
		{strings.Repeat("(", 5000) + "1", "1:1", Wrong},
		{strings.Repeat("(", 100) + "1" + strings.Repeat(")", 100), "1:1", Wrong},
		{strings.Repeat("-", 100) + "1", "1:1", Wrong},
		{"", "24:3,8", NoAnswer},
		{"I give up", "24:3,8", NoAnswer},
		{"<answer></answer>", "24:3,8", NoAnswer},
		{"3*8", "", Error},
		{"3*8", "24", Error},
		{"3*8", "24:", Error},
		{"3*8", "24:3,x", Error},
		{"3*8", "24:3,-8", Error},
		{"3*8", "a:3,8", Error},
		{"3*8", "24:" + strings.Repeat("1,", 40) + "1", Error},
	} {
		got, err := Countdown{}.Verify(t.Context(), tt.completion, tt.answer)
		if got.Outcome != tt.want || (got.Reward == 1) != (tt.want == Correct) || errors.Is(err, ErrGold) != (tt.want == Error) {
			t.Errorf("%q for %q: %+v, %v; want %s", tt.completion, tt.answer, got, err, tt.want)
		}
	}
}

func FuzzCountdown(f *testing.F) {
	f.Add("(6-3)*8=24", "24:3,4,6,8")
	f.Add("<answer>8/(3-8/3)</answer>", "24:3,3,8,8")
	f.Add(strings.Repeat("(", 600), "1:1")
	f.Add(`\boxed{-1×−2}`, "2:1,2")
	f.Fuzz(func(t *testing.T, completion, answer string) {
		got, err := Countdown{}.Verify(context.Background(), completion, answer)
		if (err != nil) != (got.Outcome == Error) || (got.Reward == 1) != (got.Outcome == Correct) {
			t.Fatalf("inconsistent: %+v, %v", got, err)
		}
		if got.Outcome != Correct {
			return
		}
		// what was extracted is an answer too, and only with the numbers that were given
		if again, err := (Countdown{}).Verify(context.Background(), got.Extracted, answer); len(got.Extracted) < maxExtracted && !cmp.Equal(again, got) {
			t.Fatalf("%q: %+v, %v; want %+v", got.Extracted, again, err, got)
		}
	})
}
