package policy

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// maxPadding is the share of a micro-batch's tokens that may be padding where
// rows are packed by length. Rows that are too unlike go into several.
const maxPadding = 0.1

// microBatches cuts an update into the batches of each shard, whose gradients
// are summed in their order. lengths are the rows' completions.
//
// Without a budget of tokens, batches are as large as memory of a fixed size
// allows and rows of one prompt stay together. With one they are packed by
// length: see packed. Where each shape is compiled for seconds they are strips, dealt to
// devices and not to shards, and of what a device has room for where there is no budget.
// devices is 0 where nothing is compiled.
func (c Config) microBatches(all []group, lengths []int, l Learning, devices int) [][]batch {
	if devices > 0 {
		parts := make([][]batch, devices)
		budget := cmp.Or(l.MaxTokensPerMicroBatch, c.tokensWithin(deviceFloats, c.NumHiddenLayers, 0))
		for i, b := range c.strips(all, lengths, budget, devices) {
			parts[i%devices] = append(parts[i%devices], b)
		}
		return parts
	}
	shards := make([][]batch, l.Shards)
	if l.MaxTokensPerMicroBatch == 0 {
		width := width(all, l.Shards)
		for i, part := range deal(split(all, width), l.Shards) {
			shards[i] = batches(part, width, c.fitsGradient(gradientFloats))
		}
		return shards
	}
	for i, part := range deal(leastPadded(all, lengths), l.Shards) {
		shards[i] = packed(part, lengths, l.MaxTokensPerMicroBatch)
	}
	return shards
}

// byLength cuts groups into groups of at most n rows, the longest completions of
// a prompt together.
func byLength(all []group, n int, lengths []int) []group {
	var cut []group
	for _, g := range all {
		rows := slices.Clone(g.rows)
		slices.SortStableFunc(rows, func(a, b int) int { return lengths[b] - lengths[a] })
		for part := range slices.Chunk(rows, n) {
			cut = append(cut, group{g.prompt, part, lengths[part[0]]})
		}
	}
	return cut
}

// leastPadded is byLength at the number of rows with the fewest tokens to
// compute, among those that keep padding low: many rows share their prompt,
// few are padded little.
func leastPadded(all []group, lengths []int) []group {
	widest := 1
	for _, g := range all {
		widest = max(widest, len(g.rows))
	}
	var best []group
	least := -1
	for n := 1; n <= widest; n++ {
		cut := byLength(all, n, lengths)
		computed, used := 0, 0
		for _, g := range cut {
			b := alone(g)
			computed += b.tokens()
			used += b.used(lengths)
		}
		if least < 0 || computed < least && float64(computed-used) < 0.7*maxPadding*float64(computed) {
			best, least = cut, computed
		}
	}
	return best
}

// alone is the batch of one group.
func alone(g group) batch {
	return batch{prompts: 1, samples: len(g.rows), prefix: fine(len(g.prompt) - 1), completion: fine(g.longest), groups: []group{g}}
}

// fine rounds n up to a multiple of 1/32 of the power of two below it, 3 % at
// most: a quarter of what bucket adds.
func fine(n int) int {
	n = max(1, n)
	step := max(1, 1<<bits.Len(uint(n-1))>>6)
	return (n + step - 1) / step * step
}

// packed makes batches of at most budget tokens out of groups, padding included;
// one group is a batch even if it is larger. Only groups of equally many rows
// go together, so no place is empty, and only of like lengths.
func packed(all []group, lengths []int, budget int) []batch {
	class := func(g group) int { // half octaves of the prompt's length
		n := prefixLength(g.prompt)
		return bits.Len(uint(n * n))
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int {
		return cmp.Or(len(b.rows)-len(a.rows), class(b)-class(a), b.longest-a.longest, len(b.prompt)-len(a.prompt))
	})
	var list []batch
	for from := 0; from < len(sorted); {
		b := alone(sorted[from])
		used := b.used(lengths)
		for _, g := range sorted[from+1:] {
			one := alone(g)
			next := batch{prompts: b.prompts + 1, samples: b.samples, prefix: max(b.prefix, one.prefix), completion: max(b.completion, one.completion)}
			used += one.used(lengths)
			if one.samples != b.samples || next.tokens() > budget || float64(next.tokens()-used) > maxPadding*float64(next.tokens()) {
				break
			}
			b = next
		}
		b.groups = sorted[from : from+b.prompts]
		from += b.prompts
		list = append(list, b)
	}
	return list
}

