package policy

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
)

// Activations are feature-major, [features, tokens]. With HF weights [out, in]
//
//	y = W·x,   dW = dy·xᵀ,   dx = Wᵀ·dy
//
// then need no transposed activation, only Wᵀ. On the Go backend transposing
// and broadcasting go element by element and cost more than the products, so
// broadcasts are written as products with ones, which use the vector unit.
//
// A batch is a forest of depth one: P prompts, each with n completions, and
// the tokens of a prompt are computed once for all n. The prompt stream is all
// of the prompt but its last token. The completion stream is that last token
// and the completion without its last: the token at j predicts completion
// token j. Prompts are padded on the left, so that position Tp is where every
// completion starts; rotary positions count from the padded start, which
// changes nothing, since attention sees only their differences.

// Where a compiler fuses operations (XLA), products with ones become broadcasts
// and sums by themselves. There the embedding is looked up instead of multiplied,
// the vocabulary is read a piece of the batch at a time, and what is not generated is
// computed in packed batches; see packed.go.

// decoder builds the graphs of one architecture.
type decoder struct {
	Config
	differentiable bool // gradients will be asked for
	fenced         bool // the graph needs fences
	fused          bool // a compiler fuses operations
	half           bool // products of weights and activations are of bfloat16
	checkpointed   bool // layers are computed again on the way back
	fence          *fence
}

// exact is the decoder whose products are of float32: for sums and broadcasts.
func (d decoder) exact() decoder {
	d.half = false
	return d
}

// begin starts a graph, which fence.close must end.
func (d decoder) begin() decoder {
	if d.fenced {
		d.fence = &fence{}
	}
	return d
}

// fence makes the Go backend leave its vector unit in a clean state after
// every product. Its AVX kernels do not reset the upper halves of the
// registers, and as long as these are in use every scalar floating-point
// instruction waits for the one before it: Exp and the like then take three to
// four times as long (measured on Zen). There is no operation that resets the
// registers, but copying more than 2 KiB does, on the way.
//
// So a fence copies a constant after each product. That the copy follows its
// product, and is followed by what uses the product, is the backend's order of
// execution: the order of creation. Each fence hangs on the last, and a result
// of the graph on the last of all.
type fence struct {
	constant, last *Node
}

// fenceFloats is the size of the copy: runtime.memmove uses AVX above 256 bytes, but from
// 2 KiB on it leaves the copy to REP MOVSB on Intel.
const fenceFloats = 256

// after fences a product and returns it. Without a fence it does nothing.
func (f *fence) after(product *Node) *Node {
	switch {
	case f == nil:
	case f.last == nil:
		f.constant = Const(product.Graph(), make([]float32, fenceFloats))
		f.last = SchedulingBarrier(f.constant, product)
	default:
		f.last = SchedulingBarrier(f.constant, product, f.last)
	}
	return product
}

// close ties the fences to a result, so that they are executed.
func (f *fence) close(results []*Node) []*Node {
	if f != nil && f.last != nil {
		results[0] = SchedulingBarrier(results[0], f.last)
	}
	return results
}

// block is the weights of one layer, split for the graph.
type block struct {
	attentionNorm *Node
	query, key    [2]*Node // first and second half of each head's width
	value         *Node
	// Of Qwen2, else nil.
	queryBias, keyBias [2]*Node
	valueBias          *Node
	// Of Qwen3, else nil.
	queryNorm, keyNorm [2]*Node
	output             *Node
	feedForwardNorm    *Node
	gate, up, down     *Node
}

// network is all weights as graph nodes.
type network struct {
	embedding *Node // [V, D]
	blocks    []block
	norm      *Node
	head      *Node // [V, D]; embedding itself when tied
}

