package policy

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gradus-rl/gradus/datasets"
)

// Engine computes with one policy on one device: it generates and scores.
// Executables are kept by shape and serve every version of the policy.
//
// An Engine serves one goroutine at a time; several Engines run side by side.
type Engine struct {
	device  device
	decoder decoder
	slots   []slot
	weights []*tensors.Tensor // nil before Load

	// Each by whether prompts are padded.
	prefill, step, score, inspect [2]*program
	resident                      *onDevice // where the device has memory of its own; else nil

	drawn, computed int // tokens that were generated, and places of batches computed for them
}

// NewEngine opens a device of the backend for models of the given shape. Load
// gives it weights.
func NewEngine(b *Backend, c Config) (*Engine, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	device, err := b.forEngine()
	if err != nil {
		return nil, fmt.Errorf("new engine: %w", err)
	}
	e := &Engine{device: device, decoder: b.decoder(c, false), slots: c.slots()}
	for i, padded := range []bool{false, true} {
		var errs [4]error
		e.prefill[i], errs[0] = newProgram(device, "prefill", e.buildPrefill(padded))
		e.step[i], errs[1] = newProgram(device, "step", e.buildStep(padded))
		e.score[i], errs[2] = newProgram(device, "score", e.buildScore(padded))
		e.inspect[i], errs[3] = newProgram(device, "inspect", e.buildInspect(padded))
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("new engine: %w", err)
		}
	}
	if b.fused && !device.HasSharedBuffers() {
		if e.resident, err = e.newOnDevice(); err != nil {
			return nil, fmt.Errorf("new engine: %w", err)
		}
	}
	return e, nil
}

// Load replaces the weights, which are as Config.Arrange has them. Nothing is
// compiled anew.
func (e *Engine) Load(w Weights) error {
	arranged, err := e.decoder.Arrange(w)
	if err != nil {
		return fmt.Errorf("load weights: %w", err)
	}
	weights, err := upload(e.device, e.slots, arranged)
	if err != nil {
		return fmt.Errorf("load weights: %w", err)
	}
	release(e.weights...)
	e.weights = weights
	return nil
}

// Close frees the device. The Engine must not be used afterwards.
func (e *Engine) Close() {
	release(e.weights...)
	e.weights = nil
	e.device.Finalize()
}

// errNoWeights is what computing before Load returns.
var errNoWeights = errors.New("no weights loaded")

// index selects the variant of a program.
func index(padded bool) int {
	if padded {
		return 1
	}
	return 0
}

// rope tabulates cos and sin of position·θ^(−2i/dh), scaled as RopeScaling has
// it, for i < dh/2 and positions from start on, each [dh/2, length].
func (c Config) rope(start, length int) (cos, sin []float32) {
	half := c.HeadDim() / 2
	cos, sin = make([]float32, half*length), make([]float32, half*length)
	for i := range half {
		frequency := c.RopeScaling.scale(math.Pow(c.RopeTheta, -float64(i)/float64(half)))
		for t := range length {
			s, c := math.Sincos(float64(start+t) * frequency)
			cos[i*length+t], sin[i*length+t] = float32(c), float32(s)
		}
	}
	return cos, sin
}

// uploads gathers tensors for one call and remembers the first error.
type uploads struct {
	device device
	list   []*tensors.Tensor
	err    error
}

func put[T float32 | int32](u *uploads, data []T, dims ...int) {
	if u.err != nil {
		return
	}
	var t *tensors.Tensor
	if t, u.err = matrix(u.device, data, dims...); u.err == nil {
		u.list = append(u.list, t)
	}
}

// promptInputs puts the inputs of the prompt stream but for the bias.
func (c Config) promptInputs(u *uploads, b batch, tokens []int32) {
	put(u, tokens, b.prompts, b.prefix)
	cos, sin := c.rope(0, b.prefix)
	put(u, cos, c.HeadDim()/2, b.prefix)
	put(u, sin, c.HeadDim()/2, b.prefix)
}

// batchTensors puts the inputs of decoder.batchInputs and says whether the
// prompts are padded.
func (c Config) batchTensors(u *uploads, b batch, temperature float64, row func(i int) (prompt, completion []int32)) (padded bool) {
	if b.packed != nil {
		c.packedTensors(u, b, temperature, row)
		return false
	}
	prompts, bias := b.promptTokens()
	c.promptInputs(u, b, prompts)
	n := b.prompts * b.samples * b.completion
	tokens, targets := make([]int32, n), make([]int32, n)
	b.each(func(i, place int) {
		prompt, completion := row(i)
		at := place * b.completion
		tokens[at] = prompt[len(prompt)-1]
		if len(completion) > 0 {
			copy(tokens[at+1:], completion[:len(completion)-1])
		}
		copy(targets[at:], completion)
	})
	put(u, tokens, b.prompts, b.samples, b.completion)
	put(u, targets, b.prompts, b.samples, b.completion)
	cos, sin := c.rope(b.prefix, b.completion)
	put(u, cos, c.HeadDim()/2, b.completion)
	put(u, sin, c.HeadDim()/2, b.completion)
	put(u, []float32{float32(temperature)})
	if bias != nil {
		put(u, bias, b.prompts, b.prefix)
	}
	return bias != nil
}

