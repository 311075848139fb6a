package policy

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

// Memory is what something holds at its peak, in bytes.
type Memory struct {
	Weights     int64 `json:"weights"`
	Gradients   int64 `json:"gradients"`
	Moments     int64 `json:"moments"`     // of Adam
	Activations int64 `json:"activations"` // of the largest micro-batch
	Logits      int64 `json:"logits"`      // over the vocabulary, and what is made of them
	Cache       int64 `json:"cache"`       // keys and values
}

// Total is the sum.
func (m Memory) Total() int64 {
	return m.Weights + m.Gradients + m.Moments + m.Activations + m.Logits + m.Cache
}

// Add is what both hold together.
func (m Memory) Add(o Memory) Memory {
	return Memory{m.Weights + o.Weights, m.Gradients + o.Gradients, m.Moments + o.Moments,
		m.Activations + o.Activations, m.Logits + o.Logits, m.Cache + o.Cache}
}

// Demand is a model and a batch whose memory is to be known.
type Demand struct {
	Config                         Config
	Prompts, Samples               int // groups, and completions of each
	PromptLength, CompletionLength int // in tokens
	Learning                       Learning
	Engines                        int // that generate side by side
	ActivationBytes                int // per number: 4 for float32, 2 for bfloat16
	// Compiled is a backend that compiles (XLA): the device keeps the moments and the sum
	// of the gradients, and reads the vocabulary in pieces.
	Compiled bool
	Devices  int // of a backend that compiles; 0 as 1
}

// MemoryPlan is the peak of an update and of generating, apart for the device
// and for the memory of the host. Of several devices it is the one that holds most. The backends in Go and of ONNX on the CPU
// have both in the same place.
type MemoryPlan struct {
	Update   Places `json:"update"`
	Generate Places `json:"generate"`
}

// Places is memory by where it lies.
type Places struct {
	Device Memory `json:"device"`
	Host   Memory `json:"host"`
}

// maxRows bounds what Plan counts row by row.
const maxRows = 1 << 20

// Validate names the first number that is out of range.
func (d Demand) Validate() error {
	if err := d.Config.Validate(); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		value int
	}{
		{"prompts", d.Prompts}, {"num_generations", d.Samples}, {"prompt_length", d.PromptLength},
		{"completion_length", d.CompletionLength}, {"engines", d.Engines},
	} {
		if f.value < 1 || f.value > maxDimension {
			return fmt.Errorf("%s is %d, want 1 to %d", f.name, f.value, maxDimension)
		}
	}
	if n := d.Prompts * d.Samples; n > maxRows {
		return fmt.Errorf("%d prompts of %d completions each are %d rows, want at most %d", d.Prompts, d.Samples, n, maxRows)
	}
	if d.ActivationBytes != 4 && d.ActivationBytes != 2 {
		return fmt.Errorf("an activation takes %d bytes, want 4 or 2", d.ActivationBytes)
	}
	if n := d.PromptLength + d.CompletionLength; n > d.Config.MaxPositionEmbeddings {
		return fmt.Errorf("prompt and completion of %d tokens exceed the context of %d (max_position_embeddings)", n, d.Config.MaxPositionEmbeddings)
	}
	return d.Learning.Validate()
}