// network reads the weights from the inputs in the order of Config.slots.
func (d decoder) network(inputs []*Node) network {
	next := func() *Node {
		n := inputs[0]
		inputs = inputs[1:]
		return n
	}
	halves := func() [2]*Node { return [2]*Node{next(), next()} }
	net := network{embedding: next(), blocks: make([]block, d.NumHiddenLayers)}
	for i := range net.blocks {
		b := block{attentionNorm: next()}
		biased := d.attentionBias()
		if b.query = halves(); biased {
			b.queryBias = halves()
		}
		if b.key = halves(); biased {
			b.keyBias = halves()
		}
		if b.value = next(); biased {
			b.valueBias = next()
		}
		if d.headNorm() {
			b.queryNorm, b.keyNorm = halves(), halves()
		}
		b.output, b.feedForwardNorm = next(), next()
		b.gate, b.up, b.down = next(), next(), next()
		net.blocks[i] = b
	}
	net.norm, net.head = next(), net.embedding
	if !d.TieWordEmbeddings {
		net.head = next()
	}
	return net
}

// stream is a batch of equally long token sequences and what their layers need.
type stream struct {
	prompts, samples, length int
	// Rotary tables at the size of one half of the queries and keys,
	// [heads·dh/2, N]; the queries' also hold the factor 1/√dh of the scores.
	queryCos, querySin, keyCos, keySin *Node
}

func (s stream) sequences() int { return s.prompts * s.samples }

// newStream spreads the rotary tables cos and sin over heads and sequences. They are
// [dh/2, length], or [dh/2, sequences, length] where each has positions of its own.
func (d decoder) newStream(prompts, samples int, cos, sin *Node) stream {
	s := stream{prompts: prompts, samples: samples, length: cos.Shape().Dim(-1)}
	d.rotary(&s, cos, sin, func(table *Node) *Node {
		if table.Rank() > 2 {
			return table
		}
		return d.repeat(Reshape(table, -1, 1, s.length), s.sequences()) // [dh/2, sequences, length]
	})
	return s
}

// packedStream is the stream of packed sequences, whose tokens have the positions
// given, [sequences, length], in the rotary tables.
func (d decoder) packedStream(positions, cos, sin *Node) stream {
	s := stream{prompts: positions.Shape().Dim(0), samples: 1, length: positions.Shape().Dim(1)}
	d.rotary(&s, cos, sin, func(table *Node) *Node {
		return transposed(Gather(transposed(table), Reshape(positions, -1, 1))) // [dh/2, N]
	})
	return s
}

// rotary sets the tables of a stream, from those that spread makes for all its tokens.
func (d decoder) rotary(s *stream, cos, sin *Node, spread func(*Node) *Node) {
	scale := 1 / math.Sqrt(float64(d.HeadDim()))
	over := func(table *Node, heads int) *Node {
		all := d.repeat(Reshape(spread(table), 1, 1, -1), heads)
		return Reshape(all, heads*d.HeadDim()/2, s.sequences()*s.length)
	}
	s.keyCos, s.keySin = over(cos, d.NumKeyValueHeads), over(sin, d.NumKeyValueHeads)
	s.queryCos = over(MulScalar(cos, scale), d.NumAttentionHeads)
	s.querySin = over(MulScalar(sin, scale), d.NumAttentionHeads)
}

// embed looks tokens [N] up: Eᵀ·onehot, [D, N]. As a product its gradient is
// one too, and the same sum in any run; scattered additions are not.
func (d decoder) embed(embedding, tokens *Node) *Node {
	if d.fused {
		return transposed(Gather(embedding, Reshape(tokens, -1, 1)))
	}
	return d.product(transposed(embedding), d.oneHot(tokens))
}

// oneHot is [V, N] with a 1 where the row is the token of the column.
func (d decoder) oneHot(tokens *Node) *Node { return ConvertDType(d.isToken(tokens), dtypes.Float32) }

// isToken is oneHot as a condition.
func (d decoder) isToken(tokens *Node) *Node {
	n := tokens.Shape().Size()
	ids := Iota(tokens.Graph(), shapes.Make(dtypes.Int32, d.VocabSize, n), 0)
	return Equal(ids, BroadcastToDims(Reshape(tokens, 1, n), d.VocabSize, n))
}

