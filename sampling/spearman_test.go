package sampling

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func ExampleSpearman() {
	predicted := []float64{0.1, 0.2, 0.3, 0.4}
	measured := []float64{1, 10, 100, 1000}
	fmt.Println(Spearman(predicted, measured))
	// Output: 1
}

func TestSpearmanByHand(t *testing.T) {
	for _, c := range []struct {
		x, y []float64
		want float64
	}{
		{[]float64{1, 2, 3}, []float64{3, 2, 1}, -1},
		{[]float64{1, 2, 3, 4, 5}, []float64{2, 1, 4, 3, 5}, 1 - 6.*4/(5*24)}, // 1 − 6Σd²/(n(n²−1)), no ties
		// Ranks 0, 1½, 1½, 3 and 0, 1, 2, 3: 4.5/√(4.5·5).
		{[]float64{1, 2, 2, 3}, []float64{1, 2, 3, 4}, 4.5 / math.Sqrt(4.5*5)},
		{[]float64{1, 1, 1}, []float64{1, 2, 3}, 0},
		{[]float64{1}, []float64{2}, 0},
		{nil, nil, 0},
		{[]float64{1, math.NaN(), 2}, []float64{1, 2, 3}, 0},
		{[]float64{math.Inf(-1), 0, math.Inf(1)}, []float64{1, 2, 3}, 1},
	} {
		if got := Spearman(c.x, c.y); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("Spearman(%v, %v) = %v, want %v", c.x, c.y, got, c.want)
		}
	}
}

// It does not change with a growing function, a permutation of the rows or the
// order of the columns, and turns its sign with a falling one.
func TestSpearmanProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 2 + rng.IntN(20)
		x, y, grown, fallen := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
		px, py := make([]float64, n), make([]float64, n)
		perm := rng.Perm(n)
		for i := range n {
			x[i], y[i] = float64(rng.IntN(6)), float64(rng.IntN(6))
			grown[i], fallen[i] = math.Exp(x[i]), -x[i]
		}
		for i, p := range perm {
			px[i], py[i] = x[p], y[p]
		}
		want := Spearman(x, y)
		for name, got := range map[string]float64{
			"grown": Spearman(grown, y), "fallen": -Spearman(fallen, y), "swapped": Spearman(y, x), "permuted": Spearman(px, py),
		} {
			if math.Abs(got-want) > 1e-12 || math.Abs(got) > 1 {
				t.Fatalf("%s: %v, want %v for %v and %v", name, got, want, x, y)
			}
		}
	}
}
