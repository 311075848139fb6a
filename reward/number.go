package reward

import (
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on what is read as a number. They keep every comparison within microseconds: 1e400000000 is text.
const (
	maxDigits   = 200  // significant and leading digits of one decimal
	maxExponent = 200  // absolute power of ten
	maxSpan     = 1024 // bytes of a stretch of text that is read as one number with its unit
)

// number is an exact rational and whether it was written as a percentage. A percentage p% has the value p/100.
type number struct {
	value   big.Rat
	percent bool
}

// decimal is the text of an unsigned decimal: digits with thousands commas, fraction, power of ten.
type decimal struct {
	digits, fraction string
	exponent         int
}

func (d decimal) isInteger() bool { return d.fraction == "" && d.exponent == 0 }

// numeral is the text of a number taken apart, before any arithmetic is done on it.
//
//	± (whole + top/bottom) · 10^scale, as a percentage or not
type numeral struct {
	whole, top, bottom decimal
	negative           bool
	mixed, divided     bool // whole, bottom are there
	percent            bool
	scale              int
}

// scanNumeral reads the longest number that s starts with and returns what follows it. s must be normalised.
func scanNumeral(s string) (n numeral, rest string, ok bool) {
	s, n.negative = skipSign(s)
	if strings.HasPrefix(s, `\frac`) {
		if n.top, n.bottom, n.negative, s, ok = scanFrac(s, n.negative); !ok {
			return n, s, false
		}
		n.divided = true
	} else {
		if n.top, s, ok = scanDecimal(s); !ok {
			return n, s, false
		}
		s = n.scanFraction(s)
	}
	if power, after, ok := scanPowerOfTen(s); ok {
		n.scale, s = n.scale+power, after
	}
	if power, after, ok := scanMagnitude(s); ok {
		n.scale, s = n.scale+power, after
	}
	t := strings.TrimLeft(s, " ")
	if after, ok := strings.CutPrefix(t, "%"); ok {
		n.percent, s = true, after
	} else if after, ok := strings.CutPrefix(t, "percent"); ok && !startsWithLetter(after) {
		n.percent, s = true, after
	}
	return n, s, true
}

// scanFraction reads what may follow a decimal: "/4", " 3/4" or "\frac{3}{4}".
func (n *numeral) scanFraction(s string) string {
	t := strings.TrimLeft(s, " ")
	if after, ok := strings.CutPrefix(t, "/"); ok {
		if bottom, rest, ok := scanDecimal(strings.TrimLeft(after, " ")); ok {
			n.bottom, n.divided = bottom, true
			return rest
		}
		return s
	}
	if !n.top.isInteger() {
		return s
	}
	if strings.HasPrefix(t, `\frac`) {
		if top, bottom, negative, rest, ok := scanFrac(t, false); ok && !negative {
			n.whole, n.top, n.bottom, n.mixed, n.divided = n.top, top, bottom, true, true
			return rest
		}
		return s
	}
	if t == s { // "2 3/4" needs its space
		return s
	}
	if top, after, ok := scanDecimal(t); ok && top.isInteger() && strings.HasPrefix(after, "/") {
		if bottom, rest, ok := scanDecimal(after[1:]); ok && bottom.isInteger() {
			n.whole, n.top, n.bottom, n.mixed, n.divided = n.top, top, bottom, true, true
			return rest
		}
	}
	return s
}

// skipSign reads signs and a currency in either order: "-$5", "$-5", "+5", "€ 5".
func skipSign(s string) (rest string, negative bool) {
	for range 4 { // sign, space, currency, space
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == '-' && !negative:
			negative = true
		case r == '+' || r == ' ' || isCurrency(r):
		default:
			return s, negative
		}
		s = s[size:]
	}
	return s, negative
}

// scanFrac reads \frac{a}{b} or \frac ab; the numerator may have a sign.
func scanFrac(s string, negative bool) (top, bottom decimal, neg bool, rest string, ok bool) {
	rest = s[len(`\frac`):]
	var parts [2]decimal
	for i := range parts {
		rest = strings.TrimLeft(rest, " ")
		if !strings.HasPrefix(rest, "{") {
			if rest == "" || !isDigit(rest[0]) {
				return top, bottom, negative, s, false
			}
			parts[i], rest = decimal{digits: rest[:1]}, rest[1:]
			continue
		}
		rest = strings.TrimLeft(rest[1:], " ")
		if i == 0 && strings.HasPrefix(rest, "-") {
			negative, rest = !negative, rest[1:]
		}
		if parts[i], rest, ok = scanDecimal(rest); !ok {
			return top, bottom, negative, s, false
		}
		if rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " "), "}"); !ok {
			return top, bottom, negative, s, false
		}
	}
	return parts[0], parts[1], negative, rest, true
}

