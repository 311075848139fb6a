package reward

import "strings"

// boxes are the last box of a text and those that belong to it.
type boxes struct {
	content    string // of all of them, as a list
	start, end int    // where they stand in the text
	part       bool   // an operator stands between two of them
}

// lastBoxes returns the last box and those that "and", "or", a comma or nothing joins to it, unless the text says that
// it is not so. An inner box of nested ones is the content of the outer.
func lastBoxes(text string) (boxes, bool) {
	b, ok := boxedGroup(text)
	for tries := 0; ok && tries < 8 && isNegated(text[:b.start]); tries++ {
		text = text[:b.start]
		b, ok = boxedGroup(text)
	}
	return b, ok
}

// boxedGroup returns the last boxes, whatever is said of them.
func boxedGroup(text string) (b boxes, ok bool) {
	if !strings.Contains(text, "boxed") { // forwards, which is faster
		return b, false
	}
	b.start = len(text)
	for at, tries := len(text), 0; tries < 64; tries++ {
		i := strings.LastIndex(text[:at], `boxed`)
		if i < 1 {
			break
		}
		at = i
		if text[i-1] != '\\' {
			continue
		}
		content, end, fine := boxedAt(text, i)
		if !fine { // cut off, or empty of braces
			continue
		}
		switch {
		case !ok || end > b.end: // the last one, or around it
			b, ok = boxes{content: content, end: end}, true
		case end <= b.start && joins(text[end:b.start]):
			b.content = content + "," + b.content
			between := text[end:b.start]
			b.part = b.part || touched(between, "", false) || touched("", between, false) || strings.TrimSpace(between) == ":"
		default:
			return b, ok
		}
		for at > 0 && text[at-1] == '\\' {
			at--
		}
		b.start = at
	}
	return b, ok
}

// boxedAt returns the content of the box whose command starts at i, and where it ends.
func boxedAt(text string, i int) (content string, end int, ok bool) {
	brace := strings.IndexByte(text[i:min(len(text), i+12)], '{')
	if brace < 0 {
		return "", 0, false
	}
	brace += i
	depth := 0
	for j := brace; j < len(text); j++ {
		switch text[j] {
		case '\\':
			if j+1 < len(text) && (text[j+1] == '{' || text[j+1] == '}') {
				j++
			}
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return text[brace+1 : j], j + 1, true
			}
		}
		if j-brace > 2*maxMathBytes {
			break
		}
	}
	return "", 0, false
}

// joins reports whether the text between two boxes, or two formulas, makes a list of them.
func joins(between string) bool {
	if len(between) > 60 || strings.Contains(between, "\n\n\n") {
		return false
	}
	count, linked := 0, strings.ContainsAny(between, ",;")
	for i := 0; i < len(between); {
		if between[i] == '\\' { // a command
			j := i + 1
			for j < len(between) && isASCIILetter(between[j]) {
				j++
			}
			i = max(j, i+2)
			continue
		}
		if !isASCIILetter(between[i]) {
			i++
			continue
		}
		j := i
		for j < len(between) && isASCIILetter(between[j]) {
			j++
		}
		switch strings.ToLower(between[i:j]) {
		case "and", "or":
			linked = true
		case "so", "thus", "hence", "then", "therefore", "wait", "no", "not", "but", "is", "final", "answer":
			return false
		default:
			if j-i > 1 {
				count++
			}
		}
		i = j
	}
	if strings.ContainsAny(between, "=.") && !linked {
		return false
	}
	return count == 0 || linked && count <= 4
}