// attentionInputs is the first part of a layer: normalisation, projections and
// rotary positions. Queries are [R, dh] with rows ordered (key head, prompt,
// sample, query head of the key head, position); keys and values are
// [key heads·sequences, dh, length].
func (d decoder) attentionInputs(b block, x *Node, s stream, queries bool) (query, key, value *Node) {
	h := d.rmsNorm(x, b.attentionNorm)
	weights := []*Node{b.value, b.key[0], b.key[1]}
	biases := []*Node{b.valueBias, b.keyBias[0], b.keyBias[1]}
	if queries {
		weights = append(weights, b.query[0], b.query[1])
		biases = append(biases, b.queryBias[0], b.queryBias[1])
	}
	y := d.project(h, weights...)
	if d.attentionBias() {
		for i := range y {
			y[i] = Add(y[i], d.exact().product(biases[i], Ones(x.Graph(), shapes.Make(dtypes.Float32, 1, x.Shape().Dim(1)))))
		}
	}
	if d.headNorm() {
		y[1], y[2] = d.normHeads(y[1], y[2], b.keyNorm)
		if queries {
			y[3], y[4] = d.normHeads(y[3], y[4], b.queryNorm)
		}
	}
	kv, group, dh := d.NumKeyValueHeads, d.NumAttentionHeads/d.NumKeyValueHeads, d.HeadDim()

	value = TransposeAllAxes(Reshape(y[0], kv, dh, s.sequences(), s.length), 0, 2, 1, 3)
	value = Reshape(value, kv*s.sequences(), dh, s.length)

	key = rotate(y[1], y[2], s.keyCos, s.keySin)
	key = TransposeAllAxes(Reshape(key, 2, kv, dh/2, s.sequences(), s.length), 1, 3, 0, 2, 4)
	key = Reshape(key, kv*s.sequences(), dh, s.length)

	if queries {
		query = rotate(y[3], y[4], s.queryCos, s.querySin)
		query = TransposeAllAxes(Reshape(query, 2, kv, group, dh/2, s.sequences(), s.length), 1, 4, 2, 5, 0, 3)
		query = Reshape(query, kv*s.sequences()*group*s.length, dh)
	}
	return query, key, value
}

// normHeads is rmsNorm of every head for itself, with one weight for all. a and
// b are the first and second halves of all heads, [heads·dh/2, N].
func (d decoder) normHeads(a, b *Node, w [2]*Node) (*Node, *Node) {
	d = d.exact()
	half, n := d.HeadDim()/2, a.Shape().Dim(1)
	heads := a.Shape().Dim(0) / half
	a, b = Reshape(a, heads, half, n), Reshape(b, heads, half, n)
	ones := Ones(a.Graph(), shapes.Make(dtypes.Float32, heads, 1, half))
	mean := MulScalar(d.product(ones, Add(Mul(a, a), Mul(b, b))), 1/float64(d.HeadDim())) // [heads, 1, N]
	inverse := Reciprocal(Sqrt(AddScalar(mean, d.RMSNormEps)))
	scaled := func(x, w *Node) *Node {
		all := d.product(Ones(x.Graph(), shapes.Make(dtypes.Float32, heads, 1)), Reshape(w, 1, half))
		return Reshape(Mul(x, d.product(Reshape(all, heads, half, 1), inverse)), heads*half, n)
	}
	return scaled(a, w[0]), scaled(b, w[1])
}

// rotate applies rotary positions (arXiv:2104.09864) in Hugging Face's
// convention, which pairs element i of a head with element i + dh/2:
//
//	(a, b) → (a·cos − b·sin, b·cos + a·sin)
//
// a and b are the first and second halves of all heads, [heads·dh/2, N]; the
// result is their concatenation.
func rotate(a, b, cos, sin *Node) *Node {
	return Concatenate([]*Node{
		Sub(Mul(a, cos), Mul(b, sin)),
		Add(Mul(b, cos), Mul(a, sin)),
	}, 0)
}

// segment is a run of positions that queries attend to. Keys and values are
// [batch, dh, length]; the queries of one batch element are consecutive rows.
type segment struct {
	key, value *Node
	bias       *Node // added to the scores, [R, length]; nil: none
}

