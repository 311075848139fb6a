// Package openai is the OpenAI protocol as Gradus speaks it: /v1/completions and
// /v1/chat/completions with what vLLM and SGLang add for reinforcement learning
// (token ids in and out, the version of the weights), and a client of many
// endpoints.
package openai

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Request is the body of /v1/completions and /v1/chat/completions. A pointer that
// is nil stands for the server's default.
type Request struct {
	Model       string    `json:"model,omitempty"`
	Prompt      *Prompts  `json:"prompt,omitempty"`   // of completions
	Messages    []Message `json:"messages,omitempty"` // of chat completions
	N           *int      `json:"n,omitempty"`
	MaxTokens   *int      `json:"max_tokens,omitempty"`
	MaxAlias    *int      `json:"max_completion_tokens,omitempty"` // the chat's newer name of max_tokens
	Temperature *float64  `json:"temperature,omitempty"`
	TopP        *float64  `json:"top_p,omitempty"`
	TopK        *int      `json:"top_k,omitempty"` // vLLM's; 0 or -1 keeps all
	Seed        *int64    `json:"seed,omitempty"`
	Stop        Texts     `json:"stop,omitempty"`
	Logprobs    *Logprob  `json:"logprobs,omitempty"`
	TopLogprobs int       `json:"top_logprobs,omitempty"` // of chat completions

	Stream        bool           `json:"stream,omitempty"`
	StreamOptions *StreamOptions `json:"stream_options,omitempty"`

	// vLLM's, of chat completions.
	AddGenerationPrompt  *bool          `json:"add_generation_prompt,omitempty"`  // nil = true: the assistant's turn is begun
	ContinueFinalMessage bool           `json:"continue_final_message,omitempty"` // the last message is the assistant's, to go on with; AddGenerationPrompt must be false
	ChatTemplateKwargs   map[string]any `json:"chat_template_kwargs,omitempty"`   // what the chat template may ask for besides

	ReturnTokenIDs bool `json:"return_token_ids,omitempty"`           // vLLM's: ids of prompt and completion
	TokensAsIDs    bool `json:"return_tokens_as_token_ids,omitempty"` // vLLM's: tokens of log-probs as "token_id:5"
}

// StreamOptions are the options of a stream.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage,omitempty"` // a last chunk with the usage
}

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role,omitempty"`
	Content Text   `json:"content"`
}

// Text is a message's content: a text, or a list of text parts.
type Text []string

// MarshalJSON writes a text, and a list where there is not one part.
func (t Text) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	type part struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	parts := make([]part, len(t))
	for i, text := range t {
		parts[i] = part{"text", text}
	}
	return json.Marshal(parts)
}

// UnmarshalJSON reads either form; null is an empty text.
func (t *Text) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*t = Text{one}
		return nil
	}
	var parts []struct{ Type, Text string }
	if err := json.Unmarshal(raw, &parts); err != nil {
		return fmt.Errorf("content: want a text or a list of text parts")
	}
	*t = Text{}
	for i, p := range parts {
		if p.Type != "text" {
			return fmt.Errorf("content: part %d is of type %q, want text", i, p.Type)
		}
		*t = append(*t, p.Text)
	}
	return nil
}

// Texts is a text or a list of texts.
type Texts []string

// UnmarshalJSON reads either form.
func (t *Texts) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*t = Texts{one}
		return nil
	}
	if err := json.Unmarshal(raw, (*[]string)(t)); err != nil {
		return fmt.Errorf("want a text or a list of texts")
	}
	return nil
}

// Prompts are the prompts of one request: texts, or token ids.
type Prompts struct {
	Texts []string
	IDs   [][]int32
}

