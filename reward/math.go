package reward

import (
	"context"
	"strings"
)

// Math compares mathematical answers as a person would: by what they mean, not by how they are written.
//
// Where the answer stands in a completion is told by Places, see [Place]; the first place that has one decides.
// The gold answer may be the bare answer, a formula between dollars, or a worked solution with a \boxed answer or a
// line of ####.
//
// Two answers are equal under these rules:
//
//   - numbers: as exact rationals, in any notation: thousands separators, 1.5\times 10^3, 1e3, 3\frac{1}{2}, \frac12, 1/2,
//     0.\overline{3}, 5!, \binom{5}{2}. In plain text 2,74 may be a decimal. When one side was written as a decimal, the
//     two must agree when rounded to Places decimals (6) and within 1/10000: 0.333333 is 1/3, 0.333 is not.
//   - p% is p/100, and not p. Currency signs, degrees and units are passed over, but 5 cm is not 5 m, nor \$5 5 cents, nor
//     5 million 5.
//   - constants with π, e, i, radicals, logarithms and trigonometry: by value, to 90 digits where roots, π and e make
//     them up and to 9 digits otherwise; √2 is 1.414214 but not 1.41.
//   - expressions with variables: by value at random points that depend on nothing but the names of the variables;
//     exactly (modulo a prime) where they are rational functions, else as complex numbers at points of either sign, so
//     that \sqrt{x^2} is not x. Letters matter in their case.
//   - (1,2) is a point or an open interval, and its order and brackets matter. \{1,2\} and a list 1,2 are sets: order
//     and repetition do not matter. A list may stand for a tuple in its order, \{1,2\} may not. 1\pm\sqrt2 are two answers.
//   - sets of reals: intervals, unions, intersections, differences, \mathbb{R}, and inequalities, with each other. An
//     interval that is closed at infinity is none.
//   - equations: x = 5 is 5; y = 2x+1 is 4x-2y+2 = 0, up to a factor; but 5 is no answer to 2x+z = 5.
//   - matrices: entry by entry, after sums and products; a column may be written as a tuple.
//   - 204_5: digit by digit, where the answer may leave out the base.
//   - words: without regard to case and spaces. (C), \textbf{(C)} 12, C and (C), not (D) are the choice C; (C)-1 is not.
//
// Whatever else cannot be read is compared as a string without LaTeX's spacing and fonts; if that fails the verdict is
// Wrong for the reason unparsable. An answer beyond 4096 bytes is too_long. All bounds are on bytes, nodes and
// operations, never on time. Verdict.Extracted is the answer as it was written.
type Math struct {
	Places   []Place // where to look for the answer, in order; nil = DefaultPlaces
	Decimals int     // decimals to which a decimal answer must agree; 0 = 6
}

// Verify implements [Verifier].
func (m Math) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	gold, ok := goldStated(answer)
	if !ok || len(gold.text) > maxMathBytes {
		return failed(goldError("math", answer, "an answer of at most 4096 bytes"))
	}
	if t := strings.TrimSpace(completion); t == strings.TrimSpace(answer) {
		return judge(true, t), nil
	}
	places := m.Places
	if places == nil {
		places = DefaultPlaces
	}
	got, place, ok := findStated(completion, places)
	if isTextGold(gold.text) && len(completion) <= maxWhole && (!ok || place == PlaceText || place == PlaceLast) {
		if t := strings.TrimSpace(completion); t != "" && m.saysWords(gold, t) {
			return judge(true, t), nil
		} else if !ok {
			got, ok = stated{text: t, plain: true}, true
		}
	}
	switch {
	case !ok || got.text == "":
		return Verdict{Outcome: NoAnswer, Reason: "no_answer"}, nil
	case len(got.text) > maxMathBytes:
		v := judge(false, got.text)
		v.Reason = "too_long"
		return v, nil
	}
	right, reason := m.equal(gold, got)
	if !right && got.units != "" {
		right, reason = m.equal(gold, stated{text: got.text + got.units})
	}
	if !right && isTextGold(gold.text) && m.equalWords(gold, plainWords(got.text)) {
		right, reason = true, ""
	}
	v := judge(right, got.text)
	v.Reason = reason
	return v, nil
}

// saysWords reports whether a short text is the words of a gold answer, or states of one thing that it "is" them.
func (m Math) saysWords(gold stated, text string) bool {
	text = strings.Trim(text, " .*_`\n")
	if m.equalWords(gold, plainWords(text)) {
		return true
	}
	before, after, ok := strings.Cut(text, " is ")
	return ok && !strings.Contains(after, " is ") && !isDenied(before) && m.equalWords(gold, plainWords(after))
}