// masked is the bias of a position that must not be seen: far below any score,
// yet finite, so that a row with nothing to see stays a number.
const masked = -1e9

// attend is softmax(q·k + bias)·v over the concatenated segments, [R, dh]. The
// segments share one maximum and one denominator and are never concatenated.
func (d decoder) attend(query *Node, segments ...segment) *Node {
	g := query.Graph()
	rows, dh := query.Shape().Dim(0), query.Shape().Dim(1)
	scores := make([]*Node, len(segments))
	var peak *Node
	for i, s := range segments {
		batch, length := s.key.Shape().Dim(0), s.key.Shape().Dim(2)
		score := Reshape(d.product(Reshape(query, batch, rows/batch, dh), s.key), rows, length)
		if s.bias != nil {
			score = Add(score, s.bias)
		}
		scores[i] = score
		if m := StopGradient(ReduceMax(score, -1)); peak == nil {
			peak = m
		} else {
			peak = Max(peak, m)
		}
	}
	peak = Reshape(peak, rows, 1)
	var total, sum *Node
	for i, s := range segments {
		batch, length := s.key.Shape().Dim(0), s.key.Shape().Dim(2)
		weight := Exp(Sub(scores[i], d.exact().dot(peak, Ones(g, shapes.Make(dtypes.Float32, 1, length)))))
		mass := d.exact().productT(weight, Ones(g, shapes.Make(dtypes.Float32, 1, length))) // [R, 1]
		mixed := Reshape(d.productT(Reshape(weight, batch, rows/batch, length), s.value), rows, dh)
		if sum == nil {
			total, sum = mass, mixed
		} else {
			total, sum = Add(total, mass), Add(sum, mixed)
		}
	}
	return Mul(sum, d.exact().product(Reciprocal(total), Ones(g, shapes.Make(dtypes.Float32, 1, dh))))
}

// finish is the rest of a layer: output projection and feed-forward, each
// added to the residual stream x.
//
//	x ← x + Wo·a;   x ← x + Wd·(silu(Wg·h) ∘ Wu·h),   h = norm(x)
func (d decoder) finish(b block, x, attended *Node, s stream) *Node {
	kv, group, dh := d.NumKeyValueHeads, d.NumAttentionHeads/d.NumKeyValueHeads, d.HeadDim()
	a := TransposeAllAxes(Reshape(attended, kv, s.sequences(), group, s.length, dh), 0, 2, 4, 1, 3)
	x = Add(x, d.product(b.output, Reshape(a, d.NumAttentionHeads*dh, s.sequences()*s.length)))
	y := d.project(d.rmsNorm(x, b.feedForwardNorm), b.gate, b.up)
	return Add(x, d.product(b.down, Mul(Mul(y[0], Sigmoid(y[0])), y[1])))
}

// rmsNorm is x·w/√(mean(x²)+ε) over features (arXiv:1910.07467); x is [D, N],
// w is [D, 1].
func (d decoder) rmsNorm(x, w *Node) *Node {
	d = d.exact()
	ones := Ones(x.Graph(), shapes.Make(dtypes.Float32, 1, d.HiddenSize))
	mean := MulScalar(d.product(ones, Mul(x, x)), 1/float64(d.HiddenSize)) // [1, N]
	return Mul(x, d.product(w, Reciprocal(Sqrt(AddScalar(mean, d.RMSNormEps)))))
}

// statistics are the log-probability of each column's target and the entropy
// −Σ p·log p of each column's distribution, in nats, both [1, N]. No gradient
// flows through the entropy.
func (d decoder) statistics(logits, targets *Node) (logprob, entropy *Node) {
	d = d.exact()
	vocabulary := Ones(logits.Graph(), shapes.Make(dtypes.Float32, 1, d.VocabSize))
	peak := StopGradient(Reshape(ReduceMax(logits, 0), 1, -1))
	z := Sub(logits, d.dot(transposed(vocabulary), peak))
	e := Exp(z)
	sum := d.product(vocabulary, e)
	logSum := Log(sum)
	logprob = Sub(d.product(vocabulary, Mul(z, d.oneHot(targets))), logSum)
	entropy = StopGradient(Sub(logSum, Div(d.dot(vocabulary, Mul(z, e)), sum)))
	return logprob, entropy
}

