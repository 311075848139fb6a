package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads like its formulas
)

// Adapter is low-rank changes of a policy's matrices (LoRA, arXiv:2106.09685).
// Each target W, [out, in], is used as
//
//	W + (Alpha/Rank)·B·A,   A: [Rank, in],   B: [out, Rank]
type Adapter struct {
	Rank    int
	Alpha   float64
	Targets []string // of loraTargets, in their order
	Weights Weights  // A and B of every target, in the order of layout
}

// loraTargets are the matrices that can have adapters, in the order of a layer.
var loraTargets = []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

// adapter is what the settings ask for, without weights.
func (l Learning) adapter() *Adapter {
	a := &Adapter{Rank: l.LoRARank, Alpha: l.LoRAAlpha}
	if a.Alpha == 0 {
		a.Alpha = 2 * float64(a.Rank)
	}
	for _, t := range loraTargets {
		if len(l.LoRATargets) == 0 || slices.Contains(l.LoRATargets, t) {
			a.Targets = append(a.Targets, t)
		}
	}
	return a
}

// The names of PEFT's files, and of the tensors in them.
const (
	AdapterFile       = "adapter_model.safetensors"
	AdapterConfigFile = "adapter_config.json"

	peftPrefix      = "base_model.model."
	suffixA         = ".lora_A.weight"
	suffixB         = ".lora_B.weight"
	suffixOfWeights = ".weight"
)

// clone copies an adapter; nil stays nil.
func (a *Adapter) clone() *Adapter {
	if a == nil {
		return nil
	}
	c := *a
	c.Weights = a.Weights.Clone()
	return &c
}

func (a *Adapter) scale() float64 { return a.Alpha / float64(a.Rank) }

// targets calls f with the index in Config.Layout of every matrix that has an
// adapter, in order: its A is tensor 2n of the adapter and its B is 2n+1.
func (a *Adapter) targets(c Config, f func(n, tensor int, p WeightShape)) {
	n := 0
	for i, p := range c.Layout() {
		for _, t := range a.Targets {
			if strings.HasSuffix(p.Name, "."+t+suffixOfWeights) {
				f(n, i, p)
				n++
			}
		}
	}
}

// layout lists the tensors of the adapter, under PEFT's names.
func (a *Adapter) layout(c Config) []WeightShape {
	var all []WeightShape
	a.targets(c, func(_, _ int, p WeightShape) {
		name := peftPrefix + strings.TrimSuffix(p.Name, suffixOfWeights)
		all = append(all, WeightShape{name + suffixA, []int{a.Rank, p.Shape[1]}}, WeightShape{name + suffixB, []int{p.Shape[0], a.Rank}})
	})
	return all
}

// initialise gives an adapter that changes nothing: A uniform within ±1/√in,
// which is PEFT's start, and B zero. A's elements are functions of the tensor's
// name and the element alone: the same in every experiment.
func (a *Adapter) initialise(c Config) {
	a.Weights = nil
	for i, p := range a.layout(c) {
		t := Tensor{Name: p.Name, Shape: p.Shape, Data: make([]float32, elements(p.Shape))}
		if i%2 == 0 {
			name := fnv.New64a()
			name.Write([]byte(t.Name))
			bound := 1 / math.Sqrt(float64(p.Shape[1]))
			for j := range t.Data {
				u, _ := uniform2(0, name.Sum64(), uint64(j))
				t.Data[j] = float32(bound * (2*u - 1))
			}
		}
		a.Weights = append(a.Weights, t)
	}
}

// merged is base with the adapter added to it; targets are copied.
func (a *Adapter) merged(c Config, base Weights) Weights {
	w := slices.Clone(base)
	scale := float32(a.scale())
	a.targets(c, func(n, tensor int, p WeightShape) {
		down, up, in := a.Weights[2*n].Data, a.Weights[2*n+1].Data, p.Shape[1]
		data := slices.Clone(base[tensor].Data)
		for row := range p.Shape[0] {
			for k, b := range up[row*a.Rank : (row+1)*a.Rank] {
				for j, x := range down[k*in : (k+1)*in] {
					data[row*in+j] += scale * b * x
				}
			}
		}
		w[tensor].Data = data
	})
	return w
}

// Merge adds the state's adapter to its weights, where it has one. Moments go,
// since they were the adapter's.
func (s *State) Merge() {
	if s.Adapter == nil {
		return
	}
	s.Weights = s.Adapter.merged(s.Config, s.Weights)
	s.Adapter, s.Moments1, s.Moments2 = nil, nil, nil
}

// adapt gives the state the adapter that the settings ask for, with a fresh
// optimizer, or says why the one it has is not that.
func (s *State) adapt(l Learning) error {
	want, have := l.adapter(), s.Adapter
	switch {
	case l.LoRARank == 0 && have == nil:
		return nil
	case l.LoRARank == 0:
		return fmt.Errorf("lora_r is 0, want %d as the policy's adapter has it", have.Rank)
	case have == nil:
		want.initialise(s.Config)
		s.Adapter, s.Moments1, s.Moments2, s.Step = want, want.Weights.Zeros(), want.Weights.Zeros(), 0
		return nil
	case have.Rank != want.Rank || have.Alpha != want.Alpha || !slices.Equal(have.Targets, want.Targets):
		return fmt.Errorf("lora_r %d, lora_alpha %v, lora_target_modules %v: the policy's adapter has %d, %v, %v",
			want.Rank, want.Alpha, want.Targets, have.Rank, have.Alpha, have.Targets)
	}
	return nil
}

