package policy

import (
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
	"github.com/gomlx/gomlx/core/tensors"
)

// Where a device has memory of its own, keys and values stay there, and what sampling
// needs of the logits is computed beside them. Compiling takes seconds, so there are few
// sizes of a cache.
//
// The cache is a ring: step t is at t modulo its capacity. A program's outputs are not
// its inputs, also where those are given up, so what a step writes is copied whole. So it
// writes the latest steps only, which move to the ring when they are as many as a block.

// onDevice are the programs that move keys and values about.
type onDevice struct {
	grow, pick, move *program
	steps            [2][2]*program // by whether prompts are padded, and whether tokens are drawn there
}

func (e *Engine) newOnDevice() (*onDevice, error) {
	o := &onDevice{}
	list := []struct {
		at    **program
		name  string
		build func([]*Node) []*Node
	}{{&o.grow, "grow", buildGrow}, {&o.pick, "pick", e.buildPick}, {&o.move, "move", buildMove}}
	for padded := range 2 {
		for drawn := range 2 {
			list = append(list, struct {
				at    **program
				name  string
				build func([]*Node) []*Node
			}{&o.steps[padded][drawn], "step", e.buildResidentStep(padded == 1, drawn == 1)})
		}
	}
	for _, p := range list {
		var err error
		if *p.at, err = newProgram(e.device, p.name, p.build); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// buildGrow doubles the capacity of caches. All is there twice, so that what a ring of
// the old size has at step mod capacity, one of the new size has there, too; of the two
// the one that is not is overwritten before a row is old enough to see it.
func buildGrow(inputs []*Node) []*Node {
	larger := make([]*Node, len(inputs))
	for i, x := range inputs {
		larger[i] = Concatenate([]*Node{x, x}, 2)
	}
	return larger
}

// buildPick takes the rows that the first input names, [n, 1], of the keys and values
// that follow: one list, or several put together.
func (e *Engine) buildPick(inputs []*Node) []*Node {
	rows, lists := inputs[0], inputs[1:]
	picked := make([]*Node, 2*e.decoder.NumHiddenLayers)
	for i := range picked {
		var parts []*Node
		for j := i; j < len(lists); j += len(picked) {
			parts = append(parts, lists[j])
		}
		picked[i] = Gather(Concatenate(parts, 0), rows)
	}
	return picked
}

// buildMove puts the latest steps into rings of keys and values, from a place on: inputs
// are the rings, which it overwrites, the place, and the latest.
func buildMove(inputs []*Node) []*Node {
	n := len(inputs) / 2
	zero := ScalarZero(inputs[n].Graph(), dtypes.Int32)
	moved := make([]*Node, n)
	for i := range moved {
		moved[i] = DynamicUpdateSlice(inputs[i], inputs[n+1+i], []*Node{zero, zero, inputs[n]})
	}
	return moved
}

// unseen is the bias that hides from each row, [N, capacity], what it does not see of
// the ring of keys and values. The ring has a place for each of the latest steps; the
// given place is that of this step, and still has what is capacity steps old. A row
// sees as many steps before this as it has had tokens, [N, 1].
func unseen(had, place *Node, capacity int) *Node {
	g, n := had.Graph(), had.Shape().Dim(0)
	back := Sub(place, Iota(g, shapes.Make(dtypes.Int32, n, capacity), 1))
	back = Where(GreaterThan(back, ZerosLike(back)), back, AddScalar(back, capacity))
	old := GreaterThan(back, BroadcastToDims(had, n, capacity))
	return MulScalar(ConvertDType(old, dtypes.Float32), masked)
}

// buildResidentStep is a step whose inputs begin with the latest steps, which it
// overwrites, its place among them, and the ring's place for the first of them. The
// weights, the inputs of a step, and prompts follow, and the ring where there is one. In
// place of the bias of the cache are the numbers of tokens that rows have had, [N, 1].
// Its first outputs are the logits or, where tokens are drawn, what draw gives by the
// last three inputs.
func (e *Engine) buildResidentStep(padded, drawn bool) func([]*Node) []*Node {
	return func(inputs []*Node) []*Node {
		d := e.decoder.begin()
		n := 2 * d.NumHiddenLayers
		latest, place, first, inputs := inputs[:n], inputs[n], inputs[n+1], inputs[n+2:]
		weights, in := inputs[:len(e.slots)], inputs[len(e.slots):]
		had, rest := in[3], in[4:]
		var chance []*Node
		if drawn {
			chance, rest = rest[len(rest)-3:], rest[:len(rest)-3]
		}
		before := make([]past, 1, 3)
		if padded {
			before[0].bias, rest = rest[0], rest[1:]
		}
		before[0].layers, rest = rest[:n], rest[n:]
		if len(rest) > 0 {
			before = append(before, past{rest, unseen(Sub(had, place), first, rest[0].Shape().Dim(2))})
		}
		before = append(before, past{latest, unseen(Min(had, place), place, latest[0].Shape().Dim(2))})
		out := d.step(d.network(weights), in[0], in[1], in[2], before...)
		results := out[:1]
		if drawn {
			results = d.draw(out[0], chance[0], chance[1], chance[2])
		}
		zero := ScalarZero(place.Graph(), dtypes.Int32)
		for i, x := range out[1:] {
			results = append(results, DynamicUpdateSlice(latest[i], x, []*Node{zero, zero, place}))
		}
		return results
	}
}

// draw is Sampling.Choose without truncation for each column of logits [V, N], by a
// number u from [0, 1) for each: the token [N] and its logprob and entropy [1, N]. A
// greedy of 1 takes the likeliest. The token is the first at which the sum of
// masses exceeds u of their total; sums are in float32 here.
func (d decoder) draw(logits, u, temperature, greedy *Node) []*Node {
	g, n := logits.Graph(), logits.Shape().Dim(1)
	z := Div(logits, temperature)
	z = Sub(z, ReduceAndKeep(z, ReduceMax, 0))
	e := Exp(z)
	sum := ReduceAndKeep(e, ReduceSum, 0)
	logSum := Log(sum)
	moment := ReduceAndKeep(Where(GreaterThan(e, ZerosLike(e)), Mul(z, e), ZerosLike(e)), ReduceSum, 0)
	entropy := Sub(logSum, Div(moment, sum))

	// Masses are summed within blocks, and blocks after that.
	size := min(128, powerOfTwo(d.VocabSize))
	blocks := (d.VocabSize + size - 1) / size
	padded := e
	if surplus := blocks*size - d.VocabSize; surplus > 0 {
		padded = Concatenate([]*Node{e, Zeros(g, shapes.Make(dtypes.Float32, surplus, n))}, 0)
	}
	masses := Reshape(padded, blocks, size, n)
	within, totals := sums(masses, 1), ReduceSum(masses, 1)
	before := Sub(sums(totals, 0), totals)
	mass := Reshape(Add(within, Reshape(before, blocks, 1, n)), blocks*size, n)
	below := ConvertDType(LessOrEqual(mass, BroadcastToDims(Mul(u, sum), blocks*size, n)), dtypes.Int32)
	token := ReduceSum(below, 0) // [N]

	best := ArgMax(logits, 0, dtypes.Int32)
	chance := ReduceSum(Mul(e, d.oneHot(token)), 0) // 0 where rounding carried u past all, or to an impossible token
	lost := Or(Equal(chance, ZerosLike(chance)), BroadcastToDims(GreaterThan(greedy, ScalarZero(g, dtypes.Float32)), n))
	token = Where(lost, best, token)
	logprob := Sub(ReduceAndKeep(Where(GreaterThan(d.oneHot(token), ZerosLike(e)), z, ZerosLike(z)), ReduceSum, 0), logSum)
	return []*Node{token, logprob, entropy}
}

// sums is the sum of all up to each along an axis: added, not multiplied with ones, as
// products may be rounded more than sums.
func sums(x *Node, axis int) *Node {
	n := x.Shape().Dim(axis)
	for step := 1; step < n; step *= 2 {
		shape := x.Shape().Clone()
		shape.Dimensions[axis] = step
		x = Add(x, Concatenate([]*Node{Zeros(x.Graph(), shape), SliceAxis(x, axis, AxisRange(0, n-step))}, axis))
	}
	return x
}

// fewCapacities is the size of a cache for a position where each is compiled for: a
// power of two.
func fewCapacities(position, longest int) int {
	return max(min(64, powerOfTwo(longest)), powerOfTwo(position+1))
}

// residentStep computes and remembers a step. Tokens are drawn on the device where the
// whole distribution counts and nobody asks for the logits.
func (g *generation) residentStep(s Sampling, prompts []Prompt) (look, error) {
	e := g.engine
	had := make([]int32, len(g.rows))
	for place, row := range g.rows {
		if row >= 0 {
			had[place] = int32(g.now - g.begin[place])
		}
	}
	size := blockOf(s.MaxCompletionLength)
	if err := g.makeRoom(size, int(slices.Max(had)), s.MaxCompletionLength); err != nil {
		return nil, err
	}
	drawn := s.TopP == 1 && (s.TopK == 0 || s.TopK >= e.decoder.VocabSize) &&
		!slices.ContainsFunc(g.rows, func(row int) bool { return row >= 0 && prompts[row].Watch != nil })
	u := &uploads{device: e.device}
	defer func() { release(u.list...) }()
	put(u, []int32{int32(g.now % size)})
	put(u, []int32{int32((g.now - g.now%size) % max(1, g.capacity))})
	head := len(u.list)
	g.residentInputs(u, had, s.MaxCompletionLength)
	inner := len(u.list)
	if drawn {
		chances := make([]float32, len(g.rows))
		for place, row := range g.rows {
			if row >= 0 {
				x, _ := uniform2(prompts[row].Stream, uint64(had[place]), 0)
				chances[place] = min(float32(x), 1-0x1p-24)
			}
		}
		temperature, greedy := float32(s.Temperature), float32(0)
		if s.Temperature == 0 {
			temperature, greedy = 1, 1
		}
		put(u, chances, 1, len(chances))
		put(u, []float32{temperature})
		put(u, []float32{greedy})
	}
	if u.err != nil {
		return nil, u.err
	}
	latest := g.latest
	g.latest = nil // consumed
	out, err := e.resident.steps[index(g.bias != nil)][index(drawn)].consume(latest,
		slices.Concat(u.list[:head], e.weights, u.list[head:inner], g.prefix, g.cache, u.list[inner:]))
	if err != nil {
		return nil, err
	}
	results := out[:len(out)-len(latest)]
	g.latest = out[len(results):]
	defer release(results...)
	if !drawn {
		return g.chosen(results[0], s, prompts)
	}
	ids, err := tensors.CopyFlatData[int32](results[0])
	if err != nil {
		return nil, err
	}
	var values [2][]float32
	for i := range values {
		if values[i], err = read(results[1+i]); err != nil {
			return nil, err
		}
	}
	return func(place int) (int32, float32, float32, []float32) {
		logprob, entropy := values[0][place], values[1][place]
		if !finite(float64(logprob)) || !finite(float64(entropy)) {
			return -1, float32(math.NaN()), float32(math.NaN()), nil
		}
		return ids[place], logprob, entropy, nil
	}, nil
}

// residentInputs is stepInputs where rows have had different numbers of tokens, of at
// most longest.
func (g *generation) residentInputs(u *uploads, had []int32, longest int) {
	b, half, n := g.batch, g.engine.decoder.HeadDim()/2, len(had)
	put(u, g.tokens, b.prompts, b.samples, 1)
	if g.cos == nil {
		g.cos, g.sin = g.engine.decoder.rope(b.prefix, longest)
	}
	for _, table := range [][]float32{g.cos, g.sin} {
		own := make([]float32, 0, half*n)
		for i := range half {
			for _, t := range had {
				own = append(own, table[i*longest+int(t)])
			}
		}
		put(u, own, half, n, 1)
	}
	put(u, had, n, 1)
	if g.bias != nil {
		put(u, g.bias, b.prompts, b.prefix)
	}
}

// blockOf is how many steps the latest are at most, for completions of a length.
func blockOf(longest int) int { return min(32, powerOfTwo(longest)) }

// makeRoom makes room for a step before which a row has had at most so many tokens. A
// ring is there from the start if there will be one, since each is compiled for.
func (g *generation) makeRoom(size, had, longest int) (err error) {
	if g.latest == nil {
		if g.latest, err = g.allocate(len(g.rows), size); err != nil {
			return err
		}
		if longest > size || g.batch.waits() {
			g.capacity = fewCapacities(size, longest)
			g.cache, err = g.allocate(len(g.rows), g.capacity)
		}
		return err
	}
	if g.cache == nil || g.now%size > 0 {
		return nil
	}
	if err := g.growResident(fewCapacities(had, longest)); err != nil {
		return err
	}
	u := &uploads{device: g.engine.device}
	put(u, []int32{int32((g.now - size) % g.capacity)})
	defer func() { release(u.list...) }()
	if u.err != nil {
		return u.err
	}
	ring := g.cache
	g.cache = nil // consumed
	g.cache, err = g.engine.resident.move.consume(ring, slices.Concat(u.list, g.latest))
	return err
}

// growResident doubles the ring until it has the capacity.
func (g *generation) growResident(capacity int) error {
	for ; g.capacity < capacity; g.capacity *= 2 {
		larger, err := g.engine.resident.grow.call(g.cache)
		if err != nil {
			return err
		}
		release(g.cache...)
		g.cache = larger
	}
	return nil
}

// pickResident is gather on the device. Where the index is −1 a row is as the first.
func (g *generation) pickResident(list *[]*tensors.Tensor, count int, index []int) error {
	heads := g.engine.decoder.NumKeyValueHeads
	rows := make([]int32, 0, heads*len(index))
	for head := range heads {
		for _, from := range index {
			rows = append(rows, int32(head*count+max(0, from)))
		}
	}
	return g.pick(list, rows, *list)
}

// settleResident is settle on the device. At first there are no prompts to keep, and
// those without a source are as the first.
func (g *generation) settleResident(computed []*tensors.Tensor, n int, source []int) error {
	if g.prefix == nil && n == len(source) { // in order
		g.prefix = computed
		return nil
	}
	defer release(computed...)
	heads := g.engine.decoder.NumKeyValueHeads
	kept := 0
	if g.prefix != nil {
		kept = heads * len(source)
	}
	rows := make([]int32, 0, heads*len(source))
	for head := range heads {
		for p, from := range source {
			row := kept + head*n + max(0, from)
			if from < 0 && kept > 0 {
				row = head*len(source) + p
			}
			rows = append(rows, int32(row))
		}
	}
	return g.pick(&g.prefix, rows, slices.Concat(g.prefix, computed))
}

// pick replaces keys and values by those of the rows of lists.
func (g *generation) pick(list *[]*tensors.Tensor, rows []int32, lists []*tensors.Tensor) error {
	u := &uploads{device: g.engine.device}
	put(u, rows, len(rows), 1)
	defer func() { release(u.list...) }()
	if u.err != nil {
		return u.err
	}
	picked, err := g.engine.resident.pick.call(slices.Concat(u.list, lists))
	if err != nil {
		return err
	}
	release(*list...)
	*list = picked
	return nil
}

// refilled cuts groups of at most samples rows into batches of few sizes whose keys and
// values fit a device that compiles for each. Where not all rows have places at once,
// those of a batch follow one another: a prompt has a quarter of the places that its
// rows would take, so that few of them are empty when the last row finishes, and
// prompts are of like lengths, at most one power of two apart.
func (c Config) refilled(all []group, samples int) []batch {
	padded := func(g group) int { return powerOfTwo(max(16, prefixLength(g.prompt))) }
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int { return padded(b) - padded(a) })
	var cut []batch
	for len(sorted) > 0 {
		b := batch{samples: samples, prefix: padded(sorted[0])}
		for _, g := range sorted {
			block := blockOf(g.longest)
			b.completion = max(b.completion, block+max(powerOfTwo(g.longest), fewCapacities(block, g.longest)))
		}
		most := func() int { // prompts that fit
			return deviceCacheFloats / c.cache(batch{prompts: 1, samples: b.samples, prefix: b.prefix, completion: b.completion})
		}
		near := len(sorted)
		if most() < near {
			if i := slices.IndexFunc(sorted, func(g group) bool { return 2*padded(g) < b.prefix }); i >= 0 {
				near = i
			}
		}
		b.groups, sorted = sorted[:near], sorted[near:]
		if b.prompts = min(powerOfTwo(near), most()); b.prompts < near {
			b.samples = (samples + 3) / 4
			for b.samples > 1 && most() < 4 {
				b.samples = (b.samples + 1) / 2
			}
			wanted := 0
			for _, g := range b.groups {
				wanted += (len(g.rows) + b.samples - 1) / b.samples
			}
			if b.prompts = max(1, min(powerOfTwo(wanted), most())); b.prompts > 4 {
				b.prompts = b.prompts / 4 * 4 // whole waves
			}
		}
		cut = append(cut, b)
	}
	return cut
}