// causal is the bias of a stream's own positions, [R, length] with the rows of
// its queries: masked above the diagonal of every sequence.
func (d decoder) causal(g *Graph, s stream) *Node {
	shape := shapes.Make(dtypes.Int32, s.length, s.length)
	later := ConvertDType(GreaterThan(Iota(g, shape, 1), Iota(g, shape, 0)), dtypes.Float32)
	rows := d.NumAttentionHeads * s.sequences()
	all := d.repeat(Reshape(MulScalar(later, masked), 1, 1, s.length*s.length), rows)
	return Reshape(all, rows*s.length, s.length)
}

// hide spreads a bias per prompt, [P, length], over the rows of a stream's
// queries: [R, length].
func (d decoder) hide(bias *Node, s stream) *Node {
	length := bias.Shape().Dim(1)
	perPrompt := s.samples * d.NumAttentionHeads / d.NumKeyValueHeads * s.length
	all := d.repeat(Reshape(bias, s.prompts, 1, length), perPrompt)
	all = d.repeat(Reshape(all, 1, 1, s.prompts*perPrompt*length), d.NumKeyValueHeads)
	return Reshape(all, -1, length)
}

// repeat copies [B, 1, M] to [B, times, M].
func (d decoder) repeat(x *Node, times int) *Node {
	return d.exact().dot(Ones(x.Graph(), shapes.Make(dtypes.Float32, x.Shape().Dim(0), times, 1)), x)
}

// dot is a·b of matrices, or of equally many matrices in leading batch axes.
func (d decoder) dot(a, b *Node) *Node {
	rank := a.Rank()
	return d.contract(a, rank-1, b, rank-2)
}

// dotT is a·bᵀ.
func (d decoder) dotT(a, b *Node) *Node {
	rank := a.Rank()
	return d.contract(a, rank-1, b, rank-1)
}

// contract sums the products over an axis of each, and takes leading axes one by one.
func (d decoder) contract(a *Node, of int, b *Node, with int) *Node {
	if d.half {
		a, b = ConvertDType(a, dtypes.BFloat16), ConvertDType(b, dtypes.BFloat16)
	}
	c := DotGeneral(a, []int{of}, leading(a.Rank()), b, []int{with}, leading(a.Rank()))
	if d.half {
		c = ConvertDType(c, dtypes.Float32)
	}
	return d.fence.after(c)
}

// leading is the batch axes of a stack of matrices.
func leading(rank int) []int {
	axes := make([]int, rank-2)
	for i := range axes {
		axes[i] = i
	}
	return axes
}

// plain is whether products have no gradients of ours: none are asked for, or the
// factors are computed again on the way back, which ours would not use.
func (d decoder) plain() bool { return !d.differentiable || d.checkpointed }

// transposed swaps the last two axes.
func transposed(x *Node) *Node { return Transpose(x, -2, -1) }

// product is a·b with gradients da = dc·bᵀ and db = aᵀ·dc. GoMLX's own
// gradient of a product transposes both factors and the result, one element at
// a time; these transpose a alone, or nothing.
func (d decoder) product(a, b *Node) *Node { return d.project(b, a)[0] }

// productT is a·bᵀ with gradients da = dc·b and db = dcᵀ·a.
func (d decoder) productT(a, b *Node) *Node {
	if d.plain() {
		return d.dotT(a, b)
	}
	var adjoint *Node
	left := IdentityWithCustomGradient(a, func(_, _ *Node) *Node { return d.dot(adjoint, b) })
	right := IdentityWithCustomGradient(b, func(_, _ *Node) *Node { return d.dot(transposed(adjoint), a) })
	return IdentityWithCustomGradient(d.dotT(left, right), func(_, v *Node) *Node {
		adjoint = v
		return v
	})
}

