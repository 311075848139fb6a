package workflows_test

import (
	"encoding/json"
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

// runAs runs an experiment under an ID, by a worker of its own.
func runAs(t *testing.T, store datasets.Store, id, more string) *workflows.Result {
	t.Helper()
	e := environment(t, store)
	e.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: id})
	e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(strings.TrimSuffix(tiny, "}")+more+"}"), (*workflows.Carried)(nil))
	var r workflows.Result
	if err := e.GetWorkflowResult(&r); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return &r
}

// objects counts what a store holds under a prefix.
func objects(t *testing.T, store datasets.Store, prefix string) int {
	t.Helper()
	found, err := store.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// An experiment takes over all that an earlier one has done on the same inputs,
// says what, and ends the same.
func TestReuse(t *testing.T) {
	store := datasets.NewMemory()
	const recipe = `,"recipe":"gradus","exemption":0,"train_levels":[3],"levels":[1,3]`
	first := runAs(t, store, "first", recipe)
	if first.Trained == 0 || first.Reused != (workflows.Reused{}) {
		t.Fatalf("first: %d tokens trained on, %v", first.Trained, first.Reused)
	}
	content, results := objects(t, store, "objects/"), objects(t, store, "keys/")

	second := runAs(t, store, "second", recipe)
	figures := cmp.Options{
		cmpopts.IgnoreFields(workflows.Result{}, "TrainSeconds", "Orchestration", "Curriculum", "Reused"),
		cmpopts.IgnoreFields(workflows.Point{}, "Seconds"), cmpopts.IgnoreFields(activities.Evaluation{}, "Seconds", "Saved"),
	}
	if d := cmp.Diff(first, second, figures); d != "" {
		t.Error(d)
	}
	if n := objects(t, store, "objects/"); n != content {
		t.Errorf("the second run made %d objects anew", n-content)
	}
	if n := objects(t, store, "keys/"); n != results {
		t.Errorf("the second run computed %d results anew", n-results)
	}
	r := second.Reused
	if r.Updates != 4 || r.Assessments != 3 || r.Responses == 0 || r.Rollouts < 2*(3+3) || r.Others == 0 || r.Seconds <= 0 {
		t.Errorf("reused %+v; there were a chunk of warm-up and 3 steps", r)
	}
	if r.Completions < second.Completions || r.Tokens < second.Tokens {
		t.Errorf("reused %d completions and %d tokens, less than the %d and %d of training", r.Completions, r.Tokens, second.Completions, second.Tokens)
	}
	for step := range 3 {
		if d := cmp.Diff(metrics(t, store, "first", step), metrics(t, store, "second", step)); d != "" {
			t.Errorf("step %d: %s", step, d)
		}
	}

	// What the runs have recorded keeps all of it alive: a run after a collection
	// reuses as much.
	before := time.Now().Add(time.Hour)
	if _, err := datasets.Collect(t.Context(), store, datasets.CollectOptions{Before: before}); err != nil {
		t.Fatal(err)
	}
	third := runAs(t, store, "third", recipe)
	if d := cmp.Diff(first, third, figures); d != "" {
		t.Error(d)
	}
	if third.Reused.Updates != r.Updates || third.Reused.Rollouts != r.Rollouts {
		t.Errorf("after a collection reused %v, before it %v", third.Reused, r)
	}

	off := runAs(t, store, "off", recipe+`,"reuse":false`)
	if off.Reused != (workflows.Reused{}) {
		t.Errorf("with reuse off: %v", off.Reused)
	}
	if d := cmp.Diff(first, off, figures); d != "" {
		t.Error(d)
	}
}

// Whatever makes a difference is part of the key.
func TestReuseOfSome(t *testing.T) {
	store := datasets.NewMemory()
	first := runAs(t, store, "first", "")
	for _, c := range []struct {
		name, more string
		updates    int // of the warm-up at most
	}{
		{"seed", `,"seed":4`, 0},
		{"temperature", `,"temperature":0.7`, 0},
		{"learning rate", `,"learning_rate":0.01`, 1},
		{"generations", `,"num_generations":6`, 1},
		{"verifier", `,"verifier":"exact"`, 0},
		{"noise", `,"answer_noise":0.9`, 1},
		{"filter", `,"select":[{"stage":"grpo.advantage"}]`, 1},
	} {
		r := runAs(t, store, c.name, c.more)
		if r.Reused.Updates != c.updates {
			t.Errorf("another %s: %v, want %d updates", c.name, r.Reused, c.updates)
		}
		if r.Policy == first.Policy {
			t.Errorf("another %s: the same policy", c.name)
		}
		if c.name == "seed" && r.Reused != (workflows.Reused{}) {
			t.Errorf("another seed: %v", r.Reused)
		}
	}
}

func TestReusedString(t *testing.T) {
	for want, r := range map[string]workflows.Reused{
		"": {},
		"reused 1 update from earlier runs: 0.3 s of work saved":                                                                         {Updates: 1, Seconds: .26},
		"reused 12 rollouts (24,576 completions, 1,166,000 tokens), 3 assessments and 10 updates from earlier runs: 4.1 s of work saved": {Rollouts: 12, Completions: 24576, Tokens: 1166000, Assessments: 3, Updates: 10, Seconds: 4.1},
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}