// scanDecimal reads digits with optional thousands commas, fraction and exponent.
func scanDecimal(s string) (d decimal, rest string, ok bool) {
	i := countDigits(s)
	if i > 0 && i <= 3 && s[0] != '0' {
		for len(s) > i+3 && s[i] == ',' && countDigits(s[i+1:]) == 3 {
			i += 4
		}
	}
	d.digits, s = s[:i], s[i:]
	if len(s) > 1 && s[0] == '.' && isDigit(s[1]) {
		j := 1 + countDigits(s[1:])
		d.fraction, s = s[1:j], s[j:]
	}
	if d.digits == "" && d.fraction == "" {
		return d, s, false
	}
	if len(s) > 1 && (s[0] == 'e' || s[0] == 'E') {
		if e, after, ok := scanInteger(s[1:]); ok && !startsWithLetter(after) {
			d.exponent, s = e, after
		}
	}
	return d, s, true
}

// scanInteger reads a small signed integer. One too large to matter is read as 1 << 30, which no bound admits.
func scanInteger(s string) (v int, rest string, ok bool) {
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	n := countDigits(s)
	for i := range n {
		v = min(v*10+int(s[i]-'0'), 1<<30)
	}
	if negative {
		v = -v
	}
	return v, s[n:], n > 0
}

// scanPowerOfTen reads "×10^5", " x 10^{-5}".
func scanPowerOfTen(s string) (power int, rest string, ok bool) {
	t := strings.TrimLeft(s, " ")
	r, size := utf8.DecodeRuneInString(t)
	if r != '×' && r != 'x' && r != '*' {
		return 0, s, false
	}
	t, ok = strings.CutPrefix(strings.TrimLeft(t[size:], " "), "10^")
	if !ok {
		return 0, s, false
	}
	t, braced := strings.CutPrefix(t, "{")
	power, t, ok = scanInteger(t)
	if ok && braced {
		t, ok = strings.CutPrefix(t, "}")
	}
	return power, t, ok
}

// scanMagnitude reads "hundred", "thousand", "million", "billion", "trillion".
func scanMagnitude(s string) (power int, rest string, ok bool) {
	t := strings.TrimLeft(s, " {$") // also the argument of \text, or behind a formula
	if !startsWithLetter(t) {
		return 0, s, false
	}
	for _, m := range [...]struct {
		word  string
		power int
	}{{"hundred", 2}, {"thousand", 3}, {"million", 6}, {"billion", 9}, {"trillion", 12}} {
		if after, ok := strings.CutPrefix(t, m.word); ok && !startsWithLetter(after) {
			return m.power, after, true
		}
	}
	return 0, s, false
}

// number evaluates n. It reports false when a bound is passed or a denominator is zero.
func (n numeral) number() (v number, ok bool) {
	if !n.top.set(&v.value, n.scale) {
		return v, false
	}
	if n.divided {
		var bottom big.Rat
		if !n.bottom.set(&bottom, 0) || bottom.Sign() == 0 {
			return v, false
		}
		v.value.Quo(&v.value, &bottom)
	}
	if n.mixed {
		var whole big.Rat
		if !n.whole.set(&whole, n.scale) {
			return v, false
		}
		v.value.Add(&v.value, &whole)
	}
	if n.percent {
		v.percent = true
		v.value.Quo(&v.value, big.NewRat(100, 1))
	}
	if n.negative {
		v.value.Neg(&v.value)
	}
	return v, true
}

