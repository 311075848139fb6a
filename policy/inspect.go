package policy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/gomlx/core/graph"
)

// InspectOptions say what Inspect reports of each token.
type InspectOptions struct {
	TopK   int  // tokens of the support, at least 1; all of a vocabulary that has fewer
	Hidden bool // report hidden states too: hidden_size numbers per token
}

// Inspected is what the policy makes of each token of a completion: Score's
// columns, the support, which is the likeliest tokens, and what the LM head
// reads. From these the curvature of the head follows in closed form (CAPO,
// arXiv:2510.00819). Columns are flat; T is the tokens of the completion, K is
// min(TopK, vocab_size), and h is the input of the LM head over the
// temperature, so that W·h are the logits that are sampled from.
type Inspected struct {
	LogProbs, Entropies []float32 // [T], over the full vocabulary as in Scored

	IDs    []int32   // [T, K], the support: likeliest first, of equally likely tokens the lower id
	Probs  []float32 // [T, K], the support's probabilities, renormalised over it
	Chosen []int32   // [T], the sampled token's place in the support; the last one if it is not among the K likeliest

	NormSquared []float32 // [T], ‖h‖²
	Hidden      []float32 // [T, hidden_size], h; nil unless asked for
}

// Inspect computes what the policy makes of given completions at a temperature
// above 0, in order of the rows. Logits that are no distribution (NaN or
// infinite) are an error.
func (e *Engine) Inspect(ctx context.Context, rows []Row, temperature float64, o InspectOptions) ([]Inspected, error) {
	if o.TopK < 1 {
		return nil, fmt.Errorf("inspect: top_k is %d, want at least 1", o.TopK)
	}
	k, width := min(o.TopK, e.decoder.VocabSize), e.decoder.HiddenSize
	result := make([]Inspected, len(rows))
	for i, r := range rows {
		n := len(r.Completion)
		result[i] = Inspected{make([]float32, 0, n), make([]float32, 0, n),
			make([]int32, 0, n*k), make([]float32, 0, n*k), make([]int32, 0, n), make([]float32, 0, n), nil}
		if o.Hidden {
			result[i].Hidden = make([]float32, 0, n*width)
		}
	}
	heap, logp := make([]int32, e.decoder.VocabSize), make([]float64, 0, k)
	err := e.predict(ctx, rows, temperature, func(i, t int, p prediction) {
		r := &result[i]
		r.LogProbs, r.Entropies = append(r.LogProbs, p.logprob), append(r.Entropies, p.entropy)
		support, chosen := p.support(heap, k, rows[i].Completion[t])
		r.IDs, r.Chosen = append(r.IDs, support...), append(r.Chosen, chosen)
		for _, lp := range p.logSoftmax(logp, support) {
			r.Probs = append(r.Probs, float32(math.Exp(lp)))
		}
		sum := 0.0
		for _, x := range p.hidden {
			sum += float64(x) * float64(x)
		}
		r.NormSquared = append(r.NormSquared, float32(sum))
		if o.Hidden {
			r.Hidden = append(r.Hidden, p.hidden...)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	return result, nil
}

// Divergence is KL(before ‖ now) per token in nats, over the support that
// Inspect recorded of the same rows, with both distributions renormalised over
// it. It is the policy shift that CAPO predicts, and exact where the support is
// the vocabulary. With p before and q now it is computed as
//
//	Σ_i p_i·log(p_i/q_i) − p_i + q_i
//
// which has no negative term, and in which the rounding of p counts only with
// its square: the same policy and rows give less than 1e-13.
func (e *Engine) Divergence(ctx context.Context, rows []Row, before []Inspected, temperature float64) ([][]float32, error) {
	if len(before) != len(rows) {
		return nil, fmt.Errorf("divergence: %d inspected completions for %d rows", len(before), len(rows))
	}
	result := make([][]float32, len(rows))
	for i, r := range rows {
		n, ids, probs := len(r.Completion), len(before[i].IDs), len(before[i].Probs)
		result[i] = make([]float32, n)
		if ids != probs || ids < n || ids%max(1, n) != 0 {
			return nil, fmt.Errorf("divergence: row %d: supports of %d ids and %d probabilities, want equally many for each of %d completion tokens", i, ids, probs, n)
		}
		for _, id := range before[i].IDs {
			if id < 0 || int(id) >= e.decoder.VocabSize {
				return nil, fmt.Errorf("divergence: row %d: support has token %d, want 0 to %d (vocab_size)", i, id, e.decoder.VocabSize-1)
			}
		}
	}
	logq := make([]float64, 0, e.decoder.VocabSize)
	err := e.predict(ctx, rows, temperature, func(i, t int, now prediction) {
		k := len(before[i].IDs) / len(rows[i].Completion)
		sum := 0.0
		for j, lq := range now.logSoftmax(logq, before[i].IDs[t*k:][:k]) {
			p, q := float64(before[i].Probs[t*k+j]), math.Exp(lq)
			if p > 0 {
				sum += p*(math.Log(p)-lq) - p
			}
			sum += q
		}
		result[i][t] = float32(max(0, sum)) // what is below 0 is rounding
	})
	if err != nil {
		return nil, fmt.Errorf("divergence: %w", err)
	}
	return result, nil
}

// prediction is what the policy gives at one token of a completion. Its slices
// are valid during a visit.
type prediction struct {
	logprob, entropy float32
	logits           []float64 // over the temperature
	hidden           []float32 // input of the LM head over the temperature
}

// predict calls visit with every token of the rows, in order within a row.
func (e *Engine) predict(ctx context.Context, rows []Row, temperature float64, visit func(i, t int, p prediction)) error {
	logits, hidden := make([]float64, e.decoder.VocabSize), make([]float32, e.decoder.HiddenSize)
	return e.forward(ctx, e.inspect, rows, temperature, func(b batch, out [][]float32) (err error) {
		n := len(out[0])
		b.eachRow(func(i, from int) {
			for t := range rows[i].Completion {
				at := from + t
				if !finite(float64(out[0][at])) || !finite(float64(out[1][at])) {
					err = cmp.Or(err, fmt.Errorf("row %d, token %d: the logits are no distribution (NaN or infinite)", i, t))
					return
				}
				for v := range logits {
					logits[v] = float64(out[2][v*n+at])
				}
				for f := range hidden {
					hidden[f] = out[3][f*n+at]
				}
				visit(i, t, prediction{out[0][at], out[1][at], logits, hidden})
			}
		})
		return err
	})
}

// support is the k likeliest tokens and the place of the sampled one, which
// takes the last place if it is not among them. The result lies in heap, which
// holds the vocabulary.
func (p prediction) support(heap []int32, k int, sampled int32) (ids []int32, chosen int32) {
	for i := range heap {
		heap[i] = int32(i)
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		siftDown(heap, p.logits, i)
	}
	for last := len(heap) - 1; last >= len(heap)-k; last-- {
		heap[0], heap[last] = heap[last], heap[0]
		siftDown(heap[:last], p.logits, 0)
	}
	ids = heap[len(heap)-k:]
	slices.Reverse(ids)
	if at := slices.Index(ids, sampled); at >= 0 {
		return ids, int32(at)
	}
	ids[k-1] = sampled
	return ids, int32(k - 1)
}

// logSoftmax is the log-probabilities of ids, renormalised over them, in the
// memory of dst.
func (p prediction) logSoftmax(dst []float64, ids []int32) []float64 {
	dst = dst[:0]
	peak := math.Inf(-1)
	for _, id := range ids {
		dst = append(dst, p.logits[id])
		peak = max(peak, p.logits[id])
	}
	sum := 0.0
	for _, z := range dst {
		sum += math.Exp(z - peak)
	}
	logSum := peak + math.Log(sum)
	for i := range dst {
		dst[i] -= logSum
	}
	return dst
}

func (e *Engine) buildInspect(padded bool) func([]*graph.Node) []*graph.Node {
	return func(inputs []*graph.Node) []*graph.Node {
		d := e.decoder.begin()
		in, _ := d.batchInputs(inputs[len(e.slots):], padded)
		h, logits := d.predict(d.network(inputs), in)
		logprob, entropy := d.statistics(logits, in.targets)
		return d.fence.close([]*graph.Node{logprob, entropy, logits, graph.Div(h, in.temperature)})
	}
}
