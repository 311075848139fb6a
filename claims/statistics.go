package claims

import (
	"math"

	"github.com/gradus-rl/gradus/statistics"
	"github.com/gradus-rl/gradus/workflows"
)

// differences is the interval of a − b on paired seeds.
func differences(a, b []float64) statistics.Interval {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return statistics.Mean(d)
}

// ratios is the geometric mean of a/b on paired seeds, with the interval that
// the logarithms give.
func ratios(a, b []float64) statistics.Interval {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = math.Log(a[i] / b[i])
	}
	v := statistics.Mean(d)
	return statistics.Interval{Mean: math.Exp(v.Mean), Low: math.Exp(v.Low), High: math.Exp(v.High), N: v.N}
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