func (m Math) equalWords(gold stated, words string) bool {
	if words == "" {
		return false
	}
	right, _ := m.equal(gold, stated{text: `\text{` + words + "}"})
	return right
}

// plainWords returns s without an article before it and without emphasis, or "" if it is more than words.
func plainWords(s string) string {
	s = strings.Trim(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), `\text{`), "}"), " .*_`")
	for _, article := range [...]string{"a ", "an ", "the "} {
		if len(s) > len(article) && strings.EqualFold(s[:len(article)], article) {
			s = s[len(article):]
			break
		}
	}
	if strings.ContainsAny(s, `\${}^=<>|[]`) {
		return ""
	}
	return s
}

// Equal reports whether two answers, without any text around them, are equal.
func (m Math) Equal(gold, answer string) bool {
	if len(gold) > maxMathBytes || len(answer) > maxMathBytes {
		return false
	}
	right, _ := m.equal(stated{text: gold, plain: true}, stated{text: answer, plain: true})
	return right
}

// goldStated finds the answer in a gold answer.
func goldStated(answer string) (stated, bool) {
	if strings.Contains(answer, "boxed") {
		if b, ok := boxedGroup(answer); ok {
			return stated{text: withUnit(b.content, answer[b.end:])}, true
		}
		if i := strings.LastIndex(answer, `\boxed{`); i >= 0 { // cut off
			return stated{text: strings.Trim(firstLine(answer[i+len(`\boxed{`):]), " $}")}, true
		}
	}
	if text, ok := afterHashes(answer); ok {
		return stated{text: strings.TrimSpace(text), plain: true}, text != ""
	}
	t := strings.TrimSpace(answer)
	if t == "" {
		return stated{}, false
	}
	marked := strings.Contains(t, "$") || strings.Contains(t, `\(`) || strings.Contains(t, `\[`)
	if !marked {
		return stated{text: t, plain: true}, true
	}
	if n, ok := parseMath(t[:min(len(t), maxMathBytes)], false); ok && len(t) <= maxWhole && n.op != opText {
		return stated{text: t}, true
	}
	if s, ok := lastFormula(t); ok && len(t) > maxWhole/4 {
		return s, true
	}
	return stated{text: t}, true
}

// isTextGold reports whether a gold answer is words, which no place but the whole text would find.
func isTextGold(s string) bool {
	n, ok := parseMath(s, false)
	return ok && n.op == opText || !strings.ContainsAny(s, `0123456789\^_=`) && len(s) > 2
}

// equal compares two answers. The reason says why an answer that is not equal may not have been understood.
func (m Math) equal(gold, got stated) (right bool, reason string) {
	if g, ok := simpleNumber(gold.text); ok {
		if v, ok := simpleNumber(got.text); ok {
			if g == v {
				return true, ""
			}
			if g.scale == 1 && v.scale == 1 {
				return false, ""
			}
		}
	}
	g, p := squeeze(gold.text), squeeze(got.text)
	if g == p && g != "" {
		return true, ""
	}
	if letter, rest, ok := choice(gold.text); ok {
		if other, _, ok := choice(got.text); ok {
			return letter == other, ""
		}
		if rest == "" {
			return false, ""
		}
		gold.text = rest
	} else if _, rest, ok := choice(got.text); ok && rest != "" {
		got.text = rest
	}
	a, ok := m.read(gold.text, false)
	b, fine := m.read(got.text, false)
	if ok && fine && m.compare(a, b) {
		return true, ""
	}
	if goldComma := gold.plain && isDecimalComma(gold.text); goldComma || got.plain && hasComma(got.text) {
		a2, ok2 := m.read(gold.text, goldComma)
		b2, fine2 := m.read(got.text, got.plain)
		if ok2 && fine2 && m.compare(a2, b2) {
			return true, ""
		}
	}
	if ok && fine && !isText(a) {
		return false, ""
	}
	if (!ok || isText(a)) && strings.EqualFold(letters(g), letters(p)) && !strings.ContainsAny(g+p, "0123456789+*/^=<>()[]") && letters(g) != "" {
		return true, ""
	}
	switch {
	case ok && fine:
		return false, ""
	case !fine:
		return false, "unparsable"
	}
	return false, "gold_unparsable"
}

