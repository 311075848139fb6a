package reward

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// mathParser reads the tokens of an answer by recursive descent. A failure is sticky: bad is set and the cursor runs
// to the end.
type mathParser struct {
	toks       []token
	i          int
	nodes      int
	depth      int
	abs, where int // open |…|, and sets in which | may separate a condition
	bad        bool
	slab       []node
}

// parseMath parses an answer. It reports false for what is no mathematics that it knows, or too much of it.
func parseMath(s string, decimalComma bool) (*node, bool) {
	toks, ok := lex(s, decimalComma)
	if !ok || len(toks) > maxMathNodes {
		return nil, false
	}
	p := mathParser{toks: toks}
	n := p.list()
	if p.bad || p.peek().kind != tokEnd {
		return nil, false
	}
	return n, true
}

func (p *mathParser) peek() *token { return &p.toks[p.i] }

func (p *mathParser) is(text string) bool {
	t := &p.toks[p.i]
	return t.kind == tokSym && t.text == text
}

func (p *mathParser) isCmd(text string) bool {
	t := &p.toks[p.i]
	return t.kind == tokCmd && t.text == text
}

func (p *mathParser) advance() {
	if p.i < len(p.toks)-1 {
		p.i++
	}
}

func (p *mathParser) accept(text string) bool {
	if p.is(text) {
		p.advance()
		return true
	}
	return false
}

func (p *mathParser) expect(text string) {
	if !p.accept(text) {
		p.fail()
	}
}

func (p *mathParser) fail() *node {
	p.bad = true
	p.i = len(p.toks) - 1
	return &node{op: opText}
}

func (p *mathParser) new(o op, args ...*node) *node {
	if p.nodes++; p.nodes > maxMathNodes {
		return p.fail()
	}
	if len(p.slab) == 0 {
		p.slab = make([]node, 16)
	}
	n := &p.slab[0]
	p.slab = p.slab[1:]
	n.op, n.args = o, args
	return n
}

func (p *mathParser) named(o op, name string, args ...*node) *node {
	n := p.new(o, args...)
	n.name = name
	return n
}

func (p *mathParser) integer(v int64) *node {
	n := p.new(opNum)
	n.num = big.NewRat(v, 1)
	return n
}

// enter bounds the depth of recursion. It goes with a deferred leave.
func (p *mathParser) enter() bool {
	if p.depth++; p.depth > maxMathDepth {
		p.fail()
	}
	return !p.bad
}

func (p *mathParser) leave() { p.depth-- }

// list = item { ("," | ";" | and | or) item }, where ";" and words separate less tightly than a comma.
func (p *mathParser) list() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	var outer, inner []*node
	var or bool
	flush := func() {
		switch len(inner) {
		case 0:
		case 1:
			outer = append(outer, inner[0])
		default:
			outer = append(outer, p.new(opList, inner...))
		}
		inner = nil
	}
	for {
		p.skipSeparators()
		if p.ends() && !(p.is("]") && p.i == 0) { // ]0, 1] begins with one
			break
		}
		inner = append(inner, p.over())
		if p.bad {
			return p.fail()
		}
		switch t := p.peek(); {
		case p.is(","):
		case p.is(";") || p.is(`\\`):
			flush()
		case t.kind == tokSep:
			or = or || t.text == "or"
			if p.grouped(inner) {
				flush()
			}
		default:
			flush()
			return p.finishList(outer, or)
		}
	}
	flush()
	return p.finishList(outer, or)
}

// grouped reports whether items are assignments to several names, so that a word separates whole solutions.
func (p *mathParser) grouped(items []*node) bool {
	if len(items) < 2 || !slices.ContainsFunc(p.toks[p.i+1:], func(t token) bool { return t.kind == tokSym && t.text == "," }) {
		return false
	}
	for i, n := range items {
		if n.op != opRel || n.rels[0] != "=" || i > 0 && same(n.args[0], items[0].args[0]) {
			return false
		}
	}
	return true
}

func (p *mathParser) finishList(items []*node, or bool) *node {
	switch {
	case len(items) == 0:
		return p.fail()
	case len(items) == 1:
		if items[0].op == opList && or {
			items[0].name = "or"
		}
		return items[0]
	}
	n := p.new(opList, items...)
	if or {
		n.name = "or"
	}
	return n
}

func (p *mathParser) skipSeparators() {
	for p.peek().kind == tokSep || p.is(",") || p.is(";") || p.is(`\\`) && p.depth <= 1 {
		p.advance()
	}
}

