package reward

import (
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on what is read as mathematics. They are counts, so that a verdict never depends on a clock.
const (
	maxMathBytes = 4096 // of one answer
	maxMathNodes = 2048 // of one parsed answer
	maxMathDepth = 64   // of nested groups
)

// op is what a [node] does with its arguments.
type op uint8

const (
	opNum     op = iota // num; dec when it was written as a decimal
	opVar               // name
	opConst             // name: pi, e, i, inf
	opAdd               // args
	opMul               // args
	opDiv               // args[0] / args[1]
	opPow               // args[0] ^ args[1]
	opNeg               // -args[0]
	opPM                // args[0] ± args[1], or ± args[0]; name "-" for ∓
	opFunc              // name(args); also functions that are only a letter
	opBound             // name over args: variable, from, to, body; a sum, product, integral or limit
	opTuple             // args in brackets open and close
	opList              // args that commas, semicolons, "and", "or" separate; name is "or" where that word does
	opSet               // {args}
	opWhere             // {args[0] : args[1]}
	opUnion             // args
	opInter             // args
	opWithout           // args[0] \ args[1]
	opRel               // args[0] rels[0] args[1] rels[1] …
	opMatrix            // args by rows, cols of them in each
	opText              // name
	opRatio             // args[0] : args[1]
	opBased             // the digits name in base args[0]
	opPercent           // args[0] per hundred
	opUnit              // args[0] in units of name
)

// node is a parsed expression.
type node struct {
	op          op
	open, close byte
	dec         bool
	cols        int
	name        string
	num         *big.Rat
	rels        []string
	args        []*node
}

// tokenKind sorts the tokens of an answer.
type tokenKind uint8

const (
	tokEnd  tokenKind = iota
	tokNum            // text is the digits, without separators of thousands
	tokName           // text is a letter, or a Greek letter's name
	tokFunc           // text is the name of a function
	tokCmd            // text is a command without its backslash that the parser knows
	tokSym            // text is one of + - * / ^ _ ( ) [ ] { } set{ set} | , ; : = < > <= >= != ~ in ! % ' & \\
	tokText           // text is prose
	tokSep            // text is and, or
)

type token struct {
	kind  tokenKind
	space bool // white space stands before it
	text  string
	digit bool // of tokNum: an integer
}

// lexer turns LaTeX, or plain mathematics, into tokens.
type lexer struct {
	s            string
	i, depth     int // depth counts open brackets, in which a comma separates
	space        bool
	decimalComma bool // 2,74 is a decimal, not a list
	cells        int  // open matrices, in which & and \\ separate
	out          []token
	bad          bool
}

// functions are the names that apply to what follows them, with the name they are evaluated under.
var functions = map[string]string{
	"sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "tg": "tan", "ctg": "cot",
	"arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan", "arctg": "atan",
	"arccot": "acot", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "ln": "ln", "log": "log", "lg": "lg", "exp": "exp",
	"abs": "abs", "max": "max", "min": "min", "gcd": "gcd", "lcm": "lcm", "det": "det", "arg": "arg", "floor": "floor", "ceil": "ceil",
}

// greek are the commands that name a variable.
var greek = map[string]bool{
	"alpha": true, "beta": true, "gamma": true, "delta": true, "epsilon": true, "varepsilon": true, "zeta": true, "eta": true,
	"theta": true, "vartheta": true, "iota": true, "kappa": true, "lambda": true, "mu": true, "nu": true, "xi": true, "rho": true,
	"sigma": true, "tau": true, "phi": true, "varphi": true, "chi": true, "psi": true, "omega": true, "Gamma": true, "Delta": true,
	"Theta": true, "Lambda": true, "Xi": true, "Sigma": true, "Phi": true, "Psi": true, "Omega": true, "ell": true,
}

// symbols are the commands, and the runes of Unicode, that stand for a symbol.
var symbols = map[string]string{
	"cdot": "*", "times": "*", "ast": "*", "div": "/", "lbrace": "set{", "rbrace": "set}", "{": "set{", "}": "set}", "lbrack": "[", "rbrack": "]",
	"le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=",
	"approx": "~", "simeq": "~", "thickapprox": "~", "equiv": "=", "in": "in", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "|": "|", "Vert": "|", "lVert": "|", "rVert": "|",
	"pm": "±", "mp": "∓", "cup": "∪", "cap": "∩", "bigcup": "∪", "bigcap": "∩", "setminus": "∖", "backslash": "∖", "colon": ":", "langle": "⟨", "rangle": "⟩",
	"lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "%": "%", "\\": "\\\\", "circ": "°", "degree": "°", "degrees": "°", "prime": "'", "to": "=", "rightarrow": "=", "mapsto": "=", "lparen": "(", "rparen": ")",
	"vee": "or", "lor": "or", "wedge": "and", "land": "and", "Rightarrow": ";", "implies": ";", "iff": ";",
}

var runes = map[rune]string{
	'−': "-", '–': "-", '—': "-", '‐': "-", '‑': "-", '×': "*", '·': "*", '⋅': "*", '∙': "*", '∗': "*", '÷': "/", '∕': "/", '⁄': "/", '≤': "<=", '≥': ">=", '⩽': "<=", '⩾': ">=", '≠': "!=", '≈': "~",
	'∈': "in", '±': "±", '∓': "∓", '∪': "∪", '∩': "∩", '∖': "∖", '∣': "|", '⟨': "⟨", '⟩': "⟩", '〈': "⟨", '〉': "⟩", '⌊': "⌊", '⌋': "⌋", '⌈': "⌈", '⌉': "⌉", '°': "°", 'º': "°", '˚': "°", '′': "'", '→': "=",
	'（': "(", '）': ")", '，': ",", '；': ";", '：': ":", '＝': "=", '＋': "+", '－': "-", '［': "[", '］': "]", '％': "%", '。': ".", '、': ",",
}

// passed are the commands that only dress what stands around them.
var passed = map[string]bool{
	"left": true, "right": true, "big": true, "Big": true, "bigg": true, "Bigg": true, "bigl": true, "bigr": true, "Bigl": true, "Bigr": true, "biggl": true, "biggr": true, "middle": true,
	"displaystyle": true, "textstyle": true, "limits": true, "nolimits": true, "mathbf": true, "mathit": true, "mathcal": true, "mathsf": true, "mathscr": true, "boldsymbol": true, "bm": true,
	"vec": true, "overrightarrow": true, "hat": true, "widehat": true, "tilde": true, "underline": true, "bf": true, "rm": true, "it": true, "boxed": true, "fbox": true, "ensuremath": true, "phantom": true,
	"therefore": true, "angle": true, "measuredangle": true, "triangle": true, "hline": true, "color": true, "textcolor": true, "mathop": true, "mathrel": true, "mathord": true, "mathstrut": true, "nonumber": true, "notag": true, "cancel": true, "square": true, "Box": true, "blacksquare": true, "qed": true,
}

// texts are the commands whose argument is prose.
var texts = map[string]bool{
	"text": true, "textbf": true, "textit": true, "textrm": true, "textnormal": true, "textsf": true, "texttt": true, "mbox": true, "hbox": true, "emph": true, "mathrm": true, "operatorname": true, "textsc": true, "mathtt": true,
}

// lex takes s apart. It reports false for bytes that are no mathematics.
func lex(s string, decimalComma bool) ([]token, bool) {
	l := lexer{s: s, decimalComma: decimalComma, out: make([]token, 0, 24)}
	for l.i < len(l.s) && !l.bad {
		l.next()
	}
	l.add(tokEnd, "")
	return l.out, !l.bad
}

func (l *lexer) add(kind tokenKind, text string) {
	l.out = append(l.out, token{kind: kind, space: l.space, text: text})
	l.space = false
}

func (l *lexer) sym(text string) {
	switch text {
	case "(", "[", "set{", "⟨":
		l.depth++
	case ")", "]", "set}", "⟩":
		l.depth--
	case "and", "or":
		l.add(tokSep, text)
		return
	case ".":
		return
	}
	l.add(tokSym, text)
}

func (l *lexer) next() {
	c := l.s[l.i]
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '~' || c == '\f' || c == '\v':
		l.space = true
		l.i++
	case isDigit(c) || c == '.' && l.i+1 < len(l.s) && isDigit(l.s[l.i+1]):
		l.number()
	case c == '\\':
		l.command()
	case isASCIILetter(c):
		l.letters()
	case c >= utf8.RuneSelf:
		l.rune()
	default:
		l.ascii(c)
	}
}

