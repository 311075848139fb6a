package policy

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
)

// Sequences longer than attentionLength are read in several pieces by attendPacked, so
// that it holds about attentionFloats scores at a time; tests lower it.
var attentionLength = 256

const attentionFloats = 64 << 20

// pieces is in how many pieces packed sequences are read: more than memory asks for,
// as no piece reads the keys behind it.
func (c Config) pieces(b batch) int {
	if b.completion <= attentionLength {
		return 1
	}
	return min(16, b.completion, max(4, c.NumAttentionHeads*b.tokens()*b.completion/attentionFloats+1))
}

// packed runs the sequences of a packed batch through all layers and returns the
// residual stream [D, N].
func (d decoder) packed(net network, in batchInputs) *Node {
	sequences, length := in.tokens.Shape().Dim(0), in.tokens.Shape().Dim(2)
	plane := func(i int) *Node { return Reshape(SliceAxis(in.spans, 0, AxisElem(i)), sequences, length) }
	s := d.packedStream(plane(3), in.cos, in.sin)
	sight := sight{plane(0), plane(1), plane(2)}
	return d.layers(net, in.tokens, s, func(_ int, query, key, value *Node) *Node {
		// These are kept for the way back, as its gradient needs them. The second mark keeps
		// GoMLX from taking the gradient off the node that it marks.
		return d.keep(d.kept(d.attendPacked(d.kept(query), d.kept(key), d.kept(value), sight)))
	})
}

// picked are some columns of x, [D, N], and in the gradient their places; see
// batch.packedTokens. A gradient that adds to places would depend on their order.
func (d decoder) picked(x, columns, places *Node) *Node {
	pick := func(x, at *Node) *Node { return transposed(Gather(transposed(x), Reshape(at, -1, 1))) }
	var adjoint *Node
	x = IdentityWithCustomGradient(x, func(_, _ *Node) *Node {
		none := Zeros(adjoint.Graph(), shapes.Make(dtypes.Float32, adjoint.Shape().Dim(0), 1))
		return pick(Concatenate([]*Node{adjoint, none}, 1), places)
	})
	return IdentityWithCustomGradient(pick(x, columns), func(_, v *Node) *Node {
		adjoint = v
		return v
	})
}

// sight is what each token of packed sequences sees, [sequences, length]: from begin
// to before shared, and from own to itself.
type sight struct{ begin, shared, own *Node }

// bias is 0 where the tokens [from, to) of every sequence see one of [0, to), else
// masked: [sequences, to−from, to].
func (s sight) bias(from, to int) *Node {
	g, sequences, rows := s.own.Graph(), s.own.Shape().Dim(0), to-from
	spread := func(x *Node) *Node {
		return BroadcastToDims(Reshape(SliceAxis(x, 1, AxisRange(from, to)), sequences, rows, 1), sequences, rows, to)
	}
	shape := shapes.Make(dtypes.Int32, sequences, rows, to)
	at, row := Iota(g, shape, 2), AddScalar(Iota(g, shape, 1), from)
	prompt := And(GreaterOrEqual(at, spread(s.begin)), LessThan(at, spread(s.shared)))
	seen := And(LessOrEqual(at, row), Or(prompt, GreaterOrEqual(at, spread(s.own))))
	zero := Zeros(g, shapes.Make(dtypes.Float32, sequences, rows, to))
	return Where(seen, zero, AddScalar(zero, masked))
}