// ends reports whether a list cannot go on.
func (p *mathParser) ends() bool {
	t := p.peek()
	if t.kind == tokEnd {
		return true
	}
	if t.kind == tokSym {
		switch t.text {
		case ")", "]", "}", "set}", "⟩", "&", `\\`:
			return true
		case "[":
			return p.closes()
		}
	}
	return p.isCmd("end")
}

// over = relation [ \over relation ], as in {a \over b}
func (p *mathParser) over() *node {
	top := p.relation()
	if p.isCmd("over") {
		p.advance()
		return p.new(opDiv, top, p.relation())
	}
	return top
}

// relation = sets { ("=" | "<" | …) sets }. What follows ≈ is dropped when something exact stands before it.
func (p *mathParser) relation() *node {
	first := p.sets()
	var n *node
	for !p.bad {
		t := p.peek()
		if t.kind != tokSym {
			break
		}
		switch t.text {
		case "=", "<", ">", "<=", ">=", "!=", "in", "~":
		default:
			if n == nil {
				return first
			}
			return n
		}
		rel := t.text
		p.advance()
		if p.is("=") { // "< =", ": ="
			p.advance()
			if rel == "<" || rel == ">" {
				rel += "="
			}
		}
		right := p.sets()
		if rel == "~" {
			if n != nil || first.op != opVar && !(first.op == opFunc) {
				continue // x = 1/3 ≈ 0.33
			}
			rel = "="
		}
		if n == nil {
			n = p.new(opRel, first)
		}
		n.args, n.rels = append(n.args, right), append(n.rels, rel)
	}
	if n == nil {
		return first
	}
	return n
}

// sets = ratio { (∪ | ∩ | ∖) ratio }
func (p *mathParser) sets() *node {
	left := p.ratio()
	for !p.bad {
		var o op
		switch {
		case p.is("∪"):
			o = opUnion
		case p.is("∩"):
			o = opInter
		case p.is("∖"):
			o = opWithout
		case p.is("-") && (left.op == opConst && left.name == "reals"):
			o = opWithout
		default:
			return left
		}
		p.advance()
		right := p.ratio()
		if o == opUnion && left.op == opUnion {
			left.args = append(left.args, right)
		} else {
			left = p.new(o, left, right)
		}
	}
	return left
}

// ratio = sum { ":" sum }
func (p *mathParser) ratio() *node {
	left := p.sum()
	if p.where > 0 || !p.is(":") {
		return left
	}
	n := p.new(opRatio, left)
	for p.accept(":") {
		if t := p.peek(); t.kind == tokNum && len(t.text) == 2 && t.text[0] == '0' {
			n.name = "time" // 2:05
		}
		if p.is("=") { // ":=" is "="
			return left
		}
		n.args = append(n.args, p.sum())
	}
	return n
}

// sum = [sign] term { sign term }
func (p *mathParser) sum() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	left := p.term()
	for !p.bad {
		t := p.peek()
		if t.kind != tokSym {
			return left
		}
		switch t.text {
		case "+", "-":
			p.advance()
			right := p.term()
			if t.text == "-" {
				right = p.new(opNeg, right)
			}
			if left.op == opAdd {
				left.args = append(left.args, right)
			} else {
				left = p.new(opAdd, left, right)
			}
		case "±", "∓":
			p.advance()
			left = p.named(opPM, map[string]string{"±": "", "∓": "-"}[t.text], left, p.term())
		default:
			return left
		}
	}
	return left
}

// term = unary { ("*" | "/" | nothing) unary }
func (p *mathParser) term() *node {
	left := p.unary()
	for !p.bad {
		switch {
		case p.accept("*"):
			left = p.product(left, p.unary())
		case p.accept("/"):
			left = p.new(opDiv, left, p.unary())
		case p.isCmd("bmod") || p.isCmd("mod") || p.isCmd("pmod"):
			pmod := p.isCmd("pmod")
			p.advance()
			left = p.named(opFunc, map[bool]string{true: "pmod", false: "mod"}[pmod], left, p.unary())
		case p.isCmd("choose"):
			p.advance()
			left = p.named(opFunc, "binom", left, p.unary())
		case p.peek().kind == tokText:
			left = p.unit(left)
		case p.startsFactor():
			if p.peek().kind == tokNum && left.op == opUnit && left.name != "degree" { // 1 hour 30 minutes
				return p.fail()
			}
			if p.peek().kind == tokNum && left.op == opNum { // "5 6" is two numbers
				if left.num == nil || !left.num.IsInt() || !p.mixed() {
					return p.fail()
				}
				whole := left
				top := p.power()
				p.expect("/")
				left = p.new(opAdd, whole, p.new(opDiv, top, p.power()))
				continue
			}
			if left.op == opNum && !left.dec && p.isCmd("frac") && left.num.IsInt() {
				f := p.power()
				if whole := p.mixedSum(left, f); whole != nil { // 3\frac12
					left = whole
				} else {
					left = p.product(left, f)
				}
				continue
			}
			left = p.product(left, p.power())
		default:
			return left
		}
	}
	return left
}

