package reward

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Place is where a completion may state its answer.
type Place string

// The places.
const (
	PlaceBoxed  Place = "boxed"  // the last \boxed{…}, with those beside it, or the formula it is a part of; or "the final answer is …" behind it
	PlaceHashes Place = "hashes" // the line after the last ####
	PlaceAnswer Place = "answer" // "the answer is …", "answer: …"
	PlaceText   Place = "text"   // the whole text, if it is short and mathematics
	PlaceLast   Place = "last"   // the last formula: between dollars or brackets, or around the last number
)

// DefaultPlaces is the order in which [Math] looks for an answer.
var DefaultPlaces = []Place{PlaceBoxed, PlaceHashes, PlaceAnswer, PlaceText, PlaceLast}

// maxWhole is the longest text, in bytes, that is an answer as a whole.
const maxWhole = 300

// stated is an answer as it stands in a completion.
type stated struct {
	text  string
	plain bool   // not between mathematical delimiters, so that 2,74 may be a decimal
	units string // a percent sign that stands outside a box, or ""
}

// findStated returns the answer of a completion from the first of places that has one. What <answer> marks, and what
// stands behind </think>, counts before all else.
func findStated(text string, places []Place) (s stated, at Place, ok bool) {
	if i := strings.LastIndex(text, "</think>"); i >= 0 {
		if s, at, ok = findStated(text[i+len("</think>"):], places); ok {
			return s, at, true
		}
		text = text[:i]
	}
	if i := strings.LastIndex(text, "<answer>"); i >= 0 {
		inner := text[i+len("<answer>"):]
		if j := strings.Index(inner, "</answer>"); j >= 0 {
			inner = inner[:j]
		}
		if s, at, ok = findStated(strings.ReplaceAll(inner, "<answer>", ""), places); ok {
			return s, at, true
		}
	}
	for _, p := range places {
		switch p {
		case PlaceBoxed:
			s, ok = finalOrBoxed(text)
		case PlaceHashes:
			s.text, ok = afterHashes(text)
			s.plain = true
		case PlaceAnswer:
			s, ok = answerPhrase(text)
		case PlaceText:
			s, ok = wholeText(text)
		case PlaceLast:
			s, ok = lastFormula(text)
		}
		if ok {
			s.text = strings.TrimSpace(s.text)
			return s, p, true
		}
	}
	return stated{}, "", false
}

// finalOrBoxed returns the last boxed answers, or what "final answer is" introduces behind them.
func finalOrBoxed(text string) (stated, bool) {
	b, ok := lastBoxes(text)
	if !ok {
		return stated{}, false
	}
	const phrase = "inal answer is"
	if i := strings.LastIndex(text[b.end:], phrase); i >= 0 {
		rest := strings.TrimLeft(text[b.end+i+len(phrase):], ": \t\n*")
		if env, ok := leadingFormula(rest); ok {
			return stated{text: env}, true
		}
	}
	if f, ok := b.formula(text); ok {
		return stated{text: f}, true
	}
	unit := unitBehind(b.content, text[b.end:])
	if unit == `\%` {
		return stated{text: b.content, units: unit}, true
	}
	return stated{text: b.content + unit}, true
}

// withUnit appends to an answer the percent sign, the magnitude or the unit that stands in the text behind it.
func withUnit(answer, rest string) string { return answer + unitBehind(answer, rest) }

