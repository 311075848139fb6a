package policy

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The budget of a micro-batch must change the gradient by rounding alone, and
// equal budgets must give equal bytes.
func TestMicroBatchesAddUp(t *testing.T) {
	for name, c := range tinyModels {
		t.Run(name, func(t *testing.T) {
			w := tinyWeights(c, 7)
			samples := testSamples(t, c, w, 1)
			gradient := func(budget int) Weights {
				l := DefaultLearning()
				l.Beta, l.MaxTokensPerMicroBatch = 0.1, budget
				trainer := newTestTrainer(t, &State{Config: c, Weights: w})
				if err := trainer.open(l.Shards); err != nil {
					t.Fatal(err)
				}
				g, err := trainer.gradient(context.Background(), &State{Config: c, Weights: w}, samples, l, &metrics{})
				if err != nil {
					t.Fatal(err)
				}
				return g
			}
			want := gradient(0)
			for _, budget := range []int{1, 30, 100, 1 << 20} {
				got := gradient(budget)
				for i := range want {
					closeTo(t, fmt.Sprintf("%s at %d tokens", want[i].Name, budget), got[i].Data, widen(want[i].Data), 1e-5)
				}
				if diff := cmp.Diff(got, gradient(budget)); diff != "" {
					t.Errorf("%d tokens, twice:\n%s", budget, diff)
				}
			}
		})
	}
}

// mathLengths draws lengths like those of GSM8K under Qwen's tokenizer: prompts
// and solutions about log-normal, with medians of 90 and 180 tokens.
func mathLengths(seed uint64, prompts, samples int) (all []group, lengths []int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	draw := func(median, spread float64, most int) int {
		return min(most, max(8, int(median*math.Exp(spread*rng.NormFloat64()))))
	}
	for range prompts {
		g := group{prompt: make([]int32, draw(90, 0.35, 300))}
		typical := float64(draw(180, 0.4, 600))
		for range samples {
			g.rows = append(g.rows, len(lengths))
			lengths = append(lengths, draw(typical, 0.25, 1024))
			g.longest = max(g.longest, lengths[len(lengths)-1])
		}
		all = append(all, g)
	}
	return all, lengths
}

func TestPackedRows(t *testing.T) {
	c := tinyModels["grouped"]
	for seed := range uint64(20) {
		all, lengths := mathLengths(seed, 64, 8)
		l := DefaultLearning()
		l.MaxTokensPerMicroBatch = 16384
		seen := make([]int, len(lengths))
		padded, used := 0, 0
		for _, shard := range c.microBatches(all, lengths, l, 0) {
			for _, b := range shard {
				if b.tokens() > l.MaxTokensPerMicroBatch {
					t.Errorf("seed %d: batch of %d tokens", seed, b.tokens())
				}
				if len(b.groups) != b.prompts {
					t.Errorf("seed %d: %d groups in a batch of %d", seed, len(b.groups), b.prompts)
				}
				b.each(func(row, _ int) {
					seen[row]++
					if lengths[row] > b.completion {
						t.Errorf("seed %d: row of %d tokens in a batch of %d", seed, lengths[row], b.completion)
					}
				})
				padded += b.tokens()
				used += b.used(lengths)
			}
		}
		for row, n := range seen {
			if n != 1 {
				t.Errorf("seed %d: row %d is in %d places", seed, row, n)
			}
		}
		if waste := float64(padded-used) / float64(padded); waste >= maxPadding {
			t.Errorf("seed %d: padding is %.3f of the tokens, want below %v", seed, waste, maxPadding)
		}
	}
}

// Packed sequences hold every row once, behind the prompt of its group, within the
// budget and with little padding, and a run meets few shapes of them.
func TestStrips(t *testing.T) {
	c := Workloads()["qwen2.5-0.5b"].Config
	shapes := map[[3]int]bool{}
	for seed := range uint64(50) {
		all, lengths := mathLengths(seed, 64, 8)
		l := DefaultLearning()
		l.MaxTokensPerMicroBatch = 16384
		seen := make([]int, len(lengths))
		padded, used := 0, 0
		for _, b := range slices.Concat(c.microBatches(all, lengths, l, 1)...) {
			if b.tokens() > l.MaxTokensPerMicroBatch || len(b.packed) > b.prompts {
				t.Errorf("seed %d: batch of %d tokens, %d sequences in %d", seed, b.tokens(), len(b.packed), b.prompts)
			}
			for _, groups := range b.packed {
				n := 0
				for _, g := range groups {
					n += len(g.prompt) - 1
					for _, row := range g.rows {
						n += lengths[row]
						if !slices.Contains(all[row/8].rows, row) || len(all[row/8].prompt) != len(g.prompt) {
							t.Errorf("seed %d: row %d behind another prompt", seed, row)
						}
					}
				}
				if n > b.completion {
					t.Errorf("seed %d: %d tokens in a sequence of %d", seed, n, b.completion)
				}
			}
			next := 0
			b.eachRow(func(row, at int) {
				seen[row]++
				if at != next {
					t.Errorf("seed %d: row %d at %d, want %d", seed, row, at, next)
				}
				next += lengths[row]
			})
			if next > b.read || b.read > b.tokens() {
				t.Errorf("seed %d: %d tokens to read, %d columns of %d", seed, next, b.read, b.tokens())
			}
			shapes[[3]int{b.prompts, b.completion, b.read}] = true
			padded += b.tokens()
			used += b.used(lengths)
		}
		for row, n := range seen {
			if n != 1 {
				t.Errorf("seed %d: row %d is in %d places", seed, row, n)
			}
		}
		if waste := float64(padded-used) / float64(padded); waste >= maxPadding {
			t.Errorf("seed %d: padding is %.3f of the tokens, want below %v", seed, waste, maxPadding)
		}
	}
	if len(shapes) > 20 {
		t.Errorf("50 steps have %d shapes", len(shapes))
	}
}