func (l *lexer) ascii(c byte) {
	rest := l.s[l.i:]
	for _, two := range [...][2]string{{"**", "^"}, {"<=", "<="}, {">=", ">="}, {"!=", "!="}, {"==", "="}, {"=>", ";"}, {"+-", "±"}, {"+/-", "±"}, {"||", "|"}} {
		if strings.HasPrefix(rest, two[0]) {
			l.i += len(two[0])
			l.sym(two[1])
			return
		}
	}
	l.i++
	switch c {
	case '&':
		if l.cells > 0 {
			l.sym("&")
		} else {
			l.space = true
		}
	case '{':
		// {,} is a comma that separates nothing; {} is nothing
		if i := strings.IndexByte(rest, '}'); i > 0 && i < 6 && strings.TrimSpace(rest[1:i]) == "" {
			l.i += i
			return
		}
		if len(rest) > 2 && rest[2] == '}' && strings.IndexByte("+-=<>", rest[1]) >= 0 && (l.i == 1 || l.s[l.i-2] != '^') { // {-}5 sets the sign closer
			l.i += 2
			l.sym(rest[1:2])
			return
		}
		l.sym("{")
	case '+', '-', '*', '/', '^', '_', '(', ')', '[', ']', '}', '|', ',', ';', ':', '=', '<', '>', '!', '%', '\'':
		l.sym(string(rest[:1]))
	case '$':
		l.space = true
	case '.':
		if strings.HasPrefix(rest, "...") {
			l.i += 2
			l.add(tokCmd, "dots")
		}
		l.space = true
	case '"', '`', '?':
	default:
		l.bad = true
	}
}

