package policy

import (
	"math"
	"strings"
)

// Modes of [Correct], as TRL's vllm_importance_sampling_mode has them.
const (
	TokenTruncate    = "token_truncate"    // a token's ratio, at most the limit
	TokenMask        = "token_mask"        // a token's ratio, 0 above the limit
	SequenceTruncate = "sequence_truncate" // the product of a completion's ratios, at most the limit
	SequenceMask     = "sequence_mask"     // that product, 0 above the limit
)

// CorrectionModes are the modes of [Correct].
func CorrectionModes() []string {
	return []string{TokenTruncate, TokenMask, SequenceTruncate, SequenceMask}
}

// Gap is how far the policy that is to be updated, the proximal one, is from the
// one that drew the completions, the behaviour policy. Means are over the tokens
// that are trained on, weighted by the mask.
type Gap struct {
	Mean      float64 // of the weights
	Max       float64 // greatest weight
	Truncated float64 // share of the tokens whose ratio is above the limit
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
//
// That is [TokenTruncate]. Of the other modes, those by sequence take the product
// of a completion's ratios, over the tokens that are trained on, as the ratio of
// each of its tokens (no bias from the order of tokens, more variance); those that
// mask give 0 to what is above the limit, as IcePop does with tokens
// (arXiv:2510.18855).
func Correct(samples []Sample, scored []Scored, limit float64, mode string) (g Gap) {
	sequence, masked := strings.HasPrefix(mode, "sequence"), strings.HasSuffix(mode, "mask")
	total := 0.0
	for i := range samples {
		s := &samples[i]
		if s.OldLogProbs == nil {
			continue
		}
		advantages := make([]float32, len(s.Advantages))
		whole := 0.0 // log of the completion's ratio
		for t, proximal := range scored[i].LogProbs {
			if s.mask(t) > 0 {
				whole += float64(proximal) - float64(s.OldLogProbs[t])
			}
		}
		for t, proximal := range scored[i].LogProbs {
			d := float64(proximal) - float64(s.OldLogProbs[t])
			ratio := math.Exp(d)
			weighed := ratio
			if sequence {
				weighed = math.Exp(whole)
			}
			w := min(weighed, limit)
			if masked && weighed > limit {
				w = 0
			}
			advantages[t] = float32(w * float64(s.Advantages[t]))
			m := s.mask(t)
			if m == 0 {
				continue
			}
			total += m
			g.Mean += m * w
			g.Max = max(g.Max, w)
			g.KL += m * (ratio - 1 - d)
			if weighed > limit {
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
