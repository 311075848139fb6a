package reward

import (
	"cmp"
	"math"
	"math/big"
	"math/cmplx"
	"slices"
	"strings"
)

// comparison decides whether two parsed answers are equal, within a bound on the work.
type comparison struct {
	evaluator
	depth  int
	places int // decimals to which a decimal answer counts
}

// equal reports whether p, an answer, is equal to g, the gold answer. The two are not symmetric: an answer may name
// what it computed (x = 5 for 5, 3 + 4 = 7 for 7), and may not leave out what the gold answer says.
func (c *comparison) equal(g, p *node) bool {
	c.depth++
	defer func() { c.depth-- }()
	if !c.step() || c.depth > maxMathDepth {
		return false
	}
	if isMember(g) && isMember(p) && !same(g.args[0], p.args[0]) {
		return false
	}
	g, p = member(g), member(p)
	if same(g, p) {
		return true
	}
	if c.depth == 1 && (integral(g) || integral(p)) {
		if integral(g) && integral(p) {
			p = renamed(p, p.args[1].args[0].name, g.args[1].args[0].name)
		}
		g, p = withoutIntegral(g), withoutIntegral(p)
	}
	if g.op == opRel || p.op == opRel {
		return c.equalRelations(g, p)
	}
	if g.op == opUnit || p.op == opUnit {
		return c.equalUnits(g, p)
	}
	if g.op == opBased || p.op == opBased {
		return c.equalBased(g, p)
	}
	if isText(g) || isText(p) {
		return equalNames(g, p)
	}
	if hasMatrix(g) || hasMatrix(p) {
		return c.equalMatrices(g, p)
	}
	if isCollection(g) || isCollection(p) {
		return c.equalCollections(g, p)
	}
	if g.op == opRatio || p.op == opRatio {
		return c.equalRatios(g, p)
	}
	return c.equalValues(g, p)
}

// member returns the set of "x in set".
func member(n *node) *node {
	if isMember(n) {
		return n.args[1]
	}
	return n
}

func isMember(n *node) bool {
	return n.op == opRel && len(n.rels) == 1 && n.rels[0] == "in" && isLabel(n.args[0])
}

// integral reports whether n is an expression and, behind a comma, a remark that a name in it is an integer or real:
// which one of the two answers may leave out.
func integral(n *node) bool {
	if n.op != opList || len(n.args) != 2 || n.args[1].op != opRel || n.args[1].rels[0] != "in" || len(n.args[1].args) != 2 {
		return false
	}
	of, set := n.args[1].args[0], n.args[1].args[1]
	return of.op == opVar && (set.op == opText && set.name == "mathbbZ" || set.op == opConst && set.name == "reals") && slices.Contains(variables(n.args[0], nil), of.name)
}

// renamed returns n with one variable, which no other is, for another.
func renamed(n *node, from, to string) *node {
	if from == to || slices.Contains(variables(n, nil), to) {
		return n
	}
	out := *n
	if n.op == opVar && n.name == from {
		out.name = to
	}
	out.args = make([]*node, len(n.args))
	for i, a := range n.args {
		out.args[i] = renamed(a, from, to)
	}
	return &out
}

func withoutIntegral(n *node) *node {
	if integral(n) {
		return n.args[0]
	}
	return n
}

// equalUnits compares amounts. Units that are known must not differ; one may be left out.
func (c *comparison) equalUnits(g, p *node) bool {
	var units [2]string
	var powers [2]int
	for i, n := range [...]**node{&g, &p} {
		for (*n).op == opUnit {
			power, unit := magnitude((*n).name)
			powers[i] += power
			if u := unitOf(unit); u != "" && (u != "degree" || units[i] == "") { // 100°C
				units[i] = u
			}
			*n = (*n).args[0]
		}
	}
	if units[0] != "" && units[1] != "" && units[0] != units[1] && !isTemperature(units[0], units[1]) && !isTemperature(units[1], units[0]) {
		return false
	}
	return c.equal(timesTen(g, powers[0]-min(powers[0], powers[1])), timesTen(p, powers[1]-min(powers[0], powers[1])))
}

// isTemperature reports whether a unit is one of temperature, which the other only calls degree.
func isTemperature(unit, degree string) bool {
	return degree == "degree" && (unit == "celsius" || unit == "fahrenheit")
}

func timesTen(n *node, power int) *node {
	if power == 0 {
		return n
	}
	return &node{op: opMul, args: []*node{n, {op: opNum, num: big.NewRat(pow10(power), 1)}}}
}

// equalBased compares numerals of another base digit by digit; the answer may leave the base out.
func (c *comparison) equalBased(g, p *node) bool {
	if g.op == opBased && p.op == opNum && !p.dec {
		digits, _, _ := strings.Cut(g.name, "_")
		return p.num.IsInt() && p.num.Num().String() == digits
	}
	if g.op == opBased && p.op == opBased {
		return false
	}
	if p.op == opBased && strings.HasSuffix(p.name, "_10") {
		return c.equal(g, p.args[0])
	}
	return g.op == opBased && strings.HasSuffix(g.name, "_10") && c.equal(g.args[0], p)
}

