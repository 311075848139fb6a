package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func ExampleSampling_Choose() {
	logits := []float32{float32(math.Log(1)), float32(math.Log(2)), float32(math.Log(5))}
	var scratch Scratch
	greedy := Sampling{Temperature: 0, TopP: 1}
	token, logprob, entropy := greedy.Choose(logits, 1, 0, &scratch)
	fmt.Printf("greedy: token %d, p = %.3f, entropy %.3f nats\n", token, math.Exp(float64(logprob)), entropy)

	counts := make([]int, 3)
	for position := range 8000 {
		token, _, _ := DefaultSampling().Choose(logits, 1, position, &scratch)
		counts[token]++
	}
	fmt.Printf("sampled: %.2f\n", []float64{float64(counts[0]) / 8000, float64(counts[1]) / 8000, float64(counts[2]) / 8000})
	// Output:
	// greedy: token 2, p = 0.625, entropy 0.900 nats
	// sampled: [0.12 0.25 0.62]
}

// kept is the reference: the truncated distribution by sorting everything, in
// the steps of Hugging Face's TopKLogitsWarper and TopPLogitsWarper. full is the
// distribution before truncation.
func (s Sampling) kept(logits []float32) (kept, full []float64) {
	temperature := s.Temperature
	if temperature == 0 {
		temperature = 1
	}
	sum := 0.0
	full = make([]float64, len(logits))
	peak := float64(slices.Max(logits))
	for i, l := range logits {
		full[i] = math.Exp((float64(l) - peak) / temperature)
		sum += full[i]
	}
	order := make([]int, len(logits))
	for i := range full {
		full[i] /= sum
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if s.Temperature == 0 {
		order = order[:1]
	}
	if s.TopK > 0 && s.TopK < len(order) {
		order = order[:s.TopK]
	}
	mass := 0.0
	for _, i := range order {
		mass += full[i]
	}
	kept = make([]float64, len(logits))
	before, nucleus := 0.0, 0.0
	for n, i := range order {
		if n > 0 && before >= s.TopP*mass {
			break
		}
		before += full[i]
		kept[i] = full[i]
		nucleus += full[i]
	}
	for i := range kept {
		kept[i] /= nucleus
	}
	return kept, full
}

// Pearson's χ² of 20000 draws against the reference, over distributions and
// truncations; the bound is six deviations of χ² with that many degrees of
// freedom. A token that is not kept must never come.
func TestChooseFollowsDistribution(t *testing.T) {
	const draws = 20000
	rng := rand.New(rand.NewPCG(1, 2))
	random := make([]float32, 40)
	for i := range random {
		random[i] = float32(rng.NormFloat64() * 2)
	}
	masked := slices.Clone(random)
	for i := range masked {
		if i%3 == 0 {
			masked[i] = float32(math.Inf(-1))
		}
	}
	for name, logits := range map[string][]float32{
		"uniform": make([]float32, 16), "random": random, "masked": masked,
		"two": {0, 1}, "one": {3}, "ties": {1, 2, 2, 2, 1, 0}, "extreme": {-1e30, 1e30, 3e38, 3e38},
	} {
		for _, s := range []Sampling{
			{Temperature: 1, TopP: 1}, {Temperature: .3, TopP: 1}, {Temperature: 2, TopP: 1},
			{Temperature: 1, TopP: 1, TopK: 3}, {Temperature: 1, TopP: .7}, {Temperature: 1.5, TopP: .5, TopK: 5},
			{Temperature: 1, TopP: 1e-9}, {Temperature: 1, TopP: 1, TopK: 1}, {Temperature: 1, TopP: .999, TopK: 1000},
			{Temperature: 0, TopP: .5, TopK: 3}, {Temperature: 1e-30, TopP: 1}, {Temperature: 1, TopP: 0},
		} {
			want, full := s.kept(logits)
			counts := make([]int, len(logits))
			var scratch Scratch
			for n := range draws {
				// Half of the coordinates move along streams, half along positions.
				token, logprob, _ := s.Choose(logits, uint64(n%200), n/200, &scratch)
				counts[token]++
				if math.Abs(float64(logprob)-math.Log(full[token])) > 1e-5 {
					t.Fatalf("%s %+v: logprob of token %d is %v, want %v", name, s, token, logprob, math.Log(full[token]))
				}
			}
			chi2, freedom := 0.0, -1.0
			for i, n := range counts {
				if want[i] == 0 {
					if n > 0 {
						t.Errorf("%s %+v: token %d drawn %d times, want never", name, s, i, n)
					}
					continue
				}
				expected := want[i] * draws
				chi2 += (float64(n) - expected) * (float64(n) - expected) / expected
				freedom++
			}
			if bound := freedom + 6*math.Sqrt(2*freedom) + 6; chi2 > bound {
				t.Errorf("%s %+v: χ² is %.1f of %v degrees of freedom", name, s, chi2, freedom)
			}
		}
	}
}

func TestChooseByHand(t *testing.T) {
	ln := func(p float64) float32 { return float32(math.Log(p)) }
	logits := []float32{ln(.5), ln(.25), ln(.125), ln(.125)}
	for _, tc := range []struct {
		s       Sampling
		logits  []float32
		token   int32 // −1: any
		entropy float64
	}{
		{Sampling{Temperature: 0, TopP: 1}, logits, 0, 1.75 * math.Ln2},
		{Sampling{Temperature: 1, TopP: 1, TopK: 1}, logits, 0, 1.75 * math.Ln2},
		{Sampling{Temperature: 1, TopP: .5}, logits, 0, 1.75 * math.Ln2},                   // .5 is enough for .5
		{Sampling{Temperature: 0, TopP: 1}, []float32{1, 3, 3}, 1, 0.8854},                 // ties go to the lower id
		{Sampling{Temperature: 1, TopP: 1}, make([]float32, 8), -1, math.Log(8)},           // uniform
		{Sampling{Temperature: .5, TopP: 1}, []float32{0, ln(2)}, -1, .8*.2231 + .2*1.609}, // squares: 1/5, 4/5
		{Sampling{Temperature: 1, TopP: 1}, []float32{0, float32(math.Inf(-1))}, 0, 0},     // a masked token
	} {
		var scratch Scratch
		token, _, entropy := tc.s.Choose(tc.logits, 3, 5, &scratch)
		if tc.token >= 0 && token != tc.token || math.Abs(float64(entropy)-tc.entropy) > 1e-3 {
			t.Errorf("%+v %v: token %d, entropy %v, want %d, %v", tc.s, tc.logits, token, entropy, tc.token, tc.entropy)
		}
	}
}

func TestChooseWithoutDistribution(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, logits := range [][]float32{nil, {nan}, {0, nan}, {inf, 0}, {-inf, -inf}} {
		for _, s := range []Sampling{{TopP: 1}, DefaultSampling(), {Temperature: 1, TopP: .5, TopK: 1}} {
			token, logprob, entropy := s.Choose(logits, 1, 1, new(Scratch))
			if token != -1 || logprob == logprob || entropy == entropy {
				t.Errorf("%v: token %d, logprob %v, entropy %v, want -1, NaN, NaN", logits, token, logprob, entropy)
			}
		}
	}
}

// Shifting all logits changes nothing, and neither does what else the scratch
// was used for.
func TestChooseProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var scratch Scratch
	for range 2000 {
		n := 1 + rng.IntN(50)
		logits, shifted := make([]float32, n), make([]float32, n)
		for i := range logits {
			logits[i] = float32(rng.IntN(64)) / 8 // exact, so that the shift is
			shifted[i] = logits[i] + 32
		}
		s := Sampling{Temperature: 2 * rng.Float64(), TopP: rng.Float64(), TopK: rng.IntN(n + 2)}
		stream, position := rng.Uint64(), rng.IntN(1000)
		a, pa, ha := s.Choose(logits, stream, position, &scratch)
		b, pb, hb := s.Choose(shifted, stream, position, new(Scratch))
		if a != b || pa != pb || ha != hb {
			t.Fatalf("%+v: %d %v %v, shifted %d %v %v", s, a, pa, ha, b, pb, hb)
		}
		if pa > 0 || ha < -1e-6 || float64(ha) > math.Log(float64(n))+1e-6 {
			t.Fatalf("%+v: logprob %v, entropy %v of %d tokens", s, pa, ha, n)
		}
		s.TopK = 1
		greedy, _, _ := Sampling{TopP: 1}.Choose(logits, 0, 0, &scratch)
		if top1, _, _ := s.Choose(logits, stream, position, &scratch); top1 != greedy {
			t.Fatalf("top_k 1 gives %d, greedy %d", top1, greedy)
		}
	}
}

