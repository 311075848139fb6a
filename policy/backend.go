package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Backend says on what policies compute. It holds no device by itself: every
// Engine and every gradient shard of a Trainer opens its own, so that they run
// side by side without sharing buffers or workers. Where there are several devices
// Engines take turns over them, and a Trainer uses all.
type Backend struct {
	spec    string
	start   func() (compute.Backend, error)
	devices int          // that are used
	engines atomic.Int64 // opened so far
	fenced  bool         // graphs need fences; see fence
	fused   bool         // a compiler fuses operations, and a Trainer's state stays on its device; see decoder
	half    bool         // products are of bfloat16
}

// OpenBackend selects a backend:
//
//	"" or "go"      pure Go; fast with GOEXPERIMENT=simd
//	"onnx[:…]"      ONNX Runtime (default onnx:cpu); build tag onnx
//	"xla[:…]"       XLA by a PJRT plugin (default xla:cpu); build tag xla. xla:cpu and
//	                xla:cuda find one among Python's packages, or GoMLX's;
//	                xla:/path/plugin.so is one;
//	                ",deterministic" asks for the same bits every time, ",bf16"
//	                for products of bfloat16 (weights and all else stay float32),
//	                ",devices=4" for the first four devices of the plugin, not one
//
// What follows the colon goes to GoMLX as it is. A backend that cannot start
// (no build tag, no shared library) is an error here and not at first use.
//
// The pure Go backend always runs its operations in sequence. Its default, to
// run independent ones in parallel, can hang: operations that wait for workers
// hold the slots those workers need.
func OpenBackend(spec string) (*Backend, error) {
	if err := CheckBackend(spec); err != nil {
		return nil, fmt.Errorf("open %w", err)
	}
	name, options, _ := strings.Cut(spec, ":")
	b := &Backend{spec: spec, devices: 1}
	switch name {
	case "", "go":
		b.spec = "go"
		b.start = func() (compute.Backend, error) { return gobackend.New("ops_sequential,creation_order") }
		b.fenced = true
	case "onnx":
		b.start = func() (compute.Backend, error) { return openONNX(options) }
	case "xla":
		b.devices, _ = Devices(spec) // checked
		list := strings.Split(options, ",")
		b.half = slices.Contains(list, "bf16")
		options = strings.Join(slices.DeleteFunc(list, func(o string) bool { return o == "bf16" || strings.HasPrefix(o, devicesOption) }), ",")
		b.start = func() (compute.Backend, error) { return openXLA(options) }
		b.fused = true
	}
	probe, err := b.start()
	if err != nil {
		return nil, fmt.Errorf("open backend %q: %w", spec, err)
	}
	defer probe.Finalize()
	if n := probe.NumDevices(); n < b.devices {
		return nil, fmt.Errorf("open backend %q: %d devices are asked for, and the plugin has %d", spec, b.devices, n)
	}
	return b, nil
}

// CheckBackend reports what is wrong with a specification of a backend, on whatever
// machine it will be opened.
func CheckBackend(spec string) error {
	name, options, _ := strings.Cut(spec, ":")
	switch name {
	case "", "go":
		if options != "" {
			return fmt.Errorf("backend %q: the go backend takes no options", spec)
		}
	case "onnx":
	case "xla":
		if _, err := Devices(spec); err != nil {
			return fmt.Errorf("backend %q: %w", spec, err)
		}
		for i, option := range strings.Split(options, ",") {
			key, _, _ := strings.Cut(option, "=")
			if i > 0 && !slices.Contains(xlaOptions, strings.TrimPrefix(key, "no")) {
				return fmt.Errorf("backend %q: unknown option %q; there are %s", spec, option, strings.Join(xlaOptions, ", "))
			}
		}
	default:
		return fmt.Errorf("backend %q: want go, onnx or xla, such as xla:cuda", spec)
	}
	return nil
}

// xlaOptions are ours and then GoMLX's.
var xlaOptions = []string{"bf16", "deterministic", "devices", "tf32", "preallocate", "memory_fraction", "allocator", "visible_devices", "shared_buffers", "use_tfrt_gpu_client"}

const devicesOption = "devices="

// Devices is how many devices a specification of a backend asks for.
func Devices(spec string) (int, error) {
	_, options, _ := strings.Cut(spec, ":")
	for option := range strings.SplitSeq(options, ",") {
		if number, ok := strings.CutPrefix(option, devicesOption); ok {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				return 0, fmt.Errorf("%s: want a number of at least 1", option)
			}
			return n, nil
		}
	}
	return 1, nil
}

// device is one of those of an opened backend.
type device struct {
	compute.Backend
	number compute.DeviceNum
}

// open opens the backend once more, with all its devices, which exchange tensors.
func (b *Backend) open() ([]device, error) {
	opened, err := b.start()
	if err != nil {
		return nil, err
	}
	all := make([]device, b.devices)
	for i := range all {
		all[i] = device{opened, compute.DeviceNum(i)}
	}
	return all, nil
}

// forEngine opens the backend once more for the next Engine. The last device is the first
// to take its turn, since a Trainer keeps most on the first.
func (b *Backend) forEngine() (device, error) {
	all, err := b.open()
	if err != nil {
		return device{}, err
	}
	turn := int(b.engines.Add(1)-1) % len(all)
	return all[len(all)-1-turn], nil
}

// copied is copies, on this device, of tensors on the first.
func (d device) copied(ts []*tensors.Tensor) ([]*tensors.Tensor, error) {
	var copies []*tensors.Tensor
	for _, t := range ts {
		from, err := t.Buffer(d.Backend, 0)
		if err == nil {
			from, err = from.CopyToDevice(d.number)
		}
		var one *tensors.Tensor
		if err == nil {
			one, err = tensors.FromBuffer(from)
		}
		if err != nil {
			return copies, fmt.Errorf("copy to device %d: %w", d.number, err)
		}
		copies = append(copies, one)
	}
	return copies, nil
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
	device device
	exec   *graph.Exec
}

// newProgram wraps a graph-building function of slices. Nothing is built
// before the first call.
func newProgram(d device, name string, build func(inputs []*graph.Node) []*graph.Node) (*program, error) {
	exec, err := graph.NewExec(d.Backend, build)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", name, err)
	}
	return &program{d, exec.WithName(name).SetMaxCache(-1)}, nil
}

// on is the program with the same executables on another device of its backend.
func (p *program) on(d device) *program { return &program{d, p.exec} }

// call runs the program. Inputs that are on another device move to the program's.
// Outputs belong to the caller, who releases them.
func (p *program) call(inputs []*tensors.Tensor) ([]*tensors.Tensor, error) {
	return p.consume(nil, inputs)
}

// consume is call with inputs before the others that it may overwrite. They are
// gone when it returns, also with an error.
func (p *program) consume(consumed, inputs []*tensors.Tensor) ([]*tensors.Tensor, error) {
	defer release(consumed...)
	args := make([]any, 0, len(consumed)+len(inputs))
	for _, t := range consumed {
		donated, err := graph.DonateTensorBuffer(t, p.device.Backend, p.device.number)
		if err != nil {
			return nil, err
		}
		args = append(args, donated)
	}
	for _, t := range inputs {
		args = append(args, t)
	}
	outputs, _, err := p.exec.CallWithGraphOnDevice(p.device.number, args...)
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
