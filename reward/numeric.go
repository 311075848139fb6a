package reward

import (
	"context"
	"strings"
)

// Numeric compares the number that a completion ends with to the gold answer, as exact rationals.
//
// The number is looked for in this order, and the first place that is there decides:
//
//  1. the last \boxed{…} whose braces balance, with those that a comma or a word joins to it, or the formula of which it is
//     a part
//  2. the line after the last ####
//  3. the sentence after the last "answer is" or "answer:", in any case, if it holds a digit
//  4. the whole text, if it is short and states one number
//  5. the last formula of the text with a number in it, if the text does not say that it is not so
//
// All must state one number: \boxed{5 6}, \boxed{2\pi}, -\boxed{7}, "the answer is 3 or 4", "3 to 4" and "so it is 9 - 5"
// are wrong answers, not 56, 2, 7, 3, 4 and 5. A text without any number, and an empty box or line, is no answer.
//
// A number is an integer or a decimal with an optional sign (also U+2212), thousands separators (comma, {,}, \, or a
// thin space between groups of three), an exponent (1e5, 1.5×10^{5}), a fraction (a/b, \frac{a}{b}), a mixed number
// (2 1/2, 2\frac{1}{2}), or one of these with a magnitude (2.5 million). Currency signs, trailing units and full stops
// are passed over. p% has the value p/100; where only one side has the sign it may also be read as a unit that the
// other left out: 50 and 0.5 both answer 50%, and 50% answers both 0.5 and 50 (not 0.5% for 0.5: a bare gold answer
// takes the sign as a unit only beyond ±1). Beyond 200 digits or a power of ten of 200 a text is not a number.
//
// The gold answer is read the same way, from its \boxed{…} or #### if it has one, so that a whole worked solution of
// GSM8K can serve. Verdict.Extracted is the number in lowest terms, such as 1000 or 1/2, or the text that was none.
type Numeric struct{}

// Verify implements [Verifier].
func (Numeric) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	gold, ok := readGold(answer)
	if !ok {
		return failed(goldError("numeric", answer, "one number"))
	}
	place := findAnswer(completion)
	if place.kind == noPlace {
		if len(completion) <= 2*maxDigits {
			if v, ok := parseSpan(completion, false); ok {
				return judge(v.matches(&gold), v.value.RatString()), nil
			}
		}
		s, ok := lastRun(completion)
		if !ok {
			return Verdict{Outcome: NoAnswer}, nil
		}
		place.text = s.text
	}
	text := strings.TrimSpace(place.text)
	if text == "" {
		return Verdict{Outcome: NoAnswer}, nil
	}
	v, ok := parseSpan(text, place.kind == sentence)
	if !ok {
		return judge(false, text), nil
	}
	return judge(v.matches(&gold), v.value.RatString()), nil
}

// readGold reads a gold answer: a number, or a worked solution that marks one.
func readGold(answer string) (number, bool) {
	if text, ok := boxedText(answer); ok {
		return parseSpan(text, false)
	}
	if text, ok := afterHashes(answer); ok {
		return parseSpan(text, false)
	}
	return parseSpan(answer, false)
}

// placeKind says how a completion marks its answer.
type placeKind int

const (
	noPlace placeKind = iota
	marked
	sentence
)

// place is the stretch of a completion that its author marked as the answer.
type place struct {
	kind placeKind
	text string
}

func findAnswer(text string) place {
	if b, ok := lastBoxes(text); ok {
		if f, ok := b.formula(text); ok {
			return place{marked, f}
		}
		if inner, ok := boxedText(b.content); ok {
			b.content = inner
		}
		if strings.HasSuffix(b.content, "!") { // a factorial, which is no number in digits
			return place{marked, text[b.start:b.end]}
		}
		unit := unitBehind(b.content, text[b.end:])
		if _, _, ok := scanMagnitude(normalise(unit)); ok || unit == `\%` {
			b.content += unit
		}
		return place{marked, b.content}
	}
	if t, ok := afterHashes(text); ok {
		return place{marked, t}
	}
	if t, ok := afterAnswerIs(text); ok {
		return place{sentence, t}
	}
	return place{}
}

// boxedText returns the content of the last boxes, without the boxes inside them.
func boxedText(text string) (content string, ok bool) {
	for range maxMathDepth {
		b, fine := boxedGroup(text)
		if !fine {
			break
		}
		content, text, ok = b.content, b.content, true
	}
	return content, ok
}

// afterHashes returns the line after the last ####, or the one below when that is blank.
func afterHashes(text string) (string, bool) {
	if !strings.Contains(text, "####") { // forwards, which is faster
		return "", false
	}
	i := strings.LastIndex(text, "####")
	return firstLine(text[i+len("####"):]), true
}

// firstLine returns the first line of text that is not blank.
func firstLine(text string) string {
	text = strings.TrimLeft(text, " \t\r\n")
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		return text[:i]
	}
	return text
}

// afterAnswerIs returns the rest of the sentence after the last "answer is" or "answer:", if it holds a digit.
func afterAnswerIs(text string) (string, bool) {
	const word = "answer"
	for end := len(text); ; {
		i := strings.LastIndexAny(text[:end], "rR")
		if i < 0 {
			return "", false
		}
		end = i
		if start := i + 1 - len(word); start < 0 || !strings.EqualFold(text[start:i+1], word) || isDenied(text[:start]) {
			continue
		}
		rest := strings.TrimLeft(text[i+1:], " *_`")
		switch {
		case strings.HasPrefix(rest, ":"):
			rest = rest[1:]
		case len(rest) > 2 && strings.EqualFold(rest[:2], "is") && !isASCIILetter(rest[2]):
			rest = strings.TrimLeft(rest[2:], " :")
		default:
			continue
		}
		rest = firstLine(strings.TrimLeft(rest, "*_` \n"))
		if i := strings.Index(rest, ". "); i >= 0 {
			rest = rest[:i]
		}
		return rest, strings.ContainsAny(rest, "0123456789")
	}
}