// set evaluates d · 10^scale into z.
func (d decimal) set(z *big.Rat, scale int) bool {
	if len(d.digits)+len(d.fraction) > maxDigits || max(d.exponent, -d.exponent) > maxExponent {
		return false
	}
	if exponent := d.exponent + scale - len(d.fraction); len(d.digits)+len(d.fraction) <= 18 && exponent <= 0 && exponent >= -18 {
		mantissa := accumulate(accumulate(0, d.digits), d.fraction)
		if exponent == 0 {
			z.SetInt64(mantissa)
		} else {
			z.SetFrac64(mantissa, pow10(-exponent))
		}
		return true
	} else if max(exponent, -exponent) > 2*maxExponent {
		return false
	} else {
		digits, _ := new(big.Int).SetString("0"+strings.ReplaceAll(d.digits, ",", "")+d.fraction, 10)
		power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exponent, -exponent))), nil)
		if exponent > 0 {
			z.SetInt(digits.Mul(digits, power))
		} else {
			z.SetFrac(digits, power)
		}
		return true
	}
}

// accumulate appends the digits of s, commas apart, to v.
func accumulate(v int64, s string) int64 {
	for i := range len(s) {
		if s[i] != ',' {
			v = v*10 + int64(s[i]-'0')
		}
	}
	return v
}

func pow10(n int) int64 {
	v := int64(1)
	for range n {
		v *= 10
	}
	return v
}

// matches reports whether n, the answer, equals gold. A percentage is compared by its value, 50% = 0.5. When just
// one of the two has the sign, it may also be the unit that the other leaves out: 50 answers 50%, and 50% answers 50,
// the latter for |gold| > 1 only, since 0.5% for 0.5 is a mistake and not a unit.
func (n *number) matches(gold *number) bool {
	if n.value.Cmp(&gold.value) == 0 {
		return true
	}
	if n.percent == gold.percent {
		return false
	}
	hundred := big.NewRat(100, 1)
	if gold.percent {
		return n.value.Cmp(hundred.Mul(hundred, &gold.value)) == 0
	}
	one := big.NewRat(1, 1)
	return n.value.Cmp(new(big.Rat).Quo(&gold.value, hundred)) == 0 && new(big.Rat).Abs(&gold.value).Cmp(one) > 0
}

// parseSpan reads a stretch of text that states one number, with words before it and a unit behind it: "x = 5",
// "about $5", "5 cm^2". It refuses what only contains a number: "5 6", "(3,4)", "2\pi", "\sqrt{5}", "3x", "x^2".
// With loose set, a sentence may go on behind the number: "5 because 2+3=5".
func parseSpan(span string, loose bool) (number, bool) {
	if len(span) > maxSpan {
		return number{}, false
	}
	s := strings.TrimLeft(normalise(span), " ")
	if after, ok := strings.CutPrefix(s, "- "); ok {
		s = "-" + strings.TrimLeft(after, " ")
	}
	if v, ok := parsePhrase(s, loose); ok {
		return v, true
	}
	cut := strings.LastIndexByte(s, '=') // "3 + 4 = 7", but not "x = 5 or x = 6", "2x + 3y = 7" nor "x != 5"
	if cut < 0 || isList(s[:cut]) || hasTerm(s[:cut]) || cut > 0 && strings.IndexByte("!<>", s[cut-1]) >= 0 {
		return number{}, false
	}
	return parsePhrase(s[cut:], loose)
}

// parsePhrase reads the first number of s, if what stands around it leaves it the only thing that is stated.
func parsePhrase(s string, loose bool) (number, bool) {
	start := findNumeral(s, 0)
	if start < 0 || !isLead(s[:start]) {
		return number{}, false
	}
	if lead := strings.TrimRight(s[:start], " ${("); lead != "" && (isDenied(lead) || operandBefore(lead) > 0) { // "half of"
		return number{}, false
	}
	n, rest, ok := scanNumeral(s[start:])
	if !ok || operandBehind(strings.TrimLeft(rest, " $}{")) > 0 || !isUnit(rest) && !(loose && goesOn(rest)) {
		return number{}, false
	}
	return n.number()
}

// findNumeral returns where in s, from byte from on, the next number starts, its sign and currency included, or -1.
// Digits that follow a letter belong to a name (x2, H2O); a sign that follows an operand is an operator (5-3).
func findNumeral(s string, from int) int {
	for i := from; i < len(s); i++ {
		frac := s[i] == '\\' && strings.HasPrefix(s[i:], `\frac`)
		if !frac && !isDigit(s[i]) {
			continue
		}
		start := i
		if !frac {
			if start > from && s[start-1] == '.' && (start < 2 || !isDigit(s[start-2]) && s[start-2] != '.') {
				start--
			}
			if start > 0 && (isASCIILetter(s[start-1]) || s[start-1] == '_') {
				i += countDigits(s[i:]) - 1
				continue
			}
		}
		return signStart(s, from, start)
	}
	return -1
}