// attendPacked is softmax(q·k + bias)·v within packed sequences, [R, dh], of queries,
// keys and values as attentionInputs makes them. Like FlashAttention (arXiv:2205.14135)
// it never holds all scores: a piece of the queries is read after the other, against
// the keys up to its end, and once more on the way back. With P = softmax(S) and the
// adjoint dO of the output O,
//
//	dV = Pᵀ·dO,   dS = P ∘ (dO·Vᵀ − Σ dO∘O),   dQ = dS·K,   dK = dSᵀ·Q
//
// Unlike there the keys of a piece are read at once, and the compiler makes the kernels.
func (d decoder) attendPacked(query, key, value *Node, sight sight) *Node {
	blocks, dh, length := key.Shape().Dim(0), key.Shape().Dim(1), key.Shape().Dim(2)
	sequences := sight.own.Shape().Dim(0)
	group := query.Shape().Dim(0) / (blocks * length) // queries of a key
	pieces := d.pieces(batch{prompts: sequences, samples: 1, completion: length})
	type piece struct {
		from, to  int
		bias      *Node
		out, logs *Node // [blocks, group·(to−from), dh], and the log of the sum of exponentials
	}
	rows := func(x *Node, p *piece) *Node { // of queries [R, n]
		n := x.Shape().Dim(1)
		x = SliceAxis(Reshape(x, blocks, group, length, n), 2, AxisRange(p.from, p.to))
		return Reshape(x, blocks, group*(p.to-p.from), n)
	}
	until := func(x *Node, p *piece) *Node { return SliceAxis(x, 2, AxisRange(0, p.to)) }
	scores := func(query, key *Node, p *piece) *Node {
		b := Reshape(p.bias, 1, sequences, 1, p.to-p.from, p.to)
		b = BroadcastToDims(b, blocks/sequences, sequences, group, p.to-p.from, p.to)
		return Add(d.dot(rows(query, p), until(key, p)), Reshape(b, blocks, -1, p.to))
	}
	joined := func(parts []*Node) *Node { // rows, together again
		for i, x := range parts {
			parts[i] = Reshape(x, blocks, group, -1, dh)
		}
		return Reshape(Concatenate(parts, 2), -1, dh)
	}

	q, k, v := StopGradient(query), StopGradient(key), StopGradient(value)
	list := make([]*piece, pieces)
	outs := make([]*Node, pieces)
	for i := range list {
		p := &piece{from: i * length / pieces, to: (i + 1) * length / pieces}
		p.bias = sight.bias(p.from, p.to)
		score := scores(q, k, p)
		peak := ReduceAndKeep(score, ReduceMax, -1)
		e := Exp(Sub(score, peak))
		sum := ReduceAndKeep(e, ReduceSum, -1)
		p.out = Div(d.dotT(e, until(v, p)), sum)
		p.logs = Add(peak, Log(sum))
		list[i], outs[i] = p, p.out
	}
	out := joined(outs)
	if !d.differentiable {
		return out
	}

	// What the gradient passes on its way to the inputs adds nothing; see read.
	var adjoint *Node
	var gradients [3]*Node
	back := func() {
		padded := func(x *Node, p *piece) *Node { // [blocks, dh, to] to the whole length
			if p.to == length {
				return x
			}
			return Concatenate([]*Node{x, Zeros(x.Graph(), shapes.Make(dtypes.Float32, blocks, dh, length-p.to))}, 2)
		}
		var queries []*Node
		last := adjoint
		for _, p := range list {
			again := SchedulingBarrier(q, last) // else the scores of the way there would be kept, or made too early
			a := rows(adjoint, p)
			weight := Exp(Sub(scores(again, k, p), p.logs))
			mean := ReduceAndKeep(Mul(a, p.out), ReduceSum, -1)
			ds := Mul(weight, Sub(d.dot(a, until(v, p)), mean))
			last = d.dotT(ds, until(k, p))
			queries = append(queries, last)
			for i, part := range []*Node{d.contract(rows(again, p), 1, ds, 1), d.contract(a, 1, weight, 1)} {
				if part = padded(part, p); gradients[1+i] != nil {
					part = Add(gradients[1+i], part)
				}
				gradients[1+i] = part
			}
		}
		gradients[0] = joined(queries)
	}
	var nothing *Node
	for i, x := range []*Node{query, key, value} {
		x = IdentityWithCustomGradient(x, func(_, _ *Node) *Node {
			if gradients[0] == nil {
				back()
			}
			return gradients[i]
		})
		first := Reshape(Slice(x, axes(x.Rank())...), 1, 1)
		if i > 0 {
			first = Add(nothing, first)
		}
		nothing = first
	}
	return IdentityWithCustomGradient(Add(out, BroadcastToDims(MulScalar(nothing, 0), out.Shape().Dimensions...)), func(_, v *Node) *Node {
		adjoint = v
		return v
	})
}

// axes choose the first element of a node.
func axes(rank int) []SliceAxisSpec {
	list := make([]SliceAxisSpec, rank)
	for i := range list {
		list[i] = AxisRange(0, 1)
	}
	return list
}