// Several devices compute about equally many tokens, of few shapes, whether or not one
// alone would have room for all.
func TestStripsOfSeveralDevices(t *testing.T) {
	c := Workloads()["qwen2.5-0.5b"].Config
	for _, devices := range []int{2, 4, 8} {
		for _, budget := range []int{4096, 16384, 1 << 20} {
			shapes := map[[3]int]bool{}
			computed, busiest := 0, 0
			for seed := range uint64(50) {
				all, lengths := mathLengths(seed, 64, 8)
				l := DefaultLearning()
				l.MaxTokensPerMicroBatch = budget
				most, rows := 0, 0
				for _, part := range c.microBatches(all, lengths, l, devices) {
					tokens := 0
					for _, b := range part {
						if b.tokens() > budget {
							t.Errorf("%d devices: batch of %d tokens, want at most %d", devices, b.tokens(), budget)
						}
						tokens += b.tokens()
						b.eachRow(func(int, int) { rows++ })
						shapes[[3]int{b.prompts, b.completion, b.read}] = true
					}
					computed += tokens
					most = max(most, tokens)
				}
				busiest += most * devices
				if rows != len(lengths) {
					t.Errorf("%d devices: %d rows of %d", devices, rows, len(lengths))
				}
			}
			if ratio := float64(busiest) / float64(computed); ratio > 1.25 || len(shapes) > 20 {
				t.Errorf("%d devices, budget %d: the busiest computes %.3f times the mean, and there are %d shapes", devices, budget, ratio, len(shapes))
			}
		}
	}
}

// What a token of a packed batch may see is its prompt and its own row, as far as itself.
func TestPackedTokens(t *testing.T) {
	completions := [][]int32{{10, 11, 12}, {20}, {30, 31}, {}}
	lengths := []int{3, 1, 2, 0}
	b := batch{prompts: 2, samples: 1, completion: 12, read: 8, lengths: lengths, packed: [][]group{
		{{prompt: []int32{1, 2, 3}, rows: []int{0, 1}}, {prompt: []int32{4}, rows: []int{2, 3}}},
	}}
	tokens, spans, columns, places := b.packedTokens(func(row int) []int32 { return completions[row] })
	//               1  2| 3 10 11| 3| 4 30|  padding
	want := [][]int32{
		{1, 2, 3, 10, 11, 3, 4, 30, 0, 0, 0, 0},
		{0, 0, 0, 0, 0, 0, 6, 6, 8, 9, 10, 11},
		{0, 0, 2, 2, 2, 2, 6, 6, 8, 9, 10, 11},
		{0, 0, 2, 2, 2, 5, 6, 6, 8, 9, 10, 11},
		{0, 1, 2, 3, 4, 2, 0, 1, 0, 0, 0, 0},
	}
	got := [][]int32{tokens[:12]}
	for i := range 4 {
		got = append(got, spans[24*i:][:12])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tokens, begin, shared, own and position (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]int32{{2, 3, 4, 5, 6, 7, 0, 0}, {8, 8, 0, 1, 2, 3, 4, 5, 8, 8, 8, 8}}, [][]int32{columns, places[:12]}); diff != "" {
		t.Errorf("columns and places (-want +got):\n%s", diff)
	}
	at := map[int]int{}
	b.eachRow(func(row, from int) { at[row] = from })
	if diff := cmp.Diff(map[int]int{0: 0, 1: 3, 2: 4, 3: 6}, at); diff != "" {
		t.Errorf("first columns (-want +got):\n%s", diff)
	}
}

// What a budget of tokens saves on lengths like GSM8K's: the share of padding,
// the tokens computed over those there are with every prompt once, and the
// number of micro-batches and of shapes to compile.
func BenchmarkPacking(b *testing.B) {
	c := Workloads()["qwen2.5-0.5b"].Config
	for _, budget := range []int{0, 4096, -16384, 16384, 65536} { // -16384: in strips
		name, devices := fmt.Sprint(budget), 0
		if budget < 0 {
			budget, devices = -budget, 1
			name = fmt.Sprint("strips ", budget)
		}
		b.Run(name, func(b *testing.B) {
			var padded, used, real, count int
			shapes := map[[5]int]bool{}
			steps := 0
			for b.Loop() {
				all, lengths := mathLengths(uint64(steps), 64, 8)
				steps++
				l := DefaultLearning()
				l.MaxTokensPerMicroBatch = budget
				for _, shard := range c.microBatches(all, lengths, l, devices) {
					for _, m := range shard {
						padded += m.tokens()
						used += m.used(lengths)
						count++
						shapes[[5]int{m.prompts, m.samples, m.prefix, m.completion, m.columns()}] = true
					}
				}
				for _, g := range all {
					real += len(g.prompt) - 1
				}
				for _, n := range lengths {
					real += n
				}
			}
			b.ReportMetric(float64(padded-used)/float64(padded), "padding")
			b.ReportMetric(float64(padded)/float64(real), "computed/real")
			b.ReportMetric(float64(count)/float64(steps), "batches/step")
			b.ReportMetric(float64(len(shapes))/float64(steps), "shapes/step")
		})
	}
}