// coarse rounds n up to a multiple of a quarter of the power of two at or above it:
// to two sizes an octave.
func coarse(n int) int {
	step := max(1, powerOfTwo(n)/4)
	return (n + step - 1) / step * step
}

// strips makes packed batches of about budget tokens. All their sequences have one
// length, of few: the one at which the least is computed, since longer ones are filled
// better and keep more rows of a prompt together, and cost more attention. Their numbers
// are few too, since every shape is compiled. Several devices get equally many sequences
// or so, if need be in smaller batches.
func (c Config) strips(all []group, lengths []int, budget, devices int) []batch {
	longest := 1
	for _, g := range all {
		longest = max(longest, len(g.prompt)-1+g.longest)
	}
	var best [][]group
	length, least := 0, math.Inf(1)
	for n := coarse(max(longest, 32)); n == coarse(max(longest, 32)) || n <= min(budget, 8*longest); n = coarse(n + 1) {
		filled := binned(all, lengths, n)
		if cost := float64(len(filled)) * float64(n) * c.costPerToken(n); cost < least {
			best, length, least = filled, n, cost
		}
	}
	most := max(1, budget/length) // sequences of a batch
	if devices > 1 {
		rounds := ceil(len(best), devices*most)
		most = min(most, coarse(ceil(len(best), devices*rounds)))
	}
	var list []batch
	quarters := 1 // of its tokens that the head reads of a batch: one share for all, as a shape is
	for sequences := range slices.Chunk(best, most) {
		b := batch{prompts: len(sequences), samples: 1, completion: length, packed: sequences, lengths: lengths}
		if len(sequences) < most {
			b.prompts = min(most, coarse(len(sequences)))
		}
		read := 0
		b.eachRow(func(row, _ int) { read += lengths[row] })
		quarters = max(quarters, ceil(4*read, b.tokens()))
		list = append(list, b)
	}
	for i := range list {
		list[i].read = ceil(quarters*list[i].tokens(), 4)
	}
	return list
}

// ceil is a/b, rounded up.
func ceil(a, b int) int { return (a + b - 1) / b }

// costPerToken is about how many multiplications a token of a packed sequence takes:
// those of the weights, and attention of half the sequence's length, which counts
// twice as it uses a processor less well.
func (c Config) costPerToken(length int) float64 {
	return float64(c.Parameters()) + float64(2*c.NumHiddenLayers*c.NumAttentionHeads*c.HeadDim()*length)
}

// binned puts the rows of groups into as few sequences of a length as it can, each row
// behind the prompt of its group and others of the group, if need be in several
// sequences. Every row and its prompt must fit.
func binned(all []group, lengths []int, length int) [][]group {
	var filled [][]group
	var room []int
	// tightest is the sequence with the least room among those with n, or −1.
	tightest := func(n int) int {
		best := -1
		for i, r := range room {
			if r >= n && (best < 0 || r < room[best]) {
				best = i
			}
		}
		return best
	}
	total := func(g group) int {
		n := len(g.prompt) - 1
		for _, row := range g.rows {
			n += lengths[row]
		}
		return n
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int { return total(b) - total(a) })
	for _, g := range sorted {
		if n := total(g); tightest(n) >= 0 {
			i := tightest(n)
			filled[i], room[i] = append(filled[i], g), room[i]-n
			continue
		}
		rows := slices.Clone(g.rows)
		slices.SortStableFunc(rows, func(a, b int) int { return lengths[b] - lengths[a] })
		for len(rows) > 0 {
			part := group{prompt: g.prompt}
			i := tightest(len(g.prompt) - 1 + lengths[rows[0]])
			if i < 0 {
				i = len(room)
				filled, room = append(filled, nil), append(room, length)
			}
			room[i] -= len(g.prompt) - 1
			rows = slices.DeleteFunc(rows, func(row int) bool {
				if lengths[row] > room[i] {
					return false
				}
				room[i] -= lengths[row]
				part.rows, part.longest = append(part.rows, row), max(part.longest, lengths[row])
				return true
			})
			filled[i] = append(filled[i], part)
		}
	}
	return filled
}

// used is the number of a batch's tokens that are not padding. The prompt
// stream leaves out the last token of the prompt.
func (b batch) used(lengths []int) int {
	n := 0
	for _, g := range slices.Concat(append(b.packed, b.groups)...) {
		n += len(g.prompt) - 1
		for _, row := range g.rows {
			n += lengths[row]
		}
	}
	return n
}