// equalRatios compares 1:2 with 2:4 and 1/2. 12:00 is a time and no ratio.
func (c *comparison) equalRatios(g, p *node) bool {
	if g.op == opRatio && p.op == opRatio {
		if c.isTime(g, true) || c.isTime(p, false) {
			return c.equalAll(g.args, p.args)
		}
		if len(g.args) != len(p.args) {
			return false
		}
		for i := range g.args[1:] {
			if !c.equalValues(product(g.args[0], p.args[i+1]), product(p.args[0], g.args[i+1])) {
				return false
			}
		}
		return true
	}
	for _, n := range [...]*node{g, p} {
		if n.op == opRatio && (len(n.args) != 2 || c.isTime(n, n == g)) {
			return false
		}
	}
	return c.equalValues(g, p)
}

func product(a, b *node) *node { return &node{op: opMul, args: []*node{a, b}} }

// isTime reports whether n is a time of the day, which is no ratio: 12:00, 2:05, and a gold answer of 4:10, since that
// would give a ratio in lowest terms. So is what has a term of 0.
func (c *comparison) isTime(n *node, gold bool) bool {
	var parts [2]int64
	for i, a := range n.args {
		v, ok := c.rational(a)
		if ok && v.Sign() == 0 {
			return true
		}
		if i < len(parts) && ok {
			parts[i], _ = smallInt(v, 60)
		}
	}
	a, b := parts[0], parts[1]
	if len(n.args) != 2 || a < 1 || a > 24 || b < 1 || b > 59 {
		return false
	}
	return n.name == "time" || gold && b > 9 && gcd(a, b) > 1
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (c *comparison) equalAll(g, p []*node) bool {
	if len(g) != len(p) {
		return false
	}
	for i := range g {
		if !c.equal(g[i], p[i]) {
			return false
		}
	}
	return true
}

// Relations.

func isEquation(n *node) bool {
	return n.op == opRel && !slices.ContainsFunc(n.rels, func(r string) bool { return r != "=" })
}

// isLabel reports whether n only names something: x, AB, f(x), |AB|, (p, q), NO/BO, P(A), \sin A.
func isLabel(n *node) bool {
	switch n.op {
	case opVar, opText:
		return true
	case opConst:
		return n.name == "e" || n.name == "i"
	case opFunc:
		return !isKnown(n.name) || len(n.args) == 1 && isLabel(n.args[0])
	case opMul, opTuple, opRatio, opDiv, opUnion, opInter:
		for _, a := range n.args {
			if !isLabel(a) {
				return false
			}
		}
		return true
	case opUnit:
		return isLabel(n.args[0])
	}
	return false
}

// isUnknown reports whether n is a label, or a sum or difference of some: a + b.
func isUnknown(n *node) bool {
	if n.op != opAdd {
		return isLabel(n)
	}
	for _, a := range n.args {
		if a.op == opNeg {
			a = a.args[0]
		}
		if !isUnknown(a) {
			return false
		}
	}
	return true
}

// sides returns what an equation names and what it sets that to: the first and the last of a = b = c, turned round
// for 5 = x.
func sides(n *node) (left, right *node) {
	left, right = n.args[0], n.args[len(n.args)-1]
	if isLabel(right) && !isLabel(left) && len(n.args) == 2 {
		return right, left
	}
	return left, right
}

func (c *comparison) equalRelations(g, p *node) bool {
	switch {
	case isEquation(g) && isEquation(p):
		return c.equalEquations(g, p)
	case isEquation(p) && g.op != opRel:
		left, right := sides(p)
		return (isUnknown(left) || !hasVariable(left)) && c.equal(g, right)
	case isEquation(g) && p.op != opRel:
		left, right := sides(g)
		return (isLabel(left) || len(g.args) > 2 && slices.ContainsFunc(g.args[:len(g.args)-1], isLabel)) && c.equal(right, p)
	case isEquation(g) != isEquation(p):
		return false
	case g.op == opRel && p.op == opRel && c.equalInequalities(g, p):
		return true
	}
	return c.equalRegions(g, p)
}

func (c *comparison) equalEquations(g, p *node) bool {
	gl, gr := sides(g)
	pl, pr := sides(p)
	if isLabel(gl) && isLabel(pl) {
		if same(gl, pl) || gl.op == opFunc && pl.op == opFunc && gl.name == pl.name && !isKnown(gl.name) &&
			len(gl.args) == 1 && len(pl.args) == 1 && gl.args[0].op == opVar && pl.args[0].op == opVar && !hasVariable(gr) {
			if c.equal(gr, pr) {
				return true
			}
		}
	}
	if len(g.args) != 2 || len(p.args) != 2 {
		return len(g.args) == len(p.args) && c.equalAll(g.args, p.args)
	}
	if isCollection(gr) || isCollection(pr) {
		return false
	}
	a, b := difference(g, 0), difference(p, 0)
	if ratio, ok := c.factor(a, b); ok && ratio != 0 {
		return true
	}
	return (hasDivision(g) || hasDivision(p)) && c.equalSolved(a, b)
}

// difference returns the left side minus the right of the relation at position i of a chain.
func difference(n *node, i int) *node {
	return &node{op: opAdd, args: []*node{n.args[i], {op: opNeg, args: []*node{n.args[i+1]}}}}
}

// factor reports whether a = r·b for a constant r, and returns the sign of r, 0 when it is not real.
func (c *comparison) factor(a, b *node) (sign int, ok bool) {
	defer func() { c.point = 0 }()
	var x, y [3]uint64
	exact := true
	for i := range x {
		c.point = uint64(i + 1)
		var ok bool
		if x[i], ok = c.residue(a); !ok {
			exact = false
			break
		}
		if y[i], ok = c.residue(b); !ok {
			exact = false
			break
		}
	}
	if exact {
		for i := range x {
			if x[i] == 0 || y[i] == 0 || mulMod(x[0], y[i]) != mulMod(x[i], y[0]) {
				return 0, false
			}
		}
	}
	var ratio complex128
	found := 0
	for i := range maxPoints {
		c.point = uint64(i + 1)
		v, w := c.value(a), c.value(b)
		if !finite(v) || !finite(w) || cmplx.Abs(w) < 1e-9 || cmplx.Abs(v) < 1e-9 {
			continue
		}
		r := v / w
		if found == 0 {
			ratio = r
		} else if !exact && !near(r, ratio) {
			return 0, false
		}
		found++
	}
	switch {
	case found < 3 && !exact || found == 0:
		return 0, false
	case math.Abs(imag(ratio)) > 1e-9*cmplx.Abs(ratio):
		return 0, false
	case real(ratio) > 0:
		return 1, true
	}
	return -1, true
}

func finite(v complex128) bool {
	return !cmplx.IsNaN(v) && !cmplx.IsInf(v) && cmplx.Abs(v) < 1e200
}

// near reports whether two values agree but for rounding.
func near(a, b complex128) bool {
	return cmplx.Abs(a-b) <= 1e-9*max(cmplx.Abs(a), cmplx.Abs(b))
}

func hasDivision(n *node) bool {
	if n.op == opDiv {
		return true
	}
	return slices.ContainsFunc(n.args, hasDivision)
}

// equalSolved reports whether a = 0 and b = 0 have the same solution for a variable in which both are linear: so
// y = 1/x is the equation xy = 1.
func (c *comparison) equalSolved(a, b *node) bool {
	defer func() { c.point = 0 }()
	for _, name := range variables(a, nil) {
		agree := 0
		for i := range 3 {
			c.point = uint64(i + 1)
			x, ok := c.solveResidue(a, name)
			if !ok {
				break
			}
			y, ok := c.solveResidue(b, name)
			if !ok || x != y {
				break
			}
			agree++
		}
		if agree == 3 {
			return true
		}
	}
	return false
}

// solveResidue solves n = 0 for a variable in which n is linear, modulo prime.
func (c *comparison) solveResidue(n *node, name string) (uint64, bool) {
	var at [3]uint64
	depth := len(c.bound)
	defer func() { c.bound = c.bound[:depth] }()
	for i := range at {
		c.bound = append(c.bound[:depth], binding{name: name, value: int64(i)})
		var ok bool
		if at[i], ok = c.residue(n); !ok {
			return 0, false
		}
	}
	slope := addMod(at[1], (prime-at[0])%prime)
	if slope == 0 || addMod(at[1], slope) != at[2] {
		return 0, false
	}
	return mulMod((prime-at[0])%prime, powMod(slope, prime-2)), true
}

// variables appends the names of the variables of n to names, each once.
func variables(n *node, names []string) []string {
	if n.op == opVar && !slices.Contains(names, n.name) && len(names) < 16 {
		names = append(names, n.name)
	}
	for _, a := range n.args {
		names = variables(a, names)
	}
	return names
}

var flipped = map[string]string{"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}

// equalInequalities compares chains of inequalities term by term, in either direction, and single ones up to a factor.
func (c *comparison) equalInequalities(g, p *node) bool {
	if len(g.args) != len(p.args) {
		return false
	}
	if slices.Equal(g.rels, p.rels) && c.equalAll(g.args, p.args) {
		return true
	}
	turned := &node{op: opRel, args: slices.Clone(p.args)}
	slices.Reverse(turned.args)
	for i := len(p.rels) - 1; i >= 0; i-- {
		turned.rels = append(turned.rels, flipped[p.rels[i]])
	}
	if slices.Equal(g.rels, turned.rels) && c.equalAll(g.args, turned.args) {
		return true
	}
	if len(g.args) != 2 || isCollection(g.args[1]) || isCollection(p.args[1]) {
		return false
	}
	sign, ok := c.factor(difference(g, 0), difference(p, 0))
	switch {
	case !ok:
		return false
	case g.rels[0] == "!=" || sign > 0:
		return g.rels[0] == p.rels[0]
	}
	return g.rels[0] == flipped[p.rels[0]]
}

// Collections: lists, tuples, sets and intervals.

func isCollection(n *node) bool {
	switch n.op {
	case opList, opTuple, opSet, opUnion, opInter, opWithout, opWhere:
		return true
	}
	return n.op == opConst && n.name == "reals"
}

// isInterval reports whether n can only be a set of reals.
func isInterval(n *node) bool {
	switch n.op {
	case opUnion, opInter, opWithout, opWhere:
		return true
	case opTuple:
		return len(n.args) == 2 && (n.open != '(' || n.close != ')')
	case opList:
		return slices.ContainsFunc(n.args, func(a *node) bool { return a.op == opRel && !isEquation(a) }) || isIntervals(n)
	}
	return n.op == opConst && n.name == "reals"
}

// isIntervals reports whether n lists intervals, of which one at least can be no point: (-\infty,0), (1,2).
func isIntervals(n *node) bool {
	return n.op == opList && !slices.ContainsFunc(n.args, func(a *node) bool { return a.op != opTuple || len(a.args) != 2 }) &&
		slices.ContainsFunc(n.args, func(a *node) bool { return isInterval(a) || isInfinite(a.args[0]) || isInfinite(a.args[1]) })
}

func (c *comparison) equalCollections(g, p *node) bool {
	switch {
	case g.op == opTuple && p.op == opTuple:
		return g.open == p.open && g.close == p.close && c.equalAll(g.args, p.args)
	case isInterval(g) || isInterval(p):
		if g.op == opList && p.op == opList && g.name == p.name && c.equalItems(g.args, p.args) {
			return true
		}
		return c.equalRegions(g, p)
	case isFree(g) && isFree(p):
		return c.equalItems(g.args, p.args)
	case g.op == opList && p.op == opTuple && p.open == '(' || g.op == opTuple && g.open == '(' && p.op == opList:
		return c.equalAll(g.args, p.args)
	case isFree(g) && len(g.args) > 0 && p.op != opTuple:
		return c.covered([]*node{p}, g.args)
	case isFree(p) && len(p.args) > 0 && g.op != opTuple && !repeats(p) && !namesSeveral(p.args):
		return c.covered([]*node{g}, p.args)
	}
	return false
}

// isFree reports whether the order of n's items says nothing.
func isFree(n *node) bool { return n.op == opList || n.op == opSet }

// repeats reports whether a list says one thing twice: 5,5 is not 5, though 1/2, 0.5 is 1/2.
func repeats(n *node) bool {
	return n.op == opList && len(n.args) > 1 && n.name != "or" && same(n.args[0], n.args[1])
}

// namesSeveral reports whether items set more than one name: x = 3, y = 3 is more than x = 3.
func namesSeveral(items []*node) bool {
	for _, a := range items {
		if isEquation(a) && isEquation(items[0]) && a.args[0].op == opVar && items[0].args[0].op == opVar && !same(a.args[0], items[0].args[0]) {
			return true
		}
	}
	return false
}

// equalItems compares as sets. Values that the gold answer has names for, which the answer leaves out, must come in
// the order of those names.
func (c *comparison) equalItems(g, p []*node) bool {
	if len(g) > 1 && len(g) == len(p) {
		named, bare := true, true
		for i, a := range g {
			named = named && isEquation(a) && !slices.ContainsFunc(g[:i], func(b *node) bool { return same(a.args[0], b.args[0]) })
			bare = bare && p[i].op != opRel
		}
		if named && bare {
			return c.equalAll(g, p)
		}
	}
	return c.covered(g, p) && c.covered(p, g) && (len(g) == len(p) || c.distinct(g) == c.distinct(p))
}

// covered reports whether each of p equals one of g, with the first of the two lists of equal as the gold answer. Among
// the items of a set, \{1\} is not 1.
func (c *comparison) covered(g, p []*node) bool {
	for _, b := range p {
		if !slices.ContainsFunc(g, func(a *node) bool { return (a.op == opSet) == (b.op == opSet) && c.equal(a, b) }) {
			return false
		}
	}
	return true
}

func (c *comparison) distinct(items []*node) int {
	n := 0
	for i, a := range items {
		if !slices.ContainsFunc(items[:i], func(b *node) bool { return c.equal(a, b) }) {
			n++
		}
	}
	return n
}

// span is an interval of reals. A nil end is infinite.
type span struct {
	lo, hi         *node
	from, to       float64
	loOpen, hiOpen bool
}

// equalRegions compares sets of reals, given as intervals or by inequalities in the same variable.
func (c *comparison) equalRegions(g, p *node) bool {
	a, x, ok := c.region(g)
	if !ok {
		return false
	}
	b, y, ok := c.region(p)
	if !ok || len(a) != len(b) || x != nil && y != nil && !same(x, y) {
		return false
	}
	end := func(a, b *node) bool { return a == nil && b == nil || a != nil && b != nil && c.equalValues(a, b) }
	for i := range a {
		if a[i].loOpen != b[i].loOpen || a[i].hiOpen != b[i].hiOpen || !end(a[i].lo, b[i].lo) || !end(a[i].hi, b[i].hi) {
			return false
		}
	}
	return true
}

var allReals = []span{{from: math.Inf(-1), to: math.Inf(1), loOpen: true, hiOpen: true}}

// region returns the spans of a set of reals in order, apart from each other, and what it is a set of, if that has a
// name.
func (c *comparison) region(n *node) (spans []span, of *node, ok bool) {
	if !c.step() {
		return nil, nil, false
	}
	n = member(n)
	switch n.op {
	case opConst:
		return allReals, nil, n.name == "reals"
	case opTuple:
		if len(n.args) != 2 {
			return nil, nil, false
		}
		lo, ok := c.end(n.args[0])
		hi, fine := c.end(n.args[1])
		if !ok || !fine || lo >= hi {
			return nil, nil, false
		}
		s := span{lo: n.args[0], hi: n.args[1], from: lo, to: hi, loOpen: n.open == '(', hiOpen: n.close == ')'}
		if math.IsInf(lo, 0) {
			s.lo = nil
		}
		if math.IsInf(hi, 0) {
			s.hi = nil
		}
		if s.lo == nil && !s.loOpen || s.hi == nil && !s.hiOpen { // no real is infinite
			return nil, nil, false
		}
		return []span{s}, nil, true
	case opSet:
		for _, a := range n.args {
			v, ok := c.end(a)
			if !ok || math.IsInf(v, 0) {
				return nil, nil, false
			}
			spans = append(spans, span{lo: a, hi: a, from: v, to: v})
		}
		return unite(spans), nil, true
	case opUnion, opInter, opWithout, opList:
		return c.combined(n)
	case opWhere:
		return c.region(n.args[1])
	case opRel:
		if n.rels[0] == "in" {
			return nil, nil, false
		}
		spans = allReals
		for i, rel := range n.rels {
			part, name, ok := c.halfLine(n.args[i], rel, n.args[i+1])
			if !ok || of != nil && !same(of, name) {
				return nil, nil, false
			}
			spans, of = intersect(spans, part), name
		}
		return spans, of, true
	}
	return nil, nil, false
}

// end returns the value of an end of an interval.
func (c *comparison) end(n *node) (float64, bool) {
	if hasVariable(n) {
		return 0, false
	}
	v := c.value(n)
	return real(v), !cmplx.IsNaN(v) && !(imag(v) != 0 && !math.IsNaN(imag(v))) && !math.IsNaN(real(v))
}

// combined returns the region of a union, an intersection, a difference, or of conditions that words join.
func (c *comparison) combined(n *node) (spans []span, of *node, ok bool) {
	for i, a := range n.args {
		part, name, ok := c.region(a)
		if !ok || of != nil && name != nil && !same(of, name) {
			return nil, nil, false
		}
		if of == nil {
			of = name
		}
		switch {
		case i == 0:
			spans = part
		case n.op == opUnion || n.op == opList && (n.name == "or" || of == nil):
			spans = unite(append(slices.Clone(spans), part...))
		case n.op == opWithout:
			spans = intersect(spans, complement(part))
		default:
			both := intersect(spans, part)
			if n.op == opList && len(both) == 0 { // "x < 1 and x > 3" can only mean or
				both = unite(append(slices.Clone(spans), part...))
			}
			spans = both
		}
	}
	return spans, of, n.op != opList || of != nil || isIntervals(n)
}

// halfLine returns the region of one inequality: of a name, its absolute value, or something linear in it.
func (c *comparison) halfLine(left *node, rel string, right *node) (spans []span, of *node, ok bool) {
	if hasVariable(right) && !hasVariable(left) {
		left, right, rel = right, left, flipped[rel]
	}
	if left.op == opFunc && left.name == "abs" && !hasVariable(right) && !isLabel(left) {
		return c.distance(left.args[0], rel, right)
	}
	if hasVariable(right) || !isLabel(left) {
		return c.linear(left, rel, right)
	}
	if left.op == opFunc && left.name == "abs" {
		v, ok := c.end(right)
		if !ok || v < 0 || math.IsInf(v, 0) {
			return nil, nil, false
		}
		minus := &node{op: opNeg, args: []*node{right}}
		within := []span{{lo: minus, hi: right, from: -v, to: v, loOpen: rel == "<" || rel == ">=", hiOpen: rel == "<" || rel == ">="}}
		switch rel {
		case "<", "<=":
			return within, left.args[0], true
		case ">", ">=":
			return complement(within), left.args[0], true
		}
		return nil, nil, false
	}
	spans, ok = c.beyond(right, rel)
	return spans, left, ok
}

// distance solves |n| < limit, and the like, for n linear in its one variable.
func (c *comparison) distance(n *node, rel string, limit *node) (spans []span, of *node, ok bool) {
	if v, ok := c.end(limit); !ok || v <= 0 || rel == "!=" {
		return nil, nil, false
	}
	above, of, ok := c.linear(n, rel, limit)
	if !ok {
		return nil, nil, false
	}
	below, _, ok := c.linear(n, flipped[rel], &node{op: opNeg, args: []*node{limit}})
	if rel == "<" || rel == "<=" {
		return intersect(above, below), of, ok
	}
	return unite(append(above, below...)), of, ok
}

// beyond returns the reals in relation rel to n.
func (c *comparison) beyond(n *node, rel string) ([]span, bool) {
	v, ok := c.end(n)
	if !ok {
		return nil, false
	}
	below, above := span{hi: n, from: math.Inf(-1), to: v, loOpen: true}, span{lo: n, from: v, to: math.Inf(1), hiOpen: true}
	if math.IsInf(v, 0) {
		return allReals, rel == "<" && v > 0 || rel == ">" && v < 0
	}
	below.hiOpen, above.loOpen = rel == "<" || rel == "!=", rel == ">" || rel == "!="
	switch rel {
	case "<", "<=":
		return []span{below}, true
	case ">", ">=":
		return []span{above}, true
	case "!=":
		return []span{below, above}, true
	}
	return nil, false
}

// linear solves an inequality that is linear in its one variable, with rational coefficients.
func (c *comparison) linear(left *node, rel string, right *node) ([]span, *node, bool) {
	n := &node{op: opAdd, args: []*node{left, {op: opNeg, args: []*node{right}}}}
	names := variables(n, nil)
	if len(names) != 1 {
		return nil, nil, false
	}
	var at [3]*big.Rat
	depth := len(c.bound)
	defer func() { c.bound = c.bound[:depth] }()
	for i := range at {
		c.bound = append(c.bound[:depth], binding{name: names[0], value: int64(i)})
		var ok bool
		if at[i], ok = c.rational(n); !ok {
			return nil, nil, false
		}
	}
	slope := new(big.Rat).Sub(at[1], at[0])
	if slope.Sign() == 0 || new(big.Rat).Add(at[1], slope).Cmp(at[2]) != 0 {
		return nil, nil, false
	}
	if slope.Sign() < 0 {
		rel = flipped[rel]
	}
	root := new(big.Rat).Quo(at[0], slope)
	spans, ok := c.beyond(&node{op: opNum, num: root.Neg(root)}, rel)
	return spans, &node{op: opVar, name: names[0]}, ok
}

// unite sorts spans and joins those that overlap or touch.
func unite(spans []span) []span {
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.from, b.from), int(b2i(a.loOpen)-b2i(b.loOpen)))
	})
	var out []span
	for _, s := range spans {
		if len(out) > 0 {
			last := &out[len(out)-1]
			touch := nearFloat(last.to, s.from) && !(last.hiOpen && s.loOpen)
			if s.from < last.to && !nearFloat(last.to, s.from) || touch {
				switch {
				case nearFloat(s.to, last.to):
					last.hiOpen = last.hiOpen && s.hiOpen
				case s.to > last.to:
					last.hi, last.to, last.hiOpen = s.hi, s.to, s.hiOpen
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

func nearFloat(a, b float64) bool {
	return a == b || !math.IsInf(a-b, 0) && math.Abs(a-b) <= 1e-11*max(math.Abs(a), math.Abs(b))
}

// complement returns what spans, which are in order and apart, leave of the reals.
func complement(spans []span) []span {
	var out []span
	gap := span{from: math.Inf(-1), loOpen: true}
	for _, s := range spans {
		gap.hi, gap.to, gap.hiOpen = s.lo, s.from, !s.loOpen
		if gap.from < gap.to && !nearFloat(gap.from, gap.to) || nearFloat(gap.from, gap.to) && !gap.loOpen && !gap.hiOpen && !math.IsInf(gap.to, 0) {
			out = append(out, gap)
		}
		gap = span{lo: s.hi, from: s.to, loOpen: !s.hiOpen}
	}
	if !math.IsInf(gap.from, 1) {
		gap.to, gap.hiOpen = math.Inf(1), true
		out = append(out, gap)
	}
	return out
}

func intersect(a, b []span) []span {
	return complement(unite(append(complement(a), complement(b)...)))
}

// Matrices.

func hasMatrix(n *node) bool {
	switch n.op {
	case opMatrix:
		return true
	case opAdd, opMul, opNeg, opDiv, opPow:
		return slices.ContainsFunc(n.args, hasMatrix)
	}
	return false
}

// equalMatrices compares entry by entry, after sums and products. A column may be written as a tuple.
func (c *comparison) equalMatrices(g, p *node) bool {
	a, b := c.matrix(g), c.matrix(p)
	if a == nil || b == nil || a.cols != b.cols {
		return false
	}
	return c.equalAll(a.args, b.args)
}

func (c *comparison) matrix(n *node) *node {
	if !c.step() {
		return nil
	}
	switch n.op {
	case opMatrix:
		return n
	case opTuple:
		if n.open == '(' && n.close == ')' {
			return &node{op: opMatrix, cols: 1, args: n.args}
		}
		return rowsOf(n)
	case opNeg:
		if m := c.matrix(n.args[0]); m != nil {
			return scaled(m, func(a *node) *node { return &node{op: opNeg, args: []*node{a}} })
		}
	case opDiv:
		if m := c.matrix(n.args[0]); m != nil && !hasMatrix(n.args[1]) {
			return scaled(m, func(a *node) *node { return &node{op: opDiv, args: []*node{a, n.args[1]}} })
		}
	case opAdd:
		var total *node
		for _, a := range n.args {
			m := c.matrix(a)
			if m == nil || total != nil && (m.cols != total.cols || len(m.args) != len(total.args)) {
				return nil
			}
			if total == nil {
				total = m
				continue
			}
			i := -1
			total = scaled(total, func(x *node) *node {
				i++
				return &node{op: opAdd, args: []*node{x, m.args[i]}}
			})
		}
		return total
	case opMul:
		var total *node
		var factors []*node
		for _, a := range n.args {
			if !hasMatrix(a) {
				factors = append(factors, a)
				continue
			}
			m := c.matrix(a)
			if m != nil && total != nil {
				m = c.multiply(total, m)
			}
			if total = m; total == nil {
				return nil
			}
		}
		if total != nil && len(factors) > 0 {
			total = scaled(total, func(a *node) *node { return &node{op: opMul, args: append(slices.Clone(factors), a)} })
		}
		return total
	}
	return nil
}

// rowsOf returns the matrix that is written as [[1, 2], [3, 4]], or nil.
func rowsOf(n *node) *node {
	m := &node{op: opMatrix}
	for _, row := range n.args {
		if n.open != '[' || n.close != ']' || row.op != opTuple || row.open != '[' || row.close != ']' || m.cols != 0 && len(row.args) != m.cols {
			return nil
		}
		m.cols = len(row.args)
		m.args = append(m.args, row.args...)
	}
	return m
}

func scaled(m *node, f func(*node) *node) *node {
	out := &node{op: opMatrix, cols: m.cols, args: make([]*node, len(m.args))}
	for i, a := range m.args {
		out.args[i] = f(a)
	}
	return out
}

func (c *comparison) multiply(a, b *node) *node {
	rows, inner := len(a.args)/a.cols, a.cols
	if len(b.args)/b.cols != inner {
		return nil
	}
	if c.steps += rows * inner * b.cols; c.steps > maxMathSteps {
		return nil
	}
	out := &node{op: opMatrix, cols: b.cols}
	for i := range rows {
		for j := range b.cols {
			sum := &node{op: opAdd}
			for k := range inner {
				sum.args = append(sum.args, &node{op: opMul, args: []*node{a.args[i*inner+k], b.args[k*b.cols+j]}})
			}
			out.args = append(out.args, sum)
		}
	}
	return out
}

// Text.

func isText(n *node) bool {
	if n.op == opMul {
		return slices.ContainsFunc(n.args, isText)
	}
	return n.op == opText
}

// equalNames compares text without regard to case and punctuation. A product of letters can be a word.
func equalNames(g, p *node) bool {
	a, ok := spelled(g)
	b, fine := spelled(p)
	return ok && fine && a != "" && (a == b || len(a) > 4 && len(b) > 4 && strings.TrimSuffix(a, "s") == strings.TrimSuffix(b, "s"))
}

func spelled(n *node) (string, bool) {
	switch n.op {
	case opText:
		return letters(n.name), true
	case opVar, opConst:
		return letters(n.name), len(n.name) == 1
	case opNum:
		return n.num.RatString(), true
	case opMul:
		var b strings.Builder
		for _, a := range n.args {
			s, ok := spelled(a)
			if !ok {
				return "", false
			}
			b.WriteString(s)
		}
		return b.String(), true
	}
	return "", false
}

// letters returns s in lower case without spaces and punctuation.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\n.,;:!?'\"()[]{}*_`~\\-", r) {
			return -1
		}
		return r
	}, strings.ToLower(s))
}

