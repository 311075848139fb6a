package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Config is the shape of a Qwen2 decoder, under the keys of a Hugging Face
// config.json. What all our policies share (model_type qwen2, SiLU, full
// attention, bias on q, k and v only) is no field: ReadConfig insists on it
// and JSON writes it.
type Config struct {
	VocabSize             int     `json:"vocab_size"`
	HiddenSize            int     `json:"hidden_size"`             // width of the residual stream
	IntermediateSize      int     `json:"intermediate_size"`       // width of the SwiGLU layer
	NumHiddenLayers       int     `json:"num_hidden_layers"`       // decoder blocks
	NumAttentionHeads     int     `json:"num_attention_heads"`     // query heads
	NumKeyValueHeads      int     `json:"num_key_value_heads"`     // key and value heads; divides the query heads
	MaxPositionEmbeddings int     `json:"max_position_embeddings"` // context: prompt and completion, in tokens
	RMSNormEps            float64 `json:"rms_norm_eps"`
	RopeTheta             float64 `json:"rope_theta"`
	TieWordEmbeddings     bool    `json:"tie_word_embeddings"` // lm_head is embed_tokens
	BOSTokenID            *int32  `json:"bos_token_id,omitempty"`
	EOSTokenID            *int32  `json:"eos_token_id,omitempty"`
	PadTokenID            *int32  `json:"pad_token_id,omitempty"`
}

// HeadDim is the width of one attention head, hidden_size / num_attention_heads.
func (c Config) HeadDim() int { return c.HiddenSize / c.NumAttentionHeads }

// Validate reports every field out of range in one error, each with its value
// and what was expected.
func (c Config) Validate() error {
	var r ranges
	for _, f := range []struct {
		name  string
		value int
	}{
		{"vocab_size", c.VocabSize},
		{"hidden_size", c.HiddenSize},
		{"intermediate_size", c.IntermediateSize},
		{"num_hidden_layers", c.NumHiddenLayers},
		{"num_attention_heads", c.NumAttentionHeads},
		{"num_key_value_heads", c.NumKeyValueHeads},
		{"max_position_embeddings", c.MaxPositionEmbeddings},
	} {
		r.want(f.value >= 1 && f.value <= maxDimension, "%s is %d, want 1 to %d", f.name, f.value, maxDimension)
	}
	if c.NumAttentionHeads >= 1 && c.NumKeyValueHeads >= 1 && c.HiddenSize >= 1 {
		r.want(c.HiddenSize%c.NumAttentionHeads == 0,
			"hidden_size is %d, want a multiple of num_attention_heads (%d)", c.HiddenSize, c.NumAttentionHeads)
		r.want(c.HiddenSize%c.NumAttentionHeads != 0 || c.HeadDim()%2 == 0,
			"hidden_size / num_attention_heads is %d, want an even head width for rotary positions", c.HeadDim())
		r.want(c.NumAttentionHeads%c.NumKeyValueHeads == 0,
			"num_key_value_heads is %d, want a divisor of num_attention_heads (%d)", c.NumKeyValueHeads, c.NumAttentionHeads)
	}
	r.want(c.RMSNormEps > 0 && c.RMSNormEps < 1, "rms_norm_eps is %g, want above 0 and below 1", c.RMSNormEps)
	r.want(c.RopeTheta > 1 && !math.IsInf(c.RopeTheta, 0), "rope_theta is %g, want above 1", c.RopeTheta)
	for _, f := range []struct {
		name string
		id   *int32
	}{{"bos_token_id", c.BOSTokenID}, {"eos_token_id", c.EOSTokenID}, {"pad_token_id", c.PadTokenID}} {
		if f.id != nil {
			r.want(*f.id >= 0 && int(*f.id) < c.VocabSize, "%s is %d, want below vocab_size (%d)", f.name, *f.id, c.VocabSize)
		}
	}
	return r.err("policy config")
}

// maxDimension bounds every size in a Config, so that products of two of them
// cannot overflow.
const maxDimension = 1 << 24

// WeightShape is the name and shape of one weight tensor.
type WeightShape struct {
	Name  string
	Shape []int
}

// Layout lists the tensors of the model in canonical order, with the names and
// shapes of Hugging Face's Qwen2ForCausalLM. Linear weights are [out, in].
// lm_head.weight is absent when the embeddings are tied.
func (c Config) Layout() []WeightShape {
	d, f := c.HiddenSize, c.IntermediateSize
	kv := c.NumKeyValueHeads * c.HeadDim()
	layout := []WeightShape{{"model.embed_tokens.weight", []int{c.VocabSize, d}}}
	for n := range c.NumHiddenLayers {
		block := fmt.Sprintf("model.layers.%d.", n)
		layout = append(layout,
			WeightShape{block + "input_layernorm.weight", []int{d}},
			WeightShape{block + "self_attn.q_proj.weight", []int{d, d}},
			WeightShape{block + "self_attn.q_proj.bias", []int{d}},
			WeightShape{block + "self_attn.k_proj.weight", []int{kv, d}},
			WeightShape{block + "self_attn.k_proj.bias", []int{kv}},
			WeightShape{block + "self_attn.v_proj.weight", []int{kv, d}},
			WeightShape{block + "self_attn.v_proj.bias", []int{kv}},
			WeightShape{block + "self_attn.o_proj.weight", []int{d, d}},
			WeightShape{block + "post_attention_layernorm.weight", []int{d}},
			WeightShape{block + "mlp.gate_proj.weight", []int{f, d}},
			WeightShape{block + "mlp.up_proj.weight", []int{f, d}},
			WeightShape{block + "mlp.down_proj.weight", []int{d, f}},
		)
	}
	layout = append(layout, WeightShape{"model.norm.weight", []int{d}})
	if !c.TieWordEmbeddings {
		layout = append(layout, WeightShape{"lm_head.weight", []int{c.VocabSize, d}})
	}
	return layout
}

