package policy

import (
	"context"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gradus-rl/gradus/datasets"
)

// Prompt is one completion to generate. Rows with equal IDs share the
// computation of their prompt; Stream makes their completions differ.
type Prompt struct {
	IDs    []int32
	Stream uint64 // key of the row's randomness: from seed, step, stage, problem, group and sample

	// Watch, where there is one, is told every token as it is drawn, with the logits it
	// was drawn from, its to read until it returns. false ends the completion there.
	Watch func(token int32, logprob float32, logits []float32) bool
}

// Completion is what was generated for a Prompt.
type Completion struct {
	IDs                 []int32   // the end token included where there is one
	LogProbs, Entropies []float32 // per token, as Sampling.Choose has them
	FinishReason        string    // FinishStop or FinishLength
}

// The values of Completion.FinishReason.
const (
	FinishStop   = "stop"   // the policy drew its end token, or Prompt.Watch had enough
	FinishLength = "length" // max_completion_length was reached
)

// Generate samples one completion per prompt, in order. Each of
// Config.EOSTokenID ends one; without any, all run to their full length.
//
// A row depends on its own prompt and stream, the weights and the settings;
// the batch around it changes at most the rounding of its logits, and equal
// calls return equal bits. progress, if not nil, is called as rows finish.
func (e *Engine) Generate(ctx context.Context, prompts []Prompt, s Sampling, progress func(done, total int)) ([]Completion, error) {
	if e.weights == nil {
		return nil, fmt.Errorf("generate: %w", errNoWeights)
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	c := e.decoder.Config
	for i, p := range prompts {
		if err := c.validate(p.IDs, nil, s.MaxCompletionLength); err != nil {
			return nil, fmt.Errorf("generate: row %d: %w", i, err)
		}
	}
	all := groups(len(prompts), func(i int) ([]int32, int) { return prompts[i].IDs, s.MaxCompletionLength })
	samples := width(all, 1)
	result := make([]Completion, len(prompts))
	done := 0
	finished := func(n int) {
		if done += n; progress != nil && n > 0 {
			progress(done, len(prompts))
		}
	}
	floats := cacheFloats
	if e.resident != nil {
		floats = deviceFloats
	}
	for _, b := range batches(split(all, samples), samples, c.fitsCache(floats)) {
		if e.decoder.fused { // few shapes
			b.prompts, b.prefix = powerOfTwo(b.prompts), powerOfTwo(max(16, b.prefix))
		}
		if err := e.generateBatch(ctx, b, prompts, s, result, finished); err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
	}
	return result, nil
}

// generateBatch generates the rows of one batch together, a token each at a time.
func (e *Engine) generateBatch(ctx context.Context, b batch, prompts []Prompt, s Sampling, result []Completion, finished func(int)) error {
	g := &generation{engine: e, batch: b, rows: make([]int, b.prompts*b.samples)}
	defer g.release()
	for i := range g.rows {
		g.rows[i] = -1
	}
	tokens := make([]int32, len(g.rows))
	b.each(func(row, place int) {
		g.rows[place] = row
		tokens[place] = prompts[row].IDs[len(prompts[row].IDs)-1]
	})
	if err := g.prefill(ctx); err != nil {
		return err
	}
	for position := 0; ; position++ {
		datasets.Progress(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		draw, err := g.step(tokens, position, s, prompts)
		if err != nil {
			return err
		}
		ended, live := 0, 0
		for place, row := range g.rows {
			if row < 0 {
				continue
			}
			token, logprob, entropy, column := draw(place)
			if token < 0 {
				return fmt.Errorf("row %d, token %d: the logits are no distribution: %w", row, position, ErrNotFinite)
			}
			r := &result[row]
			r.IDs, r.LogProbs, r.Entropies = append(r.IDs, token), append(r.LogProbs, logprob), append(r.Entropies, entropy)
			tokens[place] = token
			watch := prompts[row].Watch
			switch {
			case watch != nil && !watch(token, logprob, column):
				r.FinishReason = FinishStop
			case slices.Contains(e.decoder.EOSTokenID, token):
				r.FinishReason = FinishStop
			case len(r.IDs) == s.MaxCompletionLength:
				r.FinishReason = FinishLength
			default:
				live++
				continue
			}
			g.rows[place] = -1
			ended++
		}
		finished(ended)
		if live == 0 {
			return nil
		}
		if tokens, err = g.compact(tokens); err != nil {
			return err
		}
	}
}

// generation is the state of generating one batch. Keys and values live in
// tensors whose memory the host shares where the backend allows it, so that a
// step writes one column and copies nothing. Their capacity grows in few
// sizes; positions not yet filled are masked.
type generation struct {
	engine *Engine
	batch  batch
	rows   []int // by place: the row that is generated there, or -1

	prefix   []*tensors.Tensor // keys of all layers, then values: [heads·P, dh, Tp]
	cache    []*tensors.Tensor // the same for completions: [heads·P·n, dh, capacity]
	bias     []float32         // hides prompt padding, [P, Tp]; nil: none
	capacity int

	scratch Scratch
	column  []float32 // the logits of a row
}

// look draws the token of a place, with its logprob and entropy and, where the host
// has them, the logits it was drawn from, which are valid until the next one.
type look func(place int) (token int32, logprob, entropy float32, logits []float32)

func (g *generation) release() {
	release(g.prefix...)
	release(g.cache...)
}

// prefill computes keys and values of the prompts, a few prompts at a time,
// since the attention scores of long prompts take much memory.
func (g *generation) prefill(ctx context.Context) error {
	e, b := g.engine, g.batch
	c := e.decoder.Config
	var err error
	resident := e.resident != nil
	if !resident {
		if g.prefix, err = g.allocate(b.prompts, b.prefix); err != nil {
			return err
		}
	}
	var tokens []int32
	tokens, g.bias = b.promptTokens()
	floats := scoreFloats
	if resident {
		floats = deviceFloats
	}
	fits := c.fits(floats)
	chunk := b.prompts
	for chunk > 1 && !fits(batch{prompts: chunk, prefix: b.prefix}) {
		chunk = (chunk + 1) / 2
	}
	for from := 0; from < b.prompts; from += chunk {
		datasets.Progress(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, b.prompts-from)
		u := &uploads{device: e.device}
		c.promptInputs(u, batch{prompts: n, prefix: b.prefix}, tokens[from*b.prefix:(from+n)*b.prefix])
		if g.bias != nil {
			put(u, g.bias[from*b.prefix:(from+n)*b.prefix], n, b.prefix)
		}
		out, err := g.call(e.prefill[index(g.bias != nil)], u)
		if err != nil {
			return err
		}
		if resident {
			g.prefix = append(g.prefix, out...) // by piece and layer
			continue
		}
		for i, t := range out {
			err := tensors.ConstFlatData(t, func(src []float32) {
				err = tensors.MutableFlatData(g.prefix[i], func(dst []float32) {
					size := c.HeadDim() * b.prefix
					for head := range c.NumKeyValueHeads {
						copy(dst[(head*b.prompts+from)*size:], src[head*n*size:(head+1)*n*size])
					}
				})
			})
			if err != nil {
				return err
			}
		}
		release(out...)
	}
	if parts := g.prefix; resident && len(parts) > 2*c.NumHiddenLayers {
		g.prefix, err = e.resident.join.call(parts)
		release(parts...)
	}
	return err
}

// call runs a program on the weights and the uploads, which it releases.
func (g *generation) call(p *program, u *uploads, more ...[]*tensors.Tensor) ([]*tensors.Tensor, error) {
	defer func() { release(u.list...) }()
	if u.err != nil {
		return nil, u.err
	}
	return p.call(slices.Concat(append([][]*tensors.Tensor{g.engine.weights, u.list}, more...)...))
}

// allocate makes zeroed keys and values of all layers.
func (g *generation) allocate(sequences, length int) ([]*tensors.Tensor, error) {
	c := g.engine.decoder.Config
	shape := shapes.Make(dtypes.Float32, c.NumKeyValueHeads*sequences, c.HeadDim(), length)
	list := make([]*tensors.Tensor, 2*c.NumHiddenLayers)
	for i := range list {
		var err error
		if list[i], err = tensors.FromShapeForBackend(g.engine.device.Backend, g.engine.device.number, shape); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// capacity is the size of a cache for position: growing by steps of at most an
// eighth, eight at least.
func capacity(position int) int { return max(8, bucket((position+8)/8*8)) }

// step computes and remembers a step and says how its tokens are drawn.
func (g *generation) step(tokens []int32, position int, s Sampling, prompts []Prompt) (look, error) {
	if g.engine.resident != nil {
		return g.residentStep(tokens, position, s, prompts)
	}
	if position >= g.capacity {
		n := capacity(position)
		if g.engine.decoder.fused {
			n = fewCapacities(position, s.MaxCompletionLength)
		}
		if err := g.resize(n); err != nil {
			return nil, err
		}
	}
	u := &uploads{device: g.engine.device}
	g.stepInputs(u, tokens, position)
	out, err := g.call(g.engine.step[index(g.bias != nil)], u, g.prefix, g.cache)
	if err != nil {
		return nil, err
	}
	defer release(out...)
	if err := g.remember(out[1:], position); err != nil {
		return nil, err
	}
	return g.chosen(out[0], position, s, prompts)
}

// chosen draws from logits [V, N].
func (g *generation) chosen(logits *tensors.Tensor, position int, s Sampling, prompts []Prompt) (look, error) {
	all, err := read(logits)
	if err != nil {
		return nil, err
	}
	if g.column == nil {
		g.column = make([]float32, g.engine.decoder.VocabSize)
	}
	return func(place int) (int32, float32, float32, []float32) {
		for v := range g.column {
			g.column[v] = all[v*len(g.rows)+place]
		}
		token, logprob, entropy := s.Choose(g.column, prompts[g.rows[place]].Stream, position, &g.scratch)
		return token, logprob, entropy, g.column
	}, nil
}

// stepInputs puts the inputs of a step but for keys and values.
func (g *generation) stepInputs(u *uploads, tokens []int32, position int) {
	c, b := g.engine.decoder.Config, g.batch
	put(u, tokens, b.prompts, b.samples, 1)
	cos, sin := c.rope(b.prefix+position, 1)
	put(u, cos, c.HeadDim()/2, 1)
	put(u, sin, c.HeadDim()/2, 1)
	unfilled := make([]float32, g.capacity)
	for t := position; t < g.capacity; t++ {
		unfilled[t] = masked
	}
	put(u, unfilled, 1, 1, g.capacity)
	if g.bias != nil {
		put(u, g.bias, b.prompts, b.prefix)
	}
}

// resize moves the cache to a larger one.
func (g *generation) resize(capacity int) error {
	larger, err := g.allocate(len(g.rows), capacity)
	if err != nil {
		return err
	}
	for i, old := range g.cache {
		if err := g.move(larger[i], old, func(dst, src []float32) {
			for line := range len(src) / g.capacity {
				copy(dst[line*capacity:], src[line*g.capacity:(line+1)*g.capacity])
			}
		}); err != nil {
			return err
		}
	}
	release(g.cache...)
	g.cache, g.capacity = larger, capacity
	return nil
}

// move lets f copy from one tensor's memory to another's.
func (g *generation) move(dst, src *tensors.Tensor, f func(dst, src []float32)) error {
	var inner error
	err := tensors.ConstFlatData(src, func(from []float32) {
		inner = tensors.MutableFlatData(dst, func(to []float32) { f(to, from) })
	})
	if err != nil {
		return err
	}
	return inner
}

// remember writes the keys and values of a step, [heads·N, dh, 1], into the cache.
func (g *generation) remember(step []*tensors.Tensor, position int) error {
	for i, t := range step {
		if err := g.move(g.cache[i], t, func(dst, src []float32) {
			for line, x := range src {
				dst[line*g.capacity+position] = x
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// compact drops finished rows once the live ones fit into half the places, and
// returns the tokens at their new places. Sizes are powers of two, so that few
// shapes compile.
func (g *generation) compact(tokens []int32) ([]int32, error) {
	if g.engine.decoder.fused && len(g.rows) <= 8 {
		return tokens, nil // another shape takes longer to compile than it saves
	}
	b := g.batch
	live := make([][]int, b.prompts) // places by prompt
	for place, row := range g.rows {
		if row >= 0 {
			live[place/b.samples] = append(live[place/b.samples], place)
		}
	}
	size := len(g.rows)/2 + 1
	next := batch{prefix: b.prefix, completion: b.completion}
	for n := 1; n <= b.samples; n *= 2 {
		parts := 0
		for _, places := range live {
			parts += (len(places) + n - 1) / n
		}
		if p := powerOfTwo(parts); p*n < size || p*n == size && next.samples > 0 {
			size, next.prompts, next.samples = p*n, p, n
		}
	}
	if next.samples == 0 {
		return tokens, nil
	}
	places, parents := make([]int, 0, size), make([]int, 0, next.prompts)
	for prompt, list := range live {
		for part := range slices.Chunk(list, next.samples) {
			parents = append(parents, prompt)
			places = append(places, part...)
			for len(places) < len(parents)*next.samples {
				places = append(places, -1)
			}
		}
	}
	for len(places) < size {
		places = append(places, -1)
	}
	for len(parents) < next.prompts {
		parents = append(parents, -1)
	}
	next.groups = nil
	if err := g.gather(&g.prefix, b.prompts, parents, b.prefix); err != nil {
		return nil, err
	}
	if err := g.gather(&g.cache, len(g.rows), places, g.capacity); err != nil {
		return nil, err
	}
	rows, moved := make([]int, size), make([]int32, size)
	for i, place := range places {
		rows[i] = -1
		if place >= 0 {
			rows[i], moved[i] = g.rows[place], tokens[place]
		}
	}
	if g.bias != nil {
		bias := make([]float32, next.prompts*b.prefix)
		for i, p := range parents {
			if p >= 0 {
				copy(bias[i*b.prefix:], g.bias[p*b.prefix:(p+1)*b.prefix])
			}
		}
		g.bias = bias
	}
	g.batch, g.rows = next, rows
	return moved, nil
}

// gather replaces keys and values [heads·count, dh, length] by those of the
// sequences in index; −1 leaves zeros.
func (g *generation) gather(list *[]*tensors.Tensor, count int, index []int, length int) error {
	if g.engine.resident != nil {
		return g.pickResident(list, count, index)
	}
	c := g.engine.decoder.Config
	chosen, err := g.allocate(len(index), length)
	if err != nil {
		return err
	}
	size := c.HeadDim() * length
	for i, old := range *list {
		if err := g.move(chosen[i], old, func(dst, src []float32) {
			for head := range c.NumKeyValueHeads {
				for to, from := range index {
					if from >= 0 {
						copy(dst[(head*len(index)+to)*size:][:size], src[(head*count+from)*size:])
					}
				}
			}
		}); err != nil {
			return err
		}
	}
	release(*list...)
	*list = chosen
	return nil
}

// powerOfTwo is the least power of two that is at least n.
func powerOfTwo(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}

func (e *Engine) buildPrefill(padded bool) func([]*graph.Node) []*graph.Node {
	return func(inputs []*graph.Node) []*graph.Node {
		d, in := e.decoder.begin(), inputs[len(e.slots):]
		var bias *graph.Node
		if padded {
			bias = in[3]
		}
		keys, values := d.prompt(d.network(inputs), in[0], in[1], in[2], bias)
		return d.fence.close(append(keys, values...))
	}
}

func (e *Engine) buildStep(padded bool) func([]*graph.Node) []*graph.Node {
	return func(inputs []*graph.Node) []*graph.Node {
		d := e.decoder.begin()
		return d.fence.close(d.step(d.network(inputs), inputs[len(e.slots):], padded))
	}
}