// Values.

// isDecimal reports whether n was written as a decimal, perhaps with a sign or as a percentage.
func isDecimal(n *node) bool {
	switch n.op {
	case opNum:
		return n.dec
	case opNeg, opPercent, opUnit:
		return isDecimal(n.args[0])
	}
	return false
}

// equalValues compares expressions by their values.
func (c *comparison) equalValues(g, p *node) bool {
	if hasVariable(g) || hasVariable(p) {
		return c.equalFunctions(g, p)
	}
	decimal := isDecimal(g) || isDecimal(p)
	a, ok := c.rational(g)
	b, fine := c.rational(p)
	if ok && fine {
		return a.Cmp(b) == 0 || decimal && c.rounds(a, b)
	}
	if !decimal {
		// integers beyond the bounds
		x, ok := c.residue(g)
		y, fine := c.residue(p)
		if ok && fine {
			return x == y
		}
	}
	if !decimal {
		g, p = c.level(g, p)
	}
	v, w := c.value(g), c.value(p)
	if math.IsInf(real(v), 0) || math.IsInf(real(w), 0) {
		return isInfinite(g) && isInfinite(p) && real(v) == real(w)
	}
	if decimal {
		if !finite(v) || !finite(w) || math.Abs(imag(v)) > 1e-12 || math.Abs(imag(w)) > 1e-12 {
			return false
		}
		return c.rounds(new(big.Rat).SetFloat64(real(v)), new(big.Rat).SetFloat64(real(w)))
	}
	if !finite(v) || !finite(w) || !near(v, w) && (cmplx.Abs(v-w) > 1e-13 || !cancels(g) && !cancels(p)) {
		return false
	}
	x, ok := c.precise(g)
	y, fine := c.precise(p)
	if !ok || !fine {
		return v != 0 || w != 0 || cancels(g) || cancels(p)
	}
	diff := new(big.Float).Sub(x, y)
	return diff.Sign() == 0 || diff.MantExp(nil) < max(x.MantExp(nil), y.MantExp(nil))-bigBits*3/4
}