// UnmarshalJSON reads a text, a list of texts, a list of ids, or a list of those.
func (p *Prompts) UnmarshalJSON(raw []byte) error {
	var texts Texts
	var one []int32
	switch {
	case json.Unmarshal(raw, &one) == nil && len(one) > 0:
		p.IDs = [][]int32{one}
	case json.Unmarshal(raw, &texts) == nil && len(texts) > 0:
		p.Texts = texts
	case json.Unmarshal(raw, &p.IDs) == nil && len(p.IDs) > 0:
	default:
		return fmt.Errorf("prompt: want a text, a list of texts, a list of token ids, or a list of those; and at least one")
	}
	return nil
}

// MarshalJSON writes the shortest form.
func (p Prompts) MarshalJSON() ([]byte, error) {
	switch {
	case len(p.IDs) == 1:
		return json.Marshal(p.IDs[0])
	case p.IDs != nil:
		return json.Marshal(p.IDs)
	case len(p.Texts) == 1:
		return json.Marshal(p.Texts[0])
	}
	return json.Marshal(p.Texts)
}

// Logprob asks for log-probabilities: a number of alternatives in completions, a
// yes ([LogprobYes]) in chat completions.
type Logprob int

// LogprobYes asks for those of the tokens themselves, in the words of a chat.
const LogprobYes Logprob = -2

// MarshalJSON writes a number, or true.
func (l Logprob) MarshalJSON() ([]byte, error) {
	if l == LogprobYes {
		return []byte("true"), nil
	}
	return json.Marshal(int(l))
}

// UnmarshalJSON reads a number or a boolean; false is -1.
func (l *Logprob) UnmarshalJSON(raw []byte) error {
	switch string(raw) {
	case "false":
		*l = -1
		return nil
	case "true":
		*l = LogprobYes
		return nil
	}
	if json.Unmarshal(raw, (*int)(l)) != nil || *l < 0 {
		return fmt.Errorf("logprobs is %s; want a number from 0, or true or false in a chat", raw)
	}
	return nil
}

// harmless are parameters that do not change what a server such as ours answers.
var harmless = []string{"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
	"spaces_between_special_tokens", "priority", "request_id"}

// neutral are parameters that are taken only at the values at which they change
// nothing.
var neutral = map[string][]string{
	"frequency_penalty": {"0", "0.0"}, "presence_penalty": {"0", "0.0"}, "repetition_penalty": {"1", "1.0"}, "length_penalty": {"1", "1.0"},
	"min_p": {"0", "0.0"}, "min_tokens": {"0"}, "best_of": {"1"}, "echo": {"false"}, "suffix": {`""`}, "logit_bias": {"{}"}, "use_beam_search": {"false"},
	"ignore_eos": {"false"}, "tools": {"[]"}, "functions": {"[]"}, "tool_choice": {`"none"`, `"auto"`}, "function_call": {`"none"`, `"auto"`},
	"response_format": {`{"type":"text"}`}, "modalities": {`["text"]`}, "stop_token_ids": {"[]"}, "bad_words": {"[]"},
	"skip_special_tokens": {"true"}, "include_stop_str_in_output": {"false"},
}

// ParseRequest reads a request. What would change the answer and is not known is
// an error that names it; what is harmless, or at a value that changes nothing,
// is passed over.
func ParseRequest(raw []byte) (*Request, *Error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return nil, Invalid("", "the body is no JSON object: %v", err)
	}
	r := &Request{}
	known := fields()
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		values, isNeutral := neutral[name]
		switch {
		case string(value) == "null", slices.Contains(harmless, name):
			delete(given, name)
		case isNeutral:
			if !slices.Contains(values, strings.Join(strings.Fields(string(value)), "")) {
				return nil, Invalid(name, "%s is %s, which this server cannot do; leave it out", name, value)
			}
			delete(given, name)
		case !known[name]:
			return nil, Invalid(name, "unknown parameter %s", name)
		default:
			one, err := json.Marshal(map[string]json.RawMessage{name: value})
			if err == nil {
				err = json.Unmarshal(one, r)
			}
			if err == nil && name == "messages" {
				err = checkMessages(value)
			}
			if err != nil {
				return nil, Invalid(name, "%s: %v", name, err)
			}
		}
	}
	return r, nil
}

