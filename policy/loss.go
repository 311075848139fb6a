package policy

import (
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
)

// clippedObjective is the loss per token of the clipped policy gradient
// (arXiv:1707.06347, eq. 7):
//
//	ℓ = −min(ρ·A, clip(ρ, low, high)·A),   ρ = exp(logp − old)
func clippedObjective(logprob, old, advantage, low, high *Node) *Node {
	ratio := Exp(Sub(logprob, old))
	clipped := Max(Min(ratio, high), low) // GoMLX's Clip has no gradient
	return Neg(Min(Mul(ratio, advantage), Mul(clipped, advantage)))
}

// klEstimate is the k3 estimate per token of KL(policy ‖ reference), unbiased
// for tokens drawn from the policy and never negative (Schulman,
// http://joschu.net/blog/kl-approx.html; arXiv:2402.03300, eq. 4):
//
//	k3 = exp(ref − logp) − (ref − logp) − 1
func klEstimate(logprob, reference *Node) *Node {
	d := Sub(reference, logprob)
	return AddScalar(Sub(Exp(d), d), -1)
}

// lossInputs are columns over the tokens of a batch, [1, N], and scalars.
// Log-probabilities that do not exist are NaN.
type lossInputs struct {
	old, reference, advantage *Node
	weight                    *Node // of the token in the loss; 0 where there is none
	low, high                 *Node // bounds of the ratio
	beta                      *Node // weight of the KL term, a scalar or a column
}

// loss is Σ w·(ℓ + β·k3) over the tokens of a batch. The weights w hold the
// normalisation, so the losses and gradients of batches add up.
//
// Where old is missing the ratio is to the policy itself: 1, with the gradient
// of logp. Where reference is missing the KL term and its gradient are 0.
func loss(logprob *Node, in lossInputs) *Node {
	current := StopGradient(logprob)
	old := Where(Equal(in.old, in.old), in.old, current) // NaN is not equal to itself
	reference := Where(Equal(in.reference, in.reference), in.reference, current)
	token := Add(
		clippedObjective(logprob, old, in.advantage, in.low, in.high),
		Mul(in.beta, klEstimate(logprob, reference)))
	return ReduceAllSum(Mul(in.weight, token))
}

// gradients builds an update's graph: the loss, the tokens' log-probabilities
// and entropies, and the gradient of the loss by the weights, or by the adapter
// where there is one.
func (d decoder) gradients(inputs []*Node, slots int, a *Adapter, padded bool) []*Node {
	d = d.begin()
	weights, learnt := inputs, inputs[:slots]
	if a != nil {
		from := slots
		slots += len(d.adapterSlots(a))
		weights, learnt = d.adapted(inputs[:slots], a), inputs[from:slots]
	}
	net := d.network(weights)
	in, rest := d.batchInputs(inputs[slots:], padded)
	logprob, entropy := d.forward(net, in)
	total := loss(logprob, lossInputs{rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6]})
	return d.fence.close(append([]*Node{total, logprob, entropy}, Gradient(total, learnt...)...))
}

// accumulated is gradients added to sums, which stand before the other inputs.
func (d decoder) accumulated(inputs []*Node, slots int, a *Adapter, padded bool) []*Node {
	n := slots
	if a != nil {
		n = len(d.adapterSlots(a))
	}
	out := d.gradients(inputs[n:], slots, a, padded)
	for i, sum := range inputs[:n] {
		out[3+i] = Add(sum, out[3+i])
	}
	return out
}
