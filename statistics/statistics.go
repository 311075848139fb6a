// Package statistics says how sure a mean over seeds is.
package statistics

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Interval is a mean with its 95 % confidence interval.
type Interval struct {
	Mean float64 `json:"mean"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	N    int     `json:"n"`
}

// Mean is Student's interval of the mean of independent values, one per seed.
// With fewer than two it is infinite.
func Mean(x []float64) Interval {
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
