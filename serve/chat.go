package serve

import (
	"strings"

	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/policy/chat"
)

// conversation is a chat as token ids: as the policy's own template writes it. A
// policy without one reads what was said, one after the other.
func (k *work) conversation() ([]int32, *openai.Error) {
	q, tokenizer := k.request, k.model.state.Tokenizer
	if q.Prompt != nil || len(q.Messages) == 0 {
		return nil, openai.Invalid("messages", "want at least one message, and no prompt")
	}
	var said strings.Builder
	c := policy.Conversation{Closed: !value(q.AddGenerationPrompt, true), Values: q.ChatTemplateKwargs}
	for i, m := range q.Messages {
		switch m.Role {
		case "developer":
			m.Role = "system" // its older name, by which templates know it
		case "system", "user", "assistant":
		default:
			return nil, openai.Invalid("messages", "message %d: role is %q; want system, developer, user or assistant", i, m.Role)
		}
		said.WriteString(strings.Join(m.Content, ""))
		c.Messages = append(c.Messages, chat.Message{Role: m.Role, Content: strings.Join(m.Content, "\n")}) // as vLLM joins parts
	}
	if q.ContinueFinalMessage {
		last := len(c.Messages) - 1
		switch {
		case !c.Closed:
			return nil, openai.Invalid("continue_final_message", "continue_final_message needs add_generation_prompt to be false")
		case c.Messages[last].Role != "assistant":
			return nil, openai.Invalid("messages", "the last message is of the %s; continue_final_message goes on with one of the assistant", c.Messages[last].Role)
		}
		c.Messages, c.Prefill, c.Closed = c.Messages[:last], c.Messages[last].Content, false
	}
	var ids []int32
	var err error
	if tokenizer.HasChat() {
		ids, err = tokenizer.Converse(c)
	} else {
		ids, err = tokenizer.Encode(said.String())
	}
	if err != nil {
		return nil, openai.Invalid("messages", "%v", err)
	}
	return ids, nil
}
