package policy

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewWeightsScales(t *testing.T) {
	c := tiny()
	c.VocabSize, c.HiddenSize, c.IntermediateSize = 200, 64, 96
	for _, w := range NewWeights(c, 1) {
		var sum, squares float64
		for _, x := range w.Data {
			sum, squares = sum+float64(x), squares+float64(x)*float64(x)
		}
		n := float64(len(w.Data))
		mean, std := sum/n, math.Sqrt(squares/n)
		want := 0.0
		switch {
		case strings.HasSuffix(w.Name, "norm.weight"):
			if mean != 1 || math.Abs(std-1) > 1e-6 {
				t.Errorf("%s: want all 1", w.Name)
			}
			continue
		case strings.HasSuffix(w.Name, "bias"):
		case strings.Contains(w.Name, "embed_tokens"):
			want = 0.5
		case strings.Contains(w.Name, "o_proj"), strings.Contains(w.Name, "lm_head"):
			want = 0.5 / 8 // ½/√64
		case strings.Contains(w.Name, "down_proj"):
			want = 0.5 / math.Sqrt(96)
		default:
			want = 1. / 8
		}
		// Five standard errors of a mean and of a deviation.
		if math.Abs(mean) > 5*want/math.Sqrt(n) || math.Abs(std-want) > 5*want/math.Sqrt(2*n) {
			t.Errorf("%s: mean %v, deviation %v, want 0 and %v", w.Name, mean, std, want)
		}
	}
}

// An element depends on seed, name and index only: neither depth nor the other
// tensors matter.
func TestNewWeightsIsCounterBased(t *testing.T) {
	shallow, deep := tiny(), tiny()
	deep.NumHiddenLayers, deep.TieWordEmbeddings = 3, true
	byName := map[string]Tensor{}
	for _, w := range NewWeights(deep, 7) {
		byName[w.Name] = w
	}
	differ := NewWeights(shallow, 8)
	for i, w := range NewWeights(shallow, 7) {
		if other, ok := byName[w.Name]; ok && !cmp.Equal(w, other) {
			t.Errorf("%s depends on the rest of the model", w.Name)
		}
		if len(w.Shape) == 2 && cmp.Equal(w, differ[i]) {
			t.Errorf("%s does not depend on the seed", w.Name)
		}
	}
	if a, b := byName["model.layers.0.self_attn.q_proj.weight"], byName["model.layers.1.self_attn.q_proj.weight"]; cmp.Equal(a.Data, b.Data) {
		t.Error("two layers start equal")
	}
}

func TestCloneAndZerosShareNoData(t *testing.T) {
	w := NewWeights(tiny(), 1)
	clone, zeros := w.Clone(), w.Zeros()
	if !cmp.Equal(w, clone) {
		t.Error("a clone differs")
	}
	clone[0].Data[0], zeros[0].Data[0] = 100, 100
	if w[0].Data[0] == 100 {
		t.Error("data is shared")
	}
	zeros[0].Data[0] = 0
	for i, z := range zeros {
		if z.Name != w[i].Name || !cmp.Equal(z.Shape, w[i].Shape) || !cmp.Equal(z.Data, make([]float32, len(w[i].Data))) {
			t.Errorf("%s: want zeros of the same name and shape", w[i].Name)
		}
	}
}

func TestArrange(t *testing.T) {
	c := tiny()
	w := NewWeights(c, 1)
	shuffled := append(append(Weights{}, w[5:]...), w[:5]...)
	got, err := c.Arrange(shuffled)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, got); diff != "" {
		t.Error(diff)
	}
	for want, bad := range map[string]func(w Weights) Weights{
		"tensor lm_head.weight: missing, want shape [13 16]":                          func(w Weights) Weights { return w[:len(w)-1] },
		"tensor model.norm.weight: given twice":                                       func(w Weights) Weights { return append(w, w[len(w)-2]) },
		"tensor model.embed_tokens.weight: shape [16 13], want [13 16]":               func(w Weights) Weights { w[0].Shape = []int{16, 13}; return w },
		"tensor model.embed_tokens.weight: 207 elements, want 208":                    func(w Weights) Weights { w[0].Data = w[0].Data[1:]; return w },
		"tensor x: not part of the model":                                             func(w Weights) Weights { return append(w, Tensor{Name: "x"}) },
		"tensor model.norm.weight: element 3 is NaN, want a finite number":            func(w Weights) Weights { w[len(w)-2].Data[3] = float32(math.NaN()); return w },
		"tensor model.norm.weight: element 0 is -Inf, want a finite number":           func(w Weights) Weights { w[len(w)-2].Data[0] = float32(math.Inf(-1)); return w },
		"tensor model.layers.1.mlp.up_proj.weight: missing, want shape [24 16]":       func(w Weights) Weights { w[23].Name = "y"; return w },
		"tensor model.layers.0.self_attn.k_proj.weight: shape [16 16], want [8 16]":   func(w Weights) Weights { w[4].Shape = []int{16, 16}; return w },
		"tensor model.layers.2.input_layernorm.weight: not part of the model that co": func(w Weights) Weights { return append(w, Tensor{Name: "model.layers.2.input_layernorm.weight"}) },
	} {
		if _, err := c.Arrange(bad(w.Clone())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	c.TieWordEmbeddings = true
	if got, err := c.Arrange(w); err != nil || len(got) != len(w)-1 {
		t.Errorf("a file's copy of tied embeddings: %v, want it dropped", err)
	}
}

func BenchmarkNewWeights(b *testing.B) {
	c := tiny()
	c.VocabSize, c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers = 64, 128, 384, 4
	for b.Loop() {
		NewWeights(c, 1)
	}
	b.ReportMetric(float64(c.Parameters())*float64(b.N)/b.Elapsed().Seconds(), "weights/s")
}
