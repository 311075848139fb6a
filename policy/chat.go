package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/gradus-rl/gradus/policy/chat"
)

// Chat is how a problem is put to a policy: as it is, or as a turn of a user in
// the chat that the policy was trained on. The zero value is as it is.
type Chat struct {
	Template bool   `json:"chat_template"` // by the chat template that came with the policy
	System   string `json:"system_prompt"` // what the system says before; "" leaves it to the template
}

// Messages are the turns that come before the answer to a problem.
func (c Chat) Messages(prompt string) (turns []chat.Message) {
	if c.System != "" {
		turns = append(turns, chat.Message{Role: "system", Content: c.System})
	}
	return append(turns, chat.Message{Role: "user", Content: prompt})
}

// Prompt is the ids of a problem's prompt, with the beginning of the answer that
// is given, which may be empty.
func (t *Tokenizer) Prompt(c Chat, prompt, prefill string) ([]int32, error) {
	if !c.Template {
		return t.Encode(prompt + prefill)
	}
	return t.Converse(Conversation{Messages: c.Messages(prompt), Prefill: prefill})
}

// Conversation is a chat that a policy is to go on with.
type Conversation struct {
	Messages []chat.Message
	Closed   bool           // the assistant's turn is not begun
	Prefill  string         // what is given of that turn
	Values   map[string]any // what the template may ask for besides, such as enable_thinking
}

// HasChat reports whether a chat template came with the policy.
func (t *Tokenizer) HasChat() bool { return t.chat != nil }

// Converse is the ids of a conversation as the policy's own chat template writes
// it. Special tokens are those that the template writes, and no others.
func (t *Tokenizer) Converse(c Conversation) ([]int32, error) {
	if t.chat == nil {
		return nil, fmt.Errorf("tokenizer: a chat template is asked for, but the policy has none, in %s or %s", ChatTemplateFile, TokenizerConfigFile)
	}
	values := map[string]any{}
	maps.Copy(values, t.special)
	maps.Copy(values, c.Values)
	text, err := t.chat.Render(c.Messages, !c.Closed, values)
	if err != nil {
		return nil, err
	}
	return t.EncodeMore(text + c.Prefill)
}

// chatTemplate is the template of tokenizer_config.json: a text, or a list of
// which the one named default is meant.
type chatTemplate string

// UnmarshalJSON reads either form, and null.
func (c *chatTemplate) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*string)(c)) == nil {
		return nil
	}
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	for _, t := range list {
		if t.Name == "default" {
			*c = chatTemplate(t.Template)
			return nil
		}
	}
	return errors.New("chat_template: none is named default")
}