func (p *mathParser) product(a, b *node) *node {
	if b.op == opDiv && b.args[0].op == opText && b.args[1].op == opText { // 60 \frac{\text{miles}}{\text{hour}}
		return p.named(opUnit, b.args[0].name+" per "+b.args[1].name, a)
	}
	if a.op == opMul {
		a.args = append(a.args, b)
		return a
	}
	return p.new(opMul, a, b)
}

// mixedSum returns 3 + 1/2 for 3 and \frac12, what stands behind the fraction applied to both, or nil.
func (p *mathParser) mixedSum(whole, f *node) *node {
	switch {
	case f.op == opDiv && f.args[0].op == opNum && f.args[1].op == opNum:
		return p.new(opAdd, whole, f)
	case f.op == opPercent || f.op == opUnit:
		if sum := p.mixedSum(whole, f.args[0]); sum != nil {
			return p.named(f.op, f.name, sum)
		}
	}
	return nil
}

// mixed reports whether the number at the cursor is the numerator of a plain fraction: the 1 of "2 1/2".
func (p *mathParser) mixed() bool {
	t := p.toks[p.i:]
	return len(t) > 3 && t[0].digit && t[0].space && t[1].kind == tokSym && t[1].text == "/" && t[2].kind == tokNum && t[2].digit
}

// unit reads prose behind an operand: a unit, or a remark, with its power.
func (p *mathParser) unit(of *node) *node {
	var words []string
	for p.peek().kind == tokText || len(words) > 0 && (p.is("/") && p.i+1 < len(p.toks) && p.toks[p.i+1].kind == tokText) {
		if p.is("/") {
			words = append(words, "per")
		} else {
			words = append(words, p.peek().text)
			if word := words[len(words)-1]; slices.Contains(numberWords, word) || strings.HasPrefix(word, "not ") || strings.HasPrefix(word, "point ") { // 4 point five
				return p.fail()
			}
		}
		p.advance()
	}
	if p.accept("^") {
		power := p.exponent()
		if power.op != opNum || !power.num.IsInt() {
			return p.fail()
		}
		words = append(words, "^"+power.num.RatString())
	}
	if len(words) == 1 {
		switch strings.TrimSpace(strings.ToLower(words[0])) {
		case "percent", "percentage", "pct", "per cent", "%":
			return p.new(opPercent, of)
		case "squared":
			return p.new(opPow, of, p.integer(2))
		case "cubed":
			return p.new(opPow, of, p.integer(3))
		case "factorial":
			return p.named(opFunc, "!", of)
		}
	}
	return p.named(opUnit, strings.Join(words, " "), of)
}

// startsFactor reports whether the token at the cursor can be multiplied with what stands before it.
func (p *mathParser) startsFactor() bool {
	t := p.peek()
	switch t.kind {
	case tokNum, tokName, tokFunc:
		return true
	case tokCmd:
		return t.text != "end" && t.text != "bmod" && t.text != "pmod" && t.text != "mod" && t.text != "choose" && t.text != "over"
	case tokSym:
		switch t.text {
		case "(", "{", "⌊", "⌈", "⟨":
			return true
		case "[":
			return !p.closes()
		case "|":
			return p.abs == 0 && p.where == 0
		}
	}
	return false
}

// closes reports whether the bracket at the cursor ends a half-open interval, as in [0, 1[.
func (p *mathParser) closes() bool {
	switch t := p.toks[p.i+1]; t.kind {
	case tokEnd, tokSep:
		return true
	case tokSym:
		return strings.Contains(") ] } set} , ; ∪ ∩ ∖ = | :", t.text)
	}
	return false
}

