package reward

import (
	"math"
	"math/big"
	"math/bits"
	"math/cmplx"
)

// Bounds on evaluation.
const (
	maxMathSteps = 200_000 // operations for one comparison of two answers
	maxMathBits  = 1 << 16 // of a numerator or denominator: 9^9^9 has no value
	maxFactorial = 3000
	maxTerms     = 500 // of one sum or product
	maxPoints    = 8   // at which expressions with variables are compared
)

// evaluator computes values of expressions: exact rationals where there are no variables, residues modulo a prime
// where the expression is a rational function of its variables (by the lemma of Schwartz and Zippel two that differ
// agree at a random point with a probability of their degree over 2^64), and complex numbers elsewhere, on principal
// branches, but with the real root of a negative number where the index is odd.
//
// A function of which nothing is known but its name, such as f or a sequence, is some fixed function of its arguments.
type evaluator struct {
	steps int
	point uint64 // which values the variables have
	bound []binding
}

// binding is the value of the variable of a sum while its body is evaluated.
type binding struct {
	name  string
	value int64
	free  bool // the sum cannot be evaluated; its variable is like any other, by its position
}

func (e *evaluator) step() bool {
	e.steps++
	return e.steps <= maxMathSteps
}

// hash mixes a name and numbers (FNV-1a, then a finaliser).
func hashName(name string, seeds ...uint64) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	for _, s := range seeds {
		h = mix64(h ^ s)
	}
	return mix64(h)
}

