package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/worker"
)

// served starts a gradus serve of a policy and returns its address.
func served(t *testing.T, ref datasets.Ref) (*process, string) {
	t.Helper()
	p := gradus(t, "serve", ref.String(), "--listen", "127.0.0.1:0", "--store", local.Store, "--dir", t.TempDir())
	p.await(t, "/v1\n")
	return p, regexp.MustCompile(`http://[^/]+`).FindString(p.output())
}

// A run whose rollouts two servers draw, of which one dies in the midst of it,
// comes to its end; the first step's completions are those of the worker's own
// engine, every one was drawn by the version it should, and the gap is measured.
func TestRolloutsElsewhere(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	base := runTest(t, c, "elsewhere-base", tiny("steps=0"))
	own := runTest(t, c, "elsewhere-own", tiny("steps=1", "policy="+base.Policy.String()))

	_, first := served(t, base.Policy)
	second, dying := served(t, base.Policy)
	target, err := url.Parse(dying)
	if err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int32
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
		w.WriteHeader(http.StatusBadGateway)
	}}
	// The second server is killed by its 10th completion, which it has not answered then.
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/completions" && answered.Add(1) == 10 {
			_ = second.Process.Kill()
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	endpoints, err := json.Marshal([]string{first, front.URL})
	if err != nil {
		t.Fatal(err)
	}
	r := runTest(t, c, "elsewhere", tiny("policy="+base.Policy.String(), "rollout.engine=openai", "rollout.endpoints="+string(endpoints)))
	if r.Steps != 3 || r.Completions != 3*8*4 || r.Trained == 0 {
		t.Errorf("result %+v", r)
	}
	if n := answered.Load(); n < 10 {
		t.Errorf("the second server was asked %d times, and dies at the tenth: it did not die in the midst", n)
	}
	records := artifacts(t, store, "elsewhere", 3)
	if d := cmp.Diff(drawnIDs(t, store, artifacts(t, store, "elsewhere-own", own.Steps)[0]), drawnIDs(t, store, records[0])); d != "" {
		t.Errorf("the servers draw other completions than the worker: %s", d)
	}
	before := checkpoint(t, store, "elsewhere", -1).Policy
	for i, step := range records {
		for _, shard := range step.Rounds[0].Rollouts {
			table := loadTest(t, store, shard)
			for _, v := range datasets.PolicyVersion.Get(table) {
				if v != before.Hash {
					t.Fatalf("step %d: a completion of version %s, want %s", i, v, before.Hash)
				}
			}
			table.Release()
		}
		metrics := figures(t, store, step.Metrics)
		kl, measured := metrics["sampling/kl"]
		rescored, counted := metrics[activities.MetricRescored]
		if !measured || kl > 1e-9 || !counted || rescored != 0 {
			t.Errorf("step %d: kl %v (%v), rescored %v (%v); want 0", i, kl, measured, rescored, counted)
		}
		before = step.Policy
	}
}

func loadTest(t *testing.T, s datasets.Store, r datasets.Ref) *datasets.Table {
	t.Helper()
	table, err := datasets.Load(t.Context(), s, memory.DefaultAllocator, r)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// A run whose rollouts a server draws in chats has the prompts and completions
// that the worker's own engine would have had: a system turn, and the policy's
// own template, which the server applies.
func TestChatsElsewhere(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("..", "..", "policy", "testdata", "models", "qwen2"))); err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile(filepath.Join("..", "..", "policy", "chat", "testdata", "qwen2.5.jinja"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, policy.ChatTemplateFile), template, 0o644); err != nil {
		t.Fatal(err)
	}
	base, err := importPolicy(t.Context(), store, folder)
	if err != nil {
		t.Fatal(err)
	}
	plan := tiny("steps=2", "policy="+base.String(), "chat_template=true", "system_prompt=Be brief.")
	runTest(t, c, "chats-own", plan)
	_, server := served(t, base)
	runTest(t, c, "chats", append(plan, "rollout.engine=openai", "rollout.api=chat", `rollout.endpoints=["`+server+`"]`))
	own, chats := artifacts(t, store, "chats-own", 2), artifacts(t, store, "chats", 2)
	drawn := drawnIDs(t, store, chats[0])
	if d := cmp.Diff(drawnIDs(t, store, own[0]), drawn); d != "" {
		t.Errorf("the server draws other chats than the worker: %s", d)
	}
	state, err := policy.LoadModel(t.Context(), store, base)
	if err != nil {
		t.Fatal(err)
	}
	begin, err := state.Tokenizer.EncodeMore("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, ids := range drawn {
		if !slices.Equal(begin, ids[:len(begin)]) {
			t.Fatalf("a chat begins with %v, want %v", ids[:len(begin)], begin)
		}
	}
	if figures(t, store, chats[1].Metrics)[activities.MetricRescored] != 0 {
		t.Error("the server did not tell the log-probabilities")
	}
}

// drawnIDs are the prompts and completions of a step, in order.
func drawnIDs(t *testing.T, s datasets.Store, step activities.StepRecord) (all [][]int32) {
	t.Helper()
	for _, shard := range step.Rounds[0].Rollouts {
		table := loadTest(t, s, shard)
		prompts, ids := datasets.PromptIDs.Get(table), datasets.CompletionIDs.Get(table)
		for i := range table.Rows() {
			all = append(all, slices.Concat(prompts.Row(i), ids.Row(i)))
		}
		table.Release()
	}
	return all
}
