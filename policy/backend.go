package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Backend says on what policies compute. It holds no device by itself: every
// Engine and every gradient shard of a Trainer opens its own, so that they run
// side by side without sharing buffers or workers.
type Backend struct {
	spec   string
	open   func() (compute.Backend, error)
	fenced bool // graphs need fences; see fence
	fused  bool // a compiler fuses operations, and a Trainer's state stays on its device; see decoder
	half   bool // products are of bfloat16
}

// OpenBackend selects a backend:
//
//	"" or "go"      pure Go; fast with GOEXPERIMENT=simd
//	"onnx[:…]"      ONNX Runtime (default onnx:cpu); build tag onnx
//	"xla[:…]"       XLA by a PJRT plugin (default xla:cpu); build tag xla. xla:cpu and
//	                xla:cuda find one among Python's packages, or GoMLX's;
//	                xla:/path/plugin.so is one;
//	                ",deterministic" asks for the same bits every time, ",bf16"
//	                for products of bfloat16 (weights and all else stay float32)
//
// What follows the colon goes to GoMLX as it is. A backend that cannot start
// (no build tag, no shared library) is an error here and not at first use.
//
// The pure Go backend always runs its operations in sequence. Its default, to
// run independent ones in parallel, can hang: operations that wait for workers
// hold the slots those workers need.
func OpenBackend(spec string) (*Backend, error) {
	name, options, _ := strings.Cut(spec, ":")
	b := &Backend{spec: spec}
	switch name {
	case "", "go":
		b.spec = "go"
		if options != "" {
			return nil, fmt.Errorf("open backend %q: the go backend takes no options", spec)
		}
		b.open = func() (compute.Backend, error) { return gobackend.New("ops_sequential,creation_order") }
		b.fenced = true
	case "onnx":
		b.open = func() (compute.Backend, error) { return openONNX(options) }
	case "xla":
		list := strings.Split(options, ",")
		b.half = slices.Contains(list, "bf16")
		options = strings.Join(slices.DeleteFunc(list, func(o string) bool { return o == "bf16" }), ",")
		b.open = func() (compute.Backend, error) { return openXLA(options) }
		b.fused = true
	default:
		return nil, fmt.Errorf("open backend %q: want go, onnx or xla", spec)
	}
	probe, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("open backend %q: %w", spec, err)
	}
	probe.Finalize()
	return b, nil
}

// decoder builds the graphs of an architecture for this backend.
func (b *Backend) decoder(c Config, differentiable bool) decoder {
	return decoder{Config: c, differentiable: differentiable, fenced: b.fenced, fused: b.fused, half: b.half}
}

// String is the specification the backend was opened with.
func (b *Backend) String() string { return b.spec }

// program is a graph-building function and its executables, one per set of
// input shapes.
type program struct {
	device compute.Backend
	exec   *graph.Exec
}

// newProgram wraps a graph-building function of slices. Nothing is built
// before the first call.
func newProgram(device compute.Backend, name string, build func(inputs []*graph.Node) []*graph.Node) (*program, error) {
	exec, err := graph.NewExec(device, build)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", name, err)
	}
	return &program{device, exec.WithName(name).SetMaxCache(-1)}, nil
}

// call runs the program. Outputs belong to the caller, who releases them.
func (p *program) call(inputs []*tensors.Tensor) ([]*tensors.Tensor, error) {
	return p.consume(nil, inputs)
}

// consume is call with inputs before the others that it may overwrite. They are
// gone when it returns, also with an error.
func (p *program) consume(consumed, inputs []*tensors.Tensor) ([]*tensors.Tensor, error) {
	defer release(consumed...)
	args := make([]any, 0, len(consumed)+len(inputs))
	for _, t := range consumed {
		donated, err := graph.DonateTensorBuffer(t, p.device, 0)
		if err != nil {
			return nil, err
		}
		args = append(args, donated)
	}
	for _, t := range inputs {
		args = append(args, t)
	}
	outputs, _, err := p.exec.CallWithGraphOnDevice(0, args...)
	if err != nil && strings.Contains(err.Error(), "RESOURCE_EXHAUSTED") { // as XLA says it
		err = fmt.Errorf("the device has too little memory for this model and batch; gradus plan-memory says how much they need, and max_tokens_per_micro_batch bounds it: %w", err)
	}
	return outputs, err
}

// release frees tensors at once, for backends whose memory Go does not manage.
func release(ts ...*tensors.Tensor) {
	for _, t := range ts {
		if t != nil {
			// A tensor that cannot be freed is left to the garbage collector.
			_ = t.FinalizeAll()
		}
	}
}
