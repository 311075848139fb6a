package sampling

import (
	"cmp"
	"math"
	"slices"
)

// Spearman is the rank correlation of two columns of one length (Spearman 1904):
// the Pearson correlation of their ranks, equal values sharing the mean of
// theirs, in [−1, 1]. It is 0 where there is none to tell: with fewer than two
// rows, or where a column is constant or holds a NaN. It panics if the lengths
// differ.
func Spearman(x, y []float64) float64 {
	if len(x) != len(y) {
		panic("sampling: columns of different lengths")
	}
	rx, ry := ranks(x), ranks(y)
	mean := float64(len(x)-1) / 2
	var xx, yy, xy float64
	for i := range rx {
		dx, dy := rx[i]-mean, ry[i]-mean
		xx += float64(dx * dx)
		yy += float64(dy * dy)
		xy += float64(dx * dy)
	}
	if !(xx > 0 && yy > 0) {
		return 0
	}
	return max(-1, min(1, xy/math.Sqrt(float64(xx*yy))))
}

// ranks are the places of the values in ascending order, from 0; NaN if one is.
func ranks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(x[i], x[j]) })
	out := make([]float64, len(x))
	for lo := 0; lo < len(order); {
		hi := lo + 1
		for hi < len(order) && x[order[hi]] == x[order[lo]] {
			hi++
		}
		rank := float64(lo+hi-1) / 2
		for _, i := range order[lo:hi] {
			out[i] = rank
			if math.IsNaN(x[i]) {
				out[i] = math.NaN()
			}
		}
		lo = hi
	}
	return out
}
