package policy

import (
	"cmp"
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
// length: see packed. Where each shape is compiled for seconds they are boxed, by a
// budget of about that memory where there is none.
func (c Config) microBatches(all []group, lengths []int, l Learning, compiled bool) [][]batch {
	shards := make([][]batch, l.Shards)
	if compiled {
		budget := l.MaxTokensPerMicroBatch
		if budget == 0 {
			budget = c.tokensWithin(gradientFloats, c.NumHiddenLayers, 8*c.VocabSize)
		}
		for i, part := range deal(fewestTokens(all, lengths), l.Shards) {
			shards[i] = boxed(part, budget)
		}
		return shards
	}
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
	return batch{1, len(g.rows), fine(len(g.prompt) - 1), fine(g.longest), []group{g}}
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
			next := batch{b.prompts + 1, b.samples, max(b.prefix, one.prefix), max(b.completion, one.completion), nil}
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

// coarse rounds n up to one of so many sizes an octave, a power of two of them, from
// 16 on.
func coarse(n, sizes int) int {
	n = max(n, 16)
	step := powerOfTwo(n) / 2 / sizes
	return (n + step - 1) / step * step
}

// box is the batch of one group in coarse sizes.
func box(g group) batch {
	return batch{1, powerOfTwo(len(g.rows)), coarse(len(g.prompt)-1, 1), coarse(g.longest, 4), nil}
}

// fewestTokens is byLength at the power of two of rows with the fewest tokens to
// compute in boxes.
func fewestTokens(all []group, lengths []int) []group {
	widest := 1
	for _, g := range all {
		widest = max(widest, len(g.rows))
	}
	var best []group
	least := -1
	for n := 1; n <= widest; n *= 2 {
		cut := byLength(all, n, lengths)
		computed := 0
		for _, g := range cut {
			computed += box(g).tokens()
		}
		if least < 0 || computed < least {
			best, least = cut, computed
		}
	}
	return best
}

// boxed makes batches of few shapes out of groups: those with prompts of a size go
// together, the longest completions first, as many as the budget of tokens, padding
// included, has room for; one group is a batch even if it is larger. Numbers of
// prompts are powers of two, without empty places.
func boxed(all []group, budget int) []batch {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b group) int {
		x, y := box(a), box(b)
		return cmp.Or(y.samples-x.samples, y.prefix-x.prefix, b.longest-a.longest)
	})
	var list []batch
	for from := 0; from < len(sorted); {
		b := box(sorted[from])
		for next := b; next.tokens() <= budget; next.prompts *= 2 {
			b.prompts = next.prompts
		}
		n := 1
		for n < b.prompts && from+n < len(sorted) {
			if next := box(sorted[from+n]); next.samples != b.samples || next.prefix != b.prefix {
				break
			}
			n++
		}
		n = powerOfTwo(n/2 + 1) // the greatest that is not above it
		b.prompts, b.groups = n, sorted[from:from+n]
		list = append(list, b)
		from += n
	}
	return list
}

// used is the number of a batch's tokens that are not padding. The prompt
// stream leaves out the last token of the prompt.
func (b batch) used(lengths []int) int {
	n := 0
	for _, g := range b.groups {
		n += len(g.prompt) - 1
		for _, row := range g.rows {
			n += lengths[row]
		}
	}
	return n
}