// unary = {sign} power
func (p *mathParser) unary() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	t := p.peek()
	if t.kind == tokSym {
		switch t.text {
		case "-":
			p.advance()
			// -3\frac12 is -(3 + 1/2), and -x y is -(x y)
			return p.new(opNeg, p.signed())
		case "+":
			p.advance()
			return p.unary()
		case "±", "∓":
			p.advance()
			return p.named(opPM, map[string]string{"±": "", "∓": "-"}[t.text], p.signed())
		}
	}
	return p.power()
}

// signed reads what a sign applies to: implicit products belong to it.
func (p *mathParser) signed() *node {
	left := p.unary()
	for !p.bad && p.startsFactor() {
		if left.op == opNum {
			if p.peek().kind == tokNum {
				if !p.mixed() || left.num == nil {
					return left
				}
				top := p.power()
				p.expect("/")
				return p.new(opAdd, left, p.new(opDiv, top, p.power()))
			}
			if p.isCmd("frac") && !left.dec && left.num.IsInt() {
				f := p.power()
				if whole := p.mixedSum(left, f); whole != nil {
					left = whole
				} else {
					left = p.product(left, f)
				}
				continue
			}
		}
		left = p.product(left, p.power())
	}
	return left
}

// power = primary { "!" | "%" | "°" | "'" } [ "^" exponent ]
func (p *mathParser) power() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	return p.postfix(p.primary())
}

func (p *mathParser) postfix(n *node) *node {
	for !p.bad {
		switch {
		case p.accept("!"):
			n = p.named(opFunc, "!", n)
		case p.accept("%"):
			n = p.new(opPercent, n)
		case p.accept("°"):
			n = p.named(opUnit, "degree", n)
		case p.accept("'"):
			n = p.named(opFunc, "'", n)
		case p.accept("^"):
			if p.accept("°") {
				n = p.named(opUnit, "degree", n)
				continue
			}
			if p.is("{") && p.toks[p.i+1].kind == tokSym && p.toks[p.i+1].text == "°" && p.i+2 < len(p.toks) && p.toks[p.i+2].text == "}" {
				p.i += 3
				n = p.named(opUnit, "degree", n)
				continue
			}
			for p.accept("'") {
				n = p.named(opFunc, "'", n)
				if !p.is("'") {
					return n
				}
			}
			n = p.new(opPow, n, p.exponent())
		default:
			return n
		}
	}
	return n
}

// exponent reads one token or a group, with a sign in plain text: x^-2, x^{10}, 2^10.
func (p *mathParser) exponent() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	if p.accept("-") {
		return p.new(opNeg, p.exponent())
	}
	p.accept("+")
	if p.peek().kind == tokFunc || p.peek().kind == tokText {
		return p.fail()
	}
	n := p.primary()
	if p.is("^") || p.is("!") { // 2^3^4 = 2^(3^4)
		return p.postfix(n)
	}
	return n
}

func (p *mathParser) primary() *node {
	t := p.peek()
	switch t.kind {
	case tokNum:
		return p.number()
	case tokName:
		return p.variable()
	case tokFunc:
		return p.function()
	case tokCmd:
		return p.commandNode()
	case tokText:
		return p.prose()
	case tokSym:
		switch t.text {
		case "(", "[", "⟨":
			return p.brackets()
		case "]": // ]0, 1[
			return p.brackets()
		case "{":
			p.advance()
			where := p.where
			abs := p.abs
			p.where, p.abs = 0, 0
			n := p.list()
			p.where, p.abs = where, abs
			p.expect("}")
			return n
		case "set{":
			return p.set()
		case "|":
			p.advance()
			p.abs++
			n := p.sum()
			p.abs--
			p.expect("|")
			return p.named(opFunc, "abs", n)
		case "⌊", "⌈":
			p.advance()
			n := p.sum()
			name, end := "floor", "⌋"
			if t.text == "⌈" {
				name, end = "ceil", "⌉"
			}
			p.expect(end)
			return p.named(opFunc, name, n)
		}
	}
	return p.fail()
}

