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
	for _, b := range e.sampledBatches(split(all, samples), samples) {
		if err := e.generateBatch(ctx, b, prompts, s, result, finished); err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
	}
	return result, nil
}

// sampledBatches cuts groups of at most samples rows into batches whose keys and
// values fit.
func (e *Engine) sampledBatches(all []group, samples int) []batch {
	c := e.decoder.Config
	if e.resident != nil {
		return c.refilled(all, samples)
	}
	cut := batches(all, samples, c.fitsCache(cacheFloats))
	if e.decoder.fused { // few shapes
		for i := range cut {
			b := &cut[i]
			b.prompts, b.prefix = powerOfTwo(b.prompts), powerOfTwo(max(16, b.prefix))
		}
	}
	return cut
}

// generateBatch generates the rows of one batch together, a token each at a time.
func (e *Engine) generateBatch(ctx context.Context, b batch, prompts []Prompt, s Sampling, result []Completion, finished func(int)) error {
	g, err := e.newGeneration(b)
	if err != nil {
		return err
	}
	defer g.release()
	for ; ; g.now++ {
		if err := g.admit(ctx); err != nil {
			return err
		}
		datasets.Progress(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		draw, err := g.step(s, prompts)
		if err != nil {
			return err
		}
		e.computed += len(g.rows)
		ended, live := 0, 0
		for place, row := range g.rows {
			if row < 0 {
				continue
			}
			e.drawn++
			token, logprob, entropy, column := draw(place)
			r := &result[row]
			if token < 0 {
				return fmt.Errorf("row %d, token %d: the logits are no distribution: %w", row, len(r.IDs), ErrNotFinite)
			}
			r.IDs, r.LogProbs, r.Entropies = append(r.IDs, token), append(r.LogProbs, logprob), append(r.Entropies, entropy)
			g.tokens[place] = token
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
		if g.wanted() > 0 {
			continue
		}
		if live == 0 {
			return nil
		}
		if err := g.compact(); err != nil {
			return err
		}
	}
}

// generation is the state of generating one batch. Keys and values live in
// tensors whose memory the host shares where the backend allows it, so that a
// step writes one column and copies nothing. Their capacity grows in few
// sizes; positions not yet filled are masked.
//
// A batch may have more rows than places. A place whose row has finished takes the
// next of its prompt; places without any take another prompt, a wave of them at a time.
type generation struct {
	engine *Engine
	batch  batch
	queue  []*group // that no place has been given to; groups have only the rows that wait
	begun  []*group // of which some rows wait
	wave   int      // prompts that are computed together

	seated []*group // by prompt of the batch: whose rows are generated there; nil: nobody's
	rows   []int    // by place: the row that is generated there, or -1
	tokens []int32  // by place: the latest token
	begin  []int    // by place: the step at which the row began
	now    int      // steps taken

	prefix   []*tensors.Tensor // keys of all layers, then values: [heads·P, dh, Tp]
	cache    []*tensors.Tensor // the same for completions: [heads·P·n, dh, capacity]
	bias     []float32         // hides prompt padding, [P, Tp]; nil: none
	capacity int

	latest   []*tensors.Tensor // the cache's latest steps, where it is on the device; see ondevice.go
	cos, sin []float32         // rotary tables of completions there

	scratch Scratch
	column  []float32 // the logits of a row
}

// look draws the token of a place, with its logprob and entropy and, where the host
// has them, the logits it was drawn from, which are valid until the next one.
type look func(place int) (token int32, logprob, entropy float32, logits []float32)

func (e *Engine) newGeneration(b batch) (*generation, error) {
	sequences := b.prompts * b.samples
	g := &generation{engine: e, batch: b, wave: e.decoder.wave(b, e.resident != nil), seated: make([]*group, b.prompts),
		rows: slices.Repeat([]int{-1}, sequences), tokens: make([]int32, sequences), begin: make([]int, sequences)}
	for _, own := range b.groups {
		g.queue = append(g.queue, &own)
		if len(own.prompt)-1 < b.prefix && g.bias == nil {
			g.bias = make([]float32, b.prompts*b.prefix)
		}
	}
	if e.resident != nil {
		return g, nil
	}
	var err error
	g.prefix, err = g.allocate(b.prompts, b.prefix)
	return g, err
}

func (g *generation) release() {
	release(g.prefix...)
	release(g.cache...)
	release(g.latest...)
}

// waits is whether a batch has more rows than places.
func (b batch) waits() bool {
	return len(b.groups) > b.prompts || slices.ContainsFunc(b.groups, func(g group) bool { return len(g.rows) > b.samples })
}

// wave is how many prompts of a batch are computed together: few, since the attention
// scores of long prompts take much memory, and a quarter of the batch where others
// wait for places.
func (c Config) wave(b batch, resident bool) int {
	floats := scoreFloats
	if resident {
		floats = deviceFloats
	}
	n := b.prompts
	if b.waits() {
		n = max(1, n/4)
	}
	for fits := c.fits(floats); n > 1 && !fits(batch{prompts: n, prefix: b.prefix}); {
		n = (n + 1) / 2
	}
	return n
}

// wanted is how many prompts' places the waiting rows would fill.
func (g *generation) wanted() int {
	n := 0
	for _, list := range [][]*group{g.begun, g.queue} {
		for _, own := range list {
			n += (len(own.rows) + g.batch.samples - 1) / g.batch.samples
		}
	}
	return n
}

// admit gives places to waiting rows: at once where their prompt is already, else once
// a wave of prompts finds room. Prompts without a place go before those that could
// have more.
func (g *generation) admit(ctx context.Context) error {
	if g.wanted() == 0 {
		return nil
	}
	var free []int
	for p := range g.seated {
		if !g.seat(p) {
			free = append(free, p)
		}
	}
	g.begun = slices.DeleteFunc(g.begun, func(own *group) bool { return len(own.rows) == 0 })
	wanted := g.wanted()
	if wanted == 0 || len(free) < min(g.wave, wanted) {
		return nil
	}
	free = free[:min(len(free), wanted)]
	for _, p := range free {
		if len(g.queue) > 0 {
			g.begun, g.queue = append(g.begun, g.queue[0]), g.queue[1:]
			g.seated[p] = g.begun[len(g.begun)-1]
		} else {
			g.seated[p] = slices.MaxFunc(g.begun, func(a, b *group) int { return len(a.rows) - len(b.rows) })
		}
		g.seat(p)
	}
	return g.prefill(ctx, free)
}

// seat lets waiting rows of a prompt begin at its free places and says whether any row
// is there.
func (g *generation) seat(p int) (taken bool) {
	own, n := g.seated[p], g.batch.samples
	for place := p * n; place < (p+1)*n; place++ {
		if g.rows[place] < 0 && own != nil && len(own.rows) > 0 {
			g.rows[place], own.rows = own.rows[0], own.rows[1:]
			g.tokens[place], g.begin[place] = own.prompt[len(own.prompt)-1], g.now
		}
		taken = taken || g.rows[place] >= 0
	}
	return taken
}

// prefill computes keys and values of the prompts that are seated anew, a wave at a time.
func (g *generation) prefill(ctx context.Context, seats []int) error {
	e, b := g.engine, g.batch
	var own []*group // each once
	var groups []group
	at := make([]int, len(seats)) // which of them
	for i, p := range seats {
		if at[i] = slices.Index(own, g.seated[p]); at[i] < 0 {
			at[i] = len(own)
			own, groups = append(own, g.seated[p]), append(groups, *g.seated[p])
		}
	}
	waves := (len(own) + g.wave - 1) / g.wave
	all := batch{prompts: min(waves*g.wave, b.prompts), prefix: b.prefix, groups: groups}
	tokens, hidden := all.promptTokens()
	if g.bias != nil {
		if hidden == nil {
			hidden = make([]float32, len(tokens))
		}
		for i, p := range seats {
			copy(g.bias[p*b.prefix:(p+1)*b.prefix], hidden[at[i]*b.prefix:])
		}
	}
	for from := 0; from < all.prompts; from += g.wave {
		datasets.Progress(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(g.wave, all.prompts-from)
		u := &uploads{device: e.device}
		e.decoder.promptInputs(u, batch{prompts: n, prefix: b.prefix}, tokens[from*b.prefix:(from+n)*b.prefix])
		if g.bias != nil {
			put(u, hidden[from*b.prefix:(from+n)*b.prefix], n, b.prefix)
		}
		out, err := g.call(e.prefill[index(g.bias != nil)], u)
		if err != nil {
			return err
		}
		source := slices.Repeat([]int{-1}, b.prompts)
		for i, p := range seats {
			if at[i] >= from && at[i] < from+n {
				source[p] = at[i] - from
			}
		}
		if err := g.settle(out, n, source); err != nil {
			return err
		}
	}
	return nil
}

// settle takes over the keys and values of n prompts, [heads·n, dh, Tp]: each prompt of
// the batch gets those of the one in source, or with −1 keeps what it has.
func (g *generation) settle(computed []*tensors.Tensor, n int, source []int) error {
	if g.engine.resident != nil {
		return g.settleResident(computed, n, source)
	}
	defer release(computed...)
	c := g.engine.decoder.Config
	size := c.HeadDim() * g.batch.prefix
	for i, t := range computed {
		if err := g.move(g.prefix[i], t, func(dst, src []float32) {
			for head := range c.NumKeyValueHeads {
				for to, from := range source {
					if from >= 0 {
						copy(dst[(head*len(source)+to)*size:][:size], src[(head*n+from)*size:])
					}
				}
			}
		}); err != nil {
			return err
		}
	}
	return nil
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
func (g *generation) step(s Sampling, prompts []Prompt) (look, error) {
	if g.engine.resident != nil {
		return g.residentStep(s, prompts)
	}
	if g.now >= g.capacity {
		n := capacity(g.now)
		if g.engine.decoder.fused {
			n = fewCapacities(g.now, s.MaxCompletionLength)
		}
		if err := g.resize(n); err != nil {
			return nil, err
		}
	}
	u := &uploads{device: g.engine.device}
	g.stepInputs(u)
	out, err := g.call(g.engine.step[index(g.bias != nil)], u, g.prefix, g.cache)
	if err != nil {
		return nil, err
	}
	defer release(out...)
	if err := g.remember(out[1:]); err != nil {
		return nil, err
	}
	return g.chosen(out[0], s, prompts)
}

// chosen draws from logits [V, N].
func (g *generation) chosen(logits *tensors.Tensor, s Sampling, prompts []Prompt) (look, error) {
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
		token, logprob, entropy := s.Choose(g.column, prompts[g.rows[place]].Stream, g.now-g.begin[place], &g.scratch)
		return token, logprob, entropy, g.column
	}, nil
}

// stepInputs puts the inputs of a step but for keys and values.
func (g *generation) stepInputs(u *uploads) {
	c, b := g.engine.decoder.Config, g.batch
	put(u, g.tokens, b.prompts, b.samples, 1)
	cos, sin := c.rope(b.prefix+g.now, 1)
	put(u, cos, c.HeadDim()/2, 1)
	put(u, sin, c.HeadDim()/2, 1)
	unfilled := make([]float32, g.capacity)
	for t := g.now; t < g.capacity; t++ {
		unfilled[t] = masked
	}
	put(u, unfilled, 1, g.capacity)
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
func (g *generation) remember(step []*tensors.Tensor) error {
	for i, t := range step {
		if err := g.move(g.cache[i], t, func(dst, src []float32) {
			for line, x := range src {
				dst[line*g.capacity+g.now] = x
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// compact drops finished rows once the live ones fit into half the places and none
// waits. Sizes are powers of two, so that few shapes compile.
func (g *generation) compact() error {
	if g.engine.decoder.fused && len(g.rows) <= 8 {
		return nil // another shape takes longer to compile than it saves
	}
	b := g.batch
	live := make([][]int, b.prompts) // places by prompt
	for place, row := range g.rows {
		if row >= 0 {
			live[place/b.samples] = append(live[place/b.samples], place)
		}
	}
	size := len(g.rows)/2 + 1
	if g.engine.resident != nil { // powers of two also from sizes that are none
		size = powerOfTwo(len(g.rows))/2 + 1
	}
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
		return nil
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
	if err := g.gather(&g.prefix, b.prompts, parents, b.prefix); err != nil {
		return err
	}
	for _, list := range []*[]*tensors.Tensor{&g.cache, &g.latest} {
		if err := g.gather(list, len(g.rows), places, g.capacity); err != nil {
			return err
		}
	}
	rows, tokens, begin := slices.Repeat([]int{-1}, size), make([]int32, size), make([]int, size)
	for i, place := range places {
		if place >= 0 {
			rows[i], tokens[i], begin[i] = g.rows[place], g.tokens[place], g.begin[place]
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
	g.batch, g.seated, g.rows, g.tokens, g.begin = next, nil, rows, tokens, begin
	return nil
}

// gather replaces keys and values [heads·count, dh, length] by those of the
// sequences in index; −1 leaves zeros.
func (g *generation) gather(list *[]*tensors.Tensor, count int, index []int, length int) error {
	if len(*list) == 0 {
		return nil
	}
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
		d, in := e.decoder.begin(), inputs[len(e.slots):]
		prompts, completions := past{}, past{bias: in[3]}
		n, rest := 2*d.NumHiddenLayers, in[4:]
		if padded {
			prompts.bias, rest = rest[0], rest[1:]
		}
		prompts.layers, completions.layers = rest[:n], rest[n:]
		return d.fence.close(d.step(d.network(inputs), in[0], in[1], in[2], prompts, completions))
	}
}
