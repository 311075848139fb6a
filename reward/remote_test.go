package reward

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRemote(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var request map[string]string
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		switch request["prediction"] {
		case "busy":
			if calls.Load() < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			fmt.Fprint(w, `{"reward": 0.5}`)
		case "refused":
			w.WriteHeader(http.StatusForbidden)
		case "odd":
			fmt.Fprint(w, `{"verdict": "fine"}`)
		default:
			fmt.Fprintf(w, `{"correct": %v, "extracted": %q}`, request["prediction"] == request["gold"], request["prediction"])
		}
	}))
	defer server.Close()
	remote, err := Open(`{"verifier": "remote", "url": "` + server.URL + `", "fields": {"completion": "prediction", "answer": "gold"}, "retries": 3}`)
	if err != nil {
		t.Fatal(err)
	}
	check := func(completion string, want Verdict, fails bool, wantCalls int32) {
		t.Helper()
		calls.Store(0)
		got, err := remote.Verify(t.Context(), completion, "7")
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != fails || calls.Load() != wantCalls {
			t.Errorf("%s: %v after %d calls (-want +got):\n%s", completion, err, calls.Load(), diff)
		}
	}
	check("7", Verdict{Reward: 1, Outcome: Correct, Extracted: "7"}, false, 1)
	check("7", Verdict{Reward: 1, Outcome: Correct, Extracted: "7"}, false, 0) // kept
	check("8", Verdict{Outcome: Wrong, Extracted: "8"}, false, 1)
	check("busy", Verdict{Reward: 0.5, Outcome: Wrong}, false, 3)
	check("refused", Verdict{Outcome: Error}, true, 1)
	check("odd", Verdict{Outcome: Error}, true, 1)
}

// No more requests run at once than allowed, and the oldest replies are forgotten.
func TestClientBounds(t *testing.T) {
	var running, most, calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		fmt.Fprint(w, `{"score": 1}`)
	}))
	defer server.Close()
	remote := Remote{Client: &Client{URL: server.URL, Concurrency: 2, Cache: 10}}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if v, err := remote.Verify(t.Context(), fmt.Sprint(i), "1"); err != nil || v.Outcome != Correct {
				t.Error(v, err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 2 || len(remote.Client.kept) != 10 || len(remote.Client.order) != 10 {
		t.Errorf("%d at once, %d kept in an order of %d", most.Load(), len(remote.Client.kept), len(remote.Client.order))
	}
}

func TestJudge(t *testing.T) {
	t.Setenv("GRADUS_TEST_KEY", "secret")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			Model    string
			Messages []struct{ Role, Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Model != "m" || len(request.Messages) != 1 || r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		content := "The response says something else: INCORRECT."
		switch {
		case strings.Contains(request.Messages[0].Content, "Response:\nfour"):
			content = "It is not incorrect. CORRECT"
		case strings.Contains(request.Messages[0].Content, "Response:\nhm"):
			content = "Hard to say."
		}
		reply, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"role": "assistant", "content": content}}}})
		w.Write(reply)
	}))
	defer server.Close()
	judge, err := Open(`{"verifier": "judge", "url": "` + server.URL + `", "model": "m", "key_env": "GRADUS_TEST_KEY"}`)
	if err != nil {
		t.Fatal(err)
	}
	for completion, want := range map[string]Outcome{"four": Correct, "five": Wrong, "hm": Error} {
		if v, err := judge.Verify(t.Context(), completion, "4"); v.Outcome != want || (err != nil) != (want == Error) {
			t.Errorf("%s: %+v, %v", completion, v, err)
		}
	}
	t.Setenv("GRADUS_TEST_KEY", "")
	if _, err := judge.Verify(t.Context(), "six", "4"); err == nil || !strings.Contains(err.Error(), "GRADUS_TEST_KEY") {
		t.Errorf("without a key: %v", err)
	}
}