// formula returns the formula of which the boxes are a part only: what a sign, a factor, an exponent, a function or an
// operator makes of them, -\boxed{5} or \boxed{5}\pi. A relation, a unit, a word or punctuation makes nothing of them.
func (b boxes) formula(text string) (string, bool) {
	const reach = maxSpan // bytes on either side
	from := max(0, b.start-reach)
	open, inside := formulaStart(text[from:b.start])
	from += open
	to := b.end + formulaEnd(text[b.end:min(len(text), b.end+reach)])
	part, at := b.part || touched(text[from:b.start], text[b.end:to], inside), b.start
	if inside && strings.TrimSpace(text[from:at]) == "" {
		at = from
	}
	if n := signBefore(text[:at]); n > 0 && (at == from || !inside) { // -$\boxed{5}$, negative \boxed{5}
		from, part = min(from, at-n), true
	}
	if part && len(b.content) > 1 {
		_, _, isChoice := choice(b.content) // 12 \boxed{\textbf{(C)}}
		part = !isChoice
	}
	return text[from:to], part
}

// formulaStart returns where the formula or sentence starts that s ends in, and whether it is a formula.
func formulaStart(s string) (from int, inside bool) {
	for from = len(s); from > 0 && s[from-1] != '\n' && !(s[from-1] == ' ' && strings.HasSuffix(s[:from-1], ".")); {
		from--
	}
	for i := from; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			if strings.IndexByte("([)]", s[i]) >= 0 {
				from, inside = i+1, s[i] == '(' || s[i] == '['
			}
		case s[i] == '$':
			if strings.HasPrefix(s[i:], "$$") {
				i++
			}
			from, inside = i+1, !inside
		}
	}
	return from, inside
}

// formulaEnd returns where the formula or sentence ends that s starts in.
func formulaEnd(s string) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '$' || s[i] == '\n':
			return i
		case s[i] == '\\' && i+1 < len(s):
			if strings.IndexByte("([)]", s[i+1]) >= 0 {
				return i
			}
			i++
		}
	}
	return len(s)
}

// signBefore returns the length of a minus sign, and of the dollars or brackets behind it, that s ends with.
func signBefore(s string) int {
	t := strings.TrimRight(s, `$\([`)
	for _, sign := range [...]string{"-", "−", "minus ", "negative "} {
		if before, ok := strings.CutSuffix(t, sign); ok && (before == "" || strings.IndexByte(" \n=(", before[len(before)-1]) >= 0) {
			return len(s) - len(before)
		}
	}
	return 0
}

// touched reports whether what stands before or after a box makes something else of it. Inside a formula all that
// can be a factor does; in a sentence only what no space parts from the box.
func touched(before, after string, inside bool) bool {
	if !inside {
		const dress = "*_`'\"|!—"
		before, after = strings.TrimRight(before, dress), strings.TrimLeft(after, dress)
	}
	before, after = before[max(0, strings.LastIndexByte(before, '=')):], after[:min(len(after), 64)]
	if startsWithUnit(after) {
		after = ""
	}
	quiet := ".;?="
	if !inside {
		quiet += ",:"
	}
	if b, a := strings.TrimRight(before, " \t\r~&"), strings.TrimLeft(after, " \t\r~&"); (b == "" || strings.IndexByte(quiet, b[len(b)-1]) >= 0) && (a == "" || strings.IndexByte(quiet, a[0]) >= 0) {
		return false // without taking it apart
	}
	l, ok := lex(before, false)
	if !ok {
		l = l[len(l)-1:]
	}
	r, _ := lex(after, false) // what can be read of it
	i := len(l) - 2
	for i >= 0 && r[0].kind == tokSym && closing[l[i].text] == r[0].text { // \frac{\boxed{5}}{2}
		i, r = i-1, r[1:]
	}
	if i < 0 {
		return bindsLeft(r, inside)
	}
	if l[i].text == "," && inside && (r[0].text == ")" || r[0].text == "]") { // (3, \boxed{5})
		return true
	}
	return bindsRight(l[:i+1], l[i+1].space, inside) || bindsLeft(r, inside)
}