func TestSamplingValidate(t *testing.T) {
	if err := DefaultSampling().Validate(); err != nil {
		t.Error(err)
	}
	for want, s := range map[string]Sampling{
		"temperature is -1, want 0 to 1000":           {-1, 1, 0, 1},
		"temperature is NaN, want 0 to 1000":          {math.NaN(), 1, 0, 1},
		"top_p is 0, want above 0 and at most 1":      {1, 0, 0, 1},
		"top_p is 1.5, want above 0":                  {1, 1.5, 0, 1},
		"top_k is -1, want at least 0":                {1, 1, -1, 1},
		"max_completion_length is 0, want at least 1": {1, 1, 0, 0},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestChooseDoesNotAllocate(t *testing.T) {
	logits := make([]float32, 64)
	scratch := new(Scratch)
	for _, s := range []Sampling{{TopP: 1}, DefaultSampling(), {Temperature: 1, TopP: .9, TopK: 20}} {
		s.Choose(logits, 0, 0, scratch)
		if n := testing.AllocsPerRun(100, func() { s.Choose(logits, 1, 2, scratch) }); n != 0 {
			t.Errorf("%+v: %v allocations a call, want 0", s, n)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, vocab := range []int{16, 64, 151936} {
		rng := rand.New(rand.NewPCG(1, 1))
		logits := make([]float32, vocab)
		for i := range logits {
			logits[i] = float32(3 * rng.NormFloat64())
		}
		for _, s := range []Sampling{{TopP: 1}, DefaultSampling(), {Temperature: 1, TopP: .9}, {Temperature: 1, TopP: .95, TopK: 20}} {
			b.Run(fmt.Sprintf("vocab=%d/t=%v/p=%v/k=%d", vocab, s.Temperature, s.TopP, s.TopK), func(b *testing.B) {
				scratch := new(Scratch)
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					s.Choose(logits, 1, n, scratch)
				}
			})
		}
	}
}
