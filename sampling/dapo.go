package sampling

import "github.com/gradus-rl/gradus/datasets"

// Reasons of the dynamic filter: every completion of the group got the same
// reward, which carries no gradient.
const (
	ReasonAllWrong = "group_all_wrong"
	ReasonAllRight = "group_all_right"
	ReasonFlat     = "group_flat" // equal rewards that are neither 0 nor 1
)

// DynamicFilter drops the groups whose rewards are all equal: the filter of
// dynamic sampling in DAPO (Yu et al. 2025, arXiv:2503.14476, §3.2, eq. 11),
//
//	0 < |{o_i : is_equivalent(a, o_i)}| < G .
//
// We test for equal rewards (min = max) rather than for an accuracy of 0 or 1,
// so that it also holds for rewards that are not binary. Refilling the batch
// is the workflow's part.
var DynamicFilter = Stage{
	Name: "dapo.filter", Paper: "DAPO, arXiv:2503.14476, eq. 11", Version: 1,
	Reads: []string{Reward, Kept}, Writes: []string{Kept},
	Defaults: struct{}{},
	Bind:     datasets.Bind(struct{}{}, dynamicFilter),
}

func dynamicFilter(_ struct{}, b *Batch, _ datasets.Env) error {
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		if lo == hi || !Flat(b.Reward[lo:hi]) {
			continue
		}
		reason := ReasonFlat
		switch b.Reward[lo] {
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