func (l *lexer) rune() {
	r, size := utf8.DecodeRuneInString(l.s[l.i:])
	l.i += size
	switch text, ok := runes[r]; {
	case ok:
		l.sym(text)
	case r == '¢':
		l.add(tokText, "cents")
	case unicode.IsSpace(r) || r == '\u200b' || r == '\ufeff' || isCurrency(r) || unicode.Is(unicode.Sc, r):
		l.space = true
	case r == 'π':
		l.add(tokCmd, "pi")
	case r == '∞':
		l.add(tokCmd, "infty")
	case r == '√':
		l.add(tokCmd, "sqrt")
	case r == '∅':
		l.add(tokCmd, "emptyset")
	case r == 'ℝ':
		l.add(tokCmd, "reals")
	case r == '…':
		l.add(tokCmd, "dots")
	case r == '²' || r == '³':
		l.add(tokSym, "^")
		l.add(tokNum, map[rune]string{'²': "2", '³': "3"}[r])
		l.out[len(l.out)-1].digit = true
	case r == '½' || r == '¼' || r == '¾' || r == '⅓' || r == '⅔':
		pair := map[rune]string{'½': "12", '¼': "14", '¾': "34", '⅓': "13", '⅔': "23"}[r]
		l.add(tokCmd, "frac")
		for i := range 2 {
			l.add(tokNum, pair[i:i+1])
			l.out[len(l.out)-1].digit = true
		}
	case unicode.IsLetter(r):
		for name, letter := range greekRunes {
			if letter == r {
				l.add(tokName, name)
				return
			}
		}
		start := l.i - size
		for l.i < len(l.s) {
			r, size := utf8.DecodeRuneInString(l.s[l.i:])
			if !unicode.IsLetter(r) {
				break
			}
			l.i += size
		}
		l.add(tokText, l.s[start:l.i])
	default:
		l.bad = true
	}
}

