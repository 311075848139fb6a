package serve

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
)

const key = "a key"

// start serves a random policy on HTTP, and returns the Refs of two versions.
func start(t *testing.T) (*Server, string, [2]datasets.Ref, *policy.State) {
	t.Helper()
	tokenizer, err := policy.NewCharTokenizer("0123456789+=")
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Config{
		VocabSize: tokenizer.Size(), HiddenSize: 8, IntermediateSize: 16, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2,
		RMSNormEps: 1e-6, RopeTheta: 1e4, MaxPositionEmbeddings: 64, TieWordEmbeddings: true, EOSTokenID: policy.TokenIDs{tokenizer.EOS()},
	}
	store := datasets.NewMemory()
	var refs [2]datasets.Ref
	var states [2]*policy.State
	for i := range refs {
		states[i] = &policy.State{Config: c, Tokenizer: tokenizer, Weights: policy.NewWeights(c, uint64(i+1))}
		if refs[i], err = policy.SaveState(t.Context(), store, states[i], datasets.Lineage{Stage: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := policy.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), refs[0].String(), Options{Backend: b, Store: store, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(func() { h.Close(); s.Close() })
	return s, h.URL, refs, states[0]
}

// call posts JSON, or gets with "".
func call(t *testing.T, url, body string) (int, string) {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	q, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+key)
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(raw)
}

func complete(t *testing.T, url, body string) openai.Response {
	t.Helper()
	status, raw := call(t, url+"/v1/completions", body)
	var r openai.Response
	if err := json.Unmarshal([]byte(raw), &r); err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, %s", body, status, raw)
	}
	return r
}

// What is served is what the engine generates: a request's seed is the key of its
// first completion, whoever asks beside it.
func TestServesTheEngine(t *testing.T) {
	s, url, refs, state := start(t)
	prompt, err := state.Tokenizer.Encode("12+3=")
	if err != nil {
		t.Fatal(err)
	}
	e, err := policy.NewEngine(s.options.Backend, state.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Load(state.Weights); err != nil {
		t.Fatal(err)
	}
	var prompts []policy.Prompt
	for i := range 8 {
		prompts = append(prompts, policy.Prompt{IDs: prompt, Stream: uint64(1)<<63 + uint64(i)})
	}
	want, err := e.Generate(t.Context(), prompts, policy.Sampling{Temperature: 0.7, TopP: 0.9, MaxCompletionLength: 12}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]openai.Response, len(prompts))
	var all sync.WaitGroup
	for i, p := range prompts {
		all.Go(func() {
			body, _ := json.Marshal(map[string]any{
				"prompt": prompt, "seed": int64(p.Stream), "temperature": 0.7, "top_p": 0.9, "max_tokens": 12, "logprobs": 0, "return_token_ids": true,
			})
			got[i] = complete(t, url, string(body))
		})
	}
	all.Wait()
	for i, w := range want {
		c := got[i].Choices[0]
		if d := cmp.Diff(w.IDs, c.TokenIDs); d != "" || *c.FinishReason != w.FinishReason || *c.Text != state.Tokenizer.Decode(w.IDs) {
			t.Errorf("row %d: %s%+v", i, d, c)
		}
		for j, p := range c.Logprobs.TokenLogprobs {
			if d := p - w.LogProbs[j]; d > 1e-5 || d < -1e-5 {
				t.Errorf("row %d, token %d: log-prob %v, want %v", i, j, p, w.LogProbs[j])
			}
		}
		if got[i].Metadata.WeightVersion != refs[0].Hash {
			t.Errorf("version %+v", got[i].Metadata)
		}
	}
}

// New weights answer under their version; others than those of the same shape are
// refused, and leave what was there.
func TestUpdateWeights(t *testing.T) {
	_, url, refs, state := start(t)
	const ask = `{"prompt":"1+1=","seed":1,"max_tokens":20,"logprobs":0}`
	logprobs := func(r openai.Response) []float32 { return r.Choices[0].Logprobs.TokenLogprobs }
	before := complete(t, url, ask)
	if status, raw := call(t, url+"/update_weights_from_disk", `{"model_path":"`+refs[1].String()+`"}`); status != http.StatusOK || !strings.Contains(raw, `"success":true`) {
		t.Fatalf("status %d: %s", status, raw)
	}
	after := complete(t, url, ask)
	if cmp.Equal(logprobs(before), logprobs(after)) || after.Metadata.WeightVersion != refs[1].Hash {
		t.Errorf("before %+v, after %+v", before, after)
	}
	folder := filepath.Join(t.TempDir(), "policy")
	if err := policy.WriteDir(folder, state); err != nil {
		t.Fatal(err)
	}
	if status, raw := call(t, url+"/update_weights_from_disk", `{"model_path":"`+folder+`","weight_version":"mine"}`); status != http.StatusOK {
		t.Fatal(raw)
	}
	if r := complete(t, url, ask); !cmp.Equal(logprobs(before), logprobs(r)) || r.Metadata.WeightVersion != "mine" {
		t.Errorf("from a folder: %+v", r)
	}
	if _, raw := call(t, url+"/model_info", ""); !strings.Contains(raw, `"weight_version":"mine"`) {
		t.Error(raw)
	}
	if _, raw := call(t, url+"/v1/models", ""); !strings.Contains(raw, `"weight_version":"mine"`) {
		t.Error(raw)
	}
	for _, bad := range []string{`{"model_path":"/nowhere"}`, `{}`} {
		if status, raw := call(t, url+"/update_weights_from_disk", bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, status, raw)
		}
	}
}

