package policy

import (
	"fmt"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

// slot is one graph input for weights: a matrix, cut out of a weight tensor.
// Vectors become columns. Query and key projections and norms take two slots, the first
// and the second half of each head, since rotary positions pair those halves
// and cutting activations apart costs more than cutting weights.
type slot struct {
	tensor        int // index in Config.Layout
	rows, columns int
	// A slot with heads holds rows [half·width, (half+1)·width) of every head.
	heads, width, half int
	vector             bool // the tensor is one: a norm or a bias
}

// slots lists the graph's weight inputs in the order of decoder.network.
func (c Config) slots() []slot {
	var slots []slot
	for i, p := range c.Layout() {
		s := slot{tensor: i, rows: p.Shape[0], columns: 1, vector: len(p.Shape) == 1}
		if len(p.Shape) == 2 {
			s.columns = p.Shape[1]
		}
		switch {
		case strings.Contains(p.Name, ".q_proj."):
			s.heads = c.NumAttentionHeads
		case strings.Contains(p.Name, ".k_proj."):
			s.heads = c.NumKeyValueHeads
		case strings.Contains(p.Name, ".q_norm."), strings.Contains(p.Name, ".k_norm."):
			s.heads = 1
		}
		if s.heads == 0 {
			slots = append(slots, s)
			continue
		}
		s.rows, s.width = s.rows/2, c.HeadDim()/2
		slots = append(slots, s)
		s.half = 1
		slots = append(slots, s)
	}
	return slots
}

// pieces calls f with every contiguous run of the slot: where it lies in the
// slot and in the tensor.
func (s slot) pieces(f func(inSlot, inTensor, length int)) {
	if s.heads == 0 {
		f(0, 0, s.rows*s.columns)
		return
	}
	run := s.width * s.columns
	for h := range s.heads {
		f(h*run, (2*h+s.half)*run, run)
	}
}

// upload copies weights to a device, one tensor per slot.
func upload(d device, slots []slot, w Weights) ([]*tensors.Tensor, error) {
	inputs := make([]*tensors.Tensor, len(slots))
	for i, s := range slots {
		data := make([]float32, s.rows*s.columns)
		s.pieces(func(to, from, n int) { copy(data[to:to+n], w[s.tensor].Data[from:from+n]) })
		var err error
		if inputs[i], err = matrix(d, data, s.rows, s.columns); err != nil {
			return nil, fmt.Errorf("upload %s: %w", w[s.tensor].Name, err)
		}
		if !d.HasSharedBuffers() { // the host needs no copy of it
			if err := inputs[i].MaterializeOnDevice(d.Backend, false, d.number); err != nil {
				return nil, fmt.Errorf("upload %s: %w", w[s.tensor].Name, err)
			}
			inputs[i].FinalizeLocal()
		}
	}
	return inputs, nil
}

// accumulate adds gradients, one tensor per slot, to sum.
func accumulate(sum Weights, slots []slot, gradients []*tensors.Tensor) error {
	for i, s := range slots {
		err := tensors.ConstFlatData(gradients[i], func(data []float32) {
			s.pieces(func(from, to, n int) {
				dst, src := sum[s.tensor].Data[to:to+n], data[from:from+n]
				for j, x := range src {
					dst[j] += x
				}
			})
		})
		if err != nil {
			return fmt.Errorf("read gradient of %s: %w", sum[s.tensor].Name, err)
		}
	}
	return nil
}

// matrix copies data to a device as a tensor of the given dimensions.
func matrix[T float32 | int32](d device, data []T, dims ...int) (*tensors.Tensor, error) {
	t, err := tensors.FromShapeForBackend(d.Backend, d.number, shapes.Make(dtypes.FromGenericsType[T](), dims...))
	if err != nil {
		return nil, err
	}
	return t, fill(t, data)
}

// fill replaces the contents of a tensor.
func fill[T float32 | int32](t *tensors.Tensor, data []T) error {
	return tensors.MutableFlatData(t, func(flat []T) { copy(flat, data) })
}

// read copies a tensor's contents.
func read(t *tensors.Tensor) ([]float32, error) { return tensors.CopyFlatData[float32](t) }