func (p *mathParser) number() *node {
	t := p.peek()
	p.advance()
	n := p.new(opNum)
	n.dec = !t.digit
	if t.digit && len(t.text) <= 18 {
		n.num = new(big.Rat).SetInt64(accumulate(0, t.text))
	} else {
		d, rest, ok := scanDecimal(strings.TrimSuffix(t.text, "."))
		n.num = new(big.Rat)
		if !ok || rest != "" || !d.set(n.num, 0) {
			return p.fail()
		}
	}
	switch {
	case p.is("_"): // 204_5
		p.advance()
		base := p.subscriptText()
		if !t.digit {
			return p.fail()
		}
		return p.named(opBased, strings.TrimLeft(t.text, "0")+"_"+base, n)
	case p.isCmd("overline") || p.isCmd("bar") || p.isCmd("dot"):
		if strings.Contains(t.text, ".") {
			return p.repeating(n, t)
		}
	}
	return n
}

// repeating reads the period of 0.1\overline{36}.
func (p *mathParser) repeating(n *node, t *token) *node {
	p.advance()
	p.accept("{")
	period := p.peek()
	if period.kind != tokNum || !period.digit || len(period.text) > 30 {
		return p.fail()
	}
	p.advance()
	p.accept("}")
	fraction := 0
	if i := strings.IndexByte(t.text, '.'); i >= 0 {
		fraction = len(t.text) - i - 1
	}
	v, _ := new(big.Int).SetString(period.text, 10)
	ten := big.NewInt(10)
	nines := new(big.Int).Sub(new(big.Int).Exp(ten, big.NewInt(int64(len(period.text))), nil), big.NewInt(1))
	nines.Mul(nines, new(big.Int).Exp(ten, big.NewInt(int64(fraction)), nil))
	n.num = new(big.Rat).Add(n.num, new(big.Rat).SetFrac(v, nines))
	n.dec = false
	return n
}

// variable reads a letter with its subscript, or a call of f, g, h.
func (p *mathParser) variable() *node {
	t := p.peek()
	name := t.text
	p.advance()
	if p.is("_") {
		p.advance()
		if p.is("{") {
			if sub, ok := p.simpleSubscript(); ok {
				name += "_" + sub
			} else {
				p.advance()
				index := p.list()
				p.expect("}")
				return p.named(opFunc, name+"_", index)
			}
		} else {
			switch s := p.peek(); s.kind {
			case tokNum, tokName:
				p.advance()
				if s.kind == tokName && len(s.text) == 1 {
					return p.call(p.named(opFunc, name+"_", p.named(opVar, s.text)))
				}
				name += "_" + s.text
			case tokText:
				p.advance()
				name += "_" + s.text
			default:
				return p.fail()
			}
		}
	}
	switch name {
	case "e":
		return p.named(opConst, "e")
	case "i":
		return p.named(opConst, "i")
	}
	return p.call(p.named(opVar, name))
}

// call reads the argument of a letter that names a function.
func (p *mathParser) call(f *node) *node {
	if !p.is("(") || len(f.name) == 0 {
		return f
	}
	if !strings.Contains("fghFGH", f.name[:1]) && !p.oneNameBeforeEquals() {
		return f
	}
	p.advance()
	arg := p.list()
	p.expect(")")
	if arg.op == opList {
		return p.named(opFunc, f.name, arg.args...)
	}
	return p.named(opFunc, f.name, arg)
}

// oneNameBeforeEquals reports whether the cursor stands at "(x) =" or "(2) =", as in P(x) = 5.
func (p *mathParser) oneNameBeforeEquals() bool {
	t := p.toks[p.i:]
	return len(t) > 4 && (t[1].kind == tokName || t[1].kind == tokNum) && t[2].kind == tokSym && t[2].text == ")" && t[3].kind == tokSym && t[3].text == "="
}

// simpleSubscript reads {12} or {abc} or {\text{max}}: a name, not an expression. A lone letter is an index.
func (p *mathParser) simpleSubscript() (string, bool) {
	var b strings.Builder
	j := p.i + 1
	for ; j < len(p.toks) && (p.toks[j].kind == tokNum || p.toks[j].kind == tokName || p.toks[j].kind == tokText || p.toks[j].kind == tokFunc); j++ { // P_{\max}
		b.WriteString(p.toks[j].text)
	}
	if j >= len(p.toks) || p.toks[j].kind != tokSym || p.toks[j].text != "}" || j == p.i+2 && p.toks[p.i+1].kind == tokName {
		return "", false
	}
	p.i = j
	p.advance()
	return b.String(), true
}

// subscriptText reads the base of a numeral.
func (p *mathParser) subscriptText() string {
	if p.is("{") {
		if s, ok := p.simpleSubscript(); ok {
			return digitsOf(s)
		}
		p.fail()
		return ""
	}
	t := p.peek()
	if t.kind != tokNum && t.kind != tokText {
		p.fail()
		return ""
	}
	p.advance()
	return digitsOf(t.text)
}

