package statistics

import (
	"math"
	"testing"
)

// By hand: 1, 2, 3 have mean 2 and deviation 1; t(0.975, 2) = 4.30265…
func TestMean(t *testing.T) {
	v := Mean([]float64{1, 2, 3})
	if want := 2 + 4.302652729911275/math.Sqrt(3); v.Mean != 2 || v.N != 3 || math.Abs(v.High-want) > 1e-6 || math.Abs(v.Low+v.High-4) > 1e-9 {
		t.Errorf("interval %+v, want an upper end of %v", v, want)
	}
	if v := Mean([]float64{5}); v.Mean != 5 || !math.IsInf(v.High, 1) {
		t.Errorf("one value gives %v", v)
	}
	if v := Mean(nil); !math.IsNaN(v.Mean) || !math.IsInf(v.Low, -1) {
		t.Errorf("no value gives %v", v)
	}
}
