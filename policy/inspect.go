package policy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
	"github.com/gomlx/gomlx/core/tensors"
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
	o.TopK = min(o.TopK, e.decoder.VocabSize)
	k, width := o.TopK, e.decoder.HiddenSize
	result := make([]Inspected, len(rows))
	for i, r := range rows {
		n := len(r.Completion)
		result[i] = Inspected{make([]float32, 0, n), make([]float32, 0, n),
			make([]int32, 0, n*k), make([]float32, 0, n*k), make([]int32, 0, n), make([]float32, 0, n), nil}
		if o.Hidden {
			result[i].Hidden = make([]float32, 0, n*width)
		}
	}
	logp := make([]float64, 0, k)
	err := e.predict(ctx, rows, temperature, o, nil, func(i, t int, p prediction) {
		r := &result[i]
		r.LogProbs, r.Entropies = append(r.LogProbs, p.logprob), append(r.Entropies, p.entropy)
		r.IDs = append(r.IDs, p.ids...)
		r.Chosen = append(r.Chosen, int32(slices.Index(p.ids, rows[i].Completion[t])))
		for _, lp := range p.logSoftmax(logp) {
			r.Probs = append(r.Probs, float32(math.Exp(lp)))
		}
		r.NormSquared = append(r.NormSquared, p.normSquared)
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
	result, supports, widest := make([][]float32, len(rows)), make([][]int32, len(rows)), 1
	for i, r := range rows {
		n, ids, probs := len(r.Completion), len(before[i].IDs), len(before[i].Probs)
		result[i], supports[i] = make([]float32, n), before[i].IDs
		if ids != probs || ids < n || ids > n*e.decoder.VocabSize || ids%max(1, n) != 0 {
			return nil, fmt.Errorf("divergence: row %d: supports of %d ids and %d probabilities, want equally many for each of %d completion tokens, up to %d (vocab_size)", i, ids, probs, n, e.decoder.VocabSize)
		}
		widest = max(widest, ids/max(1, n))
		for _, id := range before[i].IDs {
			if id < 0 || int(id) >= e.decoder.VocabSize {
				return nil, fmt.Errorf("divergence: row %d: support has token %d, want 0 to %d (vocab_size)", i, id, e.decoder.VocabSize-1)
			}
		}
	}
	logq := make([]float64, 0, widest)
	err := e.predict(ctx, rows, temperature, InspectOptions{TopK: widest}, supports, func(i, t int, now prediction) {
		k := len(now.ids)
		sum := 0.0
		for j, lq := range now.logSoftmax(logq) {
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
	ids              []int32   // the support
	logits           []float64 // of the support, over the temperature
	normSquared      float32   // of hidden
	hidden           []float32 // input of the LM head over the temperature
}

// predict calls visit with every token of the rows, in order within a row. Its
// support is the row's at that token, [T, k] of each row with its own k up to
// o.TopK; without supports it is the o.TopK likeliest tokens.
func (e *Engine) predict(ctx context.Context, rows []Row, temperature float64, o InspectOptions, supports [][]int32, visit func(i, t int, p prediction)) error {
	given := func(i, t int) []int32 {
		if supports == nil {
			return nil
		}
		k := len(supports[i]) / len(rows[i].Completion)
		return supports[i][t*k:][:k]
	}
	p := pass{programs: e.inspect}
	var look looking
	if e.decoder.fused {
		p.perToken = 4 * o.TopK // ids given and found, and their logits
		p.inputs = func(u *uploads, b batch) { putSupports(u, b, rows, o.TopK, given) }
		look = e.lookAtSupports(o)
	} else {
		look = e.lookAtAll(o.TopK)
	}
	return e.forward(ctx, p, rows, temperature, func(b batch, out []*tensors.Tensor) error {
		logprobs, entropies, err := readTwo(out)
		if err != nil {
			return err
		}
		see, err := look(out[2:])
		if err != nil {
			return err
		}
		b.eachRow(func(i, from int) {
			for t, sampled := range rows[i].Completion {
				at := from + t
				if !finite(float64(logprobs[at])) || !finite(float64(entropies[at])) {
					err = cmp.Or(err, fmt.Errorf("row %d, token %d: the logits are no distribution (NaN or infinite)", i, t))
					return
				}
				p := see(at, sampled, given(i, t))
				p.logprob, p.entropy = logprobs[at], entropies[at]
				visit(i, t, p)
			}
		})
		return err
	})
}

// looking reads what a pass gives after log-probabilities and entropies. The function
// it returns makes the rest of a prediction at a column, of the token sampled there and
// the support, nil if that is to be chosen.
type looking func(out []*tensors.Tensor) (see func(at int, sampled int32, support []int32) prediction, err error)

// lookAtAll looks at the logits of the whole vocabulary, [V, N], and the head's input,
// [D, N], and chooses k tokens.
func (e *Engine) lookAtAll(k int) looking {
	all, heap := make([]float64, e.decoder.VocabSize), make([]int32, e.decoder.VocabSize)
	p := prediction{logits: make([]float64, 0, k), hidden: make([]float32, e.decoder.HiddenSize)}
	return func(out []*tensors.Tensor) (func(int, int32, []int32) prediction, error) {
		logits, err := read(out[0])
		if err != nil {
			return nil, err
		}
		hidden, err := read(out[1])
		return func(at int, sampled int32, support []int32) prediction {
			column(all, logits, at)
			column(p.hidden, hidden, at)
			if p.ids = support; support == nil {
				p.ids = likeliest(heap, all, k, sampled)
			}
			p.logits = p.logits[:0]
			for _, id := range p.ids {
				p.logits = append(p.logits, all[id])
			}
			sum := 0.0
			for _, x := range p.hidden {
				sum += float64(x) * float64(x)
			}
			p.normSquared = float32(sum)
			return p
		}, err
	}
}

// lookAtSupports looks at what decoder.inspect gives of the supports, which the device
// has chosen where they were not given.
func (e *Engine) lookAtSupports(o InspectOptions) looking {
	ids, logits := make([]int32, o.TopK), make([]float64, o.TopK)
	var p prediction
	if o.Hidden {
		p.hidden = make([]float32, e.decoder.HiddenSize)
	}
	return func(out []*tensors.Tensor) (func(int, int32, []int32) prediction, error) {
		supports, err := tensors.CopyFlatData[int32](out[0])
		if err != nil {
			return nil, err
		}
		var values [3][]float32 // logits, norms, hidden
		wanted := out[1:3]
		if o.Hidden {
			wanted = out[1:4]
		}
		for i, x := range wanted {
			if values[i], err = read(x); err != nil {
				return nil, err
			}
		}
		return func(at int, _ int32, support []int32) prediction {
			column(ids, supports, at)
			column(logits, values[0], at)
			column(p.hidden, values[2], at)
			k := len(ids)
			if support != nil {
				k = len(support)
			}
			p.ids, p.logits, p.normSquared = ids[:k], logits[:k], values[1][at]
			return p
		}, nil
	}
}

// column is column at of a matrix of len(dst) rows.
func column[T, U int32 | float32 | float64](dst []T, matrix []U, at int) {
	for i := range dst {
		dst[i] = T(matrix[i*(len(matrix)/len(dst))+at])
	}
}

// putSupports puts the supports of a batch, [k, N]: each column's own, which given
// has, and −1 where it has none or fewer.
func putSupports(u *uploads, b batch, rows []Row, k int, given func(i, t int) []int32) {
	n := b.columns()
	supports := slices.Repeat([]int32{-1}, k*n)
	b.eachRow(func(i, from int) {
		for t := range rows[i].Completion {
			for j, id := range given(i, t) {
				supports[j*n+from+t] = id
			}
		}
	})
	put(u, supports, k, n)
}

// likeliest is the k tokens of the greatest logits, greatest first, of equal ones the
// lower id. The sampled token takes the last place if it is not among them. The result
// lies in heap, which holds the vocabulary.
func likeliest(heap []int32, logits []float64, k int, sampled int32) []int32 {
	for i := range heap {
		heap[i] = int32(i)
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		siftDown(heap, logits, i)
	}
	for last := len(heap) - 1; last >= len(heap)-k; last-- {
		heap[0], heap[last] = heap[last], heap[0]
		siftDown(heap[:last], logits, 0)
	}
	ids := heap[len(heap)-k:]
	slices.Reverse(ids)
	if !slices.Contains(ids, sampled) {
		ids[k-1] = sampled
	}
	return ids
}

// logSoftmax is the log-probabilities of the support, renormalised over it, in the
// memory of dst.
func (p prediction) logSoftmax(dst []float64) []float64 {
	dst = append(dst[:0], p.logits...)
	peak := math.Inf(-1)
	for _, z := range dst {
		peak = max(peak, z)
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

// buildInspect gives log-probabilities and entropies, [1, N], and then what
// lookAtAll reads or, by a further input [k, N], lookAtSupports.
func (e *Engine) buildInspect(padded bool) func([]*Node) []*Node {
	return func(inputs []*Node) []*Node {
		d := e.decoder.begin()
		in, rest := d.batchInputs(inputs[len(e.slots):], padded)
		if d.fused {
			return d.inspect(d.network(inputs), in, rest[0])
		}
		h, logits := d.predict(d.network(inputs), in)
		logprob, entropy := d.statistics(logits, in.targets)
		return d.fence.close([]*Node{logprob, entropy, logits, Div(h, in.temperature)})
	}
}

// inspect is the statistics of the targets of a batch, [1, N], its supports, [k, N],
// their logits, [k, N], ‖h‖², [1, N], and h, [D, N], of the head's input h over the
// temperature. Ids of given supports, [k, N], that are below 0 are chosen here.
//
// That one graph looks at supports both chosen and given, so that the same policy and
// rows have the same logits to the bit in Inspect and in Divergence: a compiler may round
// otherwise in another graph.
func (d decoder) inspect(net network, in batchInputs, given *Node) []*Node {
	h := Div(d.hidden(net, in), in.temperature)
	targets := Reshape(in.targets, 1, -1)
	var supports, values []*Node
	logprob, entropy := d.read(net.head, h, in.targets, func(logits *Node, columns SliceAxisSpec) *Node {
		ids := SliceAxis(given, 1, columns)
		ids = Where(LessThan(ids, ZerosLike(ids)), d.support(logits, SliceAxis(targets, 1, columns), ids.Shape().Dim(0)), ids)
		chosen := at(logits, ids)
		supports, values = append(supports, ids), append(values, chosen)
		return chosen
	})
	return []*Node{logprob, entropy, Concatenate(supports, 1), Concatenate(values, 1), ReduceAndKeep(Mul(h, h), ReduceSum, 0), h}
}

// support is likeliest for each column of logits [V, N], [k, N], where the tokens
// sampled are [1, N].
//
// The k greatest are in the k blocks of the vocabulary whose maxima are greatest, of equal
// ones those of lower ids, as each of these blocks has a token that comes before all of
// any other block. So √(V·k) maxima are sorted, and then as many logits, instead of V.
func (d decoder) support(logits, sampled *Node, k int) *Node {
	g, n := logits.Graph(), logits.Shape().Dim(1)
	ids := func(dims ...int) *Node { return Iota(g, shapes.Make(dtypes.Int32, dims...), len(dims)-2) }
	size := int(math.Sqrt(float64(d.VocabSize / k)))
	blocks := (d.VocabSize + size - 1) / size
	if surplus := blocks*size - d.VocabSize; surplus > 0 {
		least := BroadcastToDims(Infinity(g, dtypes.Float32, -1), surplus, n)
		logits = Concatenate([]*Node{logits, least}, 0)
	}
	within := ids(blocks*size, n)
	if size > 1 {
		best := first(k, ReduceMax(Reshape(logits, blocks, size, n), 1), ids(blocks, n))
		begin := BroadcastToDims(Reshape(MulScalar(best, size), k, 1, n), k, size, n)
		within = Reshape(Add(begin, ids(k, size, n)), k*size, n)
		logits = at(logits, within)
	}
	chosen := first(k, logits, within)
	sampled = BroadcastToDims(sampled, k, n)
	found := ConvertDType(ReduceAndKeep(ConvertDType(Equal(chosen, sampled), dtypes.Int32), ReduceMax, 0), dtypes.Bool)
	last := Equal(ids(k, n), Const(g, int32(k-1)))
	return Where(And(last, LogicalNot(BroadcastToDims(found, k, n))), sampled, chosen)
}

// first is the ids of the k greatest values of each column, the greatest first, of equal
// ones the lower id.
func first(k int, values, ids *Node) *Node {
	before := NewClosure(values.Graph(), func(g *Graph) []*Node {
		parameter := func(name string, of *Node) *Node { return Parameter(g, name, shapes.Make(of.DType())) }
		x, y := parameter("x", values), parameter("y", values)
		i, j := parameter("i", ids), parameter("j", ids)
		return []*Node{Or(GreaterThan(x, y), And(Equal(x, y), LessThan(i, j)))}
	})
	const stable = true // a merge, which NaN leads astray but not out of bounds
	return SliceAxis(SortFunc(before, 0, stable, values, ids)[1], 0, AxisRange(0, k))
}

// at is the rows ids [m, N] of the columns of x, [m, N].
func at(x, ids *Node) *Node {
	return Gather(x, Stack([]*Node{ids, Iota(x.Graph(), ids.Shape(), 1)}, -1))
}