// checkMessages refuses what a message holds beside its role and content, such as the
// calls of tools: a template would not see it. A name says nothing to a template
// either, and clients send it out of habit.
func checkMessages(raw []byte) error {
	var messages []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &messages); err != nil {
		return err
	}
	for i, m := range messages {
		for _, field := range slices.Sorted(maps.Keys(m)) {
			switch value := string(m[field]); {
			case slices.Contains([]string{"role", "content", "name"}, field), value == "null", value == "[]":
			default:
				return fmt.Errorf("message %d has %s, which this server cannot use; want role and content", i, field)
			}
		}
	}
	return nil
}

// fields are the JSON names that a Request has a place for.
func fields() map[string]bool {
	one, yes, so := 1, Logprob(0), true
	var real float64
	var wide int64
	// Everything set, so that nothing is left out.
	r := Request{Model: "m", Prompt: &Prompts{Texts: []string{""}}, Messages: []Message{{}}, N: &one, MaxTokens: &one, MaxAlias: &one,
		Temperature: &real, TopP: &real, TopK: &one, Seed: &wide, Stop: Texts{""}, Logprobs: &yes, TopLogprobs: 1, Stream: true,
		StreamOptions: &StreamOptions{}, AddGenerationPrompt: &so, ContinueFinalMessage: true, ChatTemplateKwargs: map[string]any{"": 0},
		ReturnTokenIDs: true, TokensAsIDs: true}
	raw, err := json.Marshal(r)
	var names map[string]json.RawMessage
	if err != nil || json.Unmarshal(raw, &names) != nil {
		panic("a request has a JSON form")
	}
	known := map[string]bool{}
	for name := range names {
		known[name] = true
	}
	return known
}

// Response is an answer, or a chunk of a streamed one.
type Response struct {
	ID             string    `json:"id"`
	Object         string    `json:"object"`
	Created        int64     `json:"created"` // Unix seconds
	Model          string    `json:"model"`
	Choices        []Choice  `json:"choices"`
	Usage          *Usage    `json:"usage,omitempty"`
	Metadata       *Metadata `json:"metadata,omitempty"`
	PromptTokenIDs []int32   `json:"prompt_token_ids,omitempty"` // of a chat, as vLLM gives them
}

// Metadata is what SGLang tells beside an answer.
type Metadata struct {
	WeightVersion string `json:"weight_version,omitempty"`
}

// Choice is one completion: Text in completions, Message in chats, Delta in the
// chunks of a streamed chat.
type Choice struct {
	Index          int       `json:"index"`
	Text           *string   `json:"text,omitempty"`
	Message        *Message  `json:"message,omitempty"`
	Delta          *Delta    `json:"delta,omitempty"`
	Logprobs       *Logprobs `json:"logprobs"`
	FinishReason   *string   `json:"finish_reason"`
	StopReason     *string   `json:"stop_reason,omitempty"`      // the stop text that was met
	TokenIDs       []int32   `json:"token_ids,omitempty"`        // of the completion, its end token included
	PromptTokenIDs []int32   `json:"prompt_token_ids,omitempty"` // of completions
}

// Delta is what a chunk adds to a message.
type Delta struct {
	Role    string `json:"role,omitempty"`
	Content string `json:"content"`
}

// Logprobs are the log-probabilities of a completion's tokens: the lists in
// completions, Content in chats.
type Logprobs struct {
	Tokens        []string             `json:"tokens,omitempty"`
	TokenLogprobs []float32            `json:"token_logprobs,omitempty"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs,omitempty"`
	TextOffset    []int                `json:"text_offset,omitempty"` // in characters
	Content       []TokenLogprob       `json:"content,omitempty"`
}

// TokenLogprob is a token of a chat and its alternatives.
type TokenLogprob struct {
	Token       string         `json:"token"`
	Logprob     float32        `json:"logprob"`
	Bytes       []int          `json:"bytes"`
	TopLogprobs []TokenLogprob `json:"top_logprobs,omitempty"`
}

