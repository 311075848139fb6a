package policy

import (
	"math"
	"testing"
)

// The known answers that the authors publish with Random123.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, tc := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			counter: [4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
			key:     [2]uint32{0xffffffff, 0xffffffff},
			want:    [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{ // digits of pi
			counter: [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			key:     [2]uint32{0xa4093822, 0x299f31d0},
			want:    [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox(tc.counter, tc.key); got != tc.want {
			t.Errorf("philox(%x, %x) = %x, want %x", tc.counter, tc.key, got, tc.want)
		}
	}
}

// Moments of the draws along each of the three coordinates, to five standard
// errors of the mean of n draws.
func TestDrawsAreStandard(t *testing.T) {
	const n = 100000
	for name, at := range map[string]func(i uint64) (key, a, b uint64){
		"key":      func(i uint64) (uint64, uint64, uint64) { return i, 7, 9 },
		"position": func(i uint64) (uint64, uint64, uint64) { return 7, i, 9 },
		"third":    func(i uint64) (uint64, uint64, uint64) { return 7, 9, i },
	} {
		var u1, u2, z1, z2, z4 float64
		for i := range uint64(n) {
			u, v := uniform2(at(i))
			if u < 0 || u >= 1 || v < 0 || v >= 1 {
				t.Fatalf("%s: uniform2 gives %v, %v outside of [0, 1)", name, u, v)
			}
			z := normal(at(i))
			u1, u2, z1, z2, z4 = u1+u, u2+u*v, z1+z, z2+z*z, z4+z*z*z*z
		}
		for _, m := range []struct {
			what                 string
			sum, mean, deviation float64
		}{
			{"E u", u1, 1. / 2, math.Sqrt(1. / 12)},
			{"E uv", u2, 1. / 4, math.Sqrt(1./9 - 1./16)},
			{"E z", z1, 0, 1},
			{"E z²", z2, 1, math.Sqrt(2)},
			{"E z⁴", z4, 3, math.Sqrt(96)},
		} {
			if got, bound := m.sum/n, 5*m.deviation/math.Sqrt(n); math.Abs(got-m.mean) > bound {
				t.Errorf("along %s: %s = %v, want %v ± %v", name, m.what, got, m.mean, bound)
			}
		}
	}
}
