package policy

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// tinyAdapter has no zeros, so that gradients reach both of its factors.
func tinyAdapter(c Config, l Learning) *Adapter {
	a := l.adapter()
	a.initialise(c)
	rng := rand.New(rand.NewPCG(9, 1))
	for _, t := range a.Weights {
		for i := range t.Data {
			t.Data[i] += float32(0.2 * rng.NormFloat64())
		}
	}
	return a
}

// shortSamples are those of testSamples that the state's context has room for.
func shortSamples(t *testing.T, s *State) []Sample {
	return slices.DeleteFunc(testSamples(t, s.Config, s.Weights, 1), func(x Sample) bool {
		return len(x.Prompt)+len(x.Completion) > s.Config.MaxPositionEmbeddings
	})
}

func loraLearning() Learning {
	l := DefaultLearning()
	l.LoRARank, l.LoRAAlpha, l.LearningRate = 2, 3, 1e-2
	return l
}

// The gradient of every factor must be the slope of the loss of the independent
// forward pass with merged weights.
func TestAdapterGradientIsSlope(t *testing.T) {
	for name, c := range tinyModels {
		for _, targets := range [][]string{nil, {"q_proj", "down_proj"}} {
			t.Run(fmt.Sprint(name, targets), func(t *testing.T) {
				l := loraLearning()
				l.LoRATargets = targets
				w := tinyWeights(c, 7)
				s := &State{Config: c, Weights: w, Adapter: tinyAdapter(c, l)}
				samples := testSamples(t, c, w, 1)[3:9]
				for i := range samples {
					samples[i].OldLogProbs = nil // ratios of 1 stay off the bounds
				}
				trainer := newTestTrainer(t, s)
				if err := trainer.open(l.Shards); err != nil {
					t.Fatal(err)
				}
				gradient, err := trainer.gradient(context.Background(), s, samples, l, &metrics{})
				if err != nil {
					t.Fatal(err)
				}
				frozen := make([][]float64, len(samples))
				for i, sample := range samples {
					frozen[i], _ = newReference(c, s.Adapter.merged(c, w)).score(sample.Prompt, sample.Completion, 1)
				}
				rng := rand.New(rand.NewPCG(1, 1))
				for k, tensor := range s.Adapter.Weights {
					original := slices.Clone(tensor.Data)
					direction := make([]float64, len(original))
					predicted := 0.0
					const h = 5e-3
					for j := range direction {
						direction[j] = rng.NormFloat64() / math.Sqrt(float64(len(direction)))
						predicted += 2 * h * direction[j] * float64(gradient[k].Data[j])
					}
					var side [2]float64
					for n, sign := range []float64{1, -1} {
						for j := range original {
							tensor.Data[j] = original[j] + float32(sign*h*direction[j])
						}
						side[n] = referenceLoss(c, s.Adapter.merged(c, w), samples, frozen, l)
					}
					copy(tensor.Data, original)
					if slope := side[0] - side[1]; math.Abs(slope-predicted) > 2*h*(2e-4+5e-3*math.Abs(slope/(2*h))) {
						t.Errorf("%s: slope %v, gradient says %v", tensor.Name, slope/(2*h), predicted/(2*h))
					}
				}
			})
		}
	}
}

// An update learns the adapter alone; it starts as no change at all; what is
// stored anew is the adapter; and a resumed trainer goes on bit by bit.
func TestAdapterLearnsAndIsStored(t *testing.T) {
	ctx := context.Background()
	s := trained(t)
	base := s.Weights.Clone()
	l := loraLearning()
	samples := shortSamples(t, s)

	start := *s
	if err := start.adapt(l); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(base, start.Adapter.merged(s.Config, base)); diff != "" {
		t.Errorf("a fresh adapter changes the weights:\n%s", diff)
	}
	for i := range samples { // to be made likelier
		x := &samples[i]
		logprobs, _ := newReference(s.Config, base).score(x.Prompt, x.Completion, 1)
		x.OldLogProbs, x.Mask, x.Advantages = nil, nil, slices.Repeat([]float32{1}, len(x.Completion))
		for _, lp := range logprobs {
			x.OldLogProbs = append(x.OldLogProbs, float32(lp))
		}
	}
	trainer := newTestTrainer(t, s)
	var losses []float64
	for range 6 {
		m, err := trainer.Update(ctx, samples[:4], l)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, m.Loss)
	}
	if !(losses[5] < losses[0]) {
		t.Errorf("losses %v do not fall", losses)
	}
	after := must(trainer.State())
	if diff := cmp.Diff(base, after.Weights); diff != "" {
		t.Errorf("the base changed:\n%s", diff)
	}
	if after.Step != 6 {
		t.Errorf("step is %d, want 6", after.Step)
	}

	store := datasets.NewMemory()
	ref, err := SaveState(ctx, store, after, datasets.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadState(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after, loaded, compareStates); diff != "" {
		t.Errorf("loaded state (-saved +loaded):\n%s", diff)
	}
	model, err := LoadModel(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after.Adapter.merged(after.Config, base), model.Weights); diff != "" || model.Adapter != nil {
		t.Errorf("the model to generate with is not merged:\n%s", diff)
	}
	for what, s := range map[string]*State{"model": model, "state": loaded} {
		path := filepath.Join(t.TempDir(), "served")
		if err := WriteDir(path, s.ForInference()); err != nil {
			t.Fatal(err)
		}
		if files, err := filepath.Glob(filepath.Join(path, "*.safetensors")); err != nil || len(files) != 1 {
			t.Errorf("%s: tensors for a server are in %v, %v", what, files, err)
		}
	}

	resumed := newTestTrainer(t, loaded)
	for _, tr := range []*Trainer{trainer, resumed} {
		if _, err := tr.Update(ctx, samples, l); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(must(trainer.State()).Adapter, must(resumed.State()).Adapter); diff != "" {
		t.Errorf("resumed:\n%s", diff)
	}
	next, err := SaveState(ctx, store, must(trainer.State()), datasets.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := LoadManifest(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	now, err := LoadManifest(ctx, store, next)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range now.Files {
		changed := r != before.Files[name]
		if want := name == AdapterFile || name == OptimizerFile; changed != want {
			t.Errorf("%s: stored anew is %v, want %v", name, changed, want)
		}
	}
}

func TestAdapterRefuses(t *testing.T) {
	ctx := context.Background()
	s := trained(t)
	l := loraLearning()
	samples := shortSamples(t, s)
	trainer := newTestTrainer(t, s)
	if _, err := trainer.Update(ctx, samples, l); err != nil {
		t.Fatal(err)
	}
	other := l
	other.LoRARank = 3
	for want, settings := range map[string]Learning{"lora_r is 0, want 2": DefaultLearning(), "lora_r 3": other} {
		if _, err := trainer.Update(ctx, samples, settings); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	files := must(trainer.State()).Adapter.files()
	for old, want := range map[string]string{
		`"peft_type":"LORA"`: "want peft_type LORA", `"r":2`: "lora_r", `"q_proj"`: "lora_target_modules", `"use_dora":false`: "use_dora",
	} {
		config := strings.Replace(string(files[0].encode()), old, map[string]string{
			`"peft_type":"LORA"`: `"peft_type":"IA3"`, `"r":2`: `"r":-1`, `"q_proj"`: `"embed_tokens"`, `"use_dora":false`: `"use_dora":true`,
		}[old], 1)
		if _, err := newAdapter(s.Config, []byte(config), must(trainer.State()).Adapter.Weights); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: error %v, want %q", old, err, want)
		}
	}
}