// Plan counts. The weights, their gradients and moments and the cache are
// exact; activations and logits are the estimate by which batches are cut, of
// what a backend keeps that frees nothing before its last use. XLA, which fuses
// and recomputes, stays below it.
func (d Demand) Plan() MemoryPlan {
	c, shards := d.Config, int64(d.Learning.Shards)
	weights := 4 * c.Parameters()
	trained, adapters := weights, int64(0)
	if d.Learning.LoRARank > 0 {
		for _, p := range d.Learning.adapter().layout(c) {
			adapters += 4 * int64(elements(p.Shape))
		}
		trained = adapters
	}
	b := d.largest(d.microBatches())
	var plan MemoryPlan
	plan.Update = Places{
		Device: Memory{
			Weights:     shards * (weights + adapters),
			Gradients:   shards * trained,
			Activations: shards * int64(d.ActivationBytes) * int64(c.NumHiddenLayers*c.activations(b)),
			Logits:      shards * int64(d.ActivationBytes) * int64(8*c.VocabSize*b.columns()),
		},
		// The state and the one that follows it, which takes its place when the
		// update is whole.
		Host: Memory{
			Weights:   2 * (weights + adapters),
			Moments:   4 * trained,
			Gradients: shards * trained,
		},
	}
	if d.Compiled {
		at := &plan.Update
		at.Device.Moments = 2 * trained
		at.Device.Gradients = 2 * trained // of a micro-batch, and their sum
		at.Device.Weights, at.Host.Gradients = weights+adapters, 0
		layers := c.NumHiddenLayers
		if d.Learning.GradientCheckpointing { // one at a time, and what each begins with
			layers = 1
		}
		scores := 4 * c.NumAttentionHeads * b.tokens() * b.completion / c.pieces(b) // of one layer
		at.Device.Activations = int64(d.ActivationBytes) * int64(layers*c.activations(b)+c.NumHiddenLayers*c.kept()*b.tokens()+scores)
		at.Device.Logits = int64(4 * 4 * min(readFloats, c.VocabSize*b.columns()))
	}
	engines := int64(ceil(d.Engines, max(1, d.Devices))) // of a device
	sampled := d.largest(d.sampledBatches())
	prefill := batch{prompts: c.wave(sampled, d.Compiled), prefix: sampled.prefix}
	rows := sampled.prompts * sampled.samples
	plan.Generate = Places{
		Device: Memory{
			Weights:     engines * weights,
			Activations: engines * int64(d.ActivationBytes) * int64(c.activations(prefill)),
			Logits:      engines * int64(d.ActivationBytes) * int64(2*c.VocabSize*rows),
			Cache:       engines * 4 * int64(c.cache(sampled)),
		},
		Host: Memory{Weights: weights, Logits: engines * 4 * int64(c.VocabSize*rows)},
	}
	if d.Compiled { // where keys and values move, their old place and the new
		plan.Generate.Device.Cache *= 2
	}
	return plan
}

// kept is how many floats of a token a layer keeps for the way back at least: what it begins
// with, and the queries, keys, values and result of its attention.
func (c Config) kept() int {
	return c.HiddenSize + 2*(c.NumAttentionHeads+c.NumKeyValueHeads)*c.HeadDim()
}

// groups are the demand's rows, as an update or a generation has them.
func (d Demand) groups() []group {
	all := make([]group, d.Prompts)
	for p := range all {
		all[p] = group{prompt: make([]int32, d.PromptLength), longest: d.CompletionLength}
		for i := range d.Samples {
			all[p].rows = append(all[p].rows, p*d.Samples+i)
		}
	}
	return all
}

// microBatches cuts an update as a Trainer does.
func (d Demand) microBatches() []batch {
	devices := 0
	if d.Compiled {
		devices = max(1, d.Devices)
	}
	return slices.Concat(d.Config.microBatches(d.groups(), slices.Repeat([]int{d.CompletionLength}, d.Prompts*d.Samples), d.Learning, devices)...)
}

// sampledBatches cuts a generation as an Engine does.
func (d Demand) sampledBatches() []batch {
	all := d.groups()
	all = all[:(len(all)+d.Engines-1)/d.Engines]
	samples := width(all, 1)
	if d.Compiled {
		return d.Config.refilled(split(all, samples), samples)
	}
	return batches(split(all, samples), samples, d.Config.fitsCache(cacheFloats))
}

// largest is the batch with the most activations.
func (d Demand) largest(all []batch) batch {
	return slices.MaxFunc(all, func(a, b batch) int { return d.Config.activations(a) - d.Config.activations(b) })
}

// Fit is the largest max_tokens_per_micro_batch whose update needs at most the
// given bytes, counted by total; 0 if not even one row fits.
func (d Demand) Fit(bytes int64, total func(Places) int64) int {
	row := bucket(max(1, d.PromptLength-1)) + bucket(d.CompletionLength)
	all := row * d.Prompts * d.Samples
	// The first that is too much, by rows.
	rows := sort.Search(all/row, func(i int) bool {
		d.Learning.MaxTokensPerMicroBatch = (i + 1) * row
		return total(d.Plan().Update) > bytes
	})
	return min(rows*row, math.MaxInt32)
}