// digitsOf writes a word for a small number in digits: two is 2.
func digitsOf(word string) string {
	if i := slices.Index(numberWords, word); i >= 0 {
		return strconv.Itoa(i)
	}
	return word
}

// numberWords are the words for 0, 1, 2, ….
var numberWords = strings.Fields("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty")

// function reads the argument of sin, log, …
func (p *mathParser) function() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	name := p.peek().text
	p.advance()
	var power, base *node
	for !p.bad {
		if p.accept("^") {
			power = p.exponent()
			continue
		}
		if p.accept("_") {
			base = p.primary()
			continue
		}
		break
	}
	if name == "log" && base != nil && base.op == opNum && base.num.IsInt() && base.num.Num().IsInt64() && base.num.Num().Int64() == 10 {
		name, base = "lg", nil
	}
	var args []*node
	switch {
	case p.is("("):
		arg := p.brackets()
		if arg.op == opTuple {
			args = arg.args
		} else {
			args = []*node{arg}
		}
	case p.is("{"):
		args = []*node{p.primary()}
	default:
		args = []*node{p.argument()}
	}
	if base != nil {
		args = append(args, base)
	}
	if name == "exp" && len(args) == 1 {
		n := p.new(opPow, p.named(opConst, "e"), args[0])
		if power != nil {
			n = p.new(opPow, n, power)
		}
		return n
	}
	if power != nil && power.op == opNeg && power.args[0].op == opNum && power.args[0].num.Cmp(oneRat) == 0 && strings.Contains("sin cos tan cot", name) {
		return p.named(opFunc, "a"+name, args...)
	}
	n := p.named(opFunc, name, args...)
	if power != nil {
		return p.new(opPow, n, power)
	}
	return n
}

var oneRat = big.NewRat(1, 1)

// argument reads the bare argument of a function: 2\pi x of \sin 2\pi x.
func (p *mathParser) argument() *node {
	if p.is("-") || p.is("+") || p.peek().kind == tokFunc {
		return p.unary()
	}
	left := p.power()
	for !p.bad && p.startsFactor() && p.peek().kind != tokFunc && !p.is("(") && !p.is("[") {
		left = p.product(left, p.power())
	}
	return left
}

// group reads one argument of a command: a group, or one digit or letter.
func (p *mathParser) group() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	if t := p.peek(); t.kind == tokNum && t.digit && len(t.text) > 1 {
		n := p.new(opNum) // \frac12
		n.num = big.NewRat(int64(t.text[0]-'0'), 1)
		p.toks[p.i] = token{kind: tokNum, text: t.text[1:], digit: true}
		return n
	}
	if p.peek().kind == tokFunc {
		return p.function()
	}
	return p.primary()
}

func (p *mathParser) commandNode() *node {
	t := p.peek()
	p.advance()
	switch t.text {
	case "pi":
		return p.named(opConst, "pi")
	case "infty":
		return p.named(opConst, "inf")
	case "reals":
		return p.named(opConst, "reals")
	case "emptyset":
		return p.new(opSet)
	case "dots":
		return p.named(opVar, "…")
	case "frac":
		top := p.group()
		return p.new(opDiv, top, p.group())
	case "binom":
		if p.is("(") {
			if arg := p.brackets(); arg.op == opTuple && len(arg.args) == 2 {
				return p.named(opFunc, "binom", arg.args...)
			}
			return p.fail()
		}
		top := p.group()
		return p.named(opFunc, "binom", top, p.group())
	case "sqrt":
		if p.is("[") {
			p.advance()
			index := p.sum()
			p.expect("]")
			return p.named(opFunc, "root", p.group(), index)
		}
		if p.peek().kind == tokNum { // \sqrt51 sets √5 1, and means √51
			return p.named(opFunc, "sqrt", p.primary())
		}
		return p.named(opFunc, "sqrt", p.group())
	case "cbrt":
		return p.named(opFunc, "root", p.group(), p.integer(3))
	case "overline", "bar", "dot":
		return p.named(opFunc, "bar", p.group())
	case "begin":
		return p.matrix(t.digit)
	case "sum", "prod", "int", "lim":
		return p.bound(t.text)
	}
	return p.fail()
}