// project is w·x for several w. Their contributions to the gradient of x are
// summed here, so that x passes one node.
//
// The gradient runs from the results back, so the adjoints are there when it
// reaches the factors. GoMLX also builds its own gradient of the products
// between; nothing uses it, and unused nodes are not executed.
func (d decoder) project(x *Node, weights ...*Node) []*Node {
	results := make([]*Node, len(weights))
	if d.plain() {
		for i, w := range weights {
			results[i] = d.dot(w, x)
		}
		return results
	}
	adjoints := make([]*Node, len(weights))
	right := IdentityWithCustomGradient(x, func(_, _ *Node) *Node {
		var sum *Node
		for i, w := range weights {
			switch {
			case adjoints[i] == nil:
			case sum == nil:
				sum = d.dot(transposed(w), adjoints[i])
			default:
				sum = Add(sum, d.dot(transposed(w), adjoints[i]))
			}
		}
		return sum
	})
	for i, w := range weights {
		left := IdentityWithCustomGradient(w, func(_, _ *Node) *Node { return d.dotT(adjoints[i], x) })
		results[i] = IdentityWithCustomGradient(d.dot(left, right), func(_, v *Node) *Node {
			adjoints[i] = v
			return v
		})
	}
	return results
}

// prompt runs the prompt stream over tokens [P, Tp] and returns the keys and
// values of every layer. The last layer ends there: nothing reads its output.
func (d decoder) prompt(net network, tokens, cos, sin, bias *Node) (keys, values []*Node) {
	s := d.newStream(tokens.Shape().Dim(0), 1, cos, sin)
	mask := d.causal(tokens.Graph(), s)
	if bias != nil {
		mask = Add(mask, d.hide(bias, s))
	}
	x := d.embed(net.embedding, tokens)
	for i, b := range net.blocks {
		last := i == len(net.blocks)-1
		x = d.keep(x)
		query, key, value := d.attentionInputs(b, x, s, !last)
		key, value = d.kept(key), d.kept(value) // the completions read them
		keys, values = append(keys, key), append(values, value)
		if !last {
			x = d.finish(b, x, d.attend(query, segment{key, value, mask}), s)
		}
	}
	return keys, values
}

// completion runs the completion stream over tokens [P·n·T] and returns the
// residual stream [D, N] and the stream's own keys and values. past are the
// segments before the stream, by layer; mask is the bias within it.
func (d decoder) completion(net network, tokens *Node, s stream, past [][]segment, mask *Node) (x *Node, keys, values []*Node) {
	x = d.layers(net, tokens, s, func(i int, query, key, value *Node) *Node {
		keys, values = append(keys, key), append(values, value)
		return d.attend(query, append(past[i], segment{key, value, mask})...)
	})
	return x, keys, values
}

// layers runs a stream through all layers, with what attends in each, and returns
// the residual stream [D, N].
func (d decoder) layers(net network, tokens *Node, s stream, attend func(layer int, query, key, value *Node) *Node) *Node {
	x := d.embed(net.embedding, tokens)
	for i, b := range net.blocks {
		x = d.keep(x)
		query, key, value := d.attentionInputs(b, x, s, true)
		x = d.finish(b, x, attend(i, query, key, value), s)
	}
	return d.kept(x)
}

// keep marks what a layer begins with: all until the next mark is computed again
// on the way back (arXiv:1604.06174).
func (d decoder) keep(x *Node) *Node {
	if !d.checkpointed {
		return x
	}
	return x.Checkpoint()
}

// kept ends what keep began.
func (d decoder) kept(x *Node) *Node {
	if !d.checkpointed {
		return x
	}
	return x.StopCheckpoint()
}

// forward is the statistics of the targets [P, n, T] of a batch, [1, P·n·T],
// computed from scratch.
func (d decoder) forward(net network, in batchInputs) (logprob, entropy *Node) {
	if d.fused {
		return d.read(net.head, Div(d.hidden(net, in), in.temperature), in.targets, nil)
	}
	_, logits := d.predict(net, in)
	return d.statistics(logits, in.targets)
}

