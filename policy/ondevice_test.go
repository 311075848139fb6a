package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// openDevice opens a device of a backend for the time of a test.
func openDevice(t *testing.T, spec string) (*Backend, device) {
	t.Helper()
	b, err := OpenBackend(spec)
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.forEngine()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Finalize)
	return b, d
}

// What the device draws is what Choose draws, over vocabularies of one block of sums
// and of many.
func TestDraw(t *testing.T) {
	b, device := openDevice(t, "go")
	for _, vocabulary := range []int{2, 100, 128, 1000} {
		for _, s := range []Sampling{{Temperature: 0.7, TopP: 1}, {TopP: 1}} {
			const n = 60
			rng := rand.New(rand.NewPCG(uint64(vocabulary), 1))
			logits, chances := make([]float32, vocabulary*n), make([]float32, n)
			for i := range logits {
				logits[i] = float32(3 * rng.NormFloat64())
			}
			logits[0] = float32(math.Inf(-1)) // an impossible token
			for i := range chances {
				u, _ := uniform2(uint64(i), 5, 0)
				chances[i] = float32(u)
			}
			chances[0], chances[1] = 0, 1-0x1p-24
			temperature, greedy := float32(s.Temperature), float32(0)
			if s.Temperature == 0 {
				temperature, greedy = 1, 1
			}
			d := b.decoder(Config{VocabSize: vocabulary}, false)
			p, err := newProgram(device, "draw", func(in []*graph.Node) []*graph.Node { return d.draw(in[0], in[1], in[2], in[3]) })
			if err != nil {
				t.Fatal(err)
			}
			u := &uploads{device: device}
			put(u, logits, vocabulary, n)
			put(u, chances, 1, n)
			put(u, []float32{temperature})
			put(u, []float32{greedy})
			out, err := p.call(u.list)
			if err != nil || u.err != nil {
				t.Fatal(err, u.err)
			}
			ids, err := tensors.CopyFlatData[int32](out[0])
			if err != nil {
				t.Fatal(err)
			}
			logprobs, entropies := must(read(out[1])), must(read(out[2]))
			var scratch Scratch
			column := make([]float32, vocabulary)
			for i := range n {
				for v := range column {
					column[v] = logits[v*n+i]
				}
				token, logprob, entropy := s.Choose(column, uint64(i), 5, &scratch)
				if i < 2 && s.Temperature > 0 { // chances of their own
					if x := column[ids[i]]; math.IsInf(float64(x), 0) {
						t.Errorf("%d tokens, column %d: the impossible one is drawn", vocabulary, i)
					}
					continue
				}
				if ids[i] != token {
					t.Errorf("%d tokens, temperature %v, column %d: %d is drawn, want %d", vocabulary, s.Temperature, i, ids[i], token)
				}
				closeTo(t, "log-prob", logprobs[i:i+1], []float64{float64(logprob)}, 2e-5)
				closeTo(t, "entropy", entropies[i:i+1], []float64{float64(entropy)}, 2e-5)
			}
			release(append(out, u.list...)...)
		}
	}
}

// A row sees as many of the ring's latest steps as it has had tokens, wherever in the
// ring they are.
func TestUnseen(t *testing.T) {
	_, device := openDevice(t, "go")
	const capacity = 8
	p, err := newProgram(device, "unseen", func(in []*graph.Node) []*graph.Node { return []*graph.Node{unseen(in[0], in[1], capacity)} })
	if err != nil {
		t.Fatal(err)
	}
	had := []int32{0, 3, 7}
	for now := 7; now < 20; now++ {
		u := &uploads{device: device}
		put(u, had, len(had), 1)
		put(u, []int32{int32(now % capacity)})
		out, err := p.call(u.list)
		if err != nil || u.err != nil {
			t.Fatal(err, u.err)
		}
		want := slices.Repeat([]float32{masked}, len(had)*capacity)
		for row, n := range had {
			for step := now - int(n); step < now; step++ {
				want[row*capacity+step%capacity] = 0
			}
		}
		closeTo(t, fmt.Sprintf("step %d", now), must(read(out[0])), widen(want), 0)
		release(append(out, u.list...)...)
	}
}

// Batches that are refilled have every row once, fit, and do not pad prompts much.
func TestRefilledFits(t *testing.T) {
	c := tinyModels["grouped"]
	defer func(n int) { deviceCacheFloats = n }(deviceCacheFloats)
	rng := rand.New(rand.NewPCG(1, 1))
	for round := range 200 {
		longest := 1 + rng.IntN(100)
		deviceCacheFloats = c.cache(batch{prompts: 1, prefix: 1}) << rng.IntN(16)
		var all []group
		rows := 0
		for range 1 + rng.IntN(20) {
			g := group{prompt: make([]int32, 1+rng.IntN(200)), longest: longest}
			for range 1 + rng.IntN(9) {
				g.rows = append(g.rows, rows)
				rows++
			}
			all = append(all, g)
		}
		samples := width(all, 1)
		seen := make([]int, rows)
		for _, b := range c.refilled(split(all, samples), samples) {
			if one := (batch{prompts: 1, samples: 1, prefix: b.prefix, completion: b.completion}); c.cache(b) > deviceCacheFloats && b.prompts*b.samples > 1 {
				t.Errorf("round %d: %d × %d places of %d floats exceed %d", round, b.prompts, b.samples, c.cache(one), deviceCacheFloats)
			}
			if waits := b.waits(); len(b.groups) > b.prompts && !waits || b.completion < longest {
				t.Errorf("round %d: %d prompts in %d, waiting %v; completions of %d, want %d", round, len(b.groups), b.prompts, waits, b.completion, longest)
			}
			for _, g := range b.groups {
				if n := len(g.prompt) - 1; n > b.prefix || b.waits() && b.prefix > max(32, 4*n) {
					t.Errorf("round %d: a prompt of %d is padded to %d", round, n, b.prefix)
				}
				for _, row := range g.rows {
					seen[row]++
				}
			}
		}
		if want := slices.Repeat([]int{1}, rows); !slices.Equal(seen, want) {
			t.Errorf("round %d: rows %v, each wanted once", round, seen)
		}
	}
}
