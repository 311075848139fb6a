package policy

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
	"github.com/gomlx/gomlx/core/tensors"
	"golang.org/x/sync/errgroup"

	"github.com/gradus-rl/gradus/datasets"
)

// resident is a policy and its optimizer on a device, where an update leaves them: the
// host sends a batch and hears of its
// tokens. Every list has a tensor per slot. Of several devices the first has it, and
// the others have the base and, during an optimizer step, copies of what is learnt.
type resident struct {
	bases         [][]*tensors.Tensor // by device: weights that an adapter is added to, nil without one
	learnt        []*tensors.Tensor   // what is learnt: the adapter's weights, or all
	first, second []*tensors.Tensor   // moments
	slots         []slot              // of what is learnt
	step          int64               // optimizer steps taken
	ahead         bool                // of the trainer's state in the host's memory

	zeros, add, norm, apply *program
}

// inhabit brings the state to the devices. After an error the Trainer must leave them.
func (t *Trainer) inhabit() (err error) {
	device, c := t.shards[0].device, t.state.Config
	r := &resident{bases: make([][]*tensors.Tensor, len(t.shards)), slots: c.slots(), step: t.state.Step}
	t.resident = r
	if t.state.Adapter != nil {
		if r.bases[0], err = upload(device, r.slots, t.state.Weights); err != nil {
			return err
		}
		for i, s := range t.shards[1:] {
			if r.bases[i+1], err = s.device.copied(r.bases[0]); err != nil {
				return err
			}
		}
		r.slots = c.adapterSlots(t.state.Adapter)
	}
	for _, part := range []struct {
		to   *[]*tensors.Tensor
		from Weights
	}{{&r.learnt, t.state.trained()}, {&r.first, t.state.Moments1}, {&r.second, t.state.Moments2}} {
		if *part.to, err = upload(device, r.slots, part.from); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		at    **program
		name  string
		build func([]*Node) []*Node
	}{{&r.zeros, "zeros", r.buildZeros}, {&r.add, "add", r.buildAdd}, {&r.norm, "norm", r.buildNorm}, {&r.apply, "adamw", r.buildApply}} {
		if *p.at, err = newProgram(device, p.name, p.build); err != nil {
			return err
		}
	}
	return nil
}

// leave drops what is on the devices.
func (t *Trainer) leave() {
	if r := t.resident; r != nil {
		release(slices.Concat(append(r.bases, r.learnt, r.first, r.second)...)...)
		t.resident = nil
	}
}

// fetch brings the state in the host's memory up to date.
func (t *Trainer) fetch() error {
	r := t.resident
	if r == nil || !r.ahead {
		return nil
	}
	next := t.state
	learnt, first, second := t.state.trained().Zeros(), t.state.Moments1.Zeros(), t.state.Moments2.Zeros()
	for _, part := range []struct {
		to   Weights
		from []*tensors.Tensor
	}{{learnt, r.learnt}, {first, r.first}, {second, r.second}} {
		if err := accumulate(part.to, r.slots, part.from); err != nil {
			return err
		}
		for _, x := range part.from {
			x.FinalizeLocal() // a copy in the host's memory that nobody reads again
		}
	}
	if next.Adapter = next.Adapter.clone(); next.Adapter != nil {
		next.Adapter.Weights = learnt
	} else {
		next.Weights = learnt
	}
	next.Moments1, next.Moments2, next.Step = first, second, r.step
	t.state, r.ahead = next, false
	return nil
}

// updateResident is Update where the state lives on the device.
func (t *Trainer) updateResident(ctx context.Context, parts [][]Sample, l Learning) (metrics, error) {
	var m metrics
	if t.resident == nil {
		if err := t.inhabit(); err != nil {
			t.leave()
			return m, fmt.Errorf("to the device: %w", err)
		}
	}
	if len(parts) > 1 { // what a failure of a later step goes back to
		if err := t.fetch(); err != nil {
			return m, err
		}
	}
	for i, part := range parts {
		if err := t.residentStep(ctx, part, l, &m); err != nil {
			if i > 0 {
				t.leave()
			}
			return m, err
		}
	}
	return m, nil
}

// residentStep takes one optimizer step, or leaves everything as it was.
func (t *Trainer) residentStep(ctx context.Context, samples []Sample, l Learning, m *metrics) error {
	r, s := t.resident, t.shards[0]
	step := r.step + 1
	d := newDivided(t.state.Config, samples, l, len(t.shards))
	sum, loss, err := t.residentGradient(ctx, d, l)
	defer func() { release(sum...) }()
	if err != nil {
		return err
	}
	norm, err := scalarOf(r.norm.call(sum))
	if err != nil {
		return err
	}
	scale, err := l.clip(norm)
	if err != nil {
		return err
	}
	rate := l.Rate(r.step)
	u := &uploads{device: s.device}
	defer func() { release(u.list...) }()
	for _, x := range []float64{scale, l.AdamBeta1, l.AdamBeta2, l.AdamEpsilon, 1 - rate*l.WeightDecay,
		rate / (1 - math.Pow(l.AdamBeta1, float64(step))), 1 / math.Sqrt(1-math.Pow(l.AdamBeta2, float64(step)))} {
		put(u, []float32{float32(x)})
	}
	if u.err != nil {
		return u.err
	}
	gradient := sum
	sum = nil // consumed
	out, err := r.apply.consume(slices.Concat(r.learnt, r.first, r.second, gradient), u.list)
	if err != nil {
		r.learnt, r.first, r.second = nil, nil, nil // gone, and with them the trainer if it was ahead
		t.leave()
		return err
	}
	n := len(r.slots)
	r.learnt, r.first, r.second = out[:n:n], out[n:2*n:2*n], out[2*n:3*n:3*n]
	whole, err := scalarOf(out[3*n:], nil)
	if err != nil {
		return err
	}
	if whole == 0 {
		return fmt.Errorf("a weight becomes NaN or infinite: %w", ErrNotFinite)
	}
	r.step, r.ahead = step, true
	d.count(m, loss, l)
	m.step(norm, rate)
	return nil
}