var greekRunes = map[string]rune{
	"alpha": 'α', "beta": 'β', "gamma": 'γ', "delta": 'δ', "epsilon": 'ε', "theta": 'θ', "lambda": 'λ', "mu": 'μ', "rho": 'ρ', "sigma": 'σ',
	"tau": 'τ', "phi": 'φ', "psi": 'ψ', "omega": 'ω', "Delta": 'Δ', "Omega": 'Ω', "Sigma": 'Σ', "Theta": 'Θ', "Phi": 'Φ',
}

// number reads digits with their separators and exponent.
func (l *lexer) number() {
	s, start := l.s, l.i
	i := start + countDigits(s[start:])
	digits := s[start:i]
	joined := false
	if n := len(digits); n > 0 && n <= 3 && digits[0] != '0' {
		for {
			size := l.thousands(s[i:])
			if size == 0 {
				break
			}
			digits, joined = digits+s[i+size-3:i+size], true
			i += size
		}
	}
	decimal := false
	switch {
	case i+1 < len(s) && s[i] == '.' && isDigit(s[i+1]):
		n := countDigits(s[i+1:])
		digits, decimal = digits+s[i:i+1+n], true
		i += 1 + n
	case i < len(s) && s[i] == '.' && (strings.HasPrefix(s[i+1:], `\overline`) || strings.HasPrefix(s[i+1:], `\bar{`) || strings.HasPrefix(s[i+1:], `\dot{`)):
		digits, decimal = digits+".", true
		i++
	case i < len(s) && s[i] == '.' && periodLength(s[i+1:]) > 0:
		l.i = i + 1 + periodLength(s[i+1:])
		l.add(tokNum, digits+".")
		l.add(tokCmd, "overline")
		l.add(tokNum, s[i+2:l.i-1])
		l.out[len(l.out)-1].digit = true
		return
	case i < len(s) && s[i] == '.' && !strings.HasPrefix(s[i:], ".."):
		i++ // "5."
	case l.decimalComma && !joined && l.depth <= 0 && i+1 < len(s) && s[i] == ',' && isDigit(s[i+1]):
		if n := countDigits(s[i+1:]); !strings.HasPrefix(s[i+1+n:], ",") {
			digits, decimal = digits+"."+s[i+1:i+1+n], true
			i += 1 + n
		}
	case !joined && strings.HasPrefix(s[i:], "{,}") && i+3 < len(s) && isDigit(s[i+3]):
		n := countDigits(s[i+3:])
		digits, decimal = digits+"."+s[i+3:i+3+n], true
		i += 3 + n
	}
	if i+1 < len(s) && (s[i] == 'e' || s[i] == 'E') {
		if _, after, ok := scanInteger(s[i+1:]); ok && !startsWithLetter(after) && !strings.HasPrefix(after, "^") {
			digits += s[i : len(s)-len(after)]
			i, decimal = len(s)-len(after), true
		}
	}
	if len(digits) > maxDigits {
		l.bad = true
	}
	l.i = i
	l.add(tokNum, digits)
	l.out[len(l.out)-1].digit = !decimal
}

// periodLength returns the length of "(27)", the period of 0.(27), or 0.
func periodLength(s string) int {
	if n := countDigits(strings.TrimPrefix(s, "(")); strings.HasPrefix(s, "(") && n > 0 && strings.HasPrefix(s[1+n:], ")") {
		return n + 2
	}
	return 0
}