// unitBehind returns what scales or measures an answer in the text behind it: "%", "million", \text{ cm}^2. Of the units
// it takes those that are told apart, where LaTeX marks them.
func unitBehind(answer, rest string) string {
	for rest != "" {
		if strings.IndexByte(" $~", rest[0]) >= 0 {
			rest = rest[1:]
		} else if len(rest) > 1 && rest[0] == '\\' && strings.IndexByte(")],;:! ", rest[1]) >= 0 {
			rest = rest[2:]
		} else {
			break
		}
	}
	if rest == "" || rest[0] == '.' {
		return ""
	}
	sign := strings.TrimPrefix(rest, `\`)
	for _, word := range [...]string{"%", "percent", "Percent", "pct"} {
		if strings.HasPrefix(sign, word) && !strings.HasPrefix(sign, "percentage point") && !strings.Contains(answer, "%") {
			return `\%`
		}
	}
	if textCommand(answer) > 0 || !strings.ContainsAny(answer, "0123456789") {
		return ""
	}
	if textCommand(rest) > 0 {
		phrase, end, ok := boxedAt(rest, 0)
		if power, _ := magnitude(phrase); !ok || power == 0 && unitOf(phrase) == "" {
			return ""
		}
		unit := `\text{` + phrase + "}"
		for _, power := range [...]string{"^2", "^3", "^{2}", "^{3}"} {
			if strings.HasPrefix(rest[end:], power) {
				unit += power
			}
		}
		return unit
	}
	if _, after, ok := scanMagnitude(rest); ok {
		return " " + rest[:len(rest)-len(after)]
	}
	return ""
}

// formula is where a stretch between mathematical delimiters stands.
type formula struct{ start, end, from, to int }

// formulas returns the last stretches between $…$, $$…$$, \(…\) and \[…\], in order.
func formulas(text string) []formula {
	const window = 4 * maxMathBytes
	var out []formula
	base := max(0, len(text)-window)
	for i := base; i < len(text); {
		c := text[i]
		if c != '$' && c != '\\' {
			i++
			continue
		}
		if c == '\\' && !(i+1 < len(text) && (text[i+1] == '(' || text[i+1] == '[')) {
			i += 2
			continue
		}
		open, closing := "$", "$"
		switch {
		case c == '\\' && text[i+1] == '(':
			open, closing = `\(`, `\)`
		case c == '\\':
			open, closing = `\[`, `\]`
		case strings.HasPrefix(text[i:], "$$"):
			open, closing = "$$", "$$"
		}
		from := i + len(open)
		to := closingAt(text, from, closing)
		if to < 0 || closing == "$" && (strings.Contains(text[from:to], "\n\n") || isProse(text[from:to])) {
			i = from
			continue
		}
		out = append(out, formula{i, to + len(closing), from, to})
		i = to + len(closing)
	}
	return out
}

// closingAt returns where the delimiter next stands unescaped, or -1.
func closingAt(text string, from int, closing string) int {
	for i := from; i < len(text); {
		j := strings.Index(text[i:], closing)
		if j < 0 {
			return -1
		}
		if j += i; closing[0] != '$' || j == 0 || text[j-1] != '\\' {
			return j
		}
		i = j + 1
	}
	return -1
}

// isProse reports whether s holds words in a row, as between the dollars of two prices.
func isProse(s string) bool {
	run := 0
	for word := range strings.FieldsSeq(s) {
		if len(word) > 1 && strings.Trim(strings.ToLower(word), "abcdefghijklmnopqrstuvwxyz.,'") == "" && word != "and" && word != "or" {
			if run++; run == 3 {
				return true
			}
			continue
		}
		run = 0
	}
	return false
}

// leadingFormula returns the formula that text starts with, and those that words join to it.
func leadingFormula(text string) (string, bool) {
	text = text[:min(len(text), 2*maxMathBytes)]
	if !strings.HasPrefix(text, "$") && !strings.HasPrefix(text, `\(`) && !strings.HasPrefix(text, `\[`) {
		return "", false
	}
	fs := formulas(text)
	if len(fs) == 0 || fs[0].start != 0 {
		return "", false
	}
	last := 0
	for last+1 < len(fs) && joinsFormulas(text[fs[last].end:fs[last+1].start]) {
		last++
	}
	if to := wordsBehind(text, fs[last].end); to > fs[last].end {
		return text[:to], true
	}
	return withUnit(text[fs[0].from:fs[last].to], text[fs[last].end:]), true
}

func joinsFormulas(between string) bool {
	switch strings.ToLower(strings.Trim(between, " ,\n")) {
	case "and", "or", "or perhaps", "or possibly", "or maybe":
		return true
	case "":
		return strings.Contains(between, ",")
	}
	return false
}

// answerPhrase returns what the last "answer is", "answer:" or "Answer" with a formula introduces.
func answerPhrase(text string) (stated, bool) {
	if s, ok := statedAnswer(text); ok {
		return s, true
	}
	for _, phrase := range [...]string{"ption is ", "hoice is "} { // "the correct option is (C)"
		if i := strings.LastIndex(text, phrase); i >= 0 {
			if s, ok := plainAnswer(text[i+len(phrase):]); ok {
				if _, _, ok := choice(s.text); ok {
					return s, true
				}
			}
		}
	}
	return stated{}, false
}

func statedAnswer(text string) (stated, bool) {
	const word = "nswer"
	for end, tries := len(text), 0; tries < 16; tries++ {
		i := strings.LastIndex(text[:end], word)
		if i < 1 {
			if i = strings.LastIndex(text[:end], "NSWER"); i < 1 {
				return stated{}, false
			}
		}
		end = i
		if text[i-1] != 'a' && text[i-1] != 'A' || isDenied(text[:i-1]) {
			continue
		}
		if s, ok := introduced(text[i+len(word):]); ok {
			return s, true
		}
	}
	return stated{}, false
}

// introduced reads what follows the word answer.
func introduced(rest string) (stated, bool) {
	rest = strings.TrimLeft(rest, " *_`s\"")
	marked := false
	for _, verb := range [...]string{":", "is", "would be", "will be", "must be", "should be", "equals", "=", "was"} {
		if after, ok := strings.CutPrefix(rest, verb); ok && (after == "" || !isASCIILetter(after[0]) || verb == ":" || verb == "=") {
			rest, marked = strings.TrimLeft(after, " :*_`\n\t\""), true
			break
		}
	}
	if env, ok := leadingFormula(rest); ok {
		return stated{text: env}, true
	}
	if strings.HasPrefix(rest, "not ") {
		line := firstLine(rest)
		return stated{text: line, plain: true}, strings.Count(line, " ") == 1 // "not 5, but 6" says more
	}
	if marked {
		if s, ok := plainAnswer(rest); ok {
			return s, true
		}
	}
	// "Answer: the largest $n$ is 34", "the answer to the question is $5$"
	line := firstLine(rest)
	line = line[:min(len(line), 200)]
	if cut := strings.Index(line, ". "); cut >= 0 {
		line = line[:cut]
	}
	if i := strings.LastIndex(line, " is "); i >= 0 {
		after := strings.TrimLeft(rest[i+4:], " *:")
		if env, ok := leadingFormula(after); ok {
			return stated{text: env}, true
		}
		if s, ok := plainAnswer(after); ok {
			return s, true
		}
	}
	if marked {
		if fs := formulas(line); len(fs) > 0 {
			f := fs[len(fs)-1]
			return stated{text: withUnit(line[f.from:f.to], line[f.end:])}, true
		}
		if s, ok := lastNumeral(line); ok {
			return s, true
		}
		t := strings.Trim(line, " .*_`\"'")
		return stated{text: t, plain: true}, t != ""
	}
	return stated{}, false
}

// plainAnswer reads an answer that stands in running text: up to the end of the sentence, or to the first word.
func plainAnswer(rest string) (stated, bool) {
	line := firstLine(rest)
	line = line[:min(len(line), maxMathBytes)]
	if i := strings.Index(line, "<|"); i >= 0 {
		line = line[:i]
	}
	if i := sentenceEnd(line); i >= 0 {
		line = line[:i]
	}
	line = strings.Trim(line, " *_`\"")
	line = strings.TrimSuffix(line, ".")
	if line == "" {
		return stated{}, false
	}
	if _, _, ok := choice(line); ok {
		return stated{text: line, plain: true}, true
	}
	if len(line) <= maxWhole && isFormula(line) {
		return stated{text: line, plain: true}, true
	}
	if i := firstWord(line); i > 0 {
		head := strings.TrimRight(line[:i], " ,;:(*")
		if operandBehind(line[i:]) > 0 {
			return stated{text: line, plain: true}, true
		}
		if strings.HasSuffix(head, " or") || strings.HasSuffix(head, " and") { // "5, or possibly 6"
			return stated{text: line, plain: true}, true
		}
		if head == "A" && i == len("A ") && !isConjunction(line[i:]) { // "A triangle"
			return stated{text: line, plain: true}, true
		}
		if head != "" && isFormula(head) {
			return stated{text: withUnit(head, line[i:]), plain: true}, true
		}
	}
	return stated{}, false
}

// isConjunction reports whether s goes on behind a statement, of which it is no noun.
func isConjunction(s string) bool {
	word, _, _ := strings.Cut(s, " ")
	switch strings.Trim(word, ".,:;") {
	case "because", "since", "as", "for", "which", "where", "when", "while", "but", "so", "is", "due", "by", "from", "given", "if", "only", "here":
		return true
	}
	return false
}

// sentenceEnd returns where ". " or ", which" and the like end a statement, or -1.
func sentenceEnd(line string) int {
	end := -1
	for _, mark := range [...]string{". ", ".\t", "! ", "? ", ", which", ", since", ", because", ", so ", ", where", ".**"} {
		if i := strings.Index(line, mark); i >= 0 && (end < 0 || i < end) {
			end = i
		}
	}
	return end
}

// firstWord returns where the first word of prose stands in line, or -1.
func firstWord(line string) int {
	for i := 0; i < len(line); {
		if line[i] == '\\' {
			i++
			for i < len(line) && isASCIILetter(line[i]) {
				i++
			}
			continue
		}
		if !isASCIILetter(line[i]) {
			i++
			continue
		}
		j := i
		for j < len(line) && isASCIILetter(line[j]) {
			j++
		}
		word := strings.ToLower(line[i:j])
		if j-i > 1 && functions[word] == "" && word != "sqrt" && word != "pi" && word != "and" && word != "or" {
			return i
		}
		i = j
	}
	return -1
}

// isFormula reports whether s is mathematics, with no more prose than units.
func isFormula(s string) bool {
	n, ok := parseMath(s, false)
	return ok && !hasProse(n) && words(s, isMathsWord)
}

// isMathsWord reports whether a run of letters is none of the short words of a sentence, which would be a product.
func isMathsWord(w string) bool {
	switch strings.ToLower(w) {
	case "is", "it", "so", "we", "of", "to", "be", "at", "by", "as", "an", "if", "my", "he", "on", "no", "us", "the", "for", "its", "are", "was", "get", "has", "not", "all", "one", "out":
		return false
	}
	return true
}

func hasProse(n *node) bool {
	switch n.op {
	case opText:
		return true
	case opUnit:
		for word := range strings.FieldsFuncSeq(n.name, func(r rune) bool { return r == ' ' || r == '/' }) {
			if word != "per" && word[0] != '^' && !isUnitWord(strings.ToLower(word)) {
				return true
			}
		}
	}
	for _, a := range n.args {
		if hasProse(a) {
			return true
		}
	}
	return false
}

// wholeText returns a short text that is mathematics, or a choice, from end to end.
func wholeText(text string) (stated, bool) {
	t := strings.Trim(text, " \t\r\n*_`")
	t = strings.TrimSuffix(t, ".")
	if t == "" || len(t) > maxWhole {
		return stated{}, false
	}
	if _, _, ok := choice(t); !ok && !isFormula(t) {
		return stated{}, false
	}
	return stated{text: t, plain: !strings.Contains(t, "$") && !strings.Contains(t, `\(`) && !strings.Contains(t, `\[`)}, true
}

// lastFormula returns the last formula or the last number of a text, whichever stands further back, but for those that
// the text denies. A formula that cannot be read is an answer that cannot be read: no number is looked for inside it.
func lastFormula(text string) (stated, bool) {
	fs := formulas(text)
	for tries := 0; len(fs) > 0 && tries < 8; tries++ {
		last := len(fs) - 1
		first := last
		for first > 0 && joinsFormulas(text[fs[first-1].end:fs[first].start]) {
			first--
		}
		content := text[fs[first].from:fs[last].to]
		if s, ok := lastNumeral(text[fs[last].end:]); ok {
			return s, true
		}
		n, ok := parseMath(content, false)
		if len(content) <= maxMathBytes && !isDenied(text[:fs[first].start]) && (!ok && !isBlank(content) || ok && n.op != opText || isWord(content)) {
			if from, to := wordsBefore(text, fs[first].start), wordsBehind(text, fs[last].end); from < fs[first].start || to > fs[last].end {
				return stated{text: text[from:to]}, true
			}
			return stated{text: withUnit(content, text[fs[last].end:])}, true
		}
		text, fs = text[:fs[first].start], fs[:first]
	}
	return lastNumeral(text)
}

// isBlank reports whether a formula only dresses, such as the \square behind a proof.
func isBlank(s string) bool {
	toks, ok := lex(s, false)
	return ok && len(toks) == 1
}

// isDenied reports whether what is stated behind text is said not to be so, or in question: "not 5", "less than 5",
// "whether the answer is 5".
func isDenied(text string) bool {
	text = text[max(0, len(text)-80):]
	for _, doubt := range [...]string{"whether ", "not think ", "n't think ", "not believe ", "n't believe ", "false that ", "doubt that "} {
		if i := strings.Index(text, doubt); i >= 0 && !strings.ContainsAny(text[i:], ".?!\n") {
			return true
		}
	}
	return isNegated(text) || endsIn(text, "than")
}

// isNegated reports whether text ends in a word that denies what stands behind it.
func isNegated(text string) bool {
	return endsIn(text, "not", "cannot", "never", "neither", "nor", "rather than", "instead of", "n't", "n’t")
}

// endsIn reports whether text ends in one of words, but for "be" and brackets.
func endsIn(text string, words ...string) bool {
	text = text[max(0, len(text)-80):]
	text = strings.TrimSuffix(strings.TrimRight(text, " $\\([{}*_`"), " be")
	if text == "" || strings.IndexByte("tTrRnNfF", text[len(text)-1]) < 0 {
		return false
	}
	for _, word := range words {
		i := len(text) - len(word)
		if i >= 0 && strings.EqualFold(text[i:], word) && (i == 0 || !isASCIILetter(text[i-1]) || !isASCIILetter(word[1])) { // "n't" ends a word
			return true
		}
	}
	return false
}

func isWord(s string) bool { return letters(s) != "" && strings.Contains(s, `\text`) }

// lastNumeral returns the last number of a text that it does not deny, as the formula in which it stands: with the
// percent sign, the signs, names, functions and relations around it, of which it may be a part only.
func lastNumeral(text string) (stated, bool) {
	s, ok := lastRun(text)
	if !ok {
		return s, false
	}
	if i := strings.LastIndexByte(s.text, '='); i >= 0 && !isFormula(s.text) && isFormula(s.text[i+1:]) && !hasTerm(s.text[:i]) {
		s.text = strings.TrimSpace(s.text[i+1:])
	}
	return s, true
}

// lastRun returns the last stretch of mathematics in a text that holds a number and is not denied.
func lastRun(text string) (stated, bool) {
	for range 64 {
		last := strings.LastIndexAny(text, "0123456789")
		if last < 0 {
			break
		}
		from, to := runAround(text, last)
		if from < to && !isDenied(text[:from]) {
			s := strings.TrimSpace(text[from:to])
			lead := strings.TrimRight(text[:from], " ")
			if i := strings.LastIndexByte(s, '='); i > 0 && strings.ContainsAny(s[i:], "0123456789") && (isArithmetic(s[:i]) || strings.HasSuffix(lead, "&=")) {
				s = strings.TrimLeft(s[i+1:], " $")
			}
			return stated{text: withUnit(s, text[to:]), plain: strings.IndexByte(s, '\\') < 0}, true
		}
		text = text[:from]
	}
	return stated{}, false
}

// isArithmetic reports whether s only computes with numbers, as what stands before the = of 5 x 3 = 15 does.
func isArithmetic(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == 'x' || c == 'X':
			after := strings.TrimLeft(s[i+1:], " $")
			if after == "" || strings.IndexByte("0123456789.(", after[0]) < 0 || (i > 0 && s[i-1] != ' ') != isDigit(s[i+1]) {
				return false
			}
		case isASCIILetter(c) || strings.IndexByte("!<>|&\\", c) >= 0:
			return false
		}
	}
	return strings.ContainsAny(s, "0123456789")
}

// runAround returns the stretch of mathematics around the digit at position last, or an empty one where that digit
// belongs to a name, H2O, or to the power of a unit, cm^2.
func runAround(text string, last int) (from, to int) {
	const reach = maxSpan // bytes on either side
	line := text[:last]
	base := max(0, last-reach)
	if i := strings.LastIndexAny(line[base:], "\n\r\t;"); i >= 0 {
		base += i + 1
	} else if base > 0 {
		base += max(0, strings.IndexByte(line[base:], ' '))
	}
	if i := strings.LastIndexByte(line[base:], '>'); i > 0 { // <<3*4=12>>12, <answer>12</answer>
		if j := strings.LastIndexByte(line[base:base+i], '<'); line[base+i-1] == '>' || j >= 0 && strings.Trim(line[base+j+1:base+i], "/abcdefghijklmnopqrstuvwxyz") == "" {
			base += i + 1
		}
	}
	start := last
	for start > base && strings.IndexByte("0123456789.,", text[start-1]) >= 0 {
		start--
	}
	text = text[:min(len(text), last+reach)]
	from, to = wordStart(text, base, last), wordEnd(text, last)
	if tail := text[last+1 : to]; tail != "" && (isASCIILetter(tail[0]) || tail[0] == '/') && isUnit(tail) || textCommand(tail) > 0 { // 5m², 5/day
		to = last + 1
	}
	if before := text[from:start]; before != "" && !strings.ContainsRune(before, '\\') {
		c := before[len(before)-1]
		if name := strings.TrimRight(before, "^{"); c == '_' && !isDigit(before[0]) || isASCIILetter(c) && !isDigit(before[0]) || len(name) < len(before) && name != "" && isUnit(name) && !isDigit(name[len(name)-1]) {
			return from, from
		}
	}
	// to the right
	for {
		next := to + len(text[to:]) - len(strings.TrimLeft(text[to:], " "))
		if next == to || next == len(text) || strings.IndexByte(".,;:!?", text[to-1]) >= 0 && depth(text[from:to]) <= 0 {
			break
		}
		end := wordEnd(text, next)
		word := text[next:end]
		if strings.HasPrefix(word, "decimal") || strings.HasPrefix(word, "significant") { // to 2 decimal places
			return from, from
		}
		if !isMathWord(word) || isASCIILetter(word[0]) && isUnit(word) {
			if _, _, ok := scanMagnitude(word); ok {
				to = next + len(strings.TrimRight(word, ".,;:!?"))
			} else if n := operandBehind(text[next:]); n > 0 {
				to = next + n
			}
			break
		}
		to = end
	}
	// to the left
	for from > base {
		end := base + len(strings.TrimRight(text[base:from], " "))
		if end == base {
			break
		}
		begin := wordStart(text, base, end-1)
		word := text[begin:end]
		if n := operandBefore(text[base:end]); n > 0 {
			from = end - n
			continue
		}
		if !isMathWord(word) || isMarker(word) && strings.TrimSpace(text[base:begin]) == "" {
			break
		}
		if c := word[len(word)-1]; depth(text[from:to]) >= 0 && !strings.HasSuffix(word, `\!`) && (c == '.' || c == ':' && word != ":" || c == '!' || c == '?' ||
			c == ',' && !strings.Contains(word, "=") && !strings.HasSuffix(strings.TrimRight(text[base:begin], " "), "=")) {
			break
		}
		from = begin
	}
	return trimRun(text, from, to)
}

// wordsBefore returns where a sign, or the words that compute with the formula at start, begin.
func wordsBefore(text string, start int) int {
	line := text[max(0, start-maxSpan, strings.LastIndexByte(text[:start], '\n')+1):start]
	lead := strings.TrimRight(line, " ")
	n := signBefore(line)
	if words := operandBefore(lead); words > 0 {
		n = max(n, words+len(line)-len(lead))
	} else if strings.HasSuffix(line, "/") {
		n = len(line) - wordStart(line, 0, len(line))
	}
	return start - n
}

// wordsBehind returns where the words that compute with the formula before end come to an end.
func wordsBehind(text string, end int) int {
	rest := text[end:min(len(text), end+maxSpan)]
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	words := strings.TrimLeft(rest, " ")
	switch n := operandBehind(words); {
	case n > 0:
		return end + len(rest) - len(words) + n
	case len(rest) > 1 && rest[0] == '/' && isDigit(rest[1]):
		return end + wordEnd(rest, 0)
	}
	return end
}

// operandBefore returns the length of the number, and of the words that compute with it, that text ends with, or 0:
// the "3 out of" of "3 out of 4", "half of", "x to the".
func operandBefore(text string) int {
	end := len(text)
	for end > 0 {
		begin := wordStart(text, 0, end)
		word := text[begin:end]
		if !isConnective(word) {
			name := strings.ToLower(strings.Trim(word, "$"))
			if name == "one" && strings.HasPrefix(text[end:], " of") { // one of 1, 2
				return 0
			}
			number := strings.ContainsAny(name, "0123456789") || len(name) == 1 && isASCIILetter(name[0]) && !isUnit(name)
			if end < len(text) && (number && isMathWord(word) && strings.IndexByte(".,;:!?", word[len(word)-1]) < 0 || isFraction(name) || slices.Contains(numberWords, name)) ||
				name == "twice" || name == "double" || name == "root" {
				return len(text) - begin
			}
			return 0
		}
		end = len(strings.TrimRight(text[:begin], " "))
	}
	return 0
}

// operandBehind returns the length of the words that text starts with and that compute with the number before it, with
// what they compute with, or 0: "times x", "squared", "and a half", "to the power of 4", but not "to 2 decimals".
func operandBehind(text string) int {
	for _, half := range [...]string{"and a half", "and a third", "and a quarter", "point "} {
		if strings.HasPrefix(text, half) {
			return wordEnd(text, len(half)-1)
		}
	}
	const ends = ".,;:!?*"
	for i := 0; i < len(text); {
		end := wordEnd(text, i)
		word, rest := text[i:end], strings.TrimLeft(text[end:], " ")
		switch name := strings.Trim(strings.TrimRight(word, ends), "$"); {
		case i == 0 && (name == "squared" || name == "cubed" || name == "factorial"):
			return len(name)
		case i == 0 && (name == "of" || name == "out" || name == "in" || name == "per"),
			i == 0 && (name == "more" || name == "less" || name == "fewer") && !strings.HasPrefix(rest, "than "),
			i == 0 && name == "to" && !strings.HasPrefix(rest, "the ") && countDigits(strings.Trim(rest, "$")) < len(strings.Trim(rest, ends+"$")):
			return 0
		case isConnective(word):
		case i > 0 && isMathWord(name) && !isUnit(name):
			return i + len(strings.TrimRight(word, ends))
		default:
			return 0
		}
		i = len(text) - len(rest)
	}
	return 0
}

// isConnective reports whether a word stands between two numbers that make another together.
func isConnective(word string) bool {
	switch strings.ToLower(word) {
	case ":", "+", "×", "to", "or", "over", "of", "out", "by", "per", "in", "plus", "times", "divided", "multiplied", "raised", "the", "power", "more", "less", "fewer", "than", "mod", "choose":
		return true
	}
	return false
}

// isFraction reports whether a word makes another number of that which "of" introduces.
func isFraction(word string) bool {
	switch word {
	case "half", "third", "quarter", "square", "cube", "root", "factorial", "logarithm", "reciprocal":
		return true
	}
	return false
}

// trimRun takes off the ends of a run what says nothing there: punctuation, signs without an operand, emphasis, and
// brackets without their partner.
func trimRun(text string, from, to int) (int, int) {
	for changed := true; changed && from < to; {
		old := to - from
		s := strings.TrimRight(text[from:to], ".,:?*_`#$\"'=<>+/×÷ ")
		s = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, " and"), " or"), " -")
		if depth(s) < 0 {
			s = strings.TrimRight(s, ")]}")
		}
		to = from + len(s)
		t := strings.TrimLeft(s, ",:?*_`#$\"'=<>+/×÷)& ")
		for _, lead := range [...]string{"and ", "or ", "- "} {
			t = strings.TrimPrefix(t, lead)
		}
		if depth(t) > 0 {
			t = strings.TrimLeft(t, "([{")
		}
		from = to - len(t)
		changed = to-from != old
	}
	return from, to
}