func TestComposite(t *testing.T) {
	composite, err := ByName(`{"verifier": "composite", "terms": [
		{"name": "correct", "verify": {"verifier": "math", "places": ["boxed"]}},
		{"name": "format", "weight": 0.1, "format": "(?s)^<think>.*</think>"},
		{"name": "brief", "weight": 0.5, "length": {"max": 100}},
		{"name": "cosine", "weight": 2, "cosine": {"max": 100, "correct_short": 1, "correct_long": 0.5, "wrong_short": -1, "wrong_long": 0, "exceeded": -2}},
		{"name": "overlong", "overlong": {"max": 60, "buffer": 20}},
		{"name": "closed", "weight": -0.01, "count": "</think>"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	body := func(n int, end string) string {
		return "<think>" + strings.Repeat("x", n-len("<think></think>")-len(end)) + "</think>" + end
	}
	for _, tt := range []struct {
		completion string
		outcome    Outcome
		parts      []float64
	}{
		{body(50, `\boxed{4}`), Correct, []float64{1, 1, 0.5, 0.75, -0.5, 1}},
		{body(50, `\boxed{5}`), Wrong, []float64{0, 1, 0.5, -0.5, -0.5, 1}},
		{body(100, `4`), NoAnswer, []float64{0, 1, 0, -2, -1, 1}},
		{"", NoAnswer, []float64{0, 0, 1, -1, 0, 0}},
	} {
		got, err := composite.Verify(t.Context(), tt.completion, "4")
		if err != nil || got.Outcome != tt.outcome || len(got.Parts) != 6 {
			t.Fatalf("%q: %+v, %v", tt.completion, got, err)
		}
		sum := 0.0
		for i, weight := range []float64{1, 0.1, 0.5, 2, 1, -0.01} {
			sum += weight * tt.parts[i]
			if math.Abs(got.Parts[i].Value-tt.parts[i]) > 1e-12 {
				t.Errorf("%q: %s = %v, want %v", tt.completion, got.Parts[i].Name, got.Parts[i].Value, tt.parts[i])
			}
		}
		if !cmp.Equal(sum, got.Reward, cmpopts.EquateApprox(0, 1e-12)) {
			t.Errorf("%q: reward %v, want %v", tt.completion, got.Reward, sum)
		}
	}
	if _, err := composite.Verify(t.Context(), "x", ""); !errors.Is(err, ErrGold) {
		t.Errorf("malformed gold answer: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"verifier": "math", "decimal": 3}`:                                                                  "decimal",
		`{"verifier": "math", "url": "http://a"}`:                                                             "takes no url",
		`{"verifier": "math", "places": ["end"]}`:                                                             "unknown place",
		`{"verifier": "telepathy"}`:                                                                           "unknown verifier",
		`{"verifier": "remote", "url": "a"}`:                                                                  "http://",
		`{"verifier": "judge", "url": "http://a"}`:                                                            "model",
		`{"verifier": "composite"}`:                                                                           "needs terms",
		`{"verifier": "composite", "terms": [{"name": "a"}]}`:                                                 "expected one of",
		`{"verifier": "composite", "terms": [{"name": "a", "format": "("}]}`:                                  "missing closing",
		`{"verifier": "composite", "terms": [{"name": "a", "length": {"max": 0}}]}`:                           "max",
		`{"verifier": "composite", "terms": [{"name": "a", "length": {"max": 1, "unit": "pages"}}]}`:          "unit",
		`{"verifier": "composite", "terms": [{"name": "a", "verify": {"verifier": "math", "nope": 1}}]}`:      "nope",
		`{"verifier": "composite", "terms": [{"name": "a", "verify": "math"}, {"name": "a", "format": "x"}]}`: "of its own",
	} {
		if _, err := Open(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Settings are a verifier or an error, and the verifier of any settings judges any answer.
func FuzzOpen(f *testing.F) {
	f.Add(`{"verifier": "composite", "terms": [{"name": "a", "verify": "math"}, {"name": "b", "weight": -1, "count": "x"}]}`, `\boxed{2}`, "2")
	f.Add(`{"verifier": "composite", "terms": [{"name": "a", "cosine": {"max": 1e300}}, {"name": "b", "overlong": {"max": 5, "buffer": 5}}]}`, "x", "")
	f.Add(`{"verifier": "math", "places": ["last"], "decimals": 15}`, "1/3", "0.333")
	f.Fuzz(func(t *testing.T, settings, completion, answer string) {
		v, err := parseSpec(settings)
		if err != nil {
			return
		}
		switch v.(type) {
		case Math, Composite:
		default:
			return // would run programs or call services
		}
		if got, err := v.Verify(t.Context(), completion, answer); (err != nil) != (got.Outcome == Error) {
			t.Fatalf("inconsistent: %+v, %v", got, err)
		}
	})
}

// What is meant to be a program or tests is read or refused.
func FuzzCodeReading(f *testing.F) {
	f.Add("```python\nprint(1)\n```", `{"tests": [{"stdin": "", "stdout": "1"}]}`)
	f.Add("print(1)", "assert f(1) == 2")
	f.Fuzz(func(t *testing.T, completion, answer string) {
		if program, ok := findProgram(completion); ok && !strings.Contains(completion, program) {
			t.Errorf("the program %q is not in %q", program, completion)
		}
		if tests, err := readTests(answer); err == nil && len(tests.Tests)+len(tests.Asserts) == 0 {
			t.Errorf("%q has no tests and no error", answer)
		}
	})
}