// thousands returns the length of a separator and the three digits behind it, or 0.
func (l *lexer) thousands(s string) int {
	size := 0
	switch {
	case s == "":
		return 0
	case s[0] == ',':
		size = 1
		switch t := s[1:]; {
		case strings.HasPrefix(t, `\!`):
			size += 2
			for size < len(s) && s[size] == ' ' {
				size++
			}
		case l.depth > 0:
			return 0
		}
	case s[0] == '\'':
		size = 1
	case strings.HasPrefix(s, `\,`) || strings.HasPrefix(s, `\!`) || strings.HasPrefix(s, `\ `) || strings.HasPrefix(s, `\:`):
		size = 2
	case strings.HasPrefix(s, "\u00a0") || strings.HasPrefix(s, "\u202f") || strings.HasPrefix(s, "\u2009"):
		_, size = utf8.DecodeRuneInString(s)
	case s[0] == ' ' || s[0] == '{':
		t := strings.TrimLeft(s, " ")
		if c, ok := strings.CutPrefix(t, "{"); ok {
			c = strings.TrimLeft(c, " ")
			if c, ok = strings.CutPrefix(c, ","); !ok {
				return 0
			}
			if c, ok = strings.CutPrefix(strings.TrimLeft(c, " "), "}"); !ok {
				return 0
			}
			size = len(s) - len(c)
			break
		}
		size = 1
	default:
		return 0
	}
	rest := s[size:]
	if countDigits(rest) != 3 || s[0] == ' ' && size == 1 && strings.HasPrefix(rest[3:], "/") {
		return 0
	}
	return size + 3
}

// letters reads a run of letters: a function, a word that joins, a unit, or variables.
func (l *lexer) letters() {
	s, start := l.s, l.i
	end := start
	for end < len(s) && isASCIILetter(s[end]) {
		end++
	}
	run := s[start:end]
	l.i = end
	if len(run) == 1 {
		if run == "U" && l.betweenSets() {
			l.sym("∪")
		} else {
			l.add(tokName, run)
		}
		return
	}
	switch lower := strings.ToLower(run); {
	case lower == "and" || lower == "or":
		l.add(tokSep, lower)
		return
	case lower == "not":
		l.add(tokText, lower)
		return
	case l.wordSign(lower):
		return
	case (run == "USD" || run == "EUR" || run == "GBP") && !l.afterOperand():
		l.space = true
		return
	case lower == "sqrt" || lower == "pi" || lower == "infty" || lower == "binom" || lower == "cbrt":
		l.add(tokCmd, lower)
		return
	case lower == "infinity" || lower == "inf" || run == "oo":
		l.add(tokCmd, "infty")
		return
	case functions[run] != "":
		l.add(tokFunc, functions[run])
		return
	case isUnitWord(lower) && l.afterOperand():
		l.add(tokText, run)
		return
	case len(run) >= 4 && !(strings.HasPrefix(s[end:], "^") || strings.HasPrefix(s[end:], "_")), start > 0 && len(run) >= 3 && l.space && l.afterOperand():
		l.add(tokText, run)
		return
	}
	if strings.HasPrefix(run, "or") && l.afterOperand() && 'A' <= run[2] && run[2] <= 'Z' {
		l.add(tokSep, "or")
		run = run[2:]
	}
	for i := 0; i < len(run); i++ {
		switch rest := run[i:]; {
		case strings.HasPrefix(rest, "sqrt") && strings.HasPrefix(s[end:], "(") && len(rest) == 4:
			l.add(tokCmd, "sqrt")
			i += 3
		case rest == "pi":
			l.add(tokCmd, "pi")
			i++
		case len(rest) >= 2 && functions[rest] != "" && i > 0:
			l.add(tokFunc, functions[rest])
			i = len(run)
		default:
			l.add(tokName, run[i:i+1])
		}
	}
}

// betweenSets reports whether the letter at the cursor stands between brackets: the U of (0, 1) U (1, 2).
func (l *lexer) betweenSets() bool {
	rest := strings.TrimLeft(l.s[l.i:], " ")
	last := token{}
	if len(l.out) > 0 {
		last = l.out[len(l.out)-1]
	}
	return last.kind == tokSym && (last.text == ")" || last.text == "]" || last.text == "set}") && l.depth == 0 &&
		(strings.HasPrefix(rest, "(") || strings.HasPrefix(rest, "[") || strings.HasPrefix(rest, `\{`))
}

// wordSign adds the sign that a word stands for: minus 5, negative 5, 3 to 4.
func (l *lexer) wordSign(word string) bool {
	switch {
	case word == "minus" || word == "negative" && !l.afterOperand():
		l.sym("-")
	case word == "to" && len(l.out) > 0 && l.out[len(l.out)-1].kind == tokNum:
		l.sym(":")
	default:
		return false
	}
	return true
}