// residentGradient is the sum of the gradients of all batches, a tensor per slot on the
// first device, and their loss. Devices compute their batches at the same time; their
// sums are added in the devices' order.
func (t *Trainer) residentGradient(ctx context.Context, d *divided, l Learning) (sum []*tensors.Tensor, loss float64, err error) {
	r := t.resident
	sums, losses := make([][]*tensors.Tensor, len(t.shards)), make([]float64, len(t.shards))
	work, ctx := errgroup.WithContext(ctx)
	for i, s := range t.shards {
		if len(d.parts[i]) == 0 {
			continue
		}
		work.Go(func() (err error) {
			learnt := r.learnt
			if i > 0 {
				learnt, err = s.device.copied(r.learnt)
				defer release(learnt...)
				if err != nil {
					return err
				}
			}
			if sums[i], err = r.zeros.on(s.device).call(learnt); err != nil {
				return err
			}
			weights := slices.Concat(r.bases[i], learnt)
			for _, b := range d.parts[i] {
				datasets.Progress(ctx)
				if err := ctx.Err(); err != nil {
					return err
				}
				var part float64
				if part, sums[i], err = s.compute(d, b, sums[i], weights, l); err != nil {
					return err
				}
				losses[i] += part
			}
			return nil
		})
	}
	err = work.Wait()
	for i, other := range sums {
		loss += losses[i]
		switch {
		case err != nil:
			release(other...)
		case i == 0:
			sum = other
		case other != nil:
			sum, err = r.add.consume(slices.Concat(sum, other), nil)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	if !finite(loss) {
		return sum, 0, fmt.Errorf("the loss is %v: %w", loss, ErrNotFinite)
	}
	return sum, loss, nil
}

// scalarOf reads and releases the one output of a call.
func scalarOf(out []*tensors.Tensor, err error) (float64, error) {
	if err != nil {
		return 0, err
	}
	defer release(out...)
	values, err := read(out[0])
	if err != nil {
		return 0, err
	}
	return float64(values[0]), nil
}

// buildZeros makes zeros like the inputs.
func (r *resident) buildZeros(inputs []*Node) []*Node {
	zeros := make([]*Node, len(inputs))
	for i, x := range inputs {
		zeros[i] = ZerosLike(x)
	}
	return zeros
}

// buildAdd adds the second half of the inputs to the first.
func (r *resident) buildAdd(inputs []*Node) []*Node {
	n := len(inputs) / 2
	sums := make([]*Node, n)
	for i := range sums {
		sums[i] = Add(inputs[i], inputs[n+i])
	}
	return sums
}

// buildNorm is the Euclidean norm of all inputs together.
func (r *resident) buildNorm(inputs []*Node) []*Node {
	var sum *Node
	for _, x := range inputs {
		if part := ReduceAllSum(Mul(x, x)); sum == nil {
			sum = part
		} else {
			sum = Add(sum, part)
		}
	}
	return []*Node{Sqrt(sum)}
}

// buildApply is State.adamW: of weights, first and second moments and gradients, and
// then of the scalars in the order of residentStep, the new weights and moments, and 1.
// Where a new weight is not finite all are as they were, and the last is 0.
func (r *resident) buildApply(inputs []*Node) []*Node {
	n := len(r.slots)
	s := inputs[4*n:]
	scale, b1, b2, epsilon, keep, stepSize, root := s[0], s[1], s[2], s[3], s[4], s[5], s[6]
	var next [3][]*Node
	var sound *Node
	for i := range n {
		w, m, v, g := inputs[i], inputs[n+i], inputs[2*n+i], Mul(inputs[3*n+i], scale)
		m = Add(Mul(b1, m), Mul(OneMinus(b1), g))
		v = Add(Mul(b2, v), Mul(OneMinus(b2), Mul(g, g)))
		if !r.slots[i].vector {
			w = Mul(keep, w)
		}
		w = Sub(w, Div(Mul(stepSize, m), Add(Mul(Sqrt(v), root), epsilon)))
		next[0], next[1], next[2] = append(next[0], w), append(next[1], m), append(next[2], v)
		// |w| ≤ the greatest number holds of no NaN and no infinity.
		ok := ReduceMin(ConvertDType(LessOrEqual(Abs(w), ConstAs(w, math.MaxFloat32)), dtypes.Float32))
		if sound == nil {
			sound = ok
		} else {
			sound = Min(sound, ok)
		}
	}
	var out []*Node
	for k, list := range next {
		for i, x := range list {
			good := BroadcastToShape(GreaterThan(sound, ScalarZero(x.Graph(), dtypes.Float32)), shapes.Make(dtypes.Bool, x.Shape().Dimensions...))
			out = append(out, Where(good, x, inputs[k*n+i]))
		}
	}
	return append(out, sound)
}
