package policy

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// trained is a state as an update leaves it.
func trained(t testing.TB) *State {
	t.Helper()
	c, tok := tiny(), mustTokenizer(t, "0123456789")
	eos, pad := tok.EOS(), tok.Pad()
	c.EOSTokenID, c.PadTokenID = TokenIDs{eos}, &pad
	return &State{
		Config: c, Tokenizer: tok, Step: 12,
		Weights: NewWeights(c, 1), Moments1: NewWeights(c, 2), Moments2: NewWeights(c, 3),
	}
}

var compareStates = cmp.AllowUnexported(Tokenizer{})

func TestStateInAStore(t *testing.T) {
	ctx, store, s := context.Background(), datasets.NewMemory(), trained(t)
	lineage := datasets.Lineage{Stage: "update", Version: 1, Seed: 3, Step: 4}
	ref, err := SaveState(ctx, store, s, lineage)
	if err != nil {
		t.Fatal(err)
	}
	again, err := SaveState(ctx, store, s, lineage)
	if err != nil || again != ref {
		t.Errorf("saved twice: %v, %v, want %v", again, err, ref)
	}
	if parsed, err := datasets.ParseRef(ref.String()); err != nil || parsed != ref {
		t.Errorf("the ref reads back as %v, %v", parsed, err)
	}
	got, err := LoadState(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got, compareStates); diff != "" {
		t.Error(diff)
	}
	model, err := LoadModel(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	want := *s
	want.Moments1, want.Moments2 = nil, nil
	if diff := cmp.Diff(&want, model, compareStates); diff != "" {
		t.Error(diff)
	}
	m, err := LoadManifest(ctx, store, ref)
	if err != nil || m.Step != 12 || m.Lineage.Key() != lineage.Key() || len(m.Files) != 5 {
		t.Errorf("manifest %+v, %v", m, err)
	}
}

// The head's moments are those of its own tensor or of the embedding, after a
// real update, and none before.
func TestHeadMoments(t *testing.T) {
	for name, index := range map[string]int{"untied": len(tinyModels["untied"].Layout()) - 1, "tied": 0} {
		c := tinyModels[name]
		trainer := newTestTrainer(t, &State{Config: c, Weights: NewWeights(c, 3)})
		if m, v := must(trainer.State()).HeadMoments(); m != nil || v != nil {
			t.Errorf("%s: there are moments before the first update", name)
		}
		if _, err := trainer.Update(context.Background(), copyTask(c, 4, 1), DefaultLearning()); err != nil {
			t.Fatal(err)
		}
		s := must(trainer.State())
		m, v := s.HeadMoments()
		if len(m) != c.VocabSize*c.HiddenSize || len(v) != len(m) || &m[0] != &s.Moments1[index].Data[0] || &v[0] != &s.Moments2[index].Data[0] {
			t.Errorf("%s: moments are not those of tensor %d", name, index)
		}
		s.Moments1, s.Moments2 = nil, nil
		if m, v := s.HeadMoments(); m != nil || v != nil {
			t.Errorf("%s: there are moments of a policy without its optimizer", name)
		}
	}
}

// A fresh policy has no optimizer file; a policy whose moments were dropped
// keeps its step.
func TestStateWithoutMoments(t *testing.T) {
	for _, step := range []int64{0, 7} {
		s := trained(t)
		s.Moments1, s.Moments2, s.Step = nil, nil, step
		path := filepath.Join(t.TempDir(), "policy")
		if err := WriteDir(path, s); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(filepath.Join(path, OptimizerFile))
		if errors.Is(err, fs.ErrNotExist) != (step == 0) {
			t.Errorf("step %d: %s: %v", step, OptimizerFile, err)
		}
		got, err := ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got, compareStates); diff != "" {
			t.Error(diff)
		}
	}
}

