package activities

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/serve"
)

// A problem is asked as the turns that the plan's own template is given, and
// what is given of the answer as the last turn, to go on with.
func TestAskedAsChat(t *testing.T) {
	for _, c := range []struct {
		chat  policy.Chat
		posed posed
		want  string
	}{
		{policy.Chat{}, posed{prompt: "2+2?"}, `{"messages":[{"role":"user","content":"2+2?"}]}`},
		{policy.Chat{Template: true}, posed{prompt: "2+2?"}, `{"messages":[{"role":"user","content":"2+2?"}]}`},
		{policy.Chat{Template: true, System: "Be brief."}, posed{prompt: "2+2?"},
			`{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"2+2?"}]}`},
		{policy.Chat{Template: true, System: "Be brief."}, posed{"2+2?", "It is "},
			`{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"2+2?"},{"role":"assistant","content":"It is "}],"add_generation_prompt":false,"continue_final_message":true}`},
	} {
		var q openai.Request
		c.posed.chat(c.chat, &q)
		if got, err := json.Marshal(q); err != nil || string(got) != c.want {
			t.Errorf("%s, %v, want %s", got, err, c.want)
		}
	}
}

// chatting stores a checkpoint of another tool's with a chat template, none with
// "", and returns it as it is stored.
func chatting(t *testing.T, s datasets.Store, template string) (datasets.Ref, *policy.State) {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("..", "policy", "testdata", "models", "llama"))); err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]string{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": template})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, policy.TokenizerConfigFile), config, 0o644); err != nil {
		t.Fatal(err)
	}
	state, err := policy.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := policy.SaveState(t.Context(), s, state, datasets.Lineage{Stage: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if state, err = policy.LoadModel(t.Context(), s, ref); err != nil {
		t.Fatal(err)
	}
	return ref, state
}

// What a server draws is what the worker's own engine would have drawn, whether
// the worker sends token ids or the server's template makes the prompt: the ids
// that the server tells are those of the plan's own prompt. Where it tells no ids
// of the completion, its text has no token before it.
func TestServersDrawTheSame(t *testing.T) {
	const template = `{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}`
	b, err := policy.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	store := datasets.NewMemory()
	for _, c := range []struct {
		name, api, template string
		chat                policy.Chat
		textOnly            bool
	}{
		{name: "completions of a chat", api: "completions", template: template, chat: policy.Chat{Template: true, System: "Be brief."}},
		{name: "completions", api: "completions", template: template},
		{name: "chat", api: "chat", template: template, chat: policy.Chat{Template: true}},
		{name: "chat with a system", api: "chat", template: template, chat: policy.Chat{Template: true, System: "Be brief."}},
		{name: "chat without a template", api: "chat"},
		{name: "texts of a chat", api: "chat", template: template, chat: policy.Chat{Template: true}, textOnly: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref, state := chatting(t, store, c.template)
			s, err := serve.New(t.Context(), ref.String(), serve.Options{Backend: b, Store: store})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			handler := s.Handler()
			if c.textOnly {
				handler = silent(handler)
			}
			h := httptest.NewServer(handler)
			defer h.Close()
			remote, err := NewRemote(Remote{})
			if err != nil {
				t.Fatal(err)
			}
			engine, err := policy.NewEngine(b, state.Config)
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			if err := engine.Load(state.Weights); err != nil {
				t.Fatal(err)
			}
			in := asked{policy: ref, model: state, engine: engine, sampling: policy.Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 12},
				problems: []posed{{prompt: "2+2?"}, {"3*4?", "It is "}, {prompt: " <|eot_id|> "}}}
			for i, p := range in.problems {
				ids, err := state.Tokenizer.Prompt(c.chat, p.prompt, p.prefill)
				if err != nil {
					t.Fatal(err)
				}
				in.rows = append(in.rows, policy.Prompt{IDs: ids, Stream: datasets.Stream(7, i)})
			}
			in.prompts = make([][]int32, len(in.rows))
			for i, r := range in.rows {
				in.prompts[i] = r.IDs
			}
			own, err := engine.Generate(t.Context(), in.rows, in.sampling, nil)
			if err != nil {
				t.Fatal(err)
			}
			a := &Activities{Remote: remote}
			plan := recipes.Plan{ChatTemplate: c.chat.Template, SystemPrompt: c.chat.System,
				Rollout: recipes.Rollout{Engine: recipes.EngineOpenAI, Endpoints: []string{h.URL}, API: c.api, MaxConcurrency: 4, Timeout: 60, Tries: 1}}
			drawn, rescored, err := a.ask(t.Context(), plan, in, func(int, int) {})
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range in.rows {
				if d := cmp.Diff(r.IDs, in.prompts[i]); d != "" {
					t.Errorf("prompt %d: %s", i, d)
				}
				if c.textOnly {
					if begin, err := state.Tokenizer.Encode(""); err != nil || drawn[i].IDs[0] == begin[0] {
						t.Errorf("completion %d begins as a text does: %v, %v", i, drawn[i].IDs, err)
					}
				} else if d := cmp.Diff(own[i].IDs, drawn[i].IDs); d != "" {
					t.Errorf("completion %d: %s", i, d)
				}
			}
			if want := map[bool]int{true: len(in.rows)}[c.textOnly]; rescored != want {
				t.Errorf("%d were rescored, want %d", rescored, want)
			}
		})
	}
}

// silent does not tell the ids of completions.
func silent(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole := httptest.NewRecorder()
		h.ServeHTTP(whole, r)
		var answer map[string]any
		if err := json.Unmarshal(whole.Body.Bytes(), &answer); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if choices, ok := answer["choices"].([]any); ok {
			for _, c := range choices {
				delete(c.(map[string]any), "token_ids")
			}
		}
		w.WriteHeader(whole.Code)
		_ = json.NewEncoder(w).Encode(answer)
	})
}
