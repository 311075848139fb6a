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
	var all, rewards []float64
	for i, r := range b.Reward {
		if b.Reason[i] == "" {
			all = append(all, r)
		}
	}
	_, batchStd := meanStd(all)
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		rewards = rewards[:0]
		for i := lo; i < hi; i++ {
			b.Advantage[i] = 0
			if b.Reason[i] == "" {
				rewards = append(rewards, b.Reward[i])
			}
		}
		if Flat(rewards) {
			continue
		}
		mean, std := meanStd(rewards)
		scale := 1.0
		switch p.ScaleRewards {
		case "group":
			scale = std + p.AdvantageEpsilon
		case "batch":
			scale = batchStd + p.AdvantageEpsilon
		}
		for i := lo; i < hi; i++ {
			if b.Reason[i] == "" {
				b.Advantage[i] = (b.Reward[i] - mean) / scale
			}
		}
	}
	return nil
}

// meanStd is the mean and the population standard deviation; zeros for none.
func meanStd(x []float64) (mean, std float64) {
	if len(x) == 0 {
		return 0, 0
	}
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	for _, v := range x {
		std += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(std / float64(len(x)))
}