// signStart moves start back over a currency and a sign that belong to the number.
func signStart(s string, from, start int) int {
	at := start
	for at > from {
		r, size := utf8.DecodeLastRuneInString(s[from:at])
		if !isCurrency(r) {
			break
		}
		at -= size
		start = at
	}
	spaces := at
	for spaces > from && s[spaces-1] == ' ' {
		spaces--
	}
	if spaces == from || s[spaces-1] != '-' && s[spaces-1] != '+' {
		return start
	}
	sign := spaces - 1
	prior := strings.TrimRight(s[:sign], " ")
	switch {
	case spaces < at: // "= - 5" but not "7 - 5", nor the dash of a list
		if prior == "" || prior[len(prior)-1] != '=' {
			return start
		}
	case sign > 0: // "is -5", "(-5" but not "7-5", "x-5"
		r, _ := utf8.DecodeLastRuneInString(s[:sign])
		if r == ')' || r == '}' || r == ']' || r == '%' || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return start
		}
	}
	// a currency before the sign: "$-5"
	if r, size := utf8.DecodeLastRuneInString(s[from:sign]); isCurrency(r) {
		sign -= size
	}
	return sign
}

// isList reports whether s names several things.
func isList(s string) bool {
	return strings.ContainsAny(s, ",;") || strings.Contains(s, " or ") || strings.Contains(s, " and ")
}

// hasTerm reports whether s computes with a variable: 2x, x + 5.
func hasTerm(s string) bool {
	if strings.ContainsAny(s, "²³") {
		return true
	}
	for i := 1; i < len(s); i++ {
		if isDigit(s[i-1]) && isASCIILetter(s[i]) {
			return true
		}
	}
	for side := range strings.SplitSeq(s, "=") {
		if strings.ContainsAny(side, "0123456789") && strings.ContainsAny(side, "+-*/^") && !isArithmetic(side) &&
			!words(side, func(w string) bool { return len(w) > 1 || isUnit(w) }) {
			return true
		}
	}
	return false
}

// isLead reports whether s can stand before the number it introduces: words, but no mathematics.
func isLead(s string) bool {
	if t := strings.TrimRight(s, " ([{"); t != "" && (strings.ContainsAny(t[len(t)-1:], "-+/") || strings.HasSuffix(s, "(") && isASCIILetter(s[len(t)-1]) || strings.Contains(s, "n't")) {
		return false
	}
	for _, r := range s {
		if !(unicode.IsLetter(r) && !unicode.Is(unicode.Greek, r)) && !isCurrency(r) && !strings.ContainsRune(" .,:;'\"-*`(){}[=~", r) {
			return false
		}
	}
	return words(s, func(w string) bool {
		switch w {
		case "sqrt", "root", "pi", "log", "ln", "sin", "cos", "tan", "negative", "minus", "or", "nor", "not", "cannot", "whether", "choose", "mod":
			return false
		}
		return true
	})
}

// isUnit reports whether s can stand behind a number as its unit: words, degrees, squares of units; no digits and
// no mathematics.
func isUnit(s string) bool {
	letter := false // the last rune was one
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case unicode.IsLetter(r) && !unicode.Is(unicode.Greek, r):
			letter = true
		case r == '^' && letter:
			exponent := strings.TrimLeft(s[i+1:], "{")
			if exponent == "" || exponent[0] != '2' && exponent[0] != '3' || len(exponent) > 1 && isDigit(exponent[1]) {
				return false
			}
			size, letter = len(s)-i-len(exponent)+1, false
		case (r == '²' || r == '³') && letter:
			letter = false
		case isCurrency(r) || strings.ContainsRune(" .,;:!?-–—/°'\"()[]{}*%_`|~", r):
			letter = letter && strings.ContainsRune(")]}", r) // \text{cm}^2
		default:
			return false
		}
		i += size
	}
	return words(s, func(w string) bool {
		if len(w) == 1 { // 5 m is a length, 5 x is a term
			return strings.Contains("mgshdLlVWANJKFCaI", w)
		}
		switch w {
		case "pi", "sqrt", "mod", "choose", "or", "plus", "minus", "divided", "multiplied", "squared", "cubed", "factorial":
			return false
		}
		return true
	})
}