// trained is what an update changes: the adapter's tensors, or all weights.
func (s *State) trained() Weights {
	if s.Adapter != nil {
		return s.Adapter.Weights
	}
	return s.Weights
}

// adapterSlots lists the graph inputs of the adapter, which follow those of the
// weights: A, then B in as many slots as its matrix has. Tensors count from
// the adapter's first.
func (c Config) adapterSlots(a *Adapter) []slot {
	var list []slot
	slots := c.slots()
	a.targets(c, func(n, tensor int, p WeightShape) {
		list = append(list, slot{tensor: 2 * n, rows: a.Rank, columns: p.Shape[1]})
		for _, s := range slots {
			if s.tensor == tensor {
				s.tensor, s.columns = 2*n+1, a.Rank
				list = append(list, s)
			}
		}
	})
	return list
}

// adapted is the weight inputs with the adapter's products added; the adapter's
// inputs follow the weights'.
func (d decoder) adapted(inputs []*Node, a *Adapter) []*Node {
	slots := d.slots()
	weights := slices.Clone(inputs[:len(slots)])
	rest := inputs[len(slots):]
	a.targets(d.Config, func(_, tensor int, _ WeightShape) {
		down := rest[0]
		rest = rest[1:]
		for i, s := range slots {
			if s.tensor == tensor {
				weights[i] = Add(weights[i], MulScalar(d.product(rest[0], down), a.scale()))
				rest = rest[1:]
			}
		}
	})
	return weights
}

// adapterConfig is PEFT's adapter_config.json, as far as it says anything here.
type adapterConfig struct {
	PeftType          string   `json:"peft_type"`
	TaskType          string   `json:"task_type"`
	BaseModel         *string  `json:"base_model_name_or_path"`
	Rank              int      `json:"r"`
	Alpha             float64  `json:"lora_alpha"`
	Dropout           float64  `json:"lora_dropout"`
	Bias              string   `json:"bias"`
	FanInFanOut       bool     `json:"fan_in_fan_out"`
	InferenceMode     bool     `json:"inference_mode"`
	UseRSLoRA         bool     `json:"use_rslora"`
	UseDoRA           bool     `json:"use_dora"`
	TargetModules     []string `json:"target_modules"`
	ModulesToSave     []string `json:"modules_to_save"`
	LayersToTransform []int    `json:"layers_to_transform"`
}

// files are the adapter in PEFT's layout.
func (a *Adapter) files() []file {
	config := adapterConfig{PeftType: "LORA", TaskType: "CAUSAL_LM", Rank: a.Rank, Alpha: a.Alpha, Bias: "none", InferenceMode: true, TargetModules: a.Targets}
	return []file{
		{AdapterConfigFile, func() []byte { return append(appendJSON(nil, config), '\n') }},
		{AdapterFile, func() []byte { return EncodeSafetensors(a.Weights, map[string]string{"format": "pt"}) }},
	}
}

// openAdapter reads the adapter of a checkpoint; nil where it has none.
func openAdapter(open open, c Config) (*Adapter, error) {
	config, err := open.all(AdapterConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", AdapterConfigFile, err)
	}
	tensors, _, err := readTensors(open, AdapterFile)
	if err != nil {
		return nil, err
	}
	return newAdapter(c, config, tensors)
}

// newAdapter makes an adapter for a model of the given shape out of what PEFT's
// files hold.
func newAdapter(c Config, config []byte, tensors []Tensor) (*Adapter, error) {
	var v adapterConfig
	if err := json.Unmarshal(config, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", AdapterConfigFile, err)
	}
	if v.PeftType != "LORA" || v.Bias != "none" || v.FanInFanOut || v.UseRSLoRA || v.UseDoRA || v.ModulesToSave != nil || v.LayersToTransform != nil {
		return nil, fmt.Errorf("%s: want peft_type LORA of all layers, without bias, fan_in_fan_out, use_rslora, use_dora or modules_to_save", AdapterConfigFile)
	}
	l := DefaultLearning()
	l.LoRARank, l.LoRAAlpha, l.LoRATargets = v.Rank, v.Alpha, v.TargetModules
	if err := l.Validate(); err != nil || v.Rank == 0 || v.Alpha == 0 || len(v.TargetModules) == 0 {
		return nil, fmt.Errorf("%s: want r, lora_alpha and target_modules: %w", AdapterConfigFile, errors.Join(err, errUnset))
	}
	a := l.adapter()
	var err error
	if a.Weights, err = arrange(a.layout(c), tensors); err != nil {
		return nil, fmt.Errorf("%s: %w", AdapterFile, err)
	}
	return a, nil
}

var errUnset = errors.New("one of them is missing or out of range")