// Usage counts tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Model describes a model that a server has.
type Model struct {
	ID            string `json:"id"`
	Object        string `json:"object"`
	Created       int64  `json:"created"`
	OwnedBy       string `json:"owned_by"`
	Root          string `json:"root,omitempty"`           // where the weights come from
	MaxModelLen   int    `json:"max_model_len,omitempty"`  // context in tokens
	WeightVersion string `json:"weight_version,omitempty"` // ours
}

// Models is the answer of /v1/models.
type Models struct {
	Object string  `json:"object"`
	Data   []Model `json:"data"`
}

// ModelInfo is the answer of SGLang's /model_info and of vLLM's /weight_info.
type ModelInfo struct {
	ModelPath     string `json:"model_path"`
	TokenizerPath string `json:"tokenizer_path"`
	IsGeneration  bool   `json:"is_generation"`
	WeightVersion string `json:"weight_version"`
}

// Update is the body of SGLang's /update_weights_from_disk.
type Update struct {
	ModelPath     string `json:"model_path"`
	WeightVersion string `json:"weight_version,omitempty"`
}

// Updated is its answer.
type Updated struct {
	Success bool   `json:"success"`
	Message string `json:"message"`
}

// Error is a refusal as the protocol has it.
type Error struct {
	Status  int     `json:"-"` // of HTTP
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// Invalid refuses a request because of a parameter, or of the whole with "".
func Invalid(param, format string, args ...any) *Error {
	e := &Error{Status: 400, Message: fmt.Sprintf(format, args...), Type: "invalid_request_error"}
	if param != "" {
		e.Param = &param
	}
	return e
}

// ErrorBody is the body of a refusal.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Drawn is a completion as a server gave it.
type Drawn struct {
	Prompt       []int32   // ids, nil where the server gave none
	IDs          []int32   // of the completion, nil where the server gave none
	LogProbs     []float32 // per id, nil where the server gave none
	Text         string
	FinishReason string // stop or length
}

// Read takes the only choice out of an answer. What is no whole completion is an
// error.
func (r Response) Read() (d Drawn, err error) {
	if len(r.Choices) != 1 {
		return d, fmt.Errorf("%d choices, want 1", len(r.Choices))
	}
	c := r.Choices[0]
	reason := ""
	if c.FinishReason != nil {
		reason = *c.FinishReason
	}
	switch reason {
	case "stop", "eos", "end_turn":
		d.FinishReason = "stop"
	case "length", "max_tokens":
		d.FinishReason = "length"
	default:
		return d, fmt.Errorf("finish_reason is %q, want stop or length", reason)
	}
	d.Prompt, d.IDs = c.PromptTokenIDs, c.TokenIDs
	if d.Prompt == nil {
		d.Prompt = r.PromptTokenIDs
	}
	switch {
	case c.Text != nil:
		d.Text = *c.Text
	case c.Message != nil:
		d.Text = strings.Join(c.Message.Content, "")
	default:
		return d, fmt.Errorf("a choice without text and message")
	}
	if c.Logprobs == nil {
		return d, nil
	}
	tokens, logprobs := c.Logprobs.Tokens, c.Logprobs.TokenLogprobs
	for _, t := range c.Logprobs.Content {
		tokens, logprobs = append(tokens, t.Token), append(logprobs, t.Logprob)
	}
	if d.IDs == nil {
		for _, t := range tokens {
			number, ok := strings.CutPrefix(t, "token_id:")
			id, err := strconv.ParseInt(number, 10, 32)
			if !ok || err != nil {
				d.IDs = nil
				break
			}
			d.IDs = append(d.IDs, int32(id))
		}
	}
	if len(logprobs) == len(d.IDs) && len(logprobs) > 0 {
		d.LogProbs = logprobs
	}
	return d, nil
}