// predict is what the head reads and what it makes of it, the logits
// head·h / temperature: [D, N] and [V, N], N = P·n·T.
func (d decoder) predict(net network, in batchInputs) (h, logits *Node) {
	h = d.hidden(net, in)
	return h, Div(d.product(net.head, h), in.temperature)
}

// hidden is what the head reads, h = norm(x), [D, N].
func (d decoder) hidden(net network, in batchInputs) *Node {
	if in.spans != nil {
		return d.rmsNorm(d.picked(d.packed(net, in), in.columns, in.places), net.norm)
	}
	keys, values := d.prompt(net, in.prompts, in.promptCos, in.promptSin, in.bias)
	dims := in.tokens.Shape().Dimensions
	s := d.newStream(dims[0], dims[1], in.cos, in.sin)
	var hidden *Node
	if in.bias != nil {
		hidden = d.hide(in.bias, s)
	}
	past := make([][]segment, len(keys))
	for i := range keys {
		past[i] = []segment{{keys[i], values[i], hidden}}
	}
	x, _, _ := d.completion(net, in.tokens, s, past, d.causal(in.tokens.Graph(), s))
	return d.rmsNorm(x, net.norm)
}

// readFloats bounds the logits that read holds at a time; tests lower it.
var readFloats = 64 << 20

// read is statistics of the logits head·h without holding them for
// all columns: a piece of the columns is read after the other, and once more on
// the way back. With p = softmax(z) of a column, and its adjoint a,
//
//	∂logprob/∂z = onehot − p,   dh = headᵀ·(onehot − p)·a,   dhead = (onehot − p)·a·hᵀ
//
// visit, if any, is given the logits of each piece on the way there, [V, columns], and
// returns what it made of them.
func (d decoder) read(head, h, targets *Node, visit func(logits *Node, columns SliceAxisSpec) *Node) (logprob, entropy *Node) {
	n := h.Shape().Dim(1)
	step := max(1, min(n, readFloats/d.VocabSize))
	targets = Reshape(targets, n)
	type piece struct {
		from, to int
		logSum   *Node
	}
	var pieces []piece
	logits := func(head, h *Node, p piece) *Node {
		return d.dot(head, SliceAxis(h, 1, AxisRange(p.from, p.to)))
	}
	// logits less their greatest, their exponentials and the log of the sum of these.
	look := func(logits *Node) (z, e, logSum *Node) {
		z = Sub(logits, ReduceAndKeep(logits, ReduceMax, 0))
		e = Exp(z)
		return z, e, Log(ReduceAndKeep(e, ReduceSum, 0))
	}
	var logprobs, entropies, last []*Node
	still, fixed := StopGradient(head), StopGradient(h)
	for from := 0; from < n; from += step {
		p := piece{from: from, to: min(n, from+step)}
		all := logits(still, after(fixed, last...), p)
		z, e, logSum := look(all)
		p.logSum = logSum
		pieces = append(pieces, p)
		chosen := d.oneHot(SliceAxis(targets, 0, AxisRange(p.from, p.to)))
		logprobs = append(logprobs, Sub(ReduceAndKeep(Mul(z, chosen), ReduceSum, 0), logSum))
		entropies = append(entropies, Sub(logSum, Div(ReduceAndKeep(Mul(z, e), ReduceSum, 0), ReduceAndKeep(e, ReduceSum, 0))))
		last = []*Node{logprobs[len(logprobs)-1], entropies[len(entropies)-1]}
		if visit != nil {
			last = append(last, visit(all, AxisRange(p.from, p.to)))
		}
	}
	logprob, entropy = Concatenate(logprobs, 1), StopGradient(Concatenate(entropies, 1))
	if !d.differentiable {
		return logprob, entropy
	}
	// What the gradient passes on its way to h and the head adds nothing; it only says
	// which adjoint the log-probabilities have.
	var adjoint, byHead *Node
	left := IdentityWithCustomGradient(head, func(_, _ *Node) *Node { return byHead })
	right := IdentityWithCustomGradient(h, func(x, _ *Node) *Node {
		var parts []*Node
		last := []*Node{adjoint} // else the logits of the way there would be kept for the way back
		for _, p := range pieces {
			again := after(x, last...)
			z, _, _ := look(logits(still, again, p))
			columns := AxisRange(p.from, p.to)
			chance := Exp(Sub(z, p.logSum))
			// Not onehot − p: the ones of all pieces would be made beforehand.
			dz := Where(d.isToken(SliceAxis(targets, 0, columns)), OneMinus(chance), Neg(chance))
			dz = Mul(dz, SliceAxis(adjoint, 1, columns))
			part := d.dotT(dz, SliceAxis(again, 1, columns))
			if byHead == nil {
				byHead = part
			} else {
				byHead = Add(byHead, part)
			}
			parts = append(parts, d.dot(transposed(still), dz))
			last = []*Node{part, parts[len(parts)-1]}
		}
		return Concatenate(parts, 1)
	})
	nothing := MulScalar(Add(SliceAxis(right, 0, AxisRange(0, 1)), Slice(left, AxisRange(0, 1), AxisRange(0, 1))), 0)
	return IdentityWithCustomGradient(Add(logprob, nothing), func(_, v *Node) *Node {
		adjoint = v
		return v
	}), entropy
}