// The end token of the tokenizer goes into config.json, where generate of
// Hugging Face looks for it.
func TestStateNamesTheEndToken(t *testing.T) {
	s := trained(t)
	s.Config.EOSTokenID, s.Config.PadTokenID = nil, nil
	ref, err := SaveState(context.Background(), datasets.NewMemory(), s, datasets.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	named, err := SaveState(context.Background(), datasets.NewMemory(), trained(t), datasets.Lineage{})
	if err != nil || named != ref {
		t.Errorf("%v, %v, want %v", named, err, ref)
	}
}

func TestLoadStateRefuses(t *testing.T) {
	ctx, store := context.Background(), datasets.NewMemory()
	if _, err := LoadState(ctx, store, datasets.Ref{Kind: "rollouts/1"}); err == nil || !strings.Contains(err.Error(), `has kind "rollouts/1", want "policy"`) {
		t.Errorf("a ref of another kind: %v", err)
	}
	ref, err := SaveState(ctx, store, trained(t), datasets.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := LoadManifest(ctx, store, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, "objects/"+m.Files[OptimizerFile].Hash); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadState(ctx, store, ref); !errors.Is(err, datasets.ErrNotFound) || !strings.Contains(err.Error(), OptimizerFile) {
		t.Errorf("error %v, want that %s is not found", err, OptimizerFile)
	}
	if _, err := LoadModel(ctx, store, ref); err != nil {
		t.Errorf("the model does not need the optimizer: %v", err)
	}
	text, err := datasets.SaveBlob(ctx, store, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	text.Kind = KindPolicy
	if _, err := LoadState(ctx, store, text); err == nil || !strings.Contains(err.Error(), "manifest") {
		t.Errorf("error %v, want one that names the manifest", err)
	}
	empty, err := datasets.SaveBlob(ctx, store, []byte(`{"files":{},"step":0,"lineage":{"stage":"x","version":1,"seed":1,"step":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	empty.Kind = KindPolicy
	if _, err := LoadState(ctx, store, empty); err == nil || !strings.Contains(err.Error(), "config.json: not in the manifest") {
		t.Errorf("error %v, want that config.json is not in the manifest", err)
	}
}

// What is no folder of a model is named for what it is.
func TestReadDirOfOthers(t *testing.T) {
	for _, tc := range []struct{ have, lack, want string }{
		{AdapterConfigFile, ConfigFile, "a PEFT adapter without its model"},
		{"pytorch_model.bin", WeightsFile, "its weights are pickled"},
		{"pytorch_model-00001-of-00002.bin", WeightsFile, "its weights are pickled"},
		{"", "", "no such folder; models are not downloaded"},
	} {
		path := filepath.Join(t.TempDir(), "[policy]")
		if tc.have != "" {
			if err := errors.Join(WriteDir(path, trained(t)), os.WriteFile(filepath.Join(path, tc.have), nil, 0o600), os.Remove(filepath.Join(path, tc.lack)), os.Remove(filepath.Join(path, OptimizerFile))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadDir(path); err == nil || !strings.Contains(err.Error(), path+": ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.have, err, tc.want)
		}
	}
}

func TestReadDirRefuses(t *testing.T) {
	s := trained(t)
	tensors := func(change func(w Weights) Weights) []byte {
		return EncodeSafetensors(change(s.Weights.Clone()), nil)
	}
	for _, tc := range []struct {
		file string
		data []byte // nil: the file is missing
		want string
	}{
		{ConfigFile, nil, "config.json: no such file"},
		{ConfigFile, []byte("{"), "config.json: policy config: not a config.json"},
		{ConfigFile, edit(t, s.Config.JSON(), map[string]any{"model_type": "gemma"}), `config.json: policy config: model_type is "gemma"`},
		{ConfigFile, edit(t, s.Config.JSON(), map[string]any{"eos_token_id": 5}), "config.json: eos_token_id is [5], want 1"},
		{ConfigFile, edit(t, s.Config.JSON(), map[string]any{"vocab_size": 12}), "tensor model.embed_tokens.weight: shape [13 16], want [12 16]"},
		{TokenizerFile, nil, "tokenizer.json: no such file"},
		{TokenizerFile, (&Tokenizer{tokens: []string{UnkToken, "a"}}).JSON(), "tokenizer.json: tokenizer: no end token"},
		{TokenizerFile, mustTokenizer(t, "0123456789abc").JSON(), "tokenizer.json: 16 tokens, want at most the vocab_size of config.json, 13"},
		{WeightsFile, nil, "model.safetensors: no such file"},
		{WeightsFile, []byte{}, "model.safetensors: safetensors: file of 0 bytes"},
		{WeightsFile, EncodeSafetensors(s.Weights, nil)[:5000], "model.safetensors: safetensors: tensor model.layers."},
		{WeightsFile, tensors(func(w Weights) Weights { return w[1:] }), "model.safetensors: tensor model.embed_tokens.weight: missing, want shape [13 16]"},
		{WeightsFile, tensors(func(w Weights) Weights { return append(w, Tensor{Name: "x", Shape: []int{0}}) }), "model.safetensors: tensor x: not part of the model"},
		{OptimizerFile, EncodeSafetensors(nil, nil), `optimizer.safetensors: __metadata__.step is "", want`},
		{OptimizerFile, EncodeSafetensors(nil, map[string]string{"step": "-1"}), `optimizer.safetensors: __metadata__.step is "-1", want`},
		{OptimizerFile, EncodeSafetensors(s.Weights, map[string]string{"step": "1"}), "optimizer.safetensors: tensor model.embed_tokens.weight: want a name that ends in .exp_avg"},
		{OptimizerFile, EncodeSafetensors([]Tensor{{"x.exp_avg", []int{0}, nil}}, map[string]string{"step": "1"}), "optimizer.safetensors: first moments (.exp_avg): tensor model.embed_tokens.weight: missing"},
		{OptimizerFile, []byte("short"), "optimizer.safetensors: safetensors: file of 5 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "policy")
		if err := WriteDir(path, s); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(path, tc.file)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if tc.data != nil {
			if err := os.WriteFile(name, tc.data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadDir(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want one with the path and %q", err, tc.want)
		}
	}
}

// A state that is no checkpoint is refused before anything is written.
func TestSaveStateRefuses(t *testing.T) {
	for want, change := range map[string]func(s *State){
		"tokenizer.json: no tokenizer":                            func(s *State) { s.Tokenizer = nil },
		"config.json: policy config: rope_theta is 0":             func(s *State) { s.Config.RopeTheta = 0 },
		"model.safetensors: tensor lm_head.weight: missing":       func(s *State) { s.Weights = s.Weights[:len(s.Weights)-1] },
		"model.safetensors: 27 tensors, want 26":                  func(s *State) { s.Config.TieWordEmbeddings = true },
		"model.safetensors: tensor model.layers.0":                func(s *State) { s.Weights[0], s.Weights[1] = s.Weights[1], s.Weights[0] },
		"optimizer.safetensors: want first and second moments":    func(s *State) { s.Moments2 = nil },
		"optimizer.safetensors: tensor model.embed_tokens.weight": func(s *State) { s.Moments2[0].Shape = []int{1} },
		"optimizer.safetensors: step is -1, want at least 0":      func(s *State) { s.Step = -1 },
	} {
		s, store := trained(t), datasets.NewMemory()
		change(s)
		_, err := SaveState(context.Background(), store, s, datasets.Lineage{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if objects, err := store.List(context.Background(), ""); err != nil || len(objects) != 0 {
			t.Errorf("%s: %d objects written, %v", want, len(objects), err)
		}
	}
}

func TestWriteDirIsAtomic(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "runs", "policy")
	s := trained(t)
	if err := WriteDir(path, s); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(path, WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	other := trained(t)
	other.Weights = NewWeights(other.Config, 9)
	if err := WriteDir(path, other); err == nil || !strings.Contains(err.Error(), "the folder is not empty") {
		t.Errorf("error %v, want that the folder is not empty", err)
	}
	after, err := os.ReadFile(filepath.Join(path, WeightsFile))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a refused write changed the weights, %v", err)
	}
	other.Weights = other.Weights[1:]
	if err := WriteDir(filepath.Join(parent, "bad"), other); err == nil {
		t.Error("half a model is written")
	}
	if err := WriteDir(filepath.Join(path, ConfigFile, "x"), s); err == nil {
		t.Error("a folder below a file is written")
	}
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteDir(empty, s); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	for _, dir := range []string{parent, filepath.Dir(path)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || e.Name() == "bad" {
				t.Errorf("%s is left over", e.Name())
			}
		}
	}
}
