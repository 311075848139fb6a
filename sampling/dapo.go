package sampling

import (
	"fmt"
	"math"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
)

// Reasons of the dynamic filter: every completion of the group was judged the
// same, which carries no gradient.
const (
	ReasonAllWrong = "group_all_wrong"
	ReasonAllRight = "group_all_right"
	ReasonFlat     = "group_flat" // equal rewards that are neither 0 nor 1
)

// DAPO is the parameters of the dynamic filter.
type DAPO struct {
	// Metric is what has to differ within a group: the "reward", or "acc",
	// whether completions are correct. verl's filter_groups.metric.
	Metric string `json:"metric"`
}

// Validate names the parameter that is out of range.
func (p DAPO) Validate() error {
	if p.Metric != "reward" && p.Metric != "acc" {
		return fmt.Errorf("metric is %q; it must be reward or acc", p.Metric)
	}
	return nil
}

// DynamicFilter drops the groups whose completions were all judged the same:
// the filter of dynamic sampling in DAPO (Yu et al. 2025, arXiv:2503.14476,
// §3.2, eq. 11),
//
//	0 < |{o_i : is_equivalent(a, o_i)}| < G .
//
// With metric "acc" this is the rule as it stands, and as verl runs it. With
// "reward", the default, we test for equal rewards (min = max), so that it also
// holds for rewards that are not binary; behind dapo.overlong the rewards of an
// all-right group differ by length, and "acc" is the metric to take. Rows that
// were dropped before take no part. Refilling the batch is the workflow's part.
var DynamicFilter = Stage{
	Name: "dapo.filter", Paper: "DAPO, arXiv:2503.14476, eq. 11", Version: 2,
	Reads: []string{Reward, Kept}, Writes: []string{Kept},
	Defaults: filterDefaults,
	Bind:     datasets.Bind(filterDefaults, DAPO.filter),
}

var filterDefaults = DAPO{Metric: "reward"}

func (p DAPO) filter(b *Batch, _ datasets.Env) error {
	var judged []float64
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		judged = judged[:0]
		for i := lo; i < hi; i++ {
			switch {
			case b.Reason[i] != "":
			case p.Metric == "reward":
				judged = append(judged, b.Reward[i])
			case b.Correct[i]:
				judged = append(judged, 1)
			default:
				judged = append(judged, 0)
			}
		}
		if len(judged) == 0 || !Flat(judged) {
			continue
		}
		reason := ReasonFlat
		switch judged[0] {
		case 0:
			reason = ReasonAllWrong
		case 1:
			reason = ReasonAllRight
		}
		for i := lo; i < hi; i++ {
			b.Drop(i, reason)
		}
	}
	return nil
}

// Overlong is the parameters of the soft overlong punishment.
type Overlong struct {
	// OverlongCache is how many tokens before the limit the punishment begins.
	// 0 stands for a quarter of max_completion_length (ours; the paper has 4096
	// of 20480).
	OverlongCache int `json:"overlong_cache"`
	// OverlongPenalty is what a completion at the limit loses. The paper: 1.
	OverlongPenalty float64 `json:"overlong_penalty"`
}

// Validate names the parameter that is out of range.
func (p Overlong) Validate() error {
	if p.OverlongCache < 0 {
		return fmt.Errorf("overlong_cache is %d; it must be at least 0", p.OverlongCache)
	}
	if !(p.OverlongPenalty >= 0 && p.OverlongPenalty <= math.MaxFloat64) {
		return fmt.Errorf("overlong_penalty is %v; it must be finite and at least 0", p.OverlongPenalty)
	}
	return nil
}

// OverlongPenalty is the soft overlong punishment of DAPO (arXiv:2503.14476,
// §3.4, eq. 13) for completions of len tokens, with the limit L =
// max_completion_length, the cache c and the penalty P:
//
//	len ≤ L − c       r
//	L − c < len ≤ L   r + P·((L − c) − len)/c
//	L < len           r − P
//
// It writes the rewards anew and leaves the caller's as they are.
var OverlongPenalty = Stage{
	Name: "dapo.overlong", Paper: "DAPO, arXiv:2503.14476, eq. 13", Version: 1,
	Reads: []string{Reward}, Writes: []string{Reward},
	Defaults: overlongDefaults,
	Bind:     datasets.Bind(overlongDefaults, Overlong.punish),
}

var overlongDefaults = Overlong{OverlongPenalty: 1}

func (p Overlong) punish(b *Batch, _ datasets.Env) error {
	cache := p.OverlongCache
	if cache == 0 {
		cache = max(1, b.MaxTokens/4)
	}
	if cache > b.MaxTokens && len(b.Reward) > 0 {
		return fmt.Errorf("overlong_cache is %d; it must be at most max_completion_length, which is %d", cache, b.MaxTokens)
	}
	b.Reward = slices.Clone(b.Reward)
	for i, length := range b.Tokens {
		if over := int(length) - (b.MaxTokens - cache); over > 0 {
			b.Reward[i] -= float64(p.OverlongPenalty * min(1, float64(over)/float64(cache)))
		}
	}
	return nil
}
