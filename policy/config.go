package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Config is the shape of a decoder, under the keys of a Hugging Face
// config.json. What all our policies share (SiLU, full attention, no bias but on
// q, k and v of Qwen2) is no field: ReadConfig insists on it and JSON writes it.
type Config struct {
	ModelType             string      `json:"-"` // one of the constants below
	VocabSize             int         `json:"vocab_size"`
	HiddenSize            int         `json:"hidden_size"`             // width of the residual stream
	IntermediateSize      int         `json:"intermediate_size"`       // width of the SwiGLU layer
	NumHiddenLayers       int         `json:"num_hidden_layers"`       // decoder blocks
	NumAttentionHeads     int         `json:"num_attention_heads"`     // query heads
	NumKeyValueHeads      int         `json:"num_key_value_heads"`     // key and value heads; divides the query heads
	HeadWidth             int         `json:"head_dim,omitempty"`      // width of one head; 0: hidden_size / num_attention_heads
	MaxPositionEmbeddings int         `json:"max_position_embeddings"` // context: prompt and completion, in tokens
	RMSNormEps            float64     `json:"rms_norm_eps"`
	RopeTheta             float64     `json:"rope_theta"`
	RopeScaling           RopeScaling `json:"rope_scaling,omitzero"`
	TieWordEmbeddings     bool        `json:"tie_word_embeddings"` // lm_head is embed_tokens
	BOSTokenID            *int32      `json:"bos_token_id,omitempty"`
	EOSTokenID            TokenIDs    `json:"eos_token_id,omitempty"` // each of them ends a completion
	PadTokenID            *int32      `json:"pad_token_id,omitempty"`
}

// The values of Config.ModelType.
const (
	Qwen2   = ""        // Qwen2 and Qwen2.5, and the policies made here: bias on q, k and v
	Qwen3   = "qwen3"   // queries and keys normalized by head
	Llama   = "llama"   // Llama 2 and 3
	Mistral = "mistral" // as Llama, without a sliding window
)

// architectures are the names of the model types in a config.json.
var architectures = map[string]struct{ modelType, class string }{
	Qwen2:   {"qwen2", "Qwen2ForCausalLM"},
	Qwen3:   {"qwen3", "Qwen3ForCausalLM"},
	Llama:   {"llama", "LlamaForCausalLM"},
	Mistral: {"mistral", "MistralForCausalLM"},
}

// attentionBias reports whether the projections to q, k and v have a bias.
func (c Config) attentionBias() bool { return c.ModelType == Qwen2 }

// headNorm reports whether every head of q and k is normalized.
func (c Config) headNorm() bool { return c.ModelType == Qwen3 }

// TokenIDs is one id or more: a number in JSON where it is one, else a list.
type TokenIDs []int32

// MarshalJSON writes the one id, or the list.
func (t TokenIDs) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]int32(t))
}

// UnmarshalJSON reads a number, a list, or null, which is no id.
func (t *TokenIDs) UnmarshalJSON(data []byte) error {
	var one int32
	switch {
	case string(data) == "null":
		*t = nil
	case json.Unmarshal(data, &one) == nil:
		*t = TokenIDs{one}
	default:
		return json.Unmarshal(data, (*[]int32)(t))
	}
	return nil
}

// RopeScaling stretches rotary positions as Llama 3.1 does: frequencies whose
// wavelength is below original/high stay, those above original/low are divided
// by the factor, and those between go over smoothly. The zero value changes
// nothing.
type RopeScaling struct {
	RopeType                      string  `json:"rope_type,omitempty"` // llama3
	Factor                        float64 `json:"factor,omitempty"`
	LowFreqFactor                 float64 `json:"low_freq_factor,omitempty"`
	HighFreqFactor                float64 `json:"high_freq_factor,omitempty"`
	OriginalMaxPositionEmbeddings float64 `json:"original_max_position_embeddings,omitempty"` // tokens
}

// ropeLlama3 is the one RopeScaling.RopeType.
const ropeLlama3 = "llama3"

