package policy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// bucket rounds n up to a multiple of an eighth of the power of two below it:
// at most 12 % more, and eight sizes per octave, so that few shapes compile.
func bucket(n int) int {
	step := max(1, 1<<bits.Len(uint(n-1))>>4)
	return (n + step - 1) / step * step
}

// group is the rows of a batch that continue one prompt.
type group struct {
	prompt  []int32
	rows    []int // indices into the batch
	longest int   // the longest completion of them
}

// groups collects rows by prompt, in order of first appearance.
func groups(n int, row func(i int) (prompt []int32, completion int)) []group {
	var all []group
	index := make(map[string]int, n)
	var key []byte
	for i := range n {
		prompt, length := row(i)
		key = key[:0]
		for _, id := range prompt {
			key = binary.LittleEndian.AppendUint32(key, uint32(id))
		}
		g, ok := index[string(key)]
		if !ok {
			g = len(all)
			index[string(key)] = g
			all = append(all, group{prompt: prompt})
		}
		all[g].rows = append(all[g].rows, i)
		all[g].longest = max(all[g].longest, length)
	}
	return all
}

// split cuts groups into groups of at most samples rows.
func split(all []group, samples int) []group {
	var cut []group
	for _, g := range all {
		for rows := range slices.Chunk(g.rows, samples) {
			cut = append(cut, group{g.prompt, rows, g.longest})
		}
	}
	return cut
}

// width is the number of rows per prompt at which a batch of these groups
// computes the fewest tokens: wide enough to share prompts, narrow enough that
// small groups are not padded much. At least want groups come out of it where
// there are as many rows.
func width(all []group, want int) int {
	rows := 0
	widest := 1
	for _, g := range all {
		rows += len(g.rows)
		widest = max(widest, len(g.rows))
	}
	want = min(want, rows)
	best, least := 1, -1
	for n := 1; n <= widest; n++ {
		count, tokens := 0, 0
		for _, g := range all {
			parts := (len(g.rows) + n - 1) / n
			count += parts
			tokens += parts * (len(g.prompt) + n*max(1, g.longest))
		}
		if count >= want && (least < 0 || tokens < least) {
			best, least = n, tokens
		}
	}
	return best
}

// batch is a rectangle of rows: prompts × samples sequences of one padded
// length. The decoder computes it as described in decoder.go.
//
// A packed batch is as many sequences of one length, prompts × 1 × completion without
// a prompt stream, that hold whole groups one behind the other: of each the prompt
// stream and then the completion streams of its rows.
type batch struct {
	prompts, samples   int
	prefix, completion int // padded lengths of the prompt and the completion stream
	groups             []group
	packed             [][]group // by sequence, of a packed batch; else nil
	lengths            []int     // of all rows' completions, of a packed batch
	read               int       // columns that the head reads of a packed batch, padding included
}

// The floats a batch may hold in memory at a time: 4 bytes each, a few buffers
// of each size live at once. Gradients have so many since the Go backend has slow
// kernels for products of less than 4 M multiplications: with a quarter of them a
// model of 128 features learns half as fast.
const (
	scoreFloats    = 16 << 20
	gradientFloats = 64 << 20
	cacheFloats    = 64 << 20
)

// deviceFloats is the same for scoring and for keys and values on a device with memory
// of its own.
const deviceFloats = 512 << 20

// deviceCacheFloats bounds keys and values there; tests lower it.
var deviceCacheFloats = deviceFloats

// tokensWithin is how many tokens take about so many floats, those of so many layers
// and so many besides for each, without attention.
func (c Config) tokensWithin(floats, layers, perToken int) int {
	one := batch{prompts: 1, samples: 1, completion: 1}
	return max(256, floats/(layers*c.activations(one)+perToken))
}

// activations is about how many floats the batch holds per layer.
func (c Config) activations(b batch) int {
	sequences := b.prompts * b.samples
	columns := b.prompts*b.prefix + sequences*b.completion
	scores := b.prompts*b.prefix*b.prefix + sequences*b.completion*(b.prefix+b.completion)
	if b.packed != nil { // never whole; see decoder.attendPacked
		scores = 0
	}
	return columns*(16*c.HiddenSize+6*c.IntermediateSize) + 5*c.NumAttentionHeads*scores
}

// fits limits a batch whose layers are computed one after the other to the
// given number of floats.
func (c Config) fits(floats int) func(batch) bool {
	return func(b batch) bool {
		return c.activations(b)+4*c.VocabSize*b.prompts*b.samples*b.completion <= floats
	}
}

// fitsGradient is the same where all layers are kept for the way back.
func (c Config) fitsGradient(floats int) func(batch) bool {
	return func(b batch) bool {
		return c.NumHiddenLayers*c.activations(b)+8*c.VocabSize*b.prompts*b.samples*b.completion <= floats
	}
}

// fitsCache is the same for the keys and values of whole sequences.
func (c Config) fitsCache(floats int) func(batch) bool {
	return func(b batch) bool { return c.cache(b) <= floats }
}

// cache is the floats of a batch's keys and values.
func (c Config) cache(b batch) int {
	return 2 * c.NumHiddenLayers * c.NumKeyValueHeads * c.HeadDim() * b.tokens()
}

// columns is the number of completion tokens of a batch, padding included: those that
// the head reads.
func (b batch) columns() int {
	if b.packed != nil {
		return b.read
	}
	return b.prompts * b.samples * b.completion
}

