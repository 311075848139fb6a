package policy

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// Measured are the figures of a model on a backend.
type Measured struct {
	Backend    string  `json:"backend"`
	Parameters int64   `json:"parameters"`
	FirstStep  float64 `json:"first_step_seconds"`         // an update with compiling
	FirstToken float64 `json:"first_generation_seconds"`   // generating with compiling
	Update     float64 `json:"update_tokens_per_second"`   // prompt and completion tokens of every row
	Generate   float64 `json:"generate_tokens_per_second"` // generated tokens
	Padding    float64 `json:"padding"`                    // share of padding in the update
	KL         float64 `json:"kl"`                         // mean k3 of the sampler's log-probs and the trainer's, nats a token
	MaxGap     float64 `json:"max_logprob_gap"`            // greatest difference of a token's log-prob between sampler and score pass
	Repeatable bool    `json:"repeatable"`                 // two updates of one state gave the same bits
}

// Measure is Bench with an engine for each shard of l, or one where a device has memory
// of its own, and with what sampler and trainer think of the same tokens. Rows are
// drawn by the sampler at temperature 1; every round is an update of them as l has it.
func Measure(ctx context.Context, b *Backend, w Workload, rounds int, l Learning) (Measured, error) {
	m := Measured{Backend: b.String(), Parameters: w.Config.Parameters()}
	n := l.Shards
	if b.fused {
		n = 1
	}
	engines, release, err := w.engines(b, n)
	if err != nil {
		return m, err
	}
	defer func() { release() }()
	rows := w.rows(1)
	var drawn []Completion
	for round := range rounds + 1 {
		took, err := seconds(func() (err error) {
			drawn, err = w.sample(ctx, engines, rows)
			return err
		})
		if err != nil {
			return m, err
		}
		if round == 0 {
			m.FirstToken = took
		} else {
			m.Generate = max(m.Generate, float64(len(rows)*w.CompletionLength)/took)
		}
	}
	samples, scored := make([]Sample, len(rows)), make([]Row, len(rows))
	rng := rand.New(rand.NewPCG(1, 2))
	for i, p := range rows {
		scored[i] = Row{p.IDs, drawn[i].IDs}
		samples[i] = Sample{Prompt: p.IDs, Completion: drawn[i].IDs, OldLogProbs: drawn[i].LogProbs, RefLogProbs: drawn[i].LogProbs}
		for range samples[i].Completion {
			samples[i].Advantages = append(samples[i].Advantages, float32(rng.NormFloat64()))
		}
	}
	judged, err := engines[0].Score(ctx, scored, 1)
	if err != nil {
		return m, err
	}
	for i, s := range judged {
		for t, lp := range s.LogProbs {
			m.MaxGap = max(m.MaxGap, math.Abs(float64(lp-drawn[i].LogProbs[t])))
		}
	}
	release() // the update has the device for itself
	release = func() {}

	trainer, err := NewTrainer(b, &State{Config: w.Config, Weights: NewWeights(w.Config, 1)})
	if err != nil {
		return m, err
	}
	defer trainer.Close()
	start := trainer.state
	var first uint64
	for round := range rounds + 2 {
		if round <= 1 {
			trainer.leave()
			trainer.state = start // an update replaces the state and leaves the old one alone
		}
		var u UpdateMetrics
		took, err := seconds(func() (err error) {
			u, err = trainer.Update(ctx, samples, l)
			return err
		})
		if err != nil {
			return m, err
		}
		switch round {
		case 0:
			m.FirstStep, m.KL, m.Padding = took, u.KL, u.Padding
			if first, err = trainer.checksum(); err != nil {
				return m, err
			}
			continue
		case 1:
			again, err := trainer.checksum()
			if err != nil {
				return m, err
			}
			m.Repeatable = again == first
		}
		m.Update = max(m.Update, float64(len(rows)*(w.PromptLength+w.CompletionLength))/took)
	}
	return m, nil
}

// checksum is that of the weights as they are now.
func (t *Trainer) checksum() (uint64, error) {
	err := t.fetch()
	return t.state.Weights.checksum(), err
}

// checksum is FNV-1a of all bits.
func (w Weights) checksum() uint64 {
	h := fnv.New64a()
	var buffer [4]byte
	for _, t := range w {
		for _, x := range t.Data {
			binary.LittleEndian.PutUint32(buffer[:], math.Float32bits(x))
			h.Write(buffer[:])
		}
	}
	return h.Sum64()
}
