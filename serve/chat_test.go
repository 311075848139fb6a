package serve

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
)

// headers is a template that writes the first token itself, looks at roles and
// refuses them, as those of Llama do.
const headers = `{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('a late system turn') }}{% endif %}` +
	`{{ '[' + m.role + ']' + (m.content | trim) + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% if quiet %}!{% endif %}{% endif %}`

// startFolder serves a checkpoint of another tool's, with a chat template unless
// it is empty.
func startFolder(t *testing.T, model, template string, inConfig bool, special map[string]string) (string, *policy.State) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "policy")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("..", "policy", "testdata", "models", model))); err != nil {
		t.Fatal(err)
	}
	config := map[string]string{}
	for name, token := range special {
		config[name] = token
	}
	if inConfig {
		config["chat_template"] = template
	} else if template != "" {
		if err := os.WriteFile(filepath.Join(folder, policy.ChatTemplateFile), []byte(template), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, policy.TokenizerConfigFile), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	state, err := policy.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), folder, Options{Backend: b, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(func() { h.Close(); s.Close() })
	return h.URL, state
}

var (
	qwen  = map[string]string{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
	llama = map[string]string{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
)

// A chat is put to the policy as its own template writes it, wherever that is
// stored, with the special tokens as the tokens that they are and no others, and
// is counted so.
func TestChatTemplate(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "policy", "chat", "testdata", "qwen2.5.jinja"))
	if err != nil {
		t.Fatal(err)
	}
	const system, user = `{"role":"system","content":"Be brief."}`, `{"role":"user","content":"2+2?"}`
	const asked = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
	type test struct{ body, want string }
	for _, c := range []struct {
		model, template string
		inConfig        bool
		special         map[string]string
		begins          string // special token that the prompt begins with, once
		tests           []test
	}{
		{"qwen2", string(source), true, qwen, "<|im_start|>", []test{
			{`"messages":[` + system + `,` + user + `]`, asked + "<|im_start|>assistant\n"},
			{`"messages":[{"role":"developer","content":"Be brief."},` + user + `]`, asked + "<|im_start|>assistant\n"},
			{`"messages":[` + system + `,` + user + `],"add_generation_prompt":false`, asked},
			{`"messages":[` + system + `,` + user + `,{"role":"assistant","content":"It "}],"add_generation_prompt":false,"continue_final_message":true`,
				asked + "<|im_start|>assistant\nIt "},
			{`"messages":[` + system + `,` + user + `,{"role":"assistant","content":"4"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`,
				asked + "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"},
		}},
		{"llama", headers, false, llama, "<|begin_of_text|>", []test{
			{`"messages":[{"role":"user","content":" 2+2? "}]`, "<|begin_of_text|>[user]2+2?<|eot_id|>[assistant]"},
			{`"messages":[{"role":"user","content":"2+2?"}],"chat_template_kwargs":{"quiet":true}`, "<|begin_of_text|>[user]2+2?<|eot_id|>[assistant]!"},
		}},
	} {
		url, state := startFolder(t, c.model, c.template, c.inConfig, c.special)
		for _, tc := range c.tests {
			want, err := state.Tokenizer.EncodeMore(tc.want)
			if err != nil {
				t.Fatal(err)
			}
			r := chatted(t, url, "{"+tc.body+`,"max_tokens":4,"seed":3,"return_token_ids":true}`)
			if d := cmp.Diff(want, r.PromptTokenIDs); d != "" || r.Usage.PromptTokens != len(want) {
				t.Errorf("%s: %+v: %s", tc.body, r.Usage, d)
			}
			first, err := state.Tokenizer.EncodeMore(c.begins)
			if err != nil || len(first) != 1 || r.PromptTokenIDs[0] != first[0] || r.PromptTokenIDs[1] == first[0] {
				t.Errorf("%s: the prompt %v should begin with %v, once: %v", tc.body, r.PromptTokenIDs, first, err)
			}
			// The chat goes on as a completion of the same tokens does.
			body, _ := json.Marshal(map[string]any{"prompt": want, "max_tokens": 4, "seed": 3})
			if same := complete(t, url, string(body)); *same.Choices[0].Text != strings.Join(r.Choices[0].Message.Content, "") {
				t.Errorf("%s: %q, and as a completion %q", tc.body, r.Choices[0].Message.Content, *same.Choices[0].Text)
			}
		}
	}
}

