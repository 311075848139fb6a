package policy

import "math"

// Gap is how far the policy that is to be updated, the proximal one, is from the
// one that drew the completions, the behaviour policy. Means are over the tokens
// that are trained on, weighted by the mask.
type Gap struct {
	Mean      float64 // of the truncated weights
	Max       float64 // greatest truncated weight
	Truncated float64 // share of the tokens whose weight is the cap
	KL        float64 // k3 estimate of KL(behaviour ‖ proximal), nats
}

// Correct prepares samples whose OldLogProbs are those of an older policy for an
// update of another one, which gives them the log-probabilities scored. It is the
// decoupled objective (arXiv:2110.00641, and for stale rollouts AReaL,
// arXiv:2505.24298) with the token's weight truncated, as in TRL and verl:
//
//	ℓ = −w·min(ρ·A, clip(ρ)·A),   w = min(π_prox/π_behaviour, limit),   ρ = π/π_prox
//
// w has no gradient and is not negative, so it is a factor of A, whatever the
// loss_type, and the clip is about the policy as it was before the update. The KL
// term has no weight. A sample without OldLogProbs stays as it is. Columns are
// replaced, not changed.
func Correct(samples []Sample, scored []Scored, limit float64) (g Gap) {
	total := 0.0
	for i := range samples {
		s := &samples[i]
		if s.OldLogProbs == nil {
			continue
		}
		advantages := make([]float32, len(s.Advantages))
		for t, proximal := range scored[i].LogProbs {
			d := float64(proximal) - float64(s.OldLogProbs[t])
			ratio := math.Exp(d)
			w := min(ratio, limit)
			advantages[t] = float32(w * float64(s.Advantages[t]))
			m := s.mask(t)
			if m == 0 {
				continue
			}
			total += m
			g.Mean += m * w
			g.Max = max(g.Max, w)
			g.KL += m * (ratio - 1 - d)
			if ratio > limit {
				g.Truncated += m
			}
		}
		s.Advantages, s.OldLogProbs = advantages, scored[i].LogProbs
	}
	if total > 0 {
		g.Mean, g.Truncated, g.KL = g.Mean/total, g.Truncated/total, g.KL/total
	}
	return g
}
