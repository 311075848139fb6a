package openai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/serve"
)

// good is a gradus serve of the first of two versions of a policy.
func good(t *testing.T) (http.Handler, [2]datasets.Ref) {
	t.Helper()
	tokenizer, err := policy.NewCharTokenizer("0123456789+=")
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Config{
		VocabSize: tokenizer.Size(), HiddenSize: 8, IntermediateSize: 16, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2,
		RMSNormEps: 1e-6, RopeTheta: 1e4, MaxPositionEmbeddings: 64, TieWordEmbeddings: true,
	}
	store := datasets.NewMemory()
	var refs [2]datasets.Ref
	for i := range refs {
		if refs[i], err = policy.SaveState(t.Context(), store, &policy.State{Config: c, Tokenizer: tokenizer, Weights: policy.NewWeights(c, uint64(i+1))}, datasets.Lineage{Stage: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := policy.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	s, err := serve.New(t.Context(), refs[0].String(), serve.Options{Backend: b, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Handler(), refs
}

func address(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// requests are completions of 6 tokens, with seeds of their own.
func requests(n int) []openai.Request {
	out := make([]openai.Request, n)
	logprobs, tokens := openai.Logprob(1), 6
	for i := range out {
		seed := int64(i)
		out[i] = openai.Request{Prompt: &openai.Prompts{IDs: [][]int32{{3, 4, 5}}}, Seed: &seed, MaxTokens: &tokens, Logprobs: &logprobs, ReturnTokenIDs: true}
	}
	return out
}

func call(version datasets.Ref, c *openai.Client, endpoints ...string) openai.Call {
	return openai.Call{Endpoints: endpoints, Concurrency: 4, Timeout: 10 * time.Second, Tries: 40, Version: version.Hash,
		Refresh: func(ctx context.Context, endpoint string) error {
			return c.Post(ctx, endpoint+"/update_weights_from_disk", openai.Update{ModelPath: version.String(), WeightVersion: version.Hash}, nil)
		}}
}

func ask(t *testing.T, c *openai.Client, call openai.Call, n int) ([][]int32, error) {
	t.Helper()
	ids := make([][]int32, n)
	err := c.Ask(t.Context(), call, requests(n), func(i int, r openai.Response) error {
		d, err := r.Read()
		if err != nil {
			return err
		}
		if ids[i] != nil || len(d.LogProbs) != len(d.IDs) || len(d.IDs) == 0 {
			t.Errorf("request %d: %+v, after %v", i, d, ids[i])
		}
		ids[i] = d.IDs
		return nil
	})
	return ids, err
}

// Whatever an endpoint does, every request is answered once, by the right weights,
// and as if nothing had been.
func TestAskThroughFaults(t *testing.T) {
	const n = 24
	handler, refs := good(t)
	other, _ := good(t)
	well := address(t, handler)
	c := &openai.Client{}
	want, err := ask(t, c, call(refs[1], c, well), n) // refreshed first
	if err != nil {
		t.Fatal(err)
	}
	// faulty spoils every other completion.
	faulty := func(spoil func(w http.ResponseWriter, r *http.Request)) (string, *atomic.Int32) {
		var count, spoilt atomic.Int32
		return address(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v1/") && count.Add(1)%2 == 1 {
				spoilt.Add(1)
				spoil(w, r)
				return
			}
			other.ServeHTTP(w, r)
		})), &spoilt
	}
	status := func(code int, headers ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
		}
	}
	record := func(change func([]byte) []byte) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			other.ServeHTTP(rec, r)
			_, _ = w.Write(change(rec.Body.Bytes()))
		}
	}
	for name, spoil := range map[string]func(http.ResponseWriter, *http.Request){
		"500":        status(500),
		"429":        status(429, "Retry-After", "0"),
		"truncated":  record(func(b []byte) []byte { return b[:len(b)/2] }),
		"no choices": record(func(b []byte) []byte { return []byte(`{"choices":[]}`) }),
		"aborted": record(func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"finish_reason":"`), []byte(`"finish_reason":"abort`), 1)
		}),
		"another version": record(func(b []byte) []byte { return bytes.Replace(b, []byte(refs[1].Hash), []byte(refs[0].Hash), 1) }),
		"cut off":         func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
		"slow": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client goes
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, spoilt := faulty(spoil)
			how := call(refs[1], c, url)
			if name == "slow" {
				how.Timeout, how.Concurrency = time.Second, 2
			}
			for _, endpoints := range [][]string{{url}, {url, well, "http://127.0.0.1:1"}} {
				how.Endpoints = endpoints
				few := n
				if len(endpoints) == 1 {
					few = 4
				}
				got, err := ask(t, c, how, few)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want[:few], got); d != "" {
					t.Errorf("endpoints %v: %s", endpoints, d)
				}
			}
			if spoilt.Load() == 0 {
				t.Error("nothing was spoilt")
			}
		})
	}
}

// A server that begins anew, with its first weights, is given the right ones again: if it
// tells its version as vLLM does at once, else if it was seen to go.
func TestAskAfterRestart(t *testing.T) {
	const n = 8
	handler, refs := good(t)
	c := &openai.Client{}
	want, err := ask(t, c, call(refs[1], c, address(t, handler)), n)
	if err != nil {
		t.Fatal(err)
	}
	for _, tells := range []bool{true, false} {
		t.Run(strconv.FormatBool(tells), func(t *testing.T) {
			var mu sync.Mutex
			var inner http.Handler
			version, cut, cuts := "", 0, 0
			restart := func() {
				mu.Lock()
				defer mu.Unlock()
				if !tells && version != "" {
					cut = 4 // all that is asked at a time
				}
				version = "default"
				inner, _ = good(t)
			}
			restart()
			url := address(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case r.URL.Path == "/weight_info" && tells:
					_ = json.NewEncoder(w).Encode(openai.ModelInfo{WeightVersion: version})
				case r.Method == http.MethodGet:
					http.NotFound(w, r)
				case cut > 0:
					cut--
					cuts++
					panic(http.ErrAbortHandler)
				default:
					rec := httptest.NewRecorder()
					inner.ServeHTTP(rec, r)
					w.WriteHeader(rec.Code)
					_, _ = w.Write(bytes.Replace(rec.Body.Bytes(), []byte(`"weight_version"`), []byte(`"other"`), 1))
				}
			}))
			how := call(refs[1], c, url)
			refresh, refreshed := how.Refresh, 0
			how.Refresh = func(ctx context.Context, endpoint string) error {
				if err := refresh(ctx, endpoint); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				refreshed++
				version = refs[1].Hash
				return nil
			}
			for life := 1; life <= 2; life++ {
				for range 2 {
					got, err := ask(t, c, how, n)
					if err != nil {
						t.Fatal(err)
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Errorf("life %d: %s", life, d)
					}
				}
				if refreshed != life {
					t.Errorf("life %d: refreshed %d times", life, refreshed)
				}
				restart()
			}
			if (cuts == 0) != tells {
				t.Errorf("%d answers were cut off", cuts)
			}
		})
	}
}

// What no other try mends ends the whole; so does an endpoint that never gets well.
func TestAskGivesUp(t *testing.T) {
	handler, refs := good(t)
	c := &openai.Client{}
	how := call(refs[0], c, address(t, handler))
	q := requests(2)
	q[1].Prompt.IDs[0][0] = 99
	var refused *openai.Refused
	if err := c.Ask(t.Context(), how, q, func(int, openai.Response) error { return nil }); !errors.As(err, &refused) || refused.Status != 400 {
		t.Errorf("a refused request: %v", err)
	}
	how = call(refs[0], c, "http://127.0.0.1:1")
	how.Tries = 2
	for range 2 { // and of many requests no more
		if err := c.Ask(t.Context(), how, requests(50), nil); err == nil || !strings.Contains(err.Error(), strconv.Itoa(how.Tries)+" tries") {
			t.Errorf("nobody there: %v", err)
		}
	}
	// A server of another kind, as vLLM is not given weights as gradus serve is.
	how = call(refs[1], c, address(t, http.NotFoundHandler()))
	if err := c.Ask(t.Context(), how, requests(1), nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "cannot be given weights in this way") {
		t.Errorf("another kind of server: %v", err)
	}
}