// tokens is the number of tokens that a batch computes, padding included.
func (b batch) tokens() int { return b.prompts * (b.prefix + b.samples*b.completion) }

// batches packs groups of at most samples rows into batches that fit; one
// group is a batch even if it does not. Groups of like lengths go together,
// and the order is the same for the same input.
func batches(all []group, samples int, fits func(batch) bool) []batch {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int {
		return cmp.Or(prefixLength(b.prompt)-prefixLength(a.prompt), b.longest-a.longest)
	})
	var packed []batch
	for len(sorted) > 0 {
		b := batch{samples: samples}
		for n, g := range sorted {
			next := batch{prompts: n + 1, samples: samples, prefix: max(b.prefix, prefixLength(g.prompt)), completion: max(b.completion, bucket(max(1, g.longest)))}
			if n > 0 && !fits(next) {
				break
			}
			b = next
		}
		b.groups, sorted = sorted[:b.prompts], sorted[b.prompts:]
		b.prompts = bucket(b.prompts)
		packed = append(packed, b)
	}
	return packed
}

// prefixLength is the padded length of a prompt's own stream.
func prefixLength(prompt []int32) int { return bucket(max(1, len(prompt)-1)) }

// each calls f with every row of the batch and its place among the sequences.
func (b batch) each(f func(row, place int)) {
	for p, g := range b.groups {
		for i, row := range g.rows {
			f(row, p*b.samples+i)
		}
	}
}

// eachRow calls f with every row of the batch and its first column among those that
// the head reads.
func (b batch) eachRow(f func(row, at int)) {
	b.each(func(row, place int) { f(row, place*b.completion) })
	at := 0
	for _, g := range slices.Concat(b.packed...) {
		for _, row := range g.rows {
			f(row, at)
			at += b.lengths[row]
		}
	}
}

// packedTokens are the tokens of a packed batch, [sequences, length], and what its
// attention needs to know of each, [4, sequences, length]: where in its sequence its
// group begins and the group's prompt ends, where its own stream begins, and its
// position in the text. A token sees the group's prompt and its own stream, as far
// as itself; what is padding sees itself. columns are the tokens that the head reads,
// [read], token 0 where there are no more, and places each token's place among them,
// [sequences·length], read where it is not.
func (b batch) packedTokens(completion func(row int) []int32) (tokens, spans, columns, places []int32) {
	n := b.tokens()
	tokens, spans, places = make([]int32, n), make([]int32, 4*n), slices.Repeat([]int32{int32(b.read)}, n)
	mark := func(at, begin, shared, own, position int) {
		for i, x := range []int{begin, shared, own, position} {
			spans[i*n+at] = int32(x)
		}
	}
	for i, groups := range b.packed {
		at, sequence := 0, i*b.completion // within the sequence, and of it
		for _, g := range groups {
			begin := at
			for t, token := range g.prompt[:len(g.prompt)-1] {
				tokens[sequence+at] = token
				mark(sequence+at, begin, begin, begin, t)
				at++
			}
			shared := at
			for _, row := range g.rows {
				own := at
				for t := range b.lengths[row] {
					if t == 0 {
						tokens[sequence+at] = g.prompt[len(g.prompt)-1]
					} else {
						tokens[sequence+at] = completion(row)[t-1]
					}
					mark(sequence+at, begin, shared, own, shared-begin+t)
					places[sequence+at] = int32(len(columns))
					columns = append(columns, int32(sequence+at))
					at++
				}
			}
		}
		for ; at < b.completion; at++ {
			mark(sequence+at, at, at, at, 0)
		}
	}
	return tokens, spans, append(columns, make([]int32, b.read-len(columns))...), places
}

// promptTokens are the tokens of the prompt stream, [prompts, prefix], and the
// bias that hides its padding, nil where nothing is padded.
func (b batch) promptTokens() (tokens []int32, bias []float32) {
	tokens = make([]int32, b.prompts*b.prefix)
	hidden := make([]float32, b.prompts*b.prefix)
	padded := false
	for p := range b.prompts {
		own := 0
		if p < len(b.groups) {
			prompt := b.groups[p].prompt
			own = len(prompt) - 1
			copy(tokens[(p+1)*b.prefix-own:], prompt[:own])
			padded = padded || own < b.prefix
		}
		for t := range b.prefix - own {
			hidden[p*b.prefix+t] = masked
		}
	}
	if !padded {
		hidden = nil // unused prompts may see their padding
	}
	return tokens, hidden
}

// Check reports why a prompt cannot be continued by up to room tokens.
func (c Config) Check(prompt []int32, room int) error { return c.validate(prompt, nil, room) }

// validate checks one row against the model.
func (c Config) validate(prompt, completion []int32, room int) error {
	if len(prompt) == 0 {
		return fmt.Errorf("prompt is empty, want at least one token")
	}
	if n := len(prompt) + room; n > c.MaxPositionEmbeddings {
		return fmt.Errorf("prompt of %d tokens and completion of up to %d exceed the context of %d (max_position_embeddings)",
			len(prompt), room, c.MaxPositionEmbeddings)
	}
	for _, ids := range [][]int32{prompt, completion} {
		for i, id := range ids {
			if id < 0 || int(id) >= c.VocabSize {
				return fmt.Errorf("token %d is %d, want 0 to %d (vocab_size)", i, id, c.VocabSize-1)
			}
		}
	}
	return nil
}
