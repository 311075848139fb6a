package workflows_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/workflows"
)

// begin runs an experiment under an ID on what it is given.
func begin(t *testing.T, store datasets.Store, id, given string) (*workflows.Result, workflows.Status, error) {
	t.Helper()
	s := steer(t, store)
	s.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: id})
	s.ExecuteWorkflow(workflows.Experiment, json.RawMessage(given), (*workflows.Carried)(nil))
	var r workflows.Result
	if err := s.GetWorkflowResult(&r); err != nil {
		return nil, workflows.Status{}, err
	}
	timeless(&r)
	return &r, s.status(), nil
}

// must is begin of what is not refused.
func must(t *testing.T, store datasets.Store, id, given string) (*workflows.Result, workflows.Status) {
	t.Helper()
	r, s, err := begin(t, store, id, given)
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return r, s
}

func plus(more string) string { return strings.TrimSuffix(tiny, "}") + more + "}" }

// anyRun compares the figures of runs that come by them in different ways.
var anyRun = cmp.Options{cmpopts.IgnoreFields(workflows.Result{}, "Reused", "Fork"), cmpopts.IgnoreFields(activities.Evaluation{}, "Seconds", "Saved")}

// A fork that changes nothing continues as the run itself did, from every step,
// with all that its recipe carries from step to step; reuse is off, so that it
// does all the work anew.
func TestForkIsTheRunItself(t *testing.T) {
	for name, recipe := range map[string]string{
		"gradus": `,"recipe":"gradus","exemption":0,"train_levels":[3],"levels":[1,3],"reuse":false,"evaluation.every":1`,
		"clpo":   `,"recipe":"clpo","families":["running_sums","sorting"],"reuse":false`,
		"wait":   `,"short_batch":"wait","prompts_per_step":6,"steps":5,"evaluation.every":2,"reuse":false`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := datasets.NewMemory()
			want, _ := must(t, store, "source", plus(recipe))
			records := objects(t, store, "runs/source/")
			waited := false
			for step := range want.Steps {
				raw, err := store.Get(t.Context(), activities.StepKey("source", step-1))
				if err != nil {
					t.Fatal(err)
				}
				waited = waited || strings.Contains(string(raw), `"pending":[`)
				got, s := must(t, store, fmt.Sprint("fork-", step), fmt.Sprintf(`{"fork":{"run":"source","step":%d}}`, step))
				if d := cmp.Diff(want, got, anyRun); d != "" {
					t.Errorf("from step %d: %s", step, d)
				}
				if got.Reused != want.Reused || s.Fork == nil || s.Fork.Run != "source" || *s.Fork.Step != step || got.Fork == nil ||
					!strings.Contains(s.Markdown(), fmt.Sprintf("Fork of run source after step %d.", step)) {
					t.Errorf("from step %d: %+v, %+v", step, got.Reused, s)
				}
				last, again := activities.StepKey("source", want.Steps-1), activities.StepKey(fmt.Sprint("fork-", step), want.Steps-1)
				if a, b := stepRecord(t, store, last), stepRecord(t, store, again); !cmp.Equal(a, b, cmpopts.IgnoreFields(activities.StepRecord{}, "Plan")) {
					t.Errorf("from step %d the last step leaves something else: %s", step, cmp.Diff(a, b))
				}
			}
			if want.Trained == 0 || waited != (name == "wait") {
				t.Errorf("%d tokens trained on, waited: %v", want.Trained, waited)
			}
			if n := objects(t, store, "runs/source/"); n != records {
				t.Errorf("the source has %d records, %d before its forks", n, records)
			}
		})
	}
}