func mix64(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// lookup returns the binding of a variable, innermost first.
func (e *evaluator) lookup(name string) (binding, uint64, bool) {
	for i := len(e.bound) - 1; i >= 0; i-- {
		if e.bound[i].name == name {
			return e.bound[i], uint64(i), true
		}
	}
	return binding{}, 0, false
}

// rational returns the exact value of n, if it is a rational number that operations on rationals give.
func (e *evaluator) rational(n *node) (*big.Rat, bool) {
	if !e.step() {
		return nil, false
	}
	switch n.op {
	case opNum:
		return n.num, true
	case opVar:
		if b, _, ok := e.lookup(n.name); ok && !b.free {
			return new(big.Rat).SetInt64(b.value), true
		}
	case opNeg:
		if v, ok := e.rational(n.args[0]); ok {
			return new(big.Rat).Neg(v), true
		}
	case opUnit:
		return e.rational(n.args[0])
	case opPercent:
		if v, ok := e.rational(n.args[0]); ok {
			return new(big.Rat).Quo(v, big.NewRat(100, 1)), true
		}
	case opAdd, opMul:
		sum, ok := e.rational(n.args[0])
		for _, a := range n.args[1:] {
			if !ok {
				return nil, false
			}
			var v *big.Rat
			if v, ok = e.rational(a); !ok {
				return nil, false
			}
			if n.op == opAdd {
				sum = new(big.Rat).Add(sum, v)
			} else {
				sum = new(big.Rat).Mul(sum, v)
			}
			if !e.small(sum) {
				return nil, false
			}
		}
		return sum, ok
	case opDiv, opRatio:
		a, ok := e.rational(n.args[0])
		if !ok || len(n.args) != 2 {
			return nil, false
		}
		b, ok := e.rational(n.args[1])
		if !ok || b.Sign() == 0 {
			return nil, false
		}
		v := new(big.Rat).Quo(a, b)
		return v, e.small(v)
	case opPow:
		a, ok := e.rational(n.args[0])
		if !ok {
			return nil, false
		}
		b, ok := e.rational(n.args[1])
		if !ok {
			return nil, false
		}
		v, ok := ratPow(a, b)
		return v, ok && e.small(v)
	case opFunc:
		return e.rationalFunc(n)
	case opBound:
		return e.rationalSum(n)
	}
	return nil, false
}

// small reports whether v is within the bounds, and charges for its size: to bring a fraction of n words to lowest
// terms takes time near n².
func (e *evaluator) small(v *big.Rat) bool {
	n := (v.Num().BitLen() + v.Denom().BitLen()) / 64
	e.steps += n * n / 256
	return v.Num().BitLen() <= maxMathBits && v.Denom().BitLen() <= maxMathBits && e.steps <= maxMathSteps
}

// ratPow raises a to an integer power, or to a fraction where the root is exact.
func ratPow(a, b *big.Rat) (*big.Rat, bool) {
	if !b.IsInt() {
		if !b.Denom().IsInt64() || b.Denom().Int64() > 64 {
			return nil, false
		}
		root, ok := ratRoot(a, int(b.Denom().Int64()))
		if !ok {
			return nil, false
		}
		return ratPow(root, new(big.Rat).SetInt(b.Num()))
	}
	if !b.Num().IsInt64() {
		return nil, false
	}
	k := b.Num().Int64()
	if k < 0 && a.Sign() == 0 {
		return nil, false
	}
	size := int64(max(a.Num().BitLen(), a.Denom().BitLen(), 1))
	if abs := max(k, -k); abs > maxMathBits || abs*size > maxMathBits {
		if a.IsInt() && a.Num().BitLen() <= 1 { // 0, 1, -1
			if k%2 == 0 {
				return new(big.Rat).Mul(a, a), true
			}
			return a, true
		}
		return nil, false
	}
	exp := big.NewInt(max(k, -k))
	num, den := new(big.Int).Exp(a.Num(), exp, nil), new(big.Int).Exp(a.Denom(), exp, nil)
	if k < 0 {
		num, den = den, num
		if den.Sign() < 0 {
			num.Neg(num)
			den.Neg(den)
		}
	}
	return new(big.Rat).SetFrac(num, den), true
}

// ratRoot returns the k-th root of a, if it is rational and, for even k, a is not negative.
func ratRoot(a *big.Rat, k int) (*big.Rat, bool) {
	if k == 1 {
		return a, true
	}
	if a.Sign() < 0 {
		if k%2 == 0 {
			return nil, false
		}
		r, ok := ratRoot(new(big.Rat).Neg(a), k)
		if !ok {
			return nil, false
		}
		return r.Neg(r), true
	}
	num, ok := intRoot(a.Num(), k)
	if !ok {
		return nil, false
	}
	den, ok := intRoot(a.Denom(), k)
	if !ok {
		return nil, false
	}
	return new(big.Rat).SetFrac(num, den), true
}

// intRoot returns the k-th root of a ≥ 0, if it is an integer.
func intRoot(a *big.Int, k int) (*big.Int, bool) {
	if k == 2 {
		r := new(big.Int).Sqrt(a)
		return r, new(big.Int).Mul(r, r).Cmp(a) == 0
	}
	if a.BitLen() > 1000 {
		return nil, false
	}
	f, _ := new(big.Float).SetInt(a).Float64()
	r, _ := big.NewFloat(math.Round(math.Pow(f, 1/float64(k)))).Int(nil)
	return r, new(big.Int).Exp(r, big.NewInt(int64(k)), nil).Cmp(a) == 0
}

func (e *evaluator) rationalFunc(n *node) (*big.Rat, bool) {
	switch n.name {
	case "sqrt", "root", "abs", "floor", "ceil", "!", "binom", "max", "min", "gcd", "lcm", "mod":
	default:
		return nil, false
	}
	var vs [4]*big.Rat
	if len(n.args) == 0 || len(n.args) > len(vs) {
		return nil, false
	}
	for i, a := range n.args {
		v, ok := e.rational(a)
		if !ok {
			return nil, false
		}
		vs[i] = v
	}
	v := vs[0]
	switch n.name {
	case "sqrt":
		return ratRoot(v, 2)
	case "root":
		if len(n.args) != 2 || !vs[1].IsInt() || !vs[1].Num().IsInt64() || vs[1].Num().Int64() < 1 || vs[1].Num().Int64() > 64 {
			return nil, false
		}
		return ratRoot(v, int(vs[1].Num().Int64()))
	case "abs":
		return new(big.Rat).Abs(v), true
	case "floor", "ceil":
		if n.name == "ceil" {
			v = new(big.Rat).Neg(v)
		}
		q := new(big.Int).Div(v.Num(), v.Denom()) // Euclidean, and the denominator is positive
		if n.name == "ceil" {
			q.Neg(q)
		}
		return new(big.Rat).SetInt(q), true
	case "!":
		if k, ok := smallInt(v, maxFactorial); ok && k >= 0 {
			e.steps += int(k)
			return new(big.Rat).SetInt(new(big.Int).MulRange(1, k)), true
		}
	case "binom":
		if len(n.args) != 2 {
			return nil, false
		}
		a, ok := smallInt(v, maxFactorial)
		b, fine := smallInt(vs[1], maxFactorial)
		if ok && fine && a >= 0 {
			e.steps += int(max(b, 0))
			if b < 0 {
				return new(big.Rat), true
			}
			return new(big.Rat).SetInt(new(big.Int).Binomial(a, b)), true
		}
	case "max", "min":
		for _, w := range vs[1:len(n.args)] {
			if c := w.Cmp(v); c > 0 == (n.name == "max") && c != 0 {
				v = w
			}
		}
		return v, true
	case "gcd", "lcm":
		if len(n.args) != 2 || !v.IsInt() || !vs[1].IsInt() {
			return nil, false
		}
		g := new(big.Int).GCD(nil, nil, new(big.Int).Abs(v.Num()), new(big.Int).Abs(vs[1].Num()))
		if n.name == "gcd" || g.Sign() == 0 {
			return new(big.Rat).SetInt(g), true
		}
		m := new(big.Int).Mul(v.Num(), vs[1].Num())
		return new(big.Rat).SetInt(m.Abs(m.Quo(m, g))), true
	case "mod":
		if len(n.args) == 2 && v.IsInt() && vs[1].IsInt() && vs[1].Sign() > 0 {
			return new(big.Rat).SetInt(new(big.Int).Mod(v.Num(), vs[1].Num())), true
		}
	}
	return nil, false
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func smallInt(v *big.Rat, limit int64) (int64, bool) {
	if !v.IsInt() || !v.Num().IsInt64() {
		return 0, false
	}
	k := v.Num().Int64()
	return k, k <= limit && k >= -limit
}

// terms returns the range of a sum or product whose bounds are numbers.
func (e *evaluator) terms(n *node) (from, to int64, ok bool) {
	if n.name != "sum" && n.name != "prod" || n.args[0].op != opVar || n.args[0].name == "" {
		return 0, 0, false
	}
	a, ok := e.rational(n.args[1])
	if !ok {
		return 0, 0, false
	}
	b, ok := e.rational(n.args[2])
	if !ok {
		return 0, 0, false
	}
	if from, ok = smallInt(a, 1e6); !ok {
		return 0, 0, false
	}
	to, ok = smallInt(b, 1e6)
	return from, to, ok && to-from < maxTerms
}

func (e *evaluator) rationalSum(n *node) (*big.Rat, bool) {
	from, to, ok := e.terms(n)
	if !ok {
		return nil, false
	}
	total := new(big.Rat).SetInt64(b2i(n.name == "prod"))
	depth := len(e.bound)
	defer func() { e.bound = e.bound[:depth] }()
	for k := from; k <= to; k++ {
		e.bound = append(e.bound[:depth], binding{name: n.args[0].name, value: k})
		v, ok := e.rational(n.args[3])
		if !ok {
			return nil, false
		}
		if n.name == "sum" {
			total.Add(total, v)
		} else {
			total.Mul(total, v)
		}
		if !e.small(total) {
			return nil, false
		}
	}
	return total, true
}

// prime is the largest below 2^64. It is 1 modulo 4, so that −1 has a root.
const prime = 1<<64 - 59

// imaginary is that root.
var imaginary = func() uint64 {
	for g := uint64(2); ; g++ {
		if r := powMod(g, (prime-1)/4); mulMod(r, r) == prime-1 {
			return r
		}
	}
}()

func mulMod(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	_, r := bits.Div64(hi%prime, lo, prime)
	return r
}

func addMod(a, b uint64) uint64 {
	s, carry := bits.Add64(a, b, 0)
	if carry != 0 || s >= prime {
		s -= prime
	}
	return s
}

func powMod(a, k uint64) uint64 {
	r := uint64(1)
	for ; k > 0; k >>= 1 {
		if k&1 == 1 {
			r = mulMod(r, a)
		}
		a = mulMod(a, a)
	}
	return r
}

func intMod(v *big.Int) uint64 {
	if v.IsInt64() {
		if k := v.Int64(); k >= 0 {
			return uint64(k)
		} else {
			return prime - uint64(-k)%prime
		}
	}
	return new(big.Int).Mod(v, new(big.Int).SetUint64(prime)).Uint64()
}

// residue returns the value of n modulo prime, if n is a rational function of its variables and of i.
func (e *evaluator) residue(n *node) (uint64, bool) {
	if !e.step() {
		return 0, false
	}
	switch n.op {
	case opNum:
		if n.num.IsInt() {
			return intMod(n.num.Num()), true
		}
		den := intMod(n.num.Denom())
		return mulMod(intMod(n.num.Num()), powMod(den, prime-2)), den != 0
	case opConst:
		if n.name == "i" {
			return imaginary, true
		}
	case opVar:
		if b, at, ok := e.lookup(n.name); ok {
			if b.free {
				return hashName("", at, e.point) % prime, true
			}
			return intMod(big.NewInt(b.value)), true
		}
		return hashName(n.name, e.point) % prime, true
	case opNeg:
		v, ok := e.residue(n.args[0])
		return (prime - v) % prime, ok
	case opUnit:
		return e.residue(n.args[0])
	case opAdd, opMul:
		total, ok := e.residue(n.args[0])
		for _, a := range n.args[1:] {
			if !ok {
				return 0, false
			}
			var v uint64
			v, ok = e.residue(a)
			if n.op == opAdd {
				total = addMod(total, v)
			} else {
				total = mulMod(total, v)
			}
		}
		return total, ok
	case opDiv:
		a, ok := e.residue(n.args[0])
		if !ok {
			return 0, false
		}
		b, ok := e.residue(n.args[1])
		return mulMod(a, powMod(b, prime-2)), ok && b != 0
	case opPow:
		k, ok := e.rational(n.args[1])
		if !ok {
			return 0, false
		}
		power, ok := smallInt(k, 1<<20)
		if !ok {
			return 0, false
		}
		a, ok := e.residue(n.args[0])
		if !ok || a == 0 && power <= 0 {
			return 0, false
		}
		if power < 0 {
			return powMod(powMod(a, prime-2), uint64(-power)), true
		}
		return powMod(a, uint64(power)), true
	case opFunc:
		if isKnown(n.name) {
			v, ok := e.rational(n)
			if !ok {
				return 0, false
			}
			den := intMod(v.Denom())
			return mulMod(intMod(v.Num()), powMod(den, prime-2)), den != 0
		}
		h := hashName(n.name, uint64(len(n.args)))
		for _, a := range n.args {
			v, ok := e.residue(a)
			if !ok {
				return 0, false
			}
			h = mix64(h*31 ^ v)
		}
		return h % prime, true
	}
	return 0, false
}

// isKnown reports whether the evaluator knows a function of that name.
func isKnown(name string) bool {
	switch name {
	case "sqrt", "root", "floor", "ceil", "!", "binom", "mod", "acot":
		return true
	}
	return functions[name] != ""
}

// value returns the value of n as a complex number. NaN stands for none.
func (e *evaluator) value(n *node) complex128 {
	if !e.step() {
		return cmplx.NaN()
	}
	switch n.op {
	case opNum:
		f, _ := n.num.Float64()
		return complex(f, 0)
	case opConst:
		switch n.name {
		case "pi":
			return math.Pi
		case "e":
			return math.E
		case "i":
			return 1i
		case "inf":
			return complex(math.Inf(1), 0)
		}
	case opVar:
		return complex(e.variable(n.name), 0)
	case opNeg:
		return -e.value(n.args[0])
	case opUnit:
		if n.name == "degree" { // one that stands in an expression, as in \sin 30^\circ
			return e.value(n.args[0]) * (math.Pi / 180)
		}
		return e.value(n.args[0])
	case opPercent:
		return e.value(n.args[0]) / 100
	case opAdd:
		var sum complex128
		for _, a := range n.args {
			sum += e.value(a)
		}
		return sum
	case opMul:
		product := complex128(1)
		for _, a := range n.args {
			product *= e.value(a)
		}
		return product
	case opDiv, opRatio:
		if b := e.value(n.args[1]); b != 0 && len(n.args) == 2 {
			return e.value(n.args[0]) / b
		}
	case opPow:
		return e.power(n.args[0], n.args[1])
	case opFunc:
		return e.apply(n)
	case opBound:
		return e.sum(n)
	}
	return cmplx.NaN()
}

// variable returns a value for a name: an integer for what is one by custom, and for all beyond maxPoints, a real of
// either sign for others.
func (e *evaluator) variable(name string) float64 {
	var h uint64
	if b, at, ok := e.lookup(name); ok {
		if !b.free {
			return float64(b.value)
		}
		h = hashName("", at, e.point)
	} else {
		h = hashName(name, e.point)
		if e.point > maxPoints || name == "n" || name == "k" || name == "m" {
			return float64(1 + h%9)
		}
	}
	v := 0.3 + 2.4*float64(h>>11)/(1<<53)
	if h&1 == 1 && e.point%2 == 1 { // all are positive at every other point
		return -v
	}
	return v
}

func (e *evaluator) power(base, exponent *node) complex128 {
	a := onAxis(e.value(base))
	if base.op == opConst && base.name == "e" {
		return cmplx.Exp(e.value(exponent))
	}
	if k, ok := e.rational(exponent); ok {
		if i, ok := smallInt(k, 1<<20); ok {
			if i == 2 {
				return a * a
			}
			if a == 0 && i <= 0 {
				return cmplx.NaN()
			}
			return integerPower(a, i)
		}
		if k.Denom().IsInt64() && k.Denom().Int64()%2 == 1 && imag(a) == 0 && real(a) < 0 {
			f, _ := k.Float64()
			v := math.Pow(-real(a), f)
			if k.Num().Bit(0) == 1 {
				v = -v
			}
			return complex(v, 0)
		}
	}
	b := e.value(exponent)
	if a == 0 {
		if real(b) > 0 {
			return 0
		}
		return cmplx.NaN()
	}
	if imag(a) == 0 && imag(b) == 0 && (real(a) > 0 || real(b) == math.Trunc(real(b))) {
		return complex(math.Pow(real(a), real(b)), 0)
	}
	return cmplx.Pow(a, b)
}

func integerPower(a complex128, k int64) complex128 {
	if imag(a) == 0 {
		return complex(math.Pow(real(a), float64(k)), 0)
	}
	r := complex128(1)
	for i := max(k, -k); i > 0; i >>= 1 {
		if i&1 == 1 {
			r *= a
		}
		a *= a
	}
	if k < 0 {
		return 1 / r
	}
	return r
}

// onAxis drops the sign of a zero, which would choose the other side of a branch cut.
func onAxis(v complex128) complex128 {
	if imag(v) == 0 {
		return complex(real(v), 0)
	}
	return v
}

// apply evaluates a function.
func (e *evaluator) apply(n *node) complex128 {
	if !isKnown(n.name) {
		return e.unknown(n)
	}
	x := onAxis(e.value(n.args[0]))
	r, isReal := real(x), imag(x) == 0
	switch n.name {
	case "sqrt":
		if isReal && r >= 0 {
			return complex(math.Sqrt(r), 0)
		}
		return cmplx.Sqrt(x)
	case "root":
		k := e.value(n.args[1])
		switch {
		case k == 0:
			return cmplx.NaN()
		case isReal && r < 0 && imag(k) == 0 && math.Mod(real(k), 2) != 0 && real(k) == math.Trunc(real(k)):
			return complex(-math.Pow(-r, 1/real(k)), 0)
		case isReal && r >= 0 && imag(k) == 0:
			return complex(math.Pow(r, 1/real(k)), 0)
		}
		return cmplx.Pow(x, 1/k)
	case "sin":
		return cmplx.Sin(x)
	case "cos":
		return cmplx.Cos(x)
	case "tan":
		return cmplx.Tan(x)
	case "cot":
		return 1 / cmplx.Tan(x)
	case "sec":
		return 1 / cmplx.Cos(x)
	case "csc":
		return 1 / cmplx.Sin(x)
	case "asin":
		return cmplx.Asin(x)
	case "acos":
		return cmplx.Acos(x)
	case "atan":
		return cmplx.Atan(x)
	case "acot":
		return math.Pi/2 - cmplx.Atan(x)
	case "sinh":
		return cmplx.Sinh(x)
	case "cosh":
		return cmplx.Cosh(x)
	case "tanh":
		return cmplx.Tanh(x)
	case "ln", "log", "lg":
		if x == 0 {
			return cmplx.NaN()
		}
		base := complex128(1)
		if len(n.args) == 2 {
			base = cmplx.Log(e.value(n.args[1]))
		} else if n.name == "lg" {
			base = math.Ln10
		}
		if base == 0 {
			return cmplx.NaN()
		}
		return cmplx.Log(x) / base
	case "abs":
		return complex(cmplx.Abs(x), 0)
	case "arg":
		return complex(cmplx.Phase(x), 0)
	}
	if v, ok := e.rational(n); ok {
		f, _ := v.Float64()
		return complex(f, 0)
	}
	if !isReal {
		return cmplx.NaN()
	}
	y := 0.0
	if len(n.args) == 2 {
		v := e.value(n.args[1])
		if imag(v) != 0 {
			return cmplx.NaN()
		}
		y = real(v)
	}
	switch n.name {
	case "floor":
		return complex(math.Floor(r), 0)
	case "ceil":
		return complex(math.Ceil(r), 0)
	case "!":
		return complex(math.Gamma(r+1), 0)
	case "binom":
		return complex(math.Gamma(r+1)/math.Gamma(y+1)/math.Gamma(r-y+1), 0)
	case "max", "min":
		if len(n.args) == 2 && n.name == "max" {
			return complex(math.Max(r, y), 0)
		} else if len(n.args) == 2 {
			return complex(math.Min(r, y), 0)
		}
	case "mod":
		if y > 0 {
			return complex(r-y*math.Floor(r/y), 0)
		}
	}
	return cmplx.NaN()
}

// unknown evaluates a function of which only the name is known, as a smooth function of its arguments: values that
// are equal but for rounding stay so.
func (e *evaluator) unknown(n *node) complex128 {
	total := complex128(0)
	for i, a := range n.args {
		h := hashName(n.name, uint64(i), uint64(len(n.args)))
		k := 0.5 + float64(h>>11)/(1<<53)
		total += cmplx.Sin(complex(k, 0)*e.value(a)+complex(float64(h%7), 0)) + complex(k, 0)
	}
	return total
}

// sum evaluates a sum or product term by term where its bounds are numbers. Otherwise, and for integrals and limits,
// it is some function of its bounds and of its body.
func (e *evaluator) sum(n *node) complex128 {
	depth := len(e.bound)
	defer func() { e.bound = e.bound[:depth] }()
	if from, to, ok := e.terms(n); ok {
		total := complex(float64(b2i(n.name == "prod")), 0)
		for k := from; k <= to; k++ {
			e.bound = append(e.bound[:depth], binding{name: n.args[0].name, value: k})
			if n.name == "sum" {
				total += e.value(n.args[3])
			} else {
				total *= e.value(n.args[3])
			}
		}
		return total
	}
	total := complex128(1)
	for i := 1; i <= 3; i++ {
		if i == 3 {
			e.bound = append(e.bound[:depth], binding{name: n.args[0].name, free: true})
		}
		v := complex128(0.5)
		if a := n.args[i]; a.op == opConst && a.name == "inf" {
			v = 7.25
		} else if a.op != opVar || a.name != "" {
			v = e.value(a)
		}
		k := complex(0.5+float64(hashName(n.name, uint64(i))>>11)/(1<<53), 0)
		total = total*k + cmplx.Sin(k*v) + v*0.125
	}
	return total
}

// Precision of the check in many digits, in bits.
const bigBits = 320

// Constants to 90 digits.
const (
	piDigits = "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534"
	eDigits  = "2.71828182845904523536028747135266249775724709369995957496696762772407663035354759457138217853"
)

// precise returns the real value of an expression without variables that roots, π and e make of rationals, to about
// 90 digits.
func (e *evaluator) precise(n *node) (*big.Float, bool) {
	if e.steps += 20; e.steps > maxMathSteps {
		return nil, false
	}
	f := func() *big.Float { return new(big.Float).SetPrec(bigBits) }
	if v, ok := e.rational(n); ok {
		return f().SetRat(v), true
	}
	switch n.op {
	case opConst:
		switch n.name {
		case "pi":
			v, _ := f().SetString(piDigits)
			return v, true
		case "e":
			v, _ := f().SetString(eDigits)
			return v, true
		}
	case opNeg:
		if v, ok := e.precise(n.args[0]); ok {
			return f().Neg(v), true
		}
	case opUnit:
		return e.precise(n.args[0])
	case opAdd, opMul, opDiv:
		var total *big.Float
		for i, a := range n.args {
			v, ok := e.precise(a)
			switch {
			case !ok || n.op == opDiv && i > 0 && v.Sign() == 0:
				return nil, false
			case i == 0:
				total = v
			case n.op == opAdd:
				total = f().Add(total, v)
			case n.op == opMul:
				total = f().Mul(total, v)
			default:
				total = f().Quo(total, v)
			}
			if exponent := total.MantExp(nil); exponent > maxMathBits || exponent < -maxMathBits {
				return nil, false
			}
		}
		return total, true
	case opPow:
		k, ok := e.rational(n.args[1])
		if !ok {
			return nil, false
		}
		v, ok := e.precise(n.args[0])
		if !ok {
			return nil, false
		}
		if k.Denom().IsInt64() && k.Denom().Int64() == 2 {
			if v.Sign() < 0 {
				return nil, false
			}
			v = f().Sqrt(v)
		} else if !k.IsInt() {
			return nil, false
		}
		if !k.Num().IsInt64() {
			return nil, false
		}
		return precisePower(v, k.Num().Int64())
	case opFunc:
		if n.name == "sqrt" {
			if v, ok := e.precise(n.args[0]); ok && v.Sign() >= 0 {
				return f().Sqrt(v), true
			}
		}
	}
	return nil, false
}

func precisePower(v *big.Float, k int64) (*big.Float, bool) {
	if k > 1000 || k < -1000 || v.Sign() == 0 && k <= 0 || max(v.MantExp(nil), -v.MantExp(nil)) > 1000 {
		return nil, false
	}
	r := new(big.Float).SetPrec(bigBits).SetInt64(1)
	for range max(k, -k) {
		r.Mul(r, v)
	}
	if k < 0 {
		r.Quo(new(big.Float).SetPrec(bigBits).SetInt64(1), r)
	}
	return r, true
}

// hasVariable reports whether n depends on a name.
func hasVariable(n *node) bool {
	switch n.op {
	case opVar:
		return true
	case opFunc:
		if !isKnown(n.name) {
			return true
		}
	case opText, opBound:
		return true
	}
	for _, a := range n.args {
		if hasVariable(a) {
			return true
		}
	}
	return false
}

// same reports whether a and b are written alike.
func same(a, b *node) bool {
	if a == b {
		return true
	}
	if a.op != b.op || a.name != b.name || len(a.args) != len(b.args) || len(a.rels) != len(b.rels) || a.open != b.open || a.close != b.close || a.cols != b.cols {
		return false
	}
	if a.op == opNum && a.num.Cmp(b.num) != 0 {
		return false
	}
	for i := range a.rels {
		if a.rels[i] != b.rels[i] {
			return false
		}
	}
	for i := range a.args {
		if !same(a.args[i], b.args[i]) {
			return false
		}
	}
	return true
}
