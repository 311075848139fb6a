package policy

import (
	"context"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Probabilities by hand: of the token under the behaviour policy, the proximal
// one, and the policy itself, which is 1/2 throughout.
func TestCorrect(t *testing.T) {
	logs := func(ps ...float64) (out []float32) {
		for _, p := range ps {
			out = append(out, float32(math.Log(p)))
		}
		return out
	}
	make2 := func() []Sample {
		return []Sample{
			{ // ratios 2, 4, 1/2, 1; the last is masked
				Prompt: []int32{1}, Completion: []int32{0, 1, 0, 1}, OldLogProbs: logs(.25, .125, .5, .5),
				Advantages: []float32{1, 1, -1, 8}, Mask: []float32{1, 1, 1, 0},
			},
			{Prompt: []int32{1}, Completion: []int32{0}, Advantages: []float32{3}}, // drawn under another prompt
		}
	}
	proximal := []Scored{{LogProbs: logs(.5, .5, .25, .5)}, {LogProbs: logs(.25)}}
	near := cmpopts.EquateApprox(0, 1e-6)
	for _, c := range []struct {
		limit   float64
		weights [3]float64
		gap     Gap
	}{
		{2.5, [3]float64{2, 2.5, .5}, Gap{Mean: 5. / 3, Max: 2.5, Truncated: 1. / 3}},
		{1, [3]float64{1, 1, .5}, Gap{Mean: 2.5 / 3, Max: 1, Truncated: 2. / 3}},
		{100, [3]float64{2, 4, .5}, Gap{Mean: 6.5 / 3, Max: 4}},
	} {
		c.gap.KL = (1 - math.Log(2) + 3 - math.Log(4) - .5 + math.Log(2)) / 3
		samples := make2()
		given := samples[0]
		gap := Correct(samples, proximal, c.limit, TokenTruncate)
		want := []float32{float32(c.weights[0]), float32(c.weights[1]), float32(-c.weights[2])}
		if d := cmp.Diff(want, samples[0].Advantages[:3], near) + cmp.Diff(c.gap, gap, near) +
			cmp.Diff(proximal[0].LogProbs, samples[0].OldLogProbs) + cmp.Diff(make2()[1], samples[1]) + cmp.Diff(make2()[0], given); d != "" {
			t.Errorf("limit %v: %s", c.limit, d)
		}
		// With ratios 1, 1 and 2 to the proximal policy, of which the last counts in
		// full as A < 0; of the other sample, 1 and A = 3.
		tokens := [3]float64{-c.weights[0], -c.weights[1], 2 * c.weights[2]}
		sum := tokens[0] + tokens[1] + tokens[2]
		for lossType, loss := range map[string]float64{
			LossGRPO: (sum/3 - 3) / 2, LossDAPO: (sum - 3) / 4, LossBNPO: (sum - 3) / 4, LossDrGRPO: (sum - 3) / (2 * 5),
		} {
			m, err := uniformTrainer(t).Update(context.Background(), samples, still(lossType))
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(m.Loss-loss) > 1e-6 {
				t.Errorf("limit %v, %s: loss %v, want %v", c.limit, lossType, m.Loss, loss)
			}
		}
	}
	// The clip is about the proximal policy: ρ = 1/2 ÷ 1/4 is cut to 1.2 however
	// far the behaviour policy was, and the weight multiplies what is left.
	samples := []Sample{{Prompt: []int32{1}, Completion: []int32{0}, OldLogProbs: logs(.125), Advantages: []float32{1}}}
	Correct(samples, []Scored{{LogProbs: logs(.25)}}, 1.5, TokenTruncate)
	m, err := uniformTrainer(t).Update(context.Background(), samples, still(LossDAPO))
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(m.Loss+1.5*1.2) > 1e-6 || m.ClipRatioHigh != 1 {
		t.Errorf("clipped: %+v", m)
	}
}

// The weights of every mode by hand: ratios 2, 4 and 1/2, whose product is 4.
func TestCorrectModes(t *testing.T) {
	for _, c := range []struct {
		mode      string
		limit     float64
		want      []float32
		truncated float64
	}{
		{TokenTruncate, 3, []float32{2, 3, .5}, 1. / 3},
		{TokenMask, 3, []float32{2, 0, .5}, 1. / 3},
		{SequenceTruncate, 3, []float32{3, 3, 3}, 1},
		{SequenceMask, 3, []float32{0, 0, 0}, 1},
		{SequenceTruncate, 5, []float32{4, 4, 4}, 0},
		{SequenceMask, 5, []float32{4, 4, 4}, 0},
	} {
		log := func(p float64) float32 { return float32(math.Log(p)) }
		samples := []Sample{{
			Prompt: []int32{1}, Completion: []int32{0, 1, 0, 1}, OldLogProbs: []float32{log(.25), log(.125), log(.5), log(.01)},
			Advantages: []float32{1, 1, 1, 1}, Mask: []float32{1, 1, 1, 0},
		}}
		gap := Correct(samples, []Scored{{LogProbs: []float32{log(.5), log(.5), log(.25), log(.5)}}}, c.limit, c.mode)
		if d := cmp.Diff(c.want, samples[0].Advantages[:3], cmpopts.EquateApprox(0, 1e-5)); d != "" || math.Abs(gap.Truncated-c.truncated) > 1e-9 {
			t.Errorf("%s at %v: %s%+v", c.mode, c.limit, d, gap)
		}
	}
}

// uniformTrainer holds a policy over 2 tokens that gives each 1/2.
func uniformTrainer(t *testing.T) *Trainer {
	c := Config{VocabSize: 2, HiddenSize: 4, IntermediateSize: 4, NumHiddenLayers: 1, NumAttentionHeads: 1, NumKeyValueHeads: 1, MaxPositionEmbeddings: 16, RMSNormEps: 1e-6, RopeTheta: 100}
	w := NewWeights(c, 1)
	clear(w[len(w)-1].Data) // lm_head
	return newTestTrainer(t, &State{Config: c, Weights: w})
}

// still is a loss without a step.
func still(lossType string) Learning {
	l := DefaultLearning()
	l.LossType, l.MaxCompletionLength, l.LearningRate = lossType, 5, 0
	return l
}