// depth returns how many brackets s opens less those it closes.
func depth(s string) int {
	n := 0
	for i := range len(s) {
		switch s[i] {
		case '(', '[', '{':
			n++
		case ')', ']', '}':
			n--
		}
	}
	return n
}

func wordStart(text string, base, i int) int {
	return base + strings.LastIndexByte(text[base:i], ' ') + 1
}

func wordEnd(text string, i int) int {
	end := len(text)
	if n := strings.IndexAny(text[i:], " \t\r\n;"); n >= 0 {
		end = i + n
	}
	if n := strings.Index(text[i:end], "</"); n >= 0 {
		end = i + n
	}
	return end
}

// isMathWord reports whether a word of a text is mathematics: it holds no letters but single ones and names of
// functions.
func isMathWord(word string) bool {
	if word == "*" {
		return true
	}
	word = strings.Trim(word, ".,:!?*_`\"'")
	switch word {
	case "", "a", "A", "I", "–", "—":
		return false
	}
	for _, r := range word {
		if r >= utf8.RuneSelf && unicode.IsLetter(r) && !unicode.Is(unicode.Greek, r) {
			return false
		}
	}
	if i := strings.IndexByte(word, '\\'); i >= 0 && textCommand(word[i:]) == 0 {
		return true
	}
	return words(word, func(w string) bool {
		switch w {
		case "sqrt", "pi", "choose", "mod", "minus", "negative", "or", "and":
			return true
		}
		return len(w) == 1 || functions[w] != ""
	})
}

// isMarker reports whether word counts the items of a list: "(a)", "2)".
func isMarker(word string) bool {
	s, ok := strings.CutSuffix(word, ")")
	s = strings.TrimPrefix(s, "(")
	return ok && s != "" && (len(s) == 1 && isASCIILetter(s[0]) || len(s)+1 == len(word) && countDigits(s) == len(s))
}
