// Package chat writes messages as the text that a chat model was trained on, by
// the template in Jinja that came with it.
package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// Message is one turn of a conversation.
type Message struct {
	Role    string // system, user or assistant
	Content string
}

// Template is a chat template. It is safe for concurrent use.
type Template struct{ compiled *exec.Template }

// name is what the one template is called; there are no others that it could
// include.
const name = "/template"

// Parse compiles a template.
func Parse(source string) (*Template, error) {
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true // as transformers has it
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSON); err != nil {
		return nil, err
	}
	compiled, err := exec.NewTemplate(name, c, loaders.MustNewMemoryLoader(map[string]string{name: source}), &exec.Environment{
		Context:           exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables),
		Filters:           filters,
		Tests:             builtins.Tests,
		ControlStructures: builtins.ControlStructures,
		Methods:           builtins.Methods,
	})
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{compiled}, nil
}

// Render writes messages, and with prompt the beginning of the turn of the
// assistant. values are what the template may ask for besides, such as bos_token
// and enable_thinking.
//
// There is no strftime_now, as what a run reads must not depend on the day:
// templates that look whether there is one (Llama 3) then write a date of their own.
// A template that raises an exception is refused by its own text.
func (t *Template) Render(messages []Message, prompt bool, values map[string]any) (text string, err error) {
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	var raised error
	own := map[string]any{
		"messages": list, "add_generation_prompt": prompt,
		"raise_exception": func(_ *exec.Evaluator, params *exec.VarArgs) *exec.Value {
			raised = fmt.Errorf("the template says: %s", params.First().String())
			return exec.AsValue(raised)
		},
	}
	all := map[string]any{"tools": nil, "documents": nil}
	for name, v := range values {
		if _, taken := own[name]; taken {
			return "", fmt.Errorf("chat template: %s is not for a caller to set", name)
		}
		if f, ok := v.(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			v = int(f) // an integer of JSON, which templates write without a point
		}
		all[name] = v
	}
	maps.Copy(all, own)
	defer func() { // the library panics on some templates that it cannot follow
		if p := recover(); p != nil {
			err = fmt.Errorf("chat template: %v", p)
		}
	}()
	text, err = t.compiled.ExecuteToString(exec.NewContext(all))
	if raised != nil {
		err = raised
	}
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return text, nil
}

// toJSON is tojson as transformers has it: spaces behind separators, and nothing
// escaped for HTML.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if len(params.Args)+len(params.KwArgs) > 0 {
		return exec.AsValue(errors.New("tojson with arguments is not supported"))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(in.Interface()); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsValue(spaced(bytes.TrimSuffix(b.Bytes(), []byte("\n"))))
}

// spaced puts a space behind every comma and colon that is not in a string.
func spaced(compact []byte) string {
	var out []byte
	quoted, escaped := false, false
	for _, c := range compact {
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return string(out)
}