// bound reads \sum_{k=1}^{n} body, \int_0^1 body, \lim_{x \to 0} body.
func (p *mathParser) bound(name string) *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	empty := p.named(opVar, "")
	variable, from, to := empty, empty, empty
	for !p.bad {
		if p.accept("_") {
			low := p.group()
			if low.op == opRel && len(low.args) == 2 && low.args[0].op == opVar && low.rels[0] == "=" {
				variable, from = low.args[0], low.args[1]
			} else {
				from = low
			}
			continue
		}
		if p.accept("^") {
			to = p.group()
			continue
		}
		break
	}
	return p.named(opBound, name, variable, from, to, p.term())
}

// brackets reads (…), […], ⟨…⟩ and mixed pairs. One item in a pair of its own is a group.
func (p *mathParser) brackets() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	open := p.peek().text
	p.advance()
	abs, where := p.abs, p.where
	p.abs, p.where = 0, 0
	inner := p.list()
	p.abs, p.where = abs, where
	t := p.peek()
	if t.kind != tokSym {
		return p.fail()
	}
	closing := t.text
	switch closing {
	case ")", "]", "⟩":
	case "[":
		if open != "]" && open != "[" && open != "(" {
			return p.fail()
		}
	default:
		return p.fail()
	}
	p.advance()
	if inner.op != opList {
		if open == "(" && closing != ")" || open == "[" && closing != "]" || open == "⟨" && closing != "⟩" || open == "]" {
			return p.fail()
		}
		return inner
	}
	n := p.new(opTuple, inner.args...)
	n.open, n.close = bracketByte(open), bracketByte(closing)
	if open == "]" {
		n.open = '('
	}
	if closing == "[" {
		n.close = ')'
	}
	return n
}

func bracketByte(s string) byte {
	if s == "⟨" {
		return '('
	}
	if s == "⟩" {
		return ')'
	}
	return s[0]
}

// set reads \{1, 2\} and \{x : x > 1\}.
func (p *mathParser) set() *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	p.advance()
	if p.accept("set}") {
		return p.new(opSet)
	}
	abs := p.abs
	p.abs = 0
	p.where++
	inner := p.list()
	p.where--
	if p.is("|") || p.is(":") {
		p.advance()
		condition := p.list()
		p.expect("set}")
		p.abs = abs
		return p.new(opWhere, inner, condition)
	}
	p.abs = abs
	p.expect("set}")
	if inner.op == opList {
		return p.new(opSet, inner.args...)
	}
	return p.new(opSet, inner)
}

// matrix reads the body of a matrix. Its cells are lists of one item.
func (p *mathParser) matrix(determinant bool) *node {
	if !p.enter() {
		return p.fail()
	}
	defer p.leave()
	n := p.new(opMatrix)
	row := 0
	for !p.bad {
		if p.isCmd("end") {
			p.advance()
			break
		}
		if p.accept(`\\`) {
			if n.cols == 0 {
				n.cols = row
			}
			if row != n.cols {
				return p.fail()
			}
			row = 0
			continue
		}
		if p.accept("&") {
			continue
		}
		n.args = append(n.args, p.relation())
		row++
	}
	if n.cols == 0 {
		n.cols = row
	}
	if n.cols == 0 || row != 0 && row != n.cols {
		return p.fail()
	}
	if determinant {
		return p.named(opFunc, "det", n)
	}
	return n
}

// prose reads text that begins an answer. "Area = 5" has a name, "approximately 5" a remark.
func (p *mathParser) prose() *node {
	var words []string
	for p.peek().kind == tokText {
		words = append(words, p.peek().text)
		p.advance()
	}
	text := strings.Join(words, " ")
	if i := slices.Index(numberWords, strings.ToLower(text)); i >= 0 {
		return p.integer(int64(i))
	}
	switch strings.Trim(strings.ToLower(text), " :.") {
	case "approximately", "about", "roughly", "the answer is", "all", "is", "therefore", "thus", "so", "exactly", "equals", "the", "rs", "usd", "between", "all real numbers except", "a total of":
		if p.startsFactor() || p.is("-") {
			return p.sum()
		}
	case "negative", "minus", "-":
		if p.startsFactor() {
			return p.new(opNeg, p.signed())
		}
	case "or", "and":
		return p.sum()
	case "all real numbers", "all reals", "all real", "the real numbers", "real numbers":
		return p.named(opConst, "reals")
	}
	return p.named(opText, text)
}
