package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tiny is a configuration with every dimension different.
func tiny() Config {
	return Config{
		VocabSize: 13, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2,
		NumAttentionHeads: 4, NumKeyValueHeads: 2, MaxPositionEmbeddings: 32,
		RMSNormEps: 1e-6, RopeTheta: 1000,
	}
}

// The config.json of Qwen2.5-0.5B-Instruct as published.
const qwenConfig = `{
  "architectures": ["Qwen2ForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "hidden_act": "silu",
  "hidden_size": 896,
  "initializer_range": 0.02,
  "intermediate_size": 4864,
  "max_position_embeddings": 32768,
  "max_window_layers": 21,
  "model_type": "qwen2",
  "num_attention_heads": 14,
  "num_hidden_layers": 24,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.43.1",
  "use_cache": true,
  "use_sliding_window": false,
  "vocab_size": 151936
}`

func TestReadConfigOfQwen(t *testing.T) {
	got, err := ReadConfig([]byte(qwenConfig))
	if err != nil {
		t.Fatal(err)
	}
	bos, eos := int32(151643), int32(151645)
	want := Config{
		VocabSize: 151936, HiddenSize: 896, IntermediateSize: 4864, NumHiddenLayers: 24,
		NumAttentionHeads: 14, NumKeyValueHeads: 2, MaxPositionEmbeddings: 32768,
		RMSNormEps: 1e-6, RopeTheta: 1e6, TieWordEmbeddings: true, BOSTokenID: &bos, EOSTokenID: TokenIDs{eos},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := got.Parameters(); n != 494032768 { // the count on the model's card
		t.Errorf("%d parameters, want 494032768", n)
	}
}

func TestConfigRoundTrip(t *testing.T) {
	c := tiny()
	eos := int32(1)
	c.EOSTokenID = TokenIDs{eos}
	for _, c.TieWordEmbeddings = range []bool{false, true} {
		got, err := ReadConfig(c.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Error(diff)
		}
	}
}

// Newer versions of transformers write the rotary base elsewhere and list the
// kind of each layer.
func TestReadConfigOfNewerTransformers(t *testing.T) {
	got, err := ReadConfig(edit(t, tiny().JSON(), map[string]any{
		"rope_theta":      nil,
		"rope_parameters": map[string]any{"rope_theta": 5e5, "rope_type": "default"},
		"layer_types":     []string{"full_attention", "full_attention"},
		"dtype":           "float32",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got.RopeTheta != 5e5 {
		t.Errorf("rope_theta %v, want 5e5", got.RopeTheta)
	}
}

func TestReadConfigRefuses(t *testing.T) {
	for _, tc := range []struct {
		key   string
		value any
		want  string
	}{
		{"model_type", "gemma", `model_type is "gemma", want "qwen2", "qwen3", "llama" or "mistral"`},
		{"model_type", "", `model_type is "", want "qwen2"`},
		{"architectures", []string{"Qwen2ForTokenClassification"}, "architectures is"},
		{"hidden_act", "gelu", `hidden_act is "gelu", want "silu"`},
		{"use_sliding_window", true, "use_sliding_window is true, want false"},
		{"layer_types", []string{"full_attention", "sliding_attention"}, "layer_types is"},
		{"rope_scaling", map[string]any{"type": "yarn", "factor": 4}, "rope_scaling is"},
		{"rope_parameters", map[string]any{"rope_type": "yarn"}, `rope_parameters is {"rope_type":"yarn"}, want rope_type default or llama3`},
		{"use_mrope", true, "use_mrope is true"},
		{"attention_dropout", 0.1, "attention_dropout is 0.1, want 0"},
		{"quantization_config", map[string]any{"bits": 4}, "quantization_config is"},
		{"head_dim", 8, "head_dim is 8, want hidden_size / num_attention_heads (4)"},
		{"hidden_size", "64", "hidden_size"},
		{"vocab_size", 0, "vocab_size is 0, want 1 to"},
		{"vocab_size", 1 << 40, "vocab_size is 1099511627776, want 1 to"},
		{"hidden_size", 18, "hidden_size is 18, want a multiple of num_attention_heads (4)"},
		{"hidden_size", 12, "hidden_size / num_attention_heads is 3, want an even head width"},
		{"num_key_value_heads", 3, "num_key_value_heads is 3, want a divisor of num_attention_heads (4)"},
		{"num_hidden_layers", -1, "num_hidden_layers is -1, want 1 to"},
		{"num_attention_heads", 0, "num_attention_heads is 0, want 1 to"},
		{"intermediate_size", 0, "intermediate_size is 0, want 1 to"},
		{"max_position_embeddings", 0, "max_position_embeddings is 0, want 1 to"},
		{"rms_norm_eps", 0, "rms_norm_eps is 0, want above 0 and below 1"},
		{"rope_theta", 0, "rope_theta is 0, want above 1"},
		{"eos_token_id", 13, "eos_token_id is 13, want below vocab_size (13)"},
		{"pad_token_id", -1, "pad_token_id is -1, want"},
	} {
		t.Run(fmt.Sprint(tc.key, tc.value), func(t *testing.T) {
			_, err := ReadConfig(edit(t, tiny().JSON(), map[string]any{tc.key: tc.value}))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	for _, data := range []string{"", "[]", "{", "null"} {
		if _, err := ReadConfig([]byte(data)); err == nil {
			t.Errorf("%q is read as a configuration", data)
		}
	}
}

// edit sets keys of a JSON object; nil removes one.
func edit(t *testing.T, data []byte, set map[string]any) []byte {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	for k, v := range set {
		if object[k] = v; v == nil {
			delete(object, k)
		}
	}
	out, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLayout(t *testing.T) {
	c := tiny()
	c.NumHiddenLayers = 1
	want := []WeightShape{
		{"model.embed_tokens.weight", []int{13, 16}},
		{"model.layers.0.input_layernorm.weight", []int{16}},
		{"model.layers.0.self_attn.q_proj.weight", []int{16, 16}},
		{"model.layers.0.self_attn.q_proj.bias", []int{16}},
		{"model.layers.0.self_attn.k_proj.weight", []int{8, 16}},
		{"model.layers.0.self_attn.k_proj.bias", []int{8}},
		{"model.layers.0.self_attn.v_proj.weight", []int{8, 16}},
		{"model.layers.0.self_attn.v_proj.bias", []int{8}},
		{"model.layers.0.self_attn.o_proj.weight", []int{16, 16}},
		{"model.layers.0.post_attention_layernorm.weight", []int{16}},
		{"model.layers.0.mlp.gate_proj.weight", []int{24, 16}},
		{"model.layers.0.mlp.up_proj.weight", []int{24, 16}},
		{"model.layers.0.mlp.down_proj.weight", []int{16, 24}},
		{"model.norm.weight", []int{16}},
		{"lm_head.weight", []int{13, 16}},
	}
	if diff := cmp.Diff(want, c.Layout()); diff != "" {
		t.Error(diff)
	}
	c.TieWordEmbeddings = true
	if diff := cmp.Diff(want[:len(want)-1], c.Layout()); diff != "" {
		t.Error("tied:", diff)
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(qwenConfig))
	f.Add(tiny().JSON())
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ReadConfig(data)
		if err != nil {
			return
		}
		again, err := ReadConfig(c.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Error(diff)
		}
	})
}
