package reward

import "testing"

// The samples of the benchmark are judged as they should be.
func TestBench(t *testing.T) {
	if s, err := Bench(t.Context()); err != nil || s.Numeric <= 0 || s.Symbolic <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
