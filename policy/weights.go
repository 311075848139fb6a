package policy

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
)

// Tensor is a named array of float32 in row-major order, under its Hugging
// Face name and in Hugging Face layout: linear weights are [out, in].
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
}

// Weights are the tensors of one model, in the order of Config.Layout.
type Weights []Tensor

// NewWeights draws the initial weights of a model:
//
//	embed_tokens                    N(0, 0.5²)
//	o_proj, down_proj, lm_head      N(0, (½/√in)²)
//	other matrices                  N(0, 1/in)
//	norms 1, biases 0
//
// where in is the matrix's second dimension. o_proj and down_proj write into
// the residual stream and lm_head into the logits; half the scale starts the
// model near the uniform distribution.
//
// Every element is a function of seed, tensor name and element index alone
// (Philox, counter-based), so the weights do not depend on the order of
// tensors, on the backend, or on how many layers there are.
func NewWeights(c Config, seed uint64) Weights {
	layout := c.Layout()
	weights := make(Weights, len(layout))
	for i, p := range layout {
		weights[i] = Tensor{Name: p.Name, Shape: p.Shape, Data: make([]float32, elements(p.Shape))}
		initialise(weights[i], seed)
	}
	return weights
}

// initialise fills one tensor by the rule its name selects.
func initialise(t Tensor, seed uint64) {
	var std float64
	switch {
	case strings.HasSuffix(t.Name, "norm.weight"):
		for i := range t.Data {
			t.Data[i] = 1
		}
		return
	case strings.HasSuffix(t.Name, ".bias"):
		return
	case t.Name == "model.embed_tokens.weight":
		std = 0.5
	case strings.HasSuffix(t.Name, "o_proj.weight"), strings.HasSuffix(t.Name, "down_proj.weight"), t.Name == "lm_head.weight":
		std = 0.5 / math.Sqrt(float64(t.Shape[1]))
	default:
		std = 1 / math.Sqrt(float64(t.Shape[1]))
	}
	name := fnv.New64a()
	name.Write([]byte(t.Name))
	for i := range t.Data {
		t.Data[i] = float32(std * normal(seed, name.Sum64(), uint64(i)))
	}
}

// Clone copies the weights; names and shapes are shared.
func (w Weights) Clone() Weights {
	c := slices.Clone(w)
	for i := range c {
		c[i].Data = slices.Clone(c[i].Data)
	}
	return c
}

// Zeros are tensors of the same names and shapes, all 0: fresh moments.
func (w Weights) Zeros() Weights {
	z := slices.Clone(w)
	for i := range z {
		z[i].Data = make([]float32, len(w[i].Data))
	}
	return z
}

// Arrange orders tensors as the layout of c has them and checks that they are
// exactly those: the error names the tensor that is missing, surplus, of the
// wrong shape, or holds NaN or infinity. A surplus lm_head.weight is dropped
// when the embeddings are tied, since files may carry the copy.
func (c Config) Arrange(tensors []Tensor) (Weights, error) {
	if c.TieWordEmbeddings {
		tensors = slices.DeleteFunc(slices.Clone(tensors), func(t Tensor) bool { return t.Name == "lm_head.weight" })
	}
	return arrange(c.Layout(), tensors)
}

// arrange is Config.Arrange for any layout.
func arrange(layout []WeightShape, tensors []Tensor) (Weights, error) {
	byName := make(map[string]Tensor, len(tensors))
	for _, t := range tensors {
		if _, ok := byName[t.Name]; ok {
			return nil, fmt.Errorf("tensor %s: given twice", t.Name)
		}
		byName[t.Name] = t
	}
	weights := make(Weights, len(layout))
	for i, p := range layout {
		t, ok := byName[p.Name]
		switch {
		case !ok:
			return nil, fmt.Errorf("tensor %s: missing, want shape %v", p.Name, p.Shape)
		case !slices.Equal(t.Shape, p.Shape):
			return nil, fmt.Errorf("tensor %s: shape %v, want %v", p.Name, t.Shape, p.Shape)
		case len(t.Data) != elements(p.Shape):
			return nil, fmt.Errorf("tensor %s: %d elements, want %d", p.Name, len(t.Data), elements(p.Shape))
		}
		for j, x := range t.Data {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, fmt.Errorf("tensor %s: element %d is %v, want a finite number", p.Name, j, x)
			}
		}
		weights[i] = t
		delete(byName, p.Name)
	}
	for _, t := range tensors { // in the order given, so that the error is always the same
		if _, surplus := byName[t.Name]; surplus {
			return nil, fmt.Errorf("tensor %s: not part of the model that config.json describes", t.Name)
		}
	}
	return weights, nil
}
