package reward

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Composite adds weighted terms up. Each is kept by its name in Verdict.Parts, before its weight. The outcome, the
// extracted answer and the reason are those of the first term that has a verifier; without one the outcome is Correct
// where the sum is above 0.
//
// When a verifier fails, so does the composite: a reward that lacks a term would be another reward.
type Composite struct {
	Terms []Term
}

// Term is one addend: what Verifier rewards, or what Shape makes of the completion. One of the two is set.
type Term struct {
	Name     string
	Weight   float64
	Verifier Verifier
	Shape    Shape
}

// Shape values a completion by its look, knowing whether it was judged correct by the first verifier.
type Shape interface {
	Value(completion string, correct bool) float64
}

// Verify implements [Verifier].
func (c Composite) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	if len(c.Terms) == 0 {
		return failed(errors.New("composite: no terms"))
	}
	values := make([]float64, len(c.Terms))
	var first *Verdict
	var inner []Part
	for i, t := range c.Terms {
		if t.Verifier == nil {
			continue
		}
		v, err := t.Verifier.Verify(ctx, completion, answer)
		if err != nil {
			return failed(fmt.Errorf("composite: %s: %w", t.Name, err))
		}
		values[i] = v.Reward
		if first == nil {
			first = &v
		}
		for _, p := range v.Parts {
			inner = append(inner, Part{t.Name + "." + p.Name, p.Value})
		}
	}
	correct := first != nil && first.Outcome == Correct
	sum := 0.0
	parts := make([]Part, 0, len(c.Terms)+len(inner))
	for i, t := range c.Terms {
		if t.Shape != nil {
			values[i] = t.Shape.Value(completion, correct)
		}
		sum += t.Weight * values[i]
		parts = append(parts, Part{t.Name, values[i]})
	}
	if first == nil {
		v := judge(sum > 0, "")
		first = &v
	}
	first.Reward, first.Parts = sum, append(parts, inner...)
	return *first, nil
}

// Format is 1 for a completion that Pattern matches somewhere, and 0 for others. Go's patterns take time linear in the
// text.
type Format struct{ Pattern *regexp.Regexp }

// Value implements [Shape].
func (f Format) Value(completion string, _ bool) float64 {
	return float64(b2i(f.Pattern.MatchString(completion)))
}

// Count is how many stretches of a completion Pattern matches. With a weight below zero it makes tool calls cost.
type Count struct{ Pattern *regexp.Regexp }

// Value implements [Shape].
func (c Count) Value(completion string, _ bool) float64 {
	return float64(len(c.Pattern.FindAllStringIndex(completion, -1)))
}

// Unit is what lengths are counted in.
type Unit string

// The units. Tokens are those of a policy, which a verifier does not know: a token of English is near 4 characters.
const (
	Characters Unit = "characters"
	Words      Unit = "words"
)

func (u Unit) count(s string) float64 {
	if u == Words {
		n := 0
		for range strings.FieldsSeq(s) {
			n++
		}
		return float64(n)
	}
	return float64(utf8.RuneCountInString(s))
}

// Length is 1 for an empty completion and falls to 0 at Max.
type Length struct {
	Max  float64
	Unit Unit
}

// Value implements [Shape].
func (l Length) Value(completion string, _ bool) float64 {
	return max(0, 1-l.Unit.count(completion)/l.Max)
}

// CosineLength is the reward of Yeo et al., Demystifying Long Chain-of-Thought Reasoning in LLMs (2025), section 4:
//
//	end + ½ (start − end) (1 + cos(π L / Max))
//
// from CorrectShort to CorrectLong for a correct completion, and from WrongShort to WrongLong for a wrong one; and
// Exceeded for one of Max or more.
type CosineLength struct {
	Max          float64
	Unit         Unit
	CorrectShort float64 `json:"correct_short"`
	CorrectLong  float64 `json:"correct_long"`
	WrongShort   float64 `json:"wrong_short"`
	WrongLong    float64 `json:"wrong_long"`
	Exceeded     float64
}

// Value implements [Shape].
func (c CosineLength) Value(completion string, correct bool) float64 {
	length := c.Unit.count(completion)
	if length >= c.Max {
		return c.Exceeded
	}
	start, end := c.WrongShort, c.WrongLong
	if correct {
		start, end = c.CorrectShort, c.CorrectLong
	}
	return end + (start-end)*(1+math.Cos(math.Pi*length/c.Max))/2
}

// Overlong is the soft penalty of Yu et al., DAPO (2025), equation 13: 0 up to Max − Buffer, then falling to −1 at Max,
// and −1 beyond.
type Overlong struct {
	Max, Buffer float64
	Unit        Unit
}

// Value implements [Shape].
func (o Overlong) Value(completion string, _ bool) float64 {
	over := o.Unit.count(completion) - (o.Max - o.Buffer)
	switch {
	case over <= 0:
		return 0
	case over >= o.Buffer:
		return -1
	}
	return -over / o.Buffer
}