func (m Math) read(s string, decimalComma bool) (*node, bool) {
	s = strings.TrimSpace(s)
	if t := strings.TrimRight(s, "."); !strings.HasSuffix(strings.TrimSpace(t), ",") { // "7, …" goes on
		s = t
	}
	s = strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(s, `\approx`), "≈"), "= ")
	n, ok := parseMath(s, decimalComma)
	if !ok {
		return nil, false
	}
	if (n.op <= opFunc || n.op == opUnit) && strings.Contains(s, `\$`) {
		n = &node{op: opUnit, name: "dollars", args: []*node{n}}
	}
	return expandSigns(n), true
}

func (m Math) compare(g, p *node) bool {
	c := comparison{places: m.Decimals}
	if c.places == 0 {
		c.places = 6
	}
	return c.equal(g, p)
}

// simple is a number that is written as digits with at most one point.
type simple struct {
	mantissa, scale int64
}

// simpleNumber reads the numbers that most answers are, without any allocation.
func simpleNumber(s string) (v simple, ok bool) {
	negative := strings.HasPrefix(s, "-")
	if negative {
		s = s[1:]
	}
	n := countDigits(s)
	if n == 0 || n > 12 {
		return v, false
	}
	v = simple{accumulate(0, s[:n]), 1}
	if s = s[n:]; s != "" {
		if s[0] != '.' || countDigits(s[1:]) != len(s)-1 || len(s) > 6 || len(s) == 1 {
			return v, false
		}
		v.mantissa = v.mantissa*pow10(len(s)-1) + accumulate(0, s[1:])
		v.scale = pow10(len(s) - 1)
		for v.scale > 1 && v.mantissa%10 == 0 {
			v.mantissa, v.scale = v.mantissa/10, v.scale/10
		}
	}
	if negative {
		v.mantissa = -v.mantissa
	}
	return v, true
}

// squeezer drops what changes the look of a formula only.
var squeezer = strings.NewReplacer(" ", "", "\n", "", "\t", "", `\left`, "", `\right`, "", `\!`, "", `\,`, "", `\;`, "", `\:`, "", `\ `, "", `\quad`, "", "$", "", `\dfrac`, `\frac`, `\tfrac`, `\frac`,
	`\text`, "", `\textbf`, "", `\mathrm`, "", `\mbox`, "", `\displaystyle`, "", `\%`, "%")

// squeeze returns s without them, unless they part two numbers: 2 1/2 is not 21/2.
func squeeze(s string) string {
	for i := 1; i < len(s); i++ {
		if isDigit(s[i]) && (s[i-1] == ' ' || i > 1 && s[i-2] == '\\') && isDigit(lastBefore(s[:i])) {
			return s
		}
	}
	return strings.TrimRight(squeezer.Replace(s), ".")
}

// lastBefore returns the last byte of s before white space, or 0.
func lastBefore(s string) byte {
	for s != "" {
		switch n := len(s); {
		case n > 1 && s[n-2] == '\\' && strings.IndexByte(",;:! ", s[n-1]) >= 0:
			s = s[:n-2]
		case s[n-1] == ' ':
			s = s[:n-1]
		case s[n-1] == 'd' && (strings.HasSuffix(s, `\quad`) || strings.HasSuffix(s, `\qquad`)):
			s = s[:strings.LastIndexByte(s, '\\')]
		default:
			return s[n-1]
		}
	}
	return 0
}

func hasComma(s string) bool {
	i := strings.IndexByte(s, ',')
	return i > 0 && i+1 < len(s) && isDigit(s[i-1]) && isDigit(s[i+1])
}

// isDecimalComma reports whether a gold answer is one number with a decimal comma, rather than a list of two: 0,5 and
// 1000,99 but not 1,2.
func isDecimalComma(s string) bool {
	s = strings.TrimLeft(s, "-")
	whole, fraction, ok := strings.Cut(s, ",")
	if !ok || whole == "" || fraction == "" || countDigits(whole) != len(whole) || countDigits(fraction) != len(fraction) {
		return false
	}
	return whole == "0" || len(fraction) == 2 || len(fraction) > 3
}