// scale is the frequency that takes the place of one.
func (s RopeScaling) scale(frequency float64) float64 {
	if s == (RopeScaling{}) {
		return frequency
	}
	turns := s.OriginalMaxPositionEmbeddings * frequency / (2 * math.Pi) // over the original context
	smooth := min(1, max(0, (turns-s.LowFreqFactor)/(s.HighFreqFactor-s.LowFreqFactor)))
	return frequency * (smooth + (1-smooth)/s.Factor)
}

// HeadDim is the width of one attention head.
func (c Config) HeadDim() int {
	if c.HeadWidth != 0 {
		return c.HeadWidth
	}
	return c.HiddenSize / c.NumAttentionHeads
}

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
		if c.HeadWidth != 0 {
			r.want(c.HeadWidth >= 2 && c.HeadWidth <= maxDimension && c.HeadWidth%2 == 0,
				"head_dim is %d, want an even width for rotary positions, 2 to %d", c.HeadWidth, maxDimension)
		} else {
			r.want(c.HiddenSize%c.NumAttentionHeads == 0,
				"hidden_size is %d, want a multiple of num_attention_heads (%d)", c.HiddenSize, c.NumAttentionHeads)
			r.want(c.HiddenSize%c.NumAttentionHeads != 0 || c.HeadDim()%2 == 0,
				"hidden_size / num_attention_heads is %d, want an even head width for rotary positions", c.HeadDim())
		}
		r.want(c.NumAttentionHeads%c.NumKeyValueHeads == 0,
			"num_key_value_heads is %d, want a divisor of num_attention_heads (%d)", c.NumKeyValueHeads, c.NumAttentionHeads)
	}
	r.want(c.RMSNormEps > 0 && c.RMSNormEps < 1, "rms_norm_eps is %g, want above 0 and below 1", c.RMSNormEps)
	r.want(c.RopeTheta > 1 && !math.IsInf(c.RopeTheta, 0), "rope_theta is %g, want above 1", c.RopeTheta)
	_, known := architectures[c.ModelType]
	r.want(known, "model_type is %q, want qwen2, qwen3, llama or mistral", c.ModelType)
	if s := c.RopeScaling; s != (RopeScaling{}) {
		r.want(s.RopeType == ropeLlama3, "rope_scaling.rope_type is %q, want %q", s.RopeType, ropeLlama3)
		r.want(s.Factor >= 1 && !math.IsInf(s.Factor, 0), "rope_scaling.factor is %g, want at least 1", s.Factor)
		r.want(s.LowFreqFactor > 0 && s.HighFreqFactor > s.LowFreqFactor && !math.IsInf(s.HighFreqFactor, 0),
			"rope_scaling: low_freq_factor is %g and high_freq_factor %g, want the former above 0 and the latter above it", s.LowFreqFactor, s.HighFreqFactor)
		r.want(s.OriginalMaxPositionEmbeddings >= 1 && s.OriginalMaxPositionEmbeddings <= maxDimension,
			"rope_scaling.original_max_position_embeddings is %g, want 1 to %d", s.OriginalMaxPositionEmbeddings, maxDimension)
	}
	type named struct {
		name string
		id   *int32
	}
	tokens := []named{{"bos_token_id", c.BOSTokenID}, {"pad_token_id", c.PadTokenID}}
	for i := range c.EOSTokenID {
		tokens = append(tokens, named{"eos_token_id", &c.EOSTokenID[i]})
	}
	for _, f := range tokens {
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
// shapes of Hugging Face's classes. Linear weights are [out, in]. lm_head.weight
// is absent when the embeddings are tied.
func (c Config) Layout() []WeightShape {
	d, f := c.HiddenSize, c.IntermediateSize
	q, kv := c.NumAttentionHeads*c.HeadDim(), c.NumKeyValueHeads*c.HeadDim()
	layout := []WeightShape{{"model.embed_tokens.weight", []int{c.VocabSize, d}}}
	for n := range c.NumHiddenLayers {
		block := fmt.Sprintf("model.layers.%d.", n)
		add := func(name string, shape ...int) {
			layout = append(layout, WeightShape{block + name, shape})
		}
		add("input_layernorm.weight", d)
		for _, p := range []struct {
			name  string
			width int
		}{{"q", q}, {"k", kv}, {"v", kv}} {
			add("self_attn."+p.name+"_proj.weight", p.width, d)
			if c.attentionBias() {
				add("self_attn."+p.name+"_proj.bias", p.width)
			}
		}
		if c.headNorm() {
			add("self_attn.q_norm.weight", c.HeadDim())
			add("self_attn.k_norm.weight", c.HeadDim())
		}
		add("self_attn.o_proj.weight", d, q)
		add("post_attention_layernorm.weight", d)
		add("mlp.gate_proj.weight", f, d)
		add("mlp.up_proj.weight", f, d)
		add("mlp.down_proj.weight", d, f)
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

// hiddenAct is the activation of every policy.
const hiddenAct = "silu"

// configFile is config.json as Hugging Face writes it: the fixed part, then Config.
type configFile struct {
	Architectures []string `json:"architectures"`
	ModelType     string   `json:"model_type"`
	HiddenAct     string   `json:"hidden_act"`
	TorchDtype    string   `json:"torch_dtype"`
	Config
	SlidingWindow json.RawMessage `json:"sliding_window,omitempty"`
}

// JSON is the Hugging Face config.json of a policy whose weights are float32:
// always the same bytes for the same Config.
func (c Config) JSON() []byte { return c.json(Float32) }

func (c Config) json(dtype DType) []byte {
	names := architectures[c.ModelType]
	file := configFile{[]string{names.class}, names.modelType, hiddenAct, string(dtype), c, nil}
	if c.ModelType == Mistral { // one that does not say has a window of 4096
		file.SlidingWindow = json.RawMessage("null")
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		// Only NaN and infinity cannot be encoded, and Validate refuses them.
		return nil
	}
	return append(data, '\n')
}

// defaults are those of Hugging Face's classes for what a file may leave out.
func defaults(modelType string) Config {
	c := Config{ModelType: modelType, RMSNormEps: 1e-6, RopeTheta: 10000, MaxPositionEmbeddings: 32768}
	switch modelType {
	case Qwen3:
		c.HeadWidth = 128
	case Llama:
		c.MaxPositionEmbeddings = 2048
	case Mistral:
		c.MaxPositionEmbeddings, c.NumKeyValueHeads = 131072, 8
	}
	return c
}

// ReadConfig reads a Hugging Face config.json and validates it. Keys that do
// not change the computation are ignored, since the format is not ours; a
// setting this package cannot honour (another model_type or activation,
// sliding windows, other scalings of rotary positions, quantised weights, …) is
// an error that names it. Both spellings of the rotary settings are read:
// rope_theta with rope_scaling, and the newer rope_parameters.
func ReadConfig(data []byte) (Config, error) {
	var kind struct {
		ModelType string `json:"model_type"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return Config{}, fmt.Errorf("policy config: not a config.json: %w", err)
	}
	unsupported := func(field string, got, want any) (Config, error) {
		return Config{}, fmt.Errorf("policy config: %s is %v, want %v", field, got, want)
	}
	modelType := kind.ModelType
	if modelType == architectures[Qwen2].modelType {
		modelType = Qwen2
	}
	names, known := architectures[modelType]
	if !known || kind.ModelType == "" {
		return unsupported("model_type", fmt.Sprintf("%q", kind.ModelType), `"qwen2", "qwen3", "llama" or "mistral"`)
	}
	file := struct {
		configFile
		UseSlidingWindow   bool            `json:"use_sliding_window"`
		LayerTypes         []string        `json:"layer_types"`
		RopeScaling        json.RawMessage `json:"rope_scaling"`
		RopeParameters     json.RawMessage `json:"rope_parameters"`
		AttentionBias      *bool           `json:"attention_bias"`
		MLPBias            bool            `json:"mlp_bias"`
		PretrainingTP      int             `json:"pretraining_tp"`
		AttentionDropout   float64         `json:"attention_dropout"`
		UseMRoPE           bool            `json:"use_mrope"`
		QuantizationConfig json.RawMessage `json:"quantization_config"`
	}{configFile: configFile{HiddenAct: hiddenAct, Config: defaults(modelType)}, PretrainingTP: 1}
	if err := json.Unmarshal(data, &file); err != nil {
		return Config{}, fmt.Errorf("policy config: not a config.json: %w", err)
	}
	isNull := func(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
	switch {
	case len(file.Architectures) > 0 && !slices.Contains(file.Architectures, names.class):
		return unsupported("architectures", fmt.Sprintf("%q", file.Architectures), `["`+names.class+`"]`)
	case file.HiddenAct != hiddenAct:
		return unsupported("hidden_act", fmt.Sprintf("%q", file.HiddenAct), `"`+hiddenAct+`"`)
	case file.UseSlidingWindow:
		return unsupported("use_sliding_window", true, false)
	case slices.ContainsFunc(file.LayerTypes, func(t string) bool { return t != "full_attention" }):
		return unsupported("layer_types", fmt.Sprintf("%q", file.LayerTypes), `"full_attention" only`)
	case modelType != Qwen2 && file.AttentionBias != nil && *file.AttentionBias:
		return unsupported("attention_bias", true, false)
	case file.MLPBias:
		return unsupported("mlp_bias", true, false)
	case file.PretrainingTP != 1:
		return unsupported("pretraining_tp", file.PretrainingTP, 1)
	case file.UseMRoPE:
		return unsupported("use_mrope", true, false)
	case file.AttentionDropout != 0:
		return unsupported("attention_dropout", file.AttentionDropout, 0)
	case !isNull(file.QuantizationConfig):
		return unsupported("quantization_config", string(file.QuantizationConfig), "null")
	}
	c := file.Config
	for _, r := range []struct {
		field string
		raw   json.RawMessage
	}{{"rope_scaling", file.RopeScaling}, {"rope_parameters", file.RopeParameters}} {
		if err := c.readRope(r.raw); err != nil {
			return unsupported(r.field, string(r.raw), err)
		}
	}
	if modelType == Mistral { // Qwen's files name a width that use_sliding_window turns off
		window, width := string(file.SlidingWindow), 0
		if window == "" {
			window = "4096"
		}
		if window != "null" && (json.Unmarshal([]byte(window), &width) != nil || width < c.MaxPositionEmbeddings) {
			return unsupported("sliding_window", window, fmt.Sprintf("null, or at least max_position_embeddings (%d)", c.MaxPositionEmbeddings))
		}
	}
	if c.NumKeyValueHeads == 0 {
		c.NumKeyValueHeads = c.NumAttentionHeads
	}
	if modelType != Qwen3 && c.NumAttentionHeads > 0 && c.HeadWidth*c.NumAttentionHeads == c.HiddenSize {
		c.HeadWidth = 0 // it says what is so anyway
	}
	if modelType == Qwen2 && c.HeadWidth != 0 {
		return unsupported("head_dim", c.HeadWidth, fmt.Sprintf("hidden_size / num_attention_heads (%d)", c.HiddenSize/max(1, c.NumAttentionHeads)))
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// readRope reads the settings of rotary positions, in either place where a file
// has them.
func (c *Config) readRope(raw json.RawMessage) error {
	r := struct {
		RopeTheta           float64  `json:"rope_theta"`
		PartialRotaryFactor *float64 `json:"partial_rotary_factor"`
		Type                string   `json:"type"` // an older name of rope_type
		RopeScaling
	}{RopeTheta: c.RopeTheta}
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if r.RopeType == "" {
		r.RopeType = r.Type
	}
	switch {
	case r.PartialRotaryFactor != nil && *r.PartialRotaryFactor != 1:
		return errors.New("partial_rotary_factor 1")
	case r.RopeType == "" || r.RopeType == "default":
	case r.RopeType == ropeLlama3:
		c.RopeScaling = r.RopeScaling
	default:
		return errors.New("rope_type default or llama3")
	}
	c.RopeTheta = r.RopeTheta
	return nil
}