// after is x, but only once the others are computed: a compiler that was free to would
// begin with all pieces and hold what it makes of each. The others may be NaN or infinite.
func after(x *Node, others ...*Node) *Node {
	finite := make([]*Node, len(others)) // as a barrier adds 0 times a number of each
	for i, o := range others {
		finite[i] = IsFinite(o)
	}
	return SchedulingBarrier(x, finite...)
}

// batchInputs are the graph inputs of a batch.
type batchInputs struct {
	prompts, promptCos, promptSin *Node // [P, Tp], [dh/2, Tp] twice
	tokens, targets, cos, sin     *Node // [P, n, T] twice, [dh/2, T] twice
	temperature                   *Node // scalar
	bias                          *Node // [P, Tp]; nil: nothing is padded
	spans, columns, places        *Node // of a packed batch, which has no prompts: as batch.packedTokens has them; its targets are those of columns
}

// batchInputs reads the inputs in the order of Config.batchTensors and returns what
// follows them. Where a compiler fuses operations all batches are packed.
func (d decoder) batchInputs(inputs []*Node, padded bool) (in batchInputs, rest []*Node) {
	if d.fused {
		return batchInputs{tokens: inputs[0], targets: inputs[1], spans: inputs[2], columns: inputs[3], places: inputs[4],
			cos: inputs[5], sin: inputs[6], temperature: inputs[7]}, inputs[8:]
	}
	in = batchInputs{inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], inputs[6], inputs[7], nil, nil, nil, nil}
	rest = inputs[8:]
	if padded {
		in.bias, rest = rest[0], rest[1:]
	}
	return in, rest
}

// past is what came before a step: keys, and then values, by layer, and the bias that
// hides some of it, [k, length], a line for every k-th of the sequences; nil: none.
type past struct {
	layers []*Node
	bias   *Node
}

// step is one step of generation for P·n sequences: logits [V, P·n], then the
// keys and the values of the step by layer. Tokens are [P, n, 1]; before are the prompts
// and completions.
func (d decoder) step(net network, tokens, cos, sin *Node, before ...past) []*Node {
	dims := tokens.Shape().Dimensions
	s := d.newStream(dims[0], dims[1], cos, sin)
	segments := make([][]segment, len(net.blocks))
	for _, p := range before {
		var hidden *Node
		if p.bias != nil {
			lines := p.bias.Shape().Dim(0)
			hidden = d.hide(p.bias, stream{prompts: lines, samples: s.sequences() / lines, length: 1})
		}
		for i := range segments {
			segments[i] = append(segments[i], segment{p.layers[i], p.layers[len(segments)+i], hidden})
		}
	}
	x, keys, values := d.completion(net, tokens, s, segments, nil)
	logits := d.product(net.head, d.rmsNorm(x, net.norm))
	return append(append([]*Node{logits}, keys...), values...)
}