func (l *lexer) afterOperand() bool {
	if len(l.out) == 0 {
		return false
	}
	switch last := l.out[len(l.out)-1]; last.kind {
	case tokNum, tokName, tokText:
		return true
	case tokSym:
		switch last.text {
		case ")", "]", "}", "set}", "°", "%", "|", "!":
			return true
		}
	case tokCmd:
		return last.text == "pi" || last.text == "infty"
	}
	return false
}

// command reads a backslash and what belongs to it.
func (l *lexer) command() {
	s := l.s
	end := l.i + 1
	for end < len(s) && isASCIILetter(s[end]) {
		end++
	}
	if end == l.i+1 { // \, \! \{ \\ …
		if end == len(s) { // what is left of "\ " at the end
			l.i = end
			return
		}
		switch c := s[end]; c {
		case ',', ';', ':', '!', ' ', '\n', '/', '>':
			l.space = true
		case '$', '(', ')', '[', ']', '-', '#', '&', '_', '"', '\'':
			l.space = true
		case '{', '}', '|', '%', '\\':
			if c == '\\' && end+1 < len(s) && isASCIILetter(s[end+1]) && !strings.Contains(s, `\begin`) {
				l.i = end // a backslash that was escaped twice
				return
			}
			if c == '\\' && l.cells == 0 && strings.HasPrefix(strings.TrimLeft(s[end+1:], " &\n\t"), "=") { // a chain that goes on
				l.i = end + 1
				return
			}
			l.sym(symbols[s[end:end+1]])
			if c == '\\' && strings.HasPrefix(s[end+1:], "[") { // \\[2pt]
				if close := strings.IndexByte(s[end:], ']'); close > 0 && close < 10 && strings.Trim(s[end+2:end+close], "0123456789.-") != s[end+2:end+close] && strings.HasSuffix(strings.TrimRight(s[end+2:end+close], " "), "t") {
					end += close
				}
			}
		default:
			l.bad = true
		}
		l.i = end + 1
		return
	}
	name := s[l.i+1 : end]
	l.i = end
	switch {
	case symbols[name] != "":
		l.sym(symbols[name])
	case functions[name] != "":
		l.add(tokFunc, functions[name])
	case greek[name]:
		l.add(tokName, name)
	case texts[name]:
		l.text(name)
	case passed[name]:
		if name == "color" || name == "textcolor" {
			l.argument()
		}
		if (name == "left" || name == "right") && l.i < len(s) && s[l.i] == '.' {
			l.i++
		}
	case name == "begin" || name == "end":
		env, ok := l.argument()
		if !ok {
			l.bad = true
			return
		}
		env = strings.TrimSuffix(env, "*")
		switch env {
		case "pmatrix", "bmatrix", "matrix", "vmatrix", "Bmatrix", "Vmatrix", "smallmatrix", "array":
			if env == "array" && name == "begin" {
				l.argument()
			}
			if name == "begin" {
				l.cells++
				l.add(tokCmd, "begin")
				l.out[len(l.out)-1].digit = env == "vmatrix"
			} else {
				l.cells--
				l.add(tokCmd, "end")
			}
		case "align", "aligned", "equation", "gather", "gathered", "split":
			l.space = true
		default:
			l.bad = true
		}
	case name == "quad" || name == "qquad" || name == "enspace" || name == "thinspace" || name == "hspace" || name == "hfill" || name == "space" || name == "newline" || name == "par":
		l.space = true
		if name == "hspace" {
			l.argument()
		}
	case name == "dfrac" || name == "tfrac" || name == "cfrac" || name == "frac" || name == "sfrac" || name == "nicefrac":
		l.add(tokCmd, "frac")
	case name == "dbinom" || name == "tbinom" || name == "binom" || name == "choose":
		l.add(tokCmd, map[bool]string{true: "choose", false: "binom"}[name == "choose"])
	case name == "over":
		l.add(tokCmd, name)
	case name == "cr":
		l.sym(`\\`)
	case name == "not":
		rest := strings.TrimLeft(l.s[l.i:], " ")
		l.bad = !strings.HasPrefix(rest, "=")
		l.i = len(l.s) - len(strings.TrimPrefix(rest, "="))
		l.sym("!=")
	case name == "R":
		l.add(tokCmd, "reals")
	case name == "infin" || name == "infty":
		l.add(tokCmd, "infty")
	case name == "emptyset" || name == "varnothing":
		l.add(tokCmd, "emptyset")
	case name == "mathbb" || name == "Bbb":
		set, ok := l.argument()
		if !ok {
			l.i += len(l.s[l.i:]) - len(strings.TrimLeft(l.s[l.i:], " "))
			set = l.s[l.i:min(l.i+1, len(l.s))]
			l.i += len(set)
		}
		l.add(tokCmd, "number sets")
		l.out[len(l.out)-1].text = map[string]string{"R": "reals"}[strings.TrimSpace(set)]
		if l.out[len(l.out)-1].text == "" {
			l.out[len(l.out)-1] = token{kind: tokText, text: "mathbb" + set}
		}
	case name == "imath" || name == "jmath":
		l.add(tokName, name[:1])
	case name == "ldots" || name == "dots" || name == "cdots" || name == "dotsc" || name == "dotsb":
		l.add(tokCmd, "dots")
	case name == "sqrt" || name == "pi" || name == "overline" || name == "bar" || name == "sum" || name == "prod" || name == "int" || name == "lim" || name == "bmod" || name == "pmod" || name == "mod" || name == "reals" || name == "dot" || name == "cbrt":
		l.add(tokCmd, name)
	default:
		// an unknown command is a name: equal to itself and to nothing else
		l.add(tokName, `\`+name)
	}
}

// argument reads a braced argument, braces inside it included.
func (l *lexer) argument() (string, bool) {
	i := l.i
	for i < len(l.s) && l.s[i] == ' ' {
		i++
	}
	if i == len(l.s) || l.s[i] != '{' {
		return "", false
	}
	depth := 0
	for j := i; j < len(l.s); j++ {
		switch l.s[j] {
		case '\\':
			j++
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				l.i = j + 1
				return l.s[i+1 : j], true
			}
		}
	}
	return "", false
}

// text reads the argument of a command that sets prose. Prose that is mathematics is read as such.
func (l *lexer) text(name string) {
	content, ok := l.argument()
	if !ok {
		if name == "mathrm" || name == "operatorname" {
			return
		}
		l.bad = true
		return
	}
	t := strings.Trim(content, " ~,;\\")
	lower := strings.ToLower(strings.TrimSpace(t))
	switch {
	case lower == "and" || lower == "or":
		l.add(tokSep, lower)
	case lower == "":
		l.space = true
	case lower == "-":
		l.sym("-")
	case l.wordSign(lower):
	case functions[lower] != "":
		l.add(tokFunc, functions[lower])
	case lower == "i" && name == "mathrm" || lower == "e" && name == "mathrm" || lower == "d" && name == "mathrm":
		l.add(tokName, lower)
	case strings.HasPrefix(lower, "and a ") || strings.HasPrefix(lower, "or "): // 5 and a half, 5 or more
		l.bad = true
	case strings.HasSuffix(lower, " and") || strings.HasPrefix(lower, "and "):
		l.add(tokSep, "and")
	case lower == "infinity":
		l.add(tokCmd, "infty")
	case l.afterOperand() && isUnitProduct(t): // \mathrm{m\,s^{-1}}
		l.add(tokText, t)
	case isNumeral(t) || strings.ContainsAny(t, `\$=`) || name == "mathrm" && len(t) == 1 && isASCIILetter(t[0]):
		if l.depth > maxMathDepth || len(l.out) > maxMathNodes {
			l.bad = true
			return
		}
		inner := lexer{s: t, depth: l.depth + 1}
		for inner.i < len(inner.s) && !inner.bad {
			inner.next()
		}
		l.bad = l.bad || inner.bad
		l.out = append(l.out, inner.out...)
	default:
		l.add(tokText, lower)
	}
}

// isNumeral reports whether s is a plain number.
func isNumeral(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.,-") == "" && strings.ContainsAny(s, "0123456789")
}