// packedTensors is batchTensors of a packed batch.
func (c Config) packedTensors(u *uploads, b batch, temperature float64, row func(i int) (prompt, completion []int32)) {
	tokens, spans, columns, places := b.packedTokens(func(i int) []int32 { _, completion := row(i); return completion })
	targets := make([]int32, len(columns))
	b.eachRow(func(i, at int) {
		_, completion := row(i)
		copy(targets[at:], completion)
	})
	put(u, tokens, b.prompts, b.samples, b.completion)
	put(u, targets, len(targets))
	put(u, spans, 4, b.prompts, b.completion)
	put(u, columns, len(columns))
	put(u, places, len(places))
	cos, sin := c.rope(0, b.completion)
	put(u, cos, c.HeadDim()/2, b.completion)
	put(u, sin, c.HeadDim()/2, b.completion)
	put(u, []float32{float32(temperature)})
}

// Row is a completion to score. The completion holds its end token where it
// has one.
type Row struct {
	Prompt, Completion []int32
}

// Scored is, per token of a completion, the log-probability the policy gives
// it and the entropy −Σ p·log p of the distribution it is drawn from, both in
// nats over the full vocabulary.
type Scored struct {
	LogProbs, Entropies []float32
}

// Score computes what the policy thinks of given completions at a temperature
// above 0, in order of the rows.
func (e *Engine) Score(ctx context.Context, rows []Row, temperature float64) ([]Scored, error) {
	result := make([]Scored, len(rows))
	err := e.forward(ctx, pass{programs: e.score}, rows, temperature, func(b batch, out []*tensors.Tensor) error {
		logprobs, entropies, err := readTwo(out)
		if err != nil {
			return err
		}
		b.eachRow(func(i, from int) {
			to := from + len(rows[i].Completion)
			result[i] = Scored{logprobs[from:to:to], entropies[from:to:to]}
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	return result, nil
}

// readTwo reads the first two outputs of a pass, log-probabilities and entropies.
func readTwo(out []*tensors.Tensor) (logprobs, entropies []float32, err error) {
	if logprobs, err = read(out[0]); err == nil {
		entropies, err = read(out[1])
	}
	return logprobs, entropies, err
}

// pass is a program to run over batches of rows.
type pass struct {
	programs [2]*program               // by whether prompts are padded
	inputs   func(u *uploads, b batch) // puts those that follow the batch's; nil: none
	perToken int                       // floats that it holds for each token besides the activations, where it reads the vocabulary in pieces
}

// forward runs a pass over the rows, in batches that fit into memory, and gives
// each batch's outputs to visit, before they are released.
func (e *Engine) forward(ctx context.Context, p pass, rows []Row, temperature float64, visit func(b batch, out []*tensors.Tensor) error) error {
	if e.weights == nil {
		return errNoWeights
	}
	if !(temperature > 0) || math.IsInf(temperature, 0) {
		return fmt.Errorf("temperature is %v, want above 0", temperature)
	}
	c := e.decoder.Config
	for i, r := range rows {
		if err := c.validate(r.Prompt, r.Completion, len(r.Completion)); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	for _, b := range e.forwardBatches(p.perToken, rows) {
		datasets.Progress(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := e.forwardBatch(p, b, rows, temperature)
		if err != nil {
			return err
		}
		err = visit(b, out)
		release(out...)
		if err != nil {
			return err
		}
	}
	return nil
}

// forwardBatches cuts rows into batches of a pass that holds perToken floats for each token.
func (e *Engine) forwardBatches(perToken int, rows []Row) []batch {
	c := e.decoder.Config
	all := groups(len(rows), func(i int) ([]int32, int) { return rows[i].Prompt, len(rows[i].Completion) })
	if !e.decoder.fused {
		samples := width(all, 1)
		return batches(split(all, samples), samples, c.fits(scoreFloats))
	}
	lengths := make([]int, len(rows))
	for i, r := range rows {
		lengths[i] = len(r.Completion)
	}
	floats := scoreFloats
	if e.resident != nil {
		floats = deviceFloats
	}
	return c.strips(all, lengths, c.tokensWithin(floats, 1, perToken), 1)
}

func (e *Engine) forwardBatch(p pass, b batch, rows []Row, temperature float64) ([]*tensors.Tensor, error) {
	u := &uploads{device: e.device}
	padded := e.decoder.batchTensors(u, b, temperature, func(i int) ([]int32, []int32) {
		return rows[i].Prompt, rows[i].Completion
	})
	if p.inputs != nil {
		p.inputs(u, b)
	}
	defer func() { release(u.list...) }()
	if u.err != nil {
		return nil, u.err
	}
	return p.programs[index(padded)].call(append(e.weights[:len(e.weights):len(e.weights)], u.list...))
}

func (e *Engine) buildScore(padded bool) func([]*graph.Node) []*graph.Node {
	return func(inputs []*graph.Node) []*graph.Node {
		d := e.decoder.begin()
		in, _ := d.batchInputs(inputs[len(e.slots):], padded)
		logprob, entropy := d.forward(d.network(inputs), in)
		return d.fence.close([]*graph.Node{logprob, entropy})
	}
}