// choice reads the letter of a multiple choice, and what stands behind it: "(C)", "\textbf{(C) } 12", "C. 12", "C".
func choice(s string) (letter byte, rest string, ok bool) {
	t := strings.TrimLeft(s, " $*")
	if strings.HasPrefix(t, "{") && strings.HasSuffix(t, "}") {
		t = t[1 : len(t)-1]
	}
	for _, word := range [...]string{"Option ", "option ", "Choice ", "choice "} {
		t = strings.TrimPrefix(t, word)
	}
	for _, command := range [...]string{`\textbf`, `\text`, `\mathbf`, `\mathrm`, `\textrm`, `\mbox`, `\bf`, `\boxed`} {
		if after, ok := strings.CutPrefix(t, command); ok {
			t = strings.TrimLeft(after, " ")
			break
		}
	}
	t, braced := strings.CutPrefix(t, "{")
	t, paren := strings.CutPrefix(strings.TrimLeft(t, " "), "(")
	t = strings.TrimLeft(t, " ")
	if len(t) > 1 && paren && t[1] == ')' && 'a' <= t[0] && t[0] <= 'j' {
		t = string(t[0]-'a'+'A') + t[1:]
	}
	if t == "" || t[0] < 'A' || t[0] > 'J' {
		return 0, "", false
	}
	letter, t = t[0], strings.TrimLeft(t[1:], " ~")
	closed := false
	if after, ok := strings.CutPrefix(t, ")"); ok {
		t, closed = after, true
	}
	marked := closed
	if t != "" && (t[0] == '.' || t[0] == ':') && (len(t) == 1 || strings.IndexByte(` }*\`, t[1]) >= 0) {
		t, marked = t[1:], true
	}
	if paren && !closed {
		return 0, "", false
	}
	spaced := t != strings.TrimLeft(t, ` ~\`)
	t = strings.TrimLeft(t, " ~")
	if braced {
		if after, ok := strings.CutPrefix(t, "}"); ok {
			t, spaced = after, spaced || after != strings.TrimLeft(after, ` ~\`)
		} else if paren {
			t = strings.TrimSuffix(t, "}")
		}
	}
	rest = strings.Trim(t, " ~.$*:\\")
	if strings.HasPrefix(strings.TrimLeft(t, " ~"), `\`) && rest != "" {
		rest = strings.Trim(t, " ~.$*:")
	}
	if rest == "" {
		return letter, "", true
	}
	if after, ok := strings.CutPrefix(strings.TrimLeft(rest, ",; "), "not "); ok { // (C), not (D)
		_, other, ok := choice(strings.TrimRight(after, "}"))
		return letter, "", ok && other == ""
	}
	if isAlternative(rest) {
		return 0, "", false
	}
	operators := "(+-*/^=,!<>"
	if spaced {
		operators = "+*/^=<>"
	}
	if !marked || paren && (strings.IndexByte(operators, rest[0]) >= 0 || strings.HasPrefix(rest, `\cdot`) || strings.HasPrefix(rest, `\times`)) {
		return 0, "", false
	}
	return letter, rest, true
}

// isAlternative reports whether what stands behind a choice names another: ", (D)", "or D".
func isAlternative(rest string) bool {
	t := strings.TrimLeft(rest, " ,;&/")
	word, _, _ := strings.Cut(strings.TrimLeft(strings.TrimPrefix(t, `\text`), "{ ~"), " ")
	switch strings.Trim(strings.ToLower(word), "}") {
	case "or", "and", "nor":
		return true
	}
	_, _, ok := choice(t)
	return ok && (len(t) < len(rest) || t[0] == '(')
}

// expandSigns replaces a ± b by the list a + b, a − b. All signs of an expression go together.
func expandSigns(n *node) *node {
	if !hasSigns(n) {
		return n
	}
	switch n.op {
	case opList, opSet:
		out := *n
		out.args = nil
		for _, a := range n.args {
			if e := expandSigns(a); e != a && e.op == opList {
				out.args = append(out.args, e.args...)
			} else {
				out.args = append(out.args, e)
			}
		}
		return &out
	}
	return &node{op: opList, args: []*node{withSign(n, false), withSign(n, true)}}
}

func hasSigns(n *node) bool {
	if n.op == opPM {
		return true
	}
	for _, a := range n.args {
		if hasSigns(a) {
			return true
		}
	}
	return false
}

func withSign(n *node, negative bool) *node {
	if len(n.args) == 0 {
		return n
	}
	out := *n
	out.args = make([]*node, len(n.args))
	for i, a := range n.args {
		out.args[i] = withSign(a, negative)
	}
	if n.op != opPM {
		return &out
	}
	last := len(out.args) - 1
	if negative != (n.name == "-") {
		out.args[last] = &node{op: opNeg, args: []*node{out.args[last]}}
	}
	if last == 0 {
		return out.args[0]
	}
	return &node{op: opAdd, args: out.args}
}