// A stop text ends a completion and is no part of it, streamed or not.
func TestStop(t *testing.T) {
	_, url, _, _ := start(t)
	whole := complete(t, url, `{"prompt":"1+1=","seed":5,"max_tokens":30}`)
	text := *whole.Choices[0].Text
	if len(text) < 8 {
		t.Fatalf("the completion %q is too short for this test", text)
	}
	stop := text[4:6]
	want := text[:strings.Index(text, stop)]
	r := complete(t, url, `{"prompt":"1+1=","seed":5,"max_tokens":30,"stop":["`+stop+`"]}`)
	c := r.Choices[0]
	if *c.Text != want || *c.FinishReason != "stop" || c.StopReason == nil || *c.StopReason != stop || r.Usage.CompletionTokens >= whole.Usage.CompletionTokens {
		t.Errorf("stop %q in %q: %+v", stop, text, c)
	}
	_, raw := call(t, url+"/v1/completions", `{"prompt":"1+1=","seed":5,"max_tokens":30,"stop":"`+stop+`","stream":true}`)
	streamed := ""
	for line := range strings.Lines(raw) {
		if data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: {"); ok {
			var chunk openai.Response
			if err := json.Unmarshal([]byte("{"+data), &chunk); err != nil {
				t.Fatal(err)
			}
			streamed += *chunk.Choices[0].Text
		}
	}
	if streamed != want || !strings.HasSuffix(raw, "data: [DONE]\n\n") {
		t.Errorf("streamed %q, want %q:\n%s", streamed, want, raw)
	}
}

// Whatever would change the answer and cannot be done is refused by name; what
// changes nothing is taken.
func TestRefusals(t *testing.T) {
	_, url, _, _ := start(t)
	for _, c := range []struct{ body, param string }{
		{`{"prompt":"1","presence_penalty":0.5}`, "presence_penalty"},
		{`{"prompt":"1","best_of":4}`, "best_of"},
		{`{"prompt":"1","echo":true}`, "echo"},
		{`{"prompt":"1","nonsense":true}`, "nonsense"},
		{`{"prompt":"1","n":0}`, "n"},
		{`{"prompt":"1","n":9999}`, "n"},
		{`{"prompt":"1","max_tokens":0}`, "max_tokens"},
		{`{"prompt":"1","max_tokens":64}`, "prompt"},
		{`{"prompt":[1,99]}`, "prompt"},
		{`{"prompt":""}`, "prompt"},
		{`{"prompt":[]}`, "prompt"},
		{`{}`, "prompt"},
		{`{"prompt":"1","model":"gpt"}`, "model"},
		{`{"prompt":"1","stop":""}`, "stop"},
		{`{"prompt":"1","logprobs":21}`, "logprobs"},
		{`{"prompt":"1","temperature":"hot"}`, "temperature"},
	} {
		status, raw := call(t, url+"/v1/completions", c.body)
		var e openai.ErrorBody
		if err := json.Unmarshal([]byte(raw), &e); err != nil || status < 400 || status > 499 || e.Error == nil || e.Error.Param == nil || *e.Error.Param != c.param {
			t.Errorf("%s: status %d, %s; want a refusal of %s", c.body, status, raw, c.param)
		}
	}
	for _, c := range []string{`{"messages":[]}`, `{"prompt":"1"}`, `{"messages":[{"role":"robot","content":"1"}]}`, `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`,
		`{"messages":[{"role":"user","content":"1"}],"top_logprobs":2}`, `[1]`} {
		if status, raw := call(t, url+"/v1/chat/completions", c); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, %s", c, status, raw)
		}
	}
	complete(t, url, `{"prompt":["1","2"],"presence_penalty":0,"frequency_penalty":0.0,"best_of":1,"echo":false,"suffix":null,"user":"me","logit_bias":{},"top_k":-1}`)
	if status, _ := call(t, url+"/v1/embeddings", `{}`); status != http.StatusNotFound {
		t.Errorf("embeddings: status %d", status)
	}
}

// A server that ends refuses what waits, and what comes.
func TestClose(t *testing.T) {
	s, url, _, _ := start(t)
	s.end()
	<-s.done
	for range 2 {
		if status, raw := call(t, url+"/v1/completions", `{"prompt":"1"}`); status != http.StatusServiceUnavailable {
			t.Errorf("status %d: %s", status, raw)
		}
	}
}

// The official clients get along with it.
func TestOfficialClients(t *testing.T) {
	_, url, _, _ := start(t)
	python := filepath.Join("..", "interop", ".venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	for name, c := range map[string]struct{ probe, run []string }{
		"python": {[]string{python, "-c", "import openai"}, []string{python, "../interop/client.py"}},
		"node":   {[]string{"node", "-e", "require('../interop/node_modules/openai')"}, []string{"node", "../interop/client.cjs"}},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), c.probe[0], c.probe[1:]...).CombinedOutput(); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("the client is not there, and in CI it must be: %v\n%s", err, out)
				}
				t.Skipf("the client is not there (see interop/README.md): %v", err)
			}
			if _, err := os.Stat(c.run[1]); err != nil { // so that go test knows that it counts
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), c.run[0], c.run[1:]...)
			cmd.Env = append(os.Environ(), "OPENAI_BASE_URL="+url+"/v1", "OPENAI_API_KEY="+key)
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.HasSuffix(out, []byte("ok\n")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