// goesOn reports whether s, behind a number, is the rest of a sentence and not more of a formula or of a list.
func goesOn(s string) bool {
	t := strings.TrimLeft(s, " .,;:!?*`\"')]$")
	if t == s && s != "" {
		return false
	}
	if after, ok := strings.CutPrefix(t, "or "); ok {
		return !strings.ContainsAny(after, "0123456789")
	}
	t = strings.TrimPrefix(t, "and ")
	if t == "" {
		return true
	}
	word := t
	if i := strings.IndexAny(t, " .,;:!?*`\"')]$"); i >= 0 {
		word = t[:i]
	}
	r, _ := utf8.DecodeRuneInString(t)
	return (unicode.IsLetter(r) || r == '(') && isUnit(word)
}

// words calls f with each run of ASCII letters in s until f returns false, and returns whether it never did.
func words(s string, f func(string) bool) bool {
	for i := 0; i < len(s); {
		if !isASCIILetter(s[i]) {
			i++
			continue
		}
		j := i + 1
		for j < len(s) && isASCIILetter(s[j]) {
			j++
		}
		if !f(s[i:j]) {
			return false
		}
		i = j
	}
	return true
}

// normalise rewrites the typography of numbers into ASCII: unicode signs and spaces, LaTeX spacing, text, fractions,
// degrees. Commands it does not know stay, so that no reader takes them for words.
func normalise(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == '\\' || r == '{' || r < ' ' || r >= utf8.RuneSelf }) {
		return s
	}
	for _, space := range [...]string{`\,`, "\u00a0", "\u2009", "\u202f"} {
		s = joinThousands(s, space)
	}
	s = typography.Replace(s)
	if !strings.ContainsAny(s, "\\") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if name := textCommand(s[i:]); name > 0 {
			b.WriteByte(' ') // the braces of a text stay; they are punctuation
			i += name
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// joinThousands turns the given space into a comma between a digit and a group of three, and into a space elsewhere.
func joinThousands(s, space string) string {
	parts := strings.Split(s, space)
	for i, p := range parts[1:] {
		separator := " "
		if before := parts[i]; before != "" && isDigit(before[len(before)-1]) && countDigits(p) == 3 {
			separator = ","
		}
		parts[i+1] = separator + p
	}
	return strings.Join(parts, "")
}

// textCommand returns the length of a command that sets its argument as text, if s starts with one, its brace apart.
func textCommand(s string) int {
	for _, name := range [...]string{`\text`, `\textbf`, `\textit`, `\textrm`, `\mathrm`, `\mathbf`, `\mbox`, `\hbox`, `\bf`, `\rm`} {
		if strings.HasPrefix(s, name) && strings.HasPrefix(strings.TrimLeft(s[len(name):], " "), "{") {
			return len(name)
		}
	}
	return 0
}

// typography is read only; building it costs more than most numbers do.
var typography = strings.NewReplacer(
	"\u2212", "-", "\u2013", "-", "\u2012", "-", "\ufe63", "-", "\uff0d", "-", "\uff0b", "+",
	"\u2007", " ", "\t", " ", "\r", " ", "\n", " ", "\u2044", "/",
	"≈", "=", `\approx`, "=", `\times`, "×", `\cdot`, "×", "\u22c5", "×",
	"{,}", ",", `,\! `, ",", `\!`, "", `\;`, " ", `\:`, " ", `\ `, " ", `\quad`, " ",
	`\dfrac`, `\frac`, `\tfrac`, `\frac`, `\cfrac`, `\frac`, `\left`, "", `\right`, "", `\displaystyle`, "",
	`\$`, "$", `\%`, "%", `\(`, " ", `\)`, " ", `\[`, " ", `\]`, " ",
	`^{\circ}`, "°", `^\circ`, "°", `\circ`, "°", `\degree`, "°", `\degrees`, "°",
)

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func isASCIILetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

func isCurrency(r rune) bool {
	switch r {
	case '$', '€', '£', '¥', '₹':
		return true
	}
	return false
}

func startsWithLetter(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return unicode.IsLetter(r)
}

func countDigits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}
