package policy

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gradus-rl/gradus/policy/chat"
)

// Chat is how a problem is put to a policy: as it is, or as a turn of a user in
// the chat that the policy was trained on. The zero value is as it is.
type Chat struct {
	Template bool   `json:"chat_template"` // by the chat template that came with the policy
	System   string `json:"system_prompt"` // what the system says before; "" leaves it to the template
}

// Prompt is the ids of a problem's prompt, with the beginning of the answer that
// is given, which may be empty.
func (t *Tokenizer) Prompt(c Chat, prompt, prefill string) ([]int32, error) {
	if !c.Template {
		return t.Encode(prompt + prefill)
	}
	if t.chat == nil {
		return nil, fmt.Errorf("tokenizer: chat_template is set, but the policy has none, in %s or %s", ChatTemplateFile, TokenizerConfigFile)
	}
	messages := []chat.Message{{Role: "user", Content: prompt}}
	if c.System != "" {
		messages = append([]chat.Message{{Role: "system", Content: c.System}}, messages...)
	}
	text, err := t.chat.Render(messages, true, t.special)
	if err != nil {
		return nil, err
	}
	return t.EncodeMore(text + prefill)
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