func stepRecord(t *testing.T, store datasets.Store, key string) (r activities.StepRecord) {
	t.Helper()
	raw, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// A fork with changes is another run. What a fork needs outlives a collection,
// and of the source nothing but the store is needed.
func TestForkChanges(t *testing.T) {
	store := datasets.NewMemory()
	source, _ := must(t, store, "source", tiny)
	if _, err := datasets.Collect(t.Context(), store, datasets.CollectOptions{Before: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for changes, differs := range map[string]bool{
		`"learning_rate":1e-4`: true, `"seed":4`: true, `"select":[{"stage":"grpo.advantage"}]`: true, `"steps":4`: true, `"max_generated_tokens":1`: false,
		`"levels":[1],"recipe":"grpo"`: false,
	} {
		in := fmt.Sprintf(`{"fork":{"run":"source","step":2},%s}`, changes)
		if !differs {
			in = strings.Replace(in, `"max_generated_tokens":1`, `"max_generated_tokens":100000`, 1)
		}
		r, s := must(t, store, "fork", in)
		if (r.Policy != source.Policy) != differs {
			t.Errorf("%s: policy %s, of the source %s", changes, r.Policy, source.Policy)
		}
		if len(s.Tuned) != 1 || s.Tuned[0].Step != 3 || r.Completions < source.Completions {
			t.Errorf("%s: %+v, %+v", changes, s, r)
		}
		if got := objects(t, store, "runs/fork/steps/"); got != r.Steps-1 {
			t.Errorf("%s: %d records, want those of step 2 to %d", changes, got, r.Steps)
		}
	}
	must(t, store, "fork", `{"fork":{"run":"source","step":2}}`)
	if _, s := must(t, store, "of-fork", `{"fork":{"run":"fork"},"steps":4}`); s.Fork.Run != "fork" || *s.Fork.Step != 3 {
		t.Errorf("the newest record of a fork: %+v", s.Fork)
	}
	for in, want := range map[string]string{
		`{"fork":"source"}`:                                           "fork is \"source\"; want an object such as",
		`{"fork":{}}`:                                                 "fork is {}; want an object",
		`{"fork":{"run":"source","stpe":2}}`:                          "want an object such as",
		`{"fork":{"run":"source","step":-1}}`:                         "want an object such as",
		`{"fork":{"run":"nobody"}}`:                                   `no record of a run "nobody"`,
		`{"fork":{"run":"source","step":9}}`:                          "run source has no record of step 9; it has those of 0 to 3",
		`{"fork":{"run":"fork","step":1}}`:                            "run fork has no record of step 1; it has those of 2 to 3",
		`{"fork":{"run":"source"}}`:                                   "steps is 3, and 3 are done",
		`{"fork":{"run":"source","step":1},"levels":[1,2]}`:           "levels cannot change: the steps that are done rest on it",
		`{"fork":{"run":"source","step":1},"recipe":"d3s"}`:           "recipe cannot change",
		`{"fork":{"run":"source","step":1},"learning_rat":1}`:         `unknown option "learning_rat"`,
		`{"fork":{"run":"source","step":1},"learning_rate":-1}`:       "learning_rate is -1",
		`{"fork":{"run":"source","step":1},"learning_rate":null}`:     "learning_rate is null",
		`{"fork":{"run":"source","step":1},"warmup":{"every":7}}`:     "warmup.every cannot change",
		`{"fork":{"run":"source","step":2},"max_generated_tokens":1}`: "max_generated_tokens is 1, and",
	} {
		if _, _, err := begin(t, store, "refused", in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
	if n := objects(t, store, "runs/refused/"); n != 0 {
		t.Errorf("what was refused left %d records", n)
	}
}

// A seed says which answers are wrong, so it cannot change where some are.
func TestForkSeedWithNoise(t *testing.T) {
	store := datasets.NewMemory()
	must(t, store, "source", plus(`,"steps":1,"answer_noise":0.5`))
	if _, _, err := begin(t, store, "fork", `{"fork":{"run":"source","step":0},"seed":4}`); err == nil || !strings.Contains(err.Error(), "answer_noise") {
		t.Errorf("got %v", err)
	}
}

// A run of 3 steps that is extended to 5 is, byte for byte, one of 5, and shows
// under its own name. A recipe with a schedule over all steps is not.
func TestExtend(t *testing.T) {
	for name, c := range map[string]struct {
		recipe string
		same   bool
	}{
		"grpo": {"", true},
		"clpo": {`,"recipe":"clpo","families":["running_sums","sorting"]`, true},
		"d3s":  {`,"recipe":"d3s"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, _ := must(t, datasets.NewMemory(), "run", plus(c.recipe+`,"steps":5`))
			store := datasets.NewMemory()
			must(t, store, "run", plus(c.recipe))
			got, s := must(t, store, "run", `{"fork":{"run":"run"},"steps":5}`)
			if d := cmp.Diff(want, got, anyRun); (d == "") != c.same || got.Steps != 5 {
				t.Errorf("%+v: %s", got, d)
			}
			if s.Fork != nil || objects(t, store, "runs/run/steps/") != 5 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A run that ended goes back under its own name; its later records go.
func TestRewindEnded(t *testing.T) {
	store := datasets.NewMemory()
	want, _ := must(t, store, "run", tiny)
	got, s := must(t, store, "run", `{"fork":{"run":"run","step":1}}`)
	if d := cmp.Diff(want, got, anyRun); d != "" || s.Fork != nil {
		t.Errorf("%+v: %s", s, d)
	}
	short, _ := must(t, store, "run", `{"fork":{"run":"run","step":1},"steps":2}`)
	if n := objects(t, store, "runs/run/steps/"); n != 2 || short.Steps != 2 || short.Policy == want.Policy {
		t.Errorf("%d records after %+v", n, short)
	}
	// What begins anew under a name leaves nothing of the run that had it.
	must(t, store, "run", plus(`,"steps":0`))
	if n := objects(t, store, "runs/run/steps/"); n != 0 {
		t.Errorf("%d records of the run before", n)
	}
}

// A run goes back in mid-flight, at once where it is paused, and ends as if it
// had never been further.
func TestRewind(t *testing.T) {
	want := steer(t, datasets.NewMemory()).result(tiny)
	for _, paused := range []bool{false, true} {
		store := datasets.NewMemory()
		s := steer(t, store)
		s.during(3, func() {
			if paused {
				s.send("pause", nil, "thinking")
				s.RegisterDelayedCallback(func() {
					s.send("rewind", func() {
						s.RegisterDelayedCallback(func() {
							if got := s.status(); got.Phase != "paused" || got.Step != 1 || got.Reason != "thinking" || len(got.Recent) != 1 {
								t.Errorf("after going back: %+v", got)
							}
							s.send("resume", nil)
						}, time.Hour)
					}, json.RawMessage(`{"step":1}`))
				}, time.Hour)
				return
			}
			s.send("rewind", func() { s.send("tune", nil, json.RawMessage(`{"beta":0.1}`)) }, json.RawMessage(`{"step":1}`))
		})
		if !paused {
			s.during(1, func() {
				asks := []string{`{"step":7}`, `{"stpe":1}`, `{"step":0,"seed":null}`}
				var next func()
				next = func() { // one after the other, so that the answers have an order
					if len(asks) > 0 {
						given := asks[0]
						asks = asks[1:]
						s.send("rewind", next, json.RawMessage(given))
					}
				}
				next()
			})
		}
		got := s.result(tiny)
		if d := cmp.Diff(want, got, anyRun); d != "" {
			t.Errorf("paused %v: %s", paused, d)
		}
		if paused {
			s.want("pauses after step 3", "goes back to step 1 and stays paused", "goes on with step 2")
		} else {
			s.want("no record of step 7; it has those of 0 to ", `want an object such as {"step":40}`, "seed is null", "goes back to step 1 after step 3, which is in hand", "refused: the run is about to go back")
		}
		if n := objects(t, store, "runs/default-test-workflow-id/steps/"); n != 3 {
			t.Errorf("%d records", n)
		}
	}
}

// A rewind takes changes along.
func TestRewindWithChanges(t *testing.T) {
	store := datasets.NewMemory()
	s := steer(t, store)
	s.during(2, func() { s.send("rewind", nil, json.RawMessage(`{"step":1,"learning_rate":1e-4}`)) })
	r := s.result(tiny)
	s.want("goes back to step 1")
	if got := s.status(); r.Steps != 3 || len(got.Tuned) != 1 || got.Tuned[0].Step != 2 {
		t.Errorf("%+v, %+v", r, got)
	}
	for step, want := range []float64{1.5e-3, 1e-4, 1e-4} {
		m := metrics(t, store, "default-test-workflow-id", step)
		if m["num_tokens_trained"] > 0 && m["learning_rate"] != want {
			t.Errorf("step %d learned at %v, want %v", step+1, m["learning_rate"], want)
		}
	}
}
