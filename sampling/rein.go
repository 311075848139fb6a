package sampling

import "github.com/gradus-rl/gradus/datasets"

// ReinAdvantage is the advantage of REINFORCE (Williams 1992, "Simple
// statistical gradient-following algorithms for connectionist reinforcement
// learning") without a baseline:
//
//	A_i = r_i
//
// ReinCAPO (arXiv:2510.00819) masks it with fisher 1e-5 and hessian 0.1. Rows
// that were dropped before get 0.
var ReinAdvantage = Stage{
	Name: "rein.advantage", Paper: "REINFORCE, Williams 1992", Version: 1,
	Reads: []string{Reward, Kept}, Writes: []string{Advantage},
	Defaults: struct{}{},
	Bind:     datasets.Bind(struct{}{}, reinforce),
}

func reinforce(_ struct{}, b *Batch, _ datasets.Env) error {
	for i, r := range b.Reward {
		b.Advantage[i] = 0
		if b.Reason[i] == "" {
			b.Advantage[i] = r
		}
	}
	return nil
}