// Parameters is the number of weights.
func (c Config) Parameters() int64 {
	var n int64
	for _, p := range c.Layout() {
		n += int64(elements(p.Shape))
	}
	return n
}

// elements is the number of elements of a shape; a scalar has one.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// The fixed part of every config.json that JSON writes and ReadConfig accepts.
const (
	architecture = "Qwen2ForCausalLM"
	modelType    = "qwen2"
	hiddenAct    = "silu"
)

// configFile is config.json as Hugging Face writes it: the fixed part, then Config.
type configFile struct {
	Architectures []string `json:"architectures"`
	ModelType     string   `json:"model_type"`
	HiddenAct     string   `json:"hidden_act"`
	TorchDtype    string   `json:"torch_dtype"`
	Config
}

// JSON is the Hugging Face config.json of a policy: always the same bytes for
// the same Config. Weights are written as float32, which torch_dtype says.
func (c Config) JSON() []byte {
	data, err := json.MarshalIndent(configFile{[]string{architecture}, modelType, hiddenAct, "float32", c}, "", "  ")
	if err != nil {
		// Only NaN and infinity cannot be encoded, and Validate refuses them.
		return nil
	}
	return append(data, '\n')
}

// ReadConfig reads a Hugging Face config.json and validates it. Keys that do
// not change the computation are ignored, since the format is not ours; a
// setting this package cannot honour (another model_type or activation,
// sliding windows, scaled rotary positions, quantised weights, …) is an error
// that names it. Both spellings of the rotary base are read: rope_theta and
// the newer rope_parameters.
func ReadConfig(data []byte) (Config, error) {
	// Defaults of Hugging Face's Qwen2Config for the keys a file may leave out.
	file := struct {
		configFile
		HeadDim            *int            `json:"head_dim"`
		UseSlidingWindow   bool            `json:"use_sliding_window"`
		LayerTypes         []string        `json:"layer_types"`
		RopeScaling        json.RawMessage `json:"rope_scaling"`
		RopeParameters     *ropeParameters `json:"rope_parameters"`
		AttentionDropout   float64         `json:"attention_dropout"`
		UseMRoPE           bool            `json:"use_mrope"`
		QuantizationConfig json.RawMessage `json:"quantization_config"`
	}{configFile: configFile{HiddenAct: hiddenAct, Config: Config{
		RMSNormEps: 1e-6, RopeTheta: 10000, MaxPositionEmbeddings: 32768}}}
	if err := json.Unmarshal(data, &file); err != nil {
		return Config{}, fmt.Errorf("policy config: not a config.json: %w", err)
	}
	unsupported := func(field string, got, want any) (Config, error) {
		return Config{}, fmt.Errorf("policy config: %s is %v, want %v", field, got, want)
	}
	isNull := func(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
	switch {
	case file.ModelType != modelType:
		return unsupported("model_type", fmt.Sprintf("%q", file.ModelType), `"`+modelType+`"`)
	case len(file.Architectures) > 0 && !slices.Contains(file.Architectures, architecture):
		return unsupported("architectures", fmt.Sprintf("%q", file.Architectures), `["`+architecture+`"]`)
	case file.HiddenAct != hiddenAct:
		return unsupported("hidden_act", fmt.Sprintf("%q", file.HiddenAct), `"`+hiddenAct+`"`)
	case file.UseSlidingWindow:
		return unsupported("use_sliding_window", true, false)
	case slices.ContainsFunc(file.LayerTypes, func(t string) bool { return t != "full_attention" }):
		return unsupported("layer_types", fmt.Sprintf("%q", file.LayerTypes), `"full_attention" only`)
	case !isNull(file.RopeScaling):
		return unsupported("rope_scaling", string(file.RopeScaling), "null")
	case file.UseMRoPE:
		return unsupported("use_mrope", true, false)
	case file.AttentionDropout != 0:
		return unsupported("attention_dropout", file.AttentionDropout, 0)
	case !isNull(file.QuantizationConfig):
		return unsupported("quantization_config", string(file.QuantizationConfig), "null")
	}
	c := file.Config
	if r := file.RopeParameters; r != nil {
		if r.RopeType != "" && r.RopeType != "default" {
			return unsupported("rope_parameters.rope_type", fmt.Sprintf("%q", r.RopeType), `"default"`)
		}
		if r.RopeTheta != 0 {
			c.RopeTheta = r.RopeTheta
		}
	}
	if c.NumKeyValueHeads == 0 {
		c.NumKeyValueHeads = c.NumAttentionHeads
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	if file.HeadDim != nil && *file.HeadDim != c.HeadDim() {
		return unsupported("head_dim", *file.HeadDim, fmt.Sprintf("hidden_size / num_attention_heads (%d)", c.HeadDim()))
	}
	return c, nil
}

// ropeParameters is the form in which newer versions of transformers write
// the settings of rotary positions.
type ropeParameters struct {
	RopeTheta float64 `json:"rope_theta"`
	RopeType  string  `json:"rope_type"`
}
