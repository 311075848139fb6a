package sampling

import (
	"fmt"
	"math"

	"github.com/gradus-rl/gradus/datasets"
)

// GRPO is the parameters of the group-relative advantage.
type GRPO struct {
	// ScaleRewards divides by the standard deviation of the "group" (GRPO), of
	// the whole "batch" (Lite PPO, arXiv:2508.08221), or by nothing, "none"
	// (Dr. GRPO, arXiv:2503.20783). TRL's scale_rewards.
	ScaleRewards string `json:"scale_rewards"`
	// AdvantageEpsilon keeps the quotient finite. TRL and verl: 1e-4 and 1e-6.
	AdvantageEpsilon float64 `json:"advantage_epsilon"`
}

// Validate names the parameter that is out of range.
func (p GRPO) Validate() error {
	switch p.ScaleRewards {
	case "group", "batch", "none":
	default:
		return fmt.Errorf("scale_rewards is %q; it must be group, batch or none", p.ScaleRewards)
	}
	if !(p.AdvantageEpsilon >= 0 && p.AdvantageEpsilon < 1) {
		return fmt.Errorf("advantage_epsilon is %v; it must be in [0, 1)", p.AdvantageEpsilon)
	}
	return nil
}

// GRPOAdvantage is the group-relative advantage of DeepSeekMath
// (Shao et al. 2024, arXiv:2402.03300, §4.1.2):
//
//	A_i = (r_i − mean(r)) / (std(r) + ε)      over the rows i of one group
//
// std is the population deviation (TRL takes the sample deviation; at G = 8
// the two differ by 7 %, the same factor for every group of that size). With
// scale_rewards "batch" std is that of all kept rewards of the batch. Flat
// groups get exactly 0, whatever rounding does to their deviation. Rows that
// were dropped before take no part and get 0.
var GRPOAdvantage = Stage{
	Name: "grpo.advantage", Paper: "DeepSeekMath, arXiv:2402.03300, §4.1.2", Version: 1,
	Reads: []string{Reward, Kept}, Writes: []string{Advantage},
	Defaults: grpoDefaults,
	Bind:     datasets.Bind(grpoDefaults, GRPO.advantage),
}

var grpoDefaults = GRPO{ScaleRewards: "group", AdvantageEpsilon: 1e-6}

func (p GRPO) advantage(b *Batch, _ datasets.Env) error {
	var some []float64 // rewards of the kept rows, where some are dropped
	scale := 1.0
	switch p.ScaleRewards {
	case "group":
		scale = 0 // each group's own
	case "batch":
		some = keptRewards(nil, b.Reward, b.Reason)
		scale = deviation(some, total(some)/float64(len(some))) + p.AdvantageEpsilon
	}
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		advantage, reward, reason := b.Advantage[lo:hi], b.Reward[lo:hi], b.Reason[lo:hi]
		sum, flat, all := survey(reward, reason)
		switch {
		case flat:
			clear(advantage)
		case all:
			p.standardise(advantage, reward, sum, scale)
		default:
			some = keptRewards(some[:0], reward, reason)
			if Flat(some) {
				clear(some)
			} else {
				p.standardise(some, some, total(some), scale)
			}
			kept := 0
			for i := range advantage {
				advantage[i] = 0
				if reason[i] == "" {
					advantage[i] = some[kept]
					kept++
				}
			}
		}
	}
	return nil
}

// standardise writes the advantages of rewards that are not flat and have that
// sum to dst. A scale of 0 stands for the group's own.
func (p GRPO) standardise(dst, reward []float64, sum, scale float64) {
	mean := sum / float64(len(reward))
	if scale == 0 {
		scale = deviation(reward, mean) + p.AdvantageEpsilon
	}
	dst = dst[:len(reward)]
	for i, r := range reward {
		dst[i] = (r - mean) / scale
	}
}

// keptRewards appends the rewards of the kept rows to dst.
func keptRewards(dst, reward []float64, reason []string) []float64 {
	for i, r := range reward {
		if reason[i] == "" {
			dst = append(dst, r)
		}
	}
	return dst
}

// survey is the sum of a group's rewards, whether they are flat, and whether
// all rows are kept, in one pass that no reward makes branch.
func survey(reward []float64, reason []string) (sum float64, flat, all bool) {
	if len(reward) == 0 {
		return 0, true, true
	}
	reason = reason[:len(reward)]
	first, differ, dropped := math.Float64bits(reward[0]), uint64(0), 0
	for i, r := range reward {
		sum += r
		differ |= math.Float64bits(r) ^ first
		dropped |= len(reason[i])
	}
	// Bits that differ may still be equal rewards: 0 and −0.
	return sum, differ == 0 || differ == 1<<63 && Flat(reward), dropped == 0
}

// The sums run in order, and no product is fused into one, so that every
// machine rounds alike.

func total(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum
}

// deviation is the population standard deviation about the mean.
func deviation(x []float64, mean float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += float64((v - mean) * (v - mean))
	}
	return math.Sqrt(sum / float64(len(x)))
}