// startsWithUnit reports whether s starts with text, as a unit is set: \mathrm{cm}, / \mathrm{s}, [\text{kg}].
func startsWithUnit(s string) bool {
	for {
		s = strings.TrimLeft(s, " ~/[{&")
		if len(s) < 2 || s[0] != '\\' || strings.IndexByte(",;:! ", s[1]) < 0 {
			break
		}
		s = s[2:]
	}
	if textCommand(s) == 0 || strings.HasPrefix(s, `\mathbf`) {
		return false
	}
	content, _, _ := boxedAt(s, 0)
	content = strings.Trim(content, " ~")
	return content != "i" && content != "e" // \mathrm{i}
}

var closing = map[string]string{"{": "}", "(": ")", "[": "]"}

// bindsRight reports whether the last of toks applies to a box behind it.
func bindsRight(toks []token, spaced, inside bool) bool {
	t, prior := toks[len(toks)-1], token{}
	if len(toks) > 1 {
		prior = toks[len(toks)-2]
	}
	switch {
	case t.text == "+" && (prior.text == "=" || prior.text == "" && inside): // = +5
		return false
	case isOperator(t):
		return inside || !spaced || isOperand(prior) || prior.text == ")" || prior.text == "}"
	case t.kind != tokSym:
		return (inside || !spaced) && isOperand(t) && !(t.kind == tokName && prior.kind == tokName && !t.space) // "is"
	case t.text == "-":
		return inside || !spaced || prior.text == "="
	case t.text == ":":
		return inside && prior.kind == tokNum
	case t.text == "}": // \frac{1}{2}, but not \mathbf{Answer:}
		return (inside || !spaced) && prior.text != ":"
	}
	switch t.text {
	case "(", "[", "{", "set{", ")", "]", "set}", "|", "!", "'", "⌊", "⌋", "⌈", "⌉", "⟨", "⟩":
		return inside
	}
	return false
}

// bindsLeft reports whether the first of toks applies to a box before it.
func bindsLeft(toks []token, inside bool) bool {
	t, next := toks[0], toks[min(1, len(toks)-1)]
	word := func(i int) bool { // "cm", "approximately"
		return toks[i].kind == tokText || i+1 < len(toks) && toks[i].kind == tokName && toks[i+1].kind == tokName && !toks[i+1].space
	}
	switch {
	case t.text == "^" && (next.text == "°" || next.text == "{" && len(toks) > 2 && (toks[2].text == "°" || word(2))): // 5^{th}
		return false
	case isOperator(t) || t.text == "-" && t.kind == tokSym:
		return inside && next.kind != tokEnd || (isOperand(next) || next.text == "(") && !word(1) && !(t.space && next.kind == tokName)
	case t.text == ":" && t.kind == tokSym:
		return inside && (next.kind == tokNum || next.text == "{")
	case t.kind == tokName && t.space && unitWords[t.text] != "" && (next.kind == tokEnd || next.text == "^" || next.text == "/"): // 5 m
		return false
	case t.text == "{" && word(1): // {cm^{-1}}
		return false
	case t.kind != tokSym || t.text == "(":
		return (inside || !t.space) && (isOperand(t) || t.text == "(" && !word(1)) && !word(0)
	}
	switch t.text {
	case "[", "{", "set{", "|", "!", "'", "⌊", "⌈", "⟨":
		return inside
	}
	return false
}

func isOperator(t token) bool {
	switch t.text {
	case "+", "*", "/", "^", "_", "±", "∓", "∪", "∩", "∖", "!=":
		return t.kind == tokSym
	}
	return false
}

// isOperand reports whether t can be a factor, or makes one of what it applies to. A command that is not known may only
// dress.
func isOperand(t token) bool {
	switch t.kind {
	case tokNum, tokFunc:
		return true
	case tokName:
		return t.text[0] != '\\'
	case tokCmd:
		switch t.text {
		case "begin", "end", "dots", "mod", "bmod", "pmod":
			return false
		}
		return true
	}
	return false
}
