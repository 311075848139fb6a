package policy

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// models are the folders of testdata/models, as transformers wrote them.
var models = map[string]struct {
	modelType string
	parts     int // files of weights
}{
	"qwen2":      {Qwen2, 1},
	"qwen2-tied": {Qwen2, 3},
	"qwen3":      {Qwen3, 1},
	"llama":      {Llama, 1},
	"mistral":    {Mistral, 1},
}

func readModel(t testing.TB, name string) *State {
	t.Helper()
	s, err := ReadDir(filepath.Join("testdata", "models", name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// expectation is what transformers computed for one prompt.
type expectation struct {
	Prompt   []int32   `json:"prompt"`
	Greedy   []int32   `json:"greedy"`
	LogProbs []float64 `json:"logprobs"` // of the greedy tokens
	First    []float64 `json:"first"`    // log-probabilities of all tokens behind the prompt
}

// Log-probabilities and greedy completions are those of transformers.
func TestAsTransformers(t *testing.T) { asTransformers(t, newTestEngine) }

func asTransformers(t *testing.T, newEngine func(testing.TB, Config, Weights) *Engine) {
	for name, m := range models {
		t.Run(name, func(t *testing.T) {
			s := readModel(t, name)
			if s.Config.ModelType != m.modelType || len(s.Config.EOSTokenID) != 2 || s.Config.EOSTokenID[0] != s.Tokenizer.EOS() {
				t.Errorf("model type %q, end tokens %v, of the tokenizer %d", s.Config.ModelType, s.Config.EOSTokenID, s.Tokenizer.EOS())
			}
			if parts, _ := filepath.Glob(filepath.Join("testdata", "models", name, "*.safetensors")); len(parts) != m.parts {
				t.Errorf("%d files of weights, want %d", len(parts), m.parts)
			}
			var want []expectation
			data, err := os.ReadFile(filepath.Join("testdata", "models", name, "expected.json"))
			if err == nil {
				err = json.Unmarshal(data, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			e := newEngine(t, s.Config, s.Weights)
			for _, x := range want {
				rows := []Row{{x.Prompt, x.Greedy}}
				for id := range s.Config.VocabSize {
					rows = append(rows, Row{x.Prompt, []int32{int32(id)}})
				}
				scored, err := e.Score(t.Context(), rows, 1)
				if err != nil {
					t.Fatal(err)
				}
				closeTo(t, "greedy tokens", scored[0].LogProbs, x.LogProbs, 1e-4)
				var first []float32
				for _, r := range scored[1:] {
					first = append(first, r.LogProbs[0])
				}
				closeTo(t, "first token", first, x.First, 1e-4)
				got, err := e.Generate(t.Context(), []Prompt{{IDs: x.Prompt}}, Sampling{Temperature: 0, TopP: 1, MaxCompletionLength: 24}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(got[0].IDs, x.Greedy) {
					t.Errorf("greedy %v, want %v", got[0].IDs, x.Greedy)
				}
			}
		})
	}
}

// What came from elsewhere goes through the store and out again as it came, in
// one file of weights or many.
func TestModelsRoundTrip(t *testing.T) {
	for name := range models {
		s := readModel(t, name)
		store := datasets.NewMemory()
		ref, err := SaveState(t.Context(), store, s, datasets.Lineage{Stage: "test"})
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := LoadState(t.Context(), store, ref)
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(t.TempDir(), name)
		if err := WriteDirAs(folder, loaded, Format{ShardBytes: 30_000}); err != nil {
			t.Fatal(err)
		}
		if parts, _ := filepath.Glob(filepath.Join(folder, "model-*-of-*.safetensors")); len(parts) < 3 {
			t.Errorf("%s: %d files of weights, want several", name, len(parts))
		}
		again, err := ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.Weights, again.Weights); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		pad := s.Tokenizer.Pad()
		s.Config.PadTokenID = &pad // the one thing that is added
		if diff := cmp.Diff(s.Config, again.Config); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, file := range []string{TokenizerFile, TokenizerConfigFile, GenerationFile} {
			a, errA := os.ReadFile(filepath.Join("testdata", "models", name, file))
			b, errB := os.ReadFile(filepath.Join(folder, file))
			if errA != nil || errB != nil || string(a) != string(b) {
				t.Errorf("%s: %s differs: %v, %v", name, file, errA, errB)
			}
		}
	}
}

// Half the bytes, and each number the nearest of those that there are.
func TestWriteBFloat16(t *testing.T) {
	s := readModel(t, "llama")
	folder := filepath.Join(t.TempDir(), "half")
	if err := WriteDirAs(folder, s, Format{DType: BFloat16}); err != nil {
		t.Fatal(err)
	}
	read, err := ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	exact := 0
	for i, w := range read.Weights {
		for j, x := range w.Data {
			want := s.Weights[i].Data[j]
			if math.Abs(float64(x-want)) > math.Abs(float64(want))/256 {
				t.Fatalf("tensor %s: element %d is %v, want about %v", w.Name, j, x, want)
			}
			if x == want {
				exact++
			}
		}
	}
	if n := s.Config.Parameters(); int64(exact) > n/100 {
		t.Errorf("%d of %d weights are not rounded", exact, n)
	}
	if err := WriteDirAs(filepath.Join(t.TempDir(), "x"), s, Format{DType: "float16"}); err == nil {
		t.Error("an unknown dtype is written")
	}
}

// What is saved here, transformers loads, and computes the same with.
// GRADUS_PYTHON is a Python with torch and transformers.
func TestTransformersLoads(t *testing.T) {
	python := os.Getenv("GRADUS_PYTHON")
	if python == "" {
		t.Skip("GRADUS_PYTHON is not set")
	}
	root := t.TempDir()
	for name := range models {
		s := readModel(t, name)
		for _, f := range []Format{{}, {DType: BFloat16, ShardBytes: 30_000}} {
			folder := filepath.Join(root, name+string(f.DType))
			if err := WriteDirAs(folder, s, f); err != nil {
				t.Fatal(err)
			}
			written, err := ReadDir(folder) // rounded, where they are
			if err != nil {
				t.Fatal(err)
			}
			e := newTestEngine(t, written.Config, written.Weights)
			row := Row{[]int32{3, 70, 200}, []int32{9, 300, 41, 41, 250, 7}}
			scored, err := e.Score(t.Context(), []Row{row}, 1)
			if err != nil {
				t.Fatal(err)
			}
			text := "It's 12 < 30,\n  isn't it?"
			ids, err := written.Tokenizer.Encode(text)
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(map[string]any{"prompt": row.Prompt, "completion": row.Completion, "logprobs": scored[0].LogProbs,
				"eos": written.Config.EOSTokenID, "text": text, "ids": ids})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, "check.json"), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), python, filepath.Join("..", "interop", "models.py"), root).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func TestShardsRefused(t *testing.T) {
	source := filepath.Join("testdata", "models", "qwen2-tied")
	for _, tc := range []struct{ old, new, want string }{
		{"model-00002-of-00003", "../model-00002-of-00003", "want a file of the folder"},
		{"model-00002-of-00003", "model-00009-of-00003", "model-00009-of-00003.safetensors: no such file"},
		{"model.norm.weight", "model.norm.bias", "tensor model.norm.weight: the index has it in"},
		{`"weight_map": {`, `"weight_map": {"x":"model-00001-of-00003.safetensors",`, "tensors in weight_map, but"},
	} {
		folder := t.TempDir()
		if err := os.CopyFS(folder, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(folder, WeightsFile+indexSuffix)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := strings.ReplaceAll(string(data), tc.old, tc.new)
		if bad == string(data) {
			t.Errorf("%s is not in the index", tc.old)
		}
		if err := os.WriteFile(name, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadDir(folder); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.new, err, tc.want)
		}
	}
}

func TestScaledPositions(t *testing.T) {
	s := tinyModels["llama"].RopeScaling
	var got []float64
	for _, wavelength := range []float64{8, 16, 32, 64, 128} { // below, at, between, at, above the bounds
		got = append(got, wavelength/(2*math.Pi)*s.scale(2*math.Pi/wavelength))
	}
	want := []float64{1, 1, (1-1.0/3)/8 + 1.0/3, 1.0 / 8, 1.0 / 8}
	if !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A problem is put to a policy as its own chat template has it, whose text comes
// with the folder in either of two places.
func TestPromptByChatTemplate(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("chat", "testdata", "qwen2.5.jinja"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nIt is "
	for _, inConfig := range []bool{true, false} {
		folder := t.TempDir()
		if err := os.CopyFS(folder, os.DirFS(filepath.Join("testdata", "models", "qwen2"))); err != nil {
			t.Fatal(err)
		}
		name, data := filepath.Join(folder, ChatTemplateFile), source
		if inConfig {
			name, data = filepath.Join(folder, TokenizerConfigFile), appendJSON(nil, map[string]any{"chat_template": string(source), "eos_token": map[string]any{"content": "<|im_end|>"}})
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := WriteDir(out, s); err != nil {
			t.Fatal(err)
		}
		if s, err = ReadDir(out); err != nil { // the template goes out as it came
			t.Fatal(err)
		}
		got, err := s.Tokenizer.Prompt(Chat{Template: true, System: "Be brief."}, "2+2?", "It is ")
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.Tokenizer.EncodeMore(want)
		if err != nil || !cmp.Equal(got, ids) || len(got) >= len(want) {
			t.Errorf("%v, want %v: %v", got, ids, err)
		}
		plain, errPlain := s.Tokenizer.Prompt(Chat{}, "2+2?", "It is ")
		if ids, err := s.Tokenizer.EncodeMore("2+2?It is "); err != nil || errPlain != nil || !cmp.Equal(plain, ids) {
			t.Errorf("%v, want %v: %v, %v", plain, ids, err, errPlain)
		}
	}
	if _, err := readModel(t, "qwen2").Tokenizer.Prompt(Chat{Template: true}, "x", ""); err == nil || !strings.Contains(err.Error(), "the policy has none, in chat_template.jinja or tokenizer_config.json") {
		t.Errorf("error %v, want one that names the files", err)
	}
}
