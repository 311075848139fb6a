package sampling

import (
	"fmt"
	"math"

	"github.com/gradus-rl/gradus/datasets"
)

// ReasonOverBatch is why a group beyond max_groups is not trained on.
const ReasonOverBatch = "over_batch"

// CLPO is the parameters of the KL scale.
type CLPO struct {
	TauHard    float64 `json:"tau_hard"`    // a problem is hard up to this share of right answers. CLPO: 0.3
	HardScale  float64 `json:"hard_scale"`  // factor of beta for hard problems. CLPO: 0.5
	OtherScale float64 `json:"other_scale"` // factor of beta for the others. CLPO: 1
}

// Validate names the parameter that is out of range.
func (p CLPO) Validate() error {
	if !(p.TauHard >= 0 && p.TauHard <= 1) {
		return fmt.Errorf("tau_hard is %v; it must be in [0, 1]", p.TauHard)
	}
	if !(p.HardScale >= 0 && p.HardScale <= math.MaxFloat64) {
		return fmt.Errorf("hard_scale is %v; it must be finite and at least 0", p.HardScale)
	}
	if !(p.OtherScale >= 0 && p.OtherScale <= math.MaxFloat64) {
		return fmt.Errorf("other_scale is %v; it must be finite and at least 0", p.OtherScale)
	}
	return nil
}

// KLScaling loosens the tie to the reference policy on hard problems: the
// difficulty-aware KL of CLPO (arXiv:2509.25004, v1). The loss of a completion
// has the term
//
//	beta · s(d) · KL ,   s(hard) = hard_scale, s(other) = other_scale .
//
// A simplified problem counts as hard and a diversified one as other; any other
// is hard if Acc ≤ tau_hard, Acc being the share of right ones among the
// completions of its group that had no hint (of none: 0), dropped ones included.
var KLScaling = Stage{
	Name: "clpo.kl_scale", Paper: "CLPO, arXiv:2509.25004", Version: 1,
	Reads: []string{Reward}, Writes: []string{KLScale},
	Defaults: clpoDefaults,
	Bind:     datasets.Bind(clpoDefaults, CLPO.scale),
}

var clpoDefaults = CLPO{TauHard: 0.3, HardScale: 0.5, OtherScale: 1}

func (p CLPO) scale(b *Batch, _ datasets.Env) error {
	b.KLScale = make([]float64, len(b.Reward))
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		own, right := 0, 0
		for i := lo; i < hi; i++ {
			if b.Origin[i] != OriginHinted {
				own++
				if b.Correct[i] {
					right++
				}
			}
		}
		hard := own == 0 || float64(right)/float64(own) <= p.TauHard
		for i := lo; i < hi; i++ {
			b.KLScale[i] = p.OtherScale
			if o := b.Origin[i]; o == OriginSimplified || hard && o != OriginDiversified {
				b.KLScale[i] = p.HardScale
			}
		}
	}
	return nil
}

// Mix is the parameters of the mixed batch.
type Mix struct {
	MaxGroups int `json:"max_groups"` // most groups to train on; 0 = no bound
}

// Validate names the parameter that is out of range.
func (p Mix) Validate() error {
	if p.MaxGroups < 0 {
		return fmt.Errorf("max_groups is %d; it must be at least 0", p.MaxGroups)
	}
	return nil
}

// MixedBatch bounds the groups of a step that rewrites have made larger: the
// mixed batch of CLPO (arXiv:2509.25004). Of the groups that still have a kept
// completion it keeps max_groups, those of simplified problems first, then those
// as they stand, then the diversified ones, each in row order. The authors put
// their rewritten hard problems first likewise, and cut to a multiple of the
// number of processes; a bound that does not depend on the machines is ours.
//
// CLPO's rule for who is in the batch at all, 0 < Acc < 1, is dapo.filter.
var MixedBatch = Stage{
	Name: "clpo.mix", Paper: "CLPO, arXiv:2509.25004", Version: 1,
	Reads: []string{Kept}, Writes: []string{Kept},
	Defaults: Mix{},
	Bind:     datasets.Bind(Mix{}, Mix.bound),
}

func (p Mix) bound(b *Batch, _ datasets.Env) error {
	if p.MaxGroups == 0 {
		return nil
	}
	var groups [3][]int // by rank
	for g := range b.Groups() {
		if rank, kept := b.mixRank(g); kept {
			groups[rank] = append(groups[rank], g)
		}
	}
	left := p.MaxGroups
	for _, ranked := range groups {
		n := min(left, len(ranked))
		left -= n
		for _, g := range ranked[n:] {
			lo, hi := b.Group(g)
			for i := lo; i < hi; i++ {
				b.Drop(i, ReasonOverBatch)
			}
		}
	}
	return nil
}

// mixRank is where group g stands in the mixed batch, 0 being first, and
// whether a completion of it is kept.
func (b *Batch) mixRank(g int) (rank int, kept bool) {
	rank = 1
	lo, hi := b.Group(g)
	for i := lo; i < hi; i++ {
		switch b.Origin[i] {
		case OriginSimplified:
			rank = 0
		case OriginDiversified:
			rank = 2
		}
		kept = kept || b.Reason[i] == ""
	}
	return rank, kept
}