// isRounded reports whether n is rounded anywhere: ⌊x + 1⌋ is ⌈x⌉ except where x is an integer.
func isRounded(n *node) bool {
	return n.op == opFunc && (n.name == "floor" || n.name == "ceil") || slices.ContainsFunc(n.args, isRounded)
}

// cancels reports whether terms of n can cancel each other out, or a function in it have a zero, so that rounding leaves
// something near 0 where 0 is meant. Else a tiny value is what it is.
func cancels(n *node) bool {
	switch n.op {
	case opAdd, opBound:
		return true
	case opFunc:
		if n.name != "sqrt" && n.name != "root" && n.name != "!" && n.name != "binom" {
			return true
		}
	}
	return slices.ContainsFunc(n.args, cancels)
}

// level takes the number that g adds to all else off both g and p, if it is so large that it would hide the rest:
// 10^20 + √2 and 10^20 + √3 are √2 and √3.
func (c *comparison) level(g, p *node) (*node, *node) {
	if g.op != opAdd && p.op != opAdd {
		return g, p
	}
	terms := func(n *node) []*node {
		if n.op == opAdd {
			return n.args
		}
		return []*node{n}
	}
	total := new(big.Rat)
	for _, a := range terms(g) {
		if v, ok := c.rational(a); ok {
			total.Add(total, v)
		}
	}
	if f, _ := total.Float64(); math.Abs(f) < 1e3 {
		return g, p
	}
	off := func(n *node) *node {
		rest, left := &node{op: opAdd}, new(big.Rat).Neg(total)
		for _, a := range terms(n) {
			if v, ok := c.rational(a); ok {
				left.Add(left, v)
			} else {
				rest.args = append(rest.args, a)
			}
		}
		rest.args = append(rest.args, &node{op: opNum, num: left})
		return rest
	}
	return off(g), off(p)
}