func chatted(t *testing.T, url, body string) (r openai.Response) {
	t.Helper()
	status, raw := call(t, url+"/v1/chat/completions", body)
	if err := json.Unmarshal([]byte(raw), &r); err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, %s", body, status, raw)
	}
	return r
}

// A policy without a template reads the contents one after the other.
func TestChatWithoutTemplate(t *testing.T) {
	url, state := startFolder(t, "llama", "", false, llama)
	want, err := state.Tokenizer.Encode("Be brief.2+2?It ")
	if err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{`,"chat_template_kwargs":{"quiet":true}`, `,"add_generation_prompt":false,"continue_final_message":true`} {
		r := chatted(t, url, `{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"2+"},{"type":"text","text":"2?"}]},`+
			`{"role":"assistant","content":"It "}],"max_tokens":2,"return_token_ids":true`+more+"}")
		if d := cmp.Diff(want, r.PromptTokenIDs); d != "" {
			t.Error(d)
		}
	}
}

// What the template does not take is the client's error, in the protocol's form.
func TestChatRefusals(t *testing.T) {
	url, _ := startFolder(t, "llama", headers, false, llama)
	const user = `{"role":"user","content":"2+2?"}`
	for _, c := range []struct{ body, param, want string }{
		{`"messages":[` + user + `,{"role":"system","content":"x"}]`, "messages", "the template says: a late system turn"},
		{`"messages":[{"role":"tool","content":"x"}]`, "messages", `role is "tool"; want system, developer, user or assistant`},
		{`"messages":[` + user + `,{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]`, "messages", "message 1 has tool_calls"},
		{`"messages":[` + user + `],"chat_template_kwargs":{"messages":[]}`, "messages", "messages is not for a caller to set"},
		{`"messages":[` + user + `],"chat_template_kwargs":[]`, "chat_template_kwargs", "chat_template_kwargs"},
		{`"messages":[` + user + `],"continue_final_message":true`, "continue_final_message", "needs add_generation_prompt to be false"},
		{`"messages":[` + user + `],"continue_final_message":true,"add_generation_prompt":false`, "messages", "the last message is of the user"},
		{`"messages":[` + user + `],"chat_template":"{{ 1 }}"`, "chat_template", "unknown parameter"},
	} {
		status, raw := call(t, url+"/v1/chat/completions", "{"+c.body+"}")
		var e openai.ErrorBody
		if err := json.Unmarshal([]byte(raw), &e); err != nil || status != http.StatusBadRequest || e.Error == nil || e.Error.Type != "invalid_request_error" ||
			e.Error.Param == nil || *e.Error.Param != c.param || !strings.Contains(e.Error.Message, c.want) {
			t.Errorf("%s: status %d, %s; want a refusal of %s with %q", c.body, status, raw, c.param, c.want)
		}
	}
	for _, c := range []string{`{"prompt":"1","continue_final_message":true}`, `{"prompt":"1","chat_template_kwargs":{"quiet":true}}`} {
		if status, raw := call(t, url+"/v1/completions", c); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, %s", c, status, raw)
		}
	}
}

// Each of the end tokens of generation_config.json ends a completion: the
// template's and another that is no special token.
func TestEndTokens(t *testing.T) {
	url, state := startFolder(t, "qwen2", "{{ messages[0].content }}", false, qwen)
	ends := state.Config.EOSTokenID
	if len(ends) < 2 {
		t.Fatalf("end tokens %v, want several", ends)
	}
	met := map[int32]bool{}
	for seed := 0; seed < 40 && len(met) < len(ends); seed++ {
		body, _ := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": "a"}}, "n": 32, "max_tokens": 100, "temperature": 3, "seed": seed, "return_token_ids": true})
		for _, c := range chatted(t, url, string(body)).Choices {
			for i, id := range c.TokenIDs {
				last := i == len(c.TokenIDs)-1
				if slices.Contains(ends, id) {
					met[id] = true
					if !last || *c.FinishReason != "stop" {
						t.Fatalf("%v ends with %s, and has the end token %d", c.TokenIDs, *c.FinishReason, id)
					}
				} else if last && *c.FinishReason != "length" {
					t.Fatalf("%v ends with %s", c.TokenIDs, *c.FinishReason)
				}
			}
		}
	}
	if len(met) != len(ends) {
		t.Errorf("met %v of %v", met, ends)
	}
}
