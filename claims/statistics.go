package claims

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/gradus-rl/gradus/workflows"
)

// Interval is a mean with its 95 % confidence interval.
type Interval struct {
	Mean float64 `json:"mean"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	N    int     `json:"n"`
}

// interval is Student's interval of the mean of independent values, one per
// seed. With fewer than two it is infinite.
func interval(x []float64) Interval {
	n := len(x)
	if n == 0 {
		return Interval{math.NaN(), math.Inf(-1), math.Inf(1), 0}
	}
	mean, deviation := stat.MeanStdDev(x, nil)
	if n < 2 {
		return Interval{x[0], math.Inf(-1), math.Inf(1), 1}
	}
	half := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(n - 1)}.Quantile(0.975) * deviation / math.Sqrt(float64(n))
	return Interval{mean, mean - half, mean + half, n}
}

// differences is the interval of a − b on paired seeds.
func differences(a, b []float64) Interval {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return interval(d)
}

// ratios is the geometric mean of a/b on paired seeds, with the interval that
// the logarithms give.
func ratios(a, b []float64) Interval {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = math.Log(a[i] / b[i])
	}
	v := interval(d)
	return Interval{math.Exp(v.Mean), math.Exp(v.Low), math.Exp(v.High), v.N}
}

// Curve is the evaluations of one run, in order.
type Curve []workflows.Point

// At is pass@1 when tokens had been generated, interpolated linearly, and the
// last one beyond the end.
func (c Curve) At(tokens int64) float64 {
	for i, p := range c {
		if p.Tokens < tokens {
			continue
		}
		if i == 0 || p.Tokens == c[i-1].Tokens {
			return p.PassAt1
		}
		q := c[i-1]
		return q.PassAt1 + (p.PassAt1-q.PassAt1)*float64(tokens-q.Tokens)/float64(p.Tokens-q.Tokens)
	}
	return c[len(c)-1].PassAt1
}

// Area is the mean of pass@1 over the first tokens.
func (c Curve) Area(tokens int64) float64 {
	sum, last, at := 0.0, c[0].PassAt1, c[0].Tokens
	for _, p := range c[1:] {
		end := min(p.Tokens, tokens)
		if end <= at {
			break
		}
		v := c.At(end)
		sum += (last + v) / 2 * float64(end-at)
		last, at = v, end
	}
	if at < tokens {
		sum += last * float64(tokens-at)
	}
	return sum / float64(tokens-c[0].Tokens)
}

// Cost is what a run had spent when it first reached the target, by the measure,
// interpolated; reached is false, and the cost that of the whole run, when it
// never did.
func (c Curve) Cost(m Measure, target float64) (cost float64, reached bool) {
	spent := func(p workflows.Point) float64 {
		switch m {
		case Trained:
			return float64(p.Trained)
		case Completions:
			return float64(p.Completions)
		}
		return float64(p.Tokens)
	}
	for i, p := range c {
		if p.PassAt1 < target {
			continue
		}
		if i == 0 {
			return max(1, spent(p)), true
		}
		q := c[i-1]
		share := (target - q.PassAt1) / (p.PassAt1 - q.PassAt1)
		return max(1, spent(q)+share*(spent(p)-spent(q))), true
	}
	return max(1, spent(c[len(c)-1])), false
}