// isInfinite reports whether n is ∞ or −∞ as it stands.
func isInfinite(n *node) bool {
	if n.op == opNeg {
		n = n.args[0]
	}
	return n.op == opConst && n.name == "inf"
}

// rounds reports whether a and b are alike when rounded to the decimals that count, and within 1/10000 of a, or as
// many digits as the decimals that count if those are fewer.
func (c *comparison) rounds(a, b *big.Rat) bool {
	if a.FloatString(c.places) != b.FloatString(c.places) {
		return false
	}
	diff := new(big.Rat).Sub(a, b)
	limit := new(big.Rat).Mul(a, big.NewRat(1, pow10(min(c.places, 4))))
	return diff.Abs(diff).Cmp(limit.Abs(limit)) <= 0
}

// equalFunctions compares expressions with variables: by residues if both are rational functions, else at points.
func (c *comparison) equalFunctions(g, p *node) bool {
	defer func() { c.point = 0 }()
	exact := 0
	for i := range 2 {
		c.point = uint64(i + 1)
		x, ok := c.residue(g)
		if !ok {
			break
		}
		y, ok := c.residue(p)
		if !ok {
			break
		}
		if x != y {
			return false
		}
		exact++
	}
	if exact == 2 {
		return true
	}
	g, p = c.level(g, p)
	cancelling := cancels(g) || cancels(p)
	names := variables(g, nil)
	alike := len(variables(p, names)) == len(names) && len(variables(p, nil)) == len(names)
	var v0, w0 complex128 // at the first point; a name that only one of the two has may not change it
	found, points := 0, maxPoints
	if isRounded(g) || isRounded(p) { // at integers, too
		points += 2
	}
	for i := range points {
		c.point = uint64(i + 1)
		v, w := c.value(g), c.value(p)
		switch {
		case !finite(v) && !finite(w):
			continue
		case !finite(v) || !finite(w) || !near(v, w) && (cmplx.Abs(v-w) > 1e-12 || !cancelling):
			return false
		}
		if found == 0 {
			v0, w0 = v, w
		}
		if !alike && cmplx.Abs((v-v0)-(w-w0)) > 1e-12*cmplx.Abs(v) {
			return false
		}
		found++
	}
	return found >= 3
}
