package workflows_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/workflows"
)

// rotten is a store on which every some-th object under a prefix is damaged as it
// is written for the first time.
type rotten struct {
	datasets.Store
	prefix string
	every  int

	mu      sync.Mutex
	written map[string]bool
	damaged int
}

func (r *rotten) PutOnce(ctx context.Context, key string, data []byte) error {
	r.mu.Lock()
	if first := !r.written[key]; first && strings.HasPrefix(key, r.prefix) {
		r.written[key] = true
		if len(r.written)%r.every == 0 {
			r.damaged++
			data = bytes.Clone(data)
			data[len(data)/2] ^= 4
		}
	}
	r.mu.Unlock()
	return r.Store.PutOnce(ctx, key, data)
}

// A byte that is wrong in any object or record of a run is found by its checksum,
// made anew from what it was made of, and changes nothing.
func TestDamageIsMended(t *testing.T) {
	const recipe = `,"recipe":"gradus","exemption":0,"train_levels":[3],"levels":[1,3],"reuse":false`
	clean := datasets.NewMemory()
	want := runAs(t, clean, "run", recipe)
	figures := cmp.Options{
		cmpopts.IgnoreFields(workflows.Result{}, "TrainSeconds", "Orchestration", "Curriculum", "Mended"),
		cmpopts.IgnoreFields(workflows.Point{}, "Seconds"), cmpopts.IgnoreFields(activities.Evaluation{}, "Seconds", "Saved"),
	}
	mended := 0
	for every, prefix := range map[int]string{2: "objects/", 3: "objects/", 5: "objects/", 1: "keys/"} {
		s := &rotten{Store: datasets.NewMemory(), prefix: prefix, every: every, written: map[string]bool{}}
		got := runAs(t, s, "run", recipe)
		if s.damaged < 10 {
			t.Fatalf("%d objects under %s were damaged", s.damaged, prefix)
		}
		if d := cmp.Diff(want, got, figures); d != "" {
			t.Errorf("of %s every one of %d damaged: %s", prefix, every, d)
		}
		mended += got.Mended
		for step := range 3 {
			if d := cmp.Diff(stepRecord(t, clean, activities.StepKey("run", step)), stepRecord(t, s, activities.StepKey("run", step))); d != "" {
				t.Errorf("of %s every one of %d damaged: step %d: %s", prefix, every, step, d)
			}
		}
	}
	if mended < 10 {
		t.Errorf("%d objects were made anew; nearly all that is damaged is read", mended)
	}
}

// What nobody can make anew pauses the run with a reason that names the object;
// restored, the run goes on.
func TestDamageByHand(t *testing.T) {
	store := datasets.NewMemory()
	e := steer(t, store)
	var hidden []byte
	var key string
	e.RegisterDelayedCallback(func() {
		s := e.status()
		if s.Phase != "paused" || !strings.Contains(s.Reason, key) || !strings.Contains(s.Reason, "restore it") {
			t.Errorf("phase %s, reason %q; want a pause that names %s", s.Phase, s.Reason, key)
		}
		if err := store.Put(t.Context(), key, hidden); err != nil {
			t.Error(err)
		}
		e.send(workflows.UpdateResume, nil, json.RawMessage(nil))
	}, time.Hour)
	e.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, _ error) {
		if info.ActivityType.Name != "Prepare" || key != "" {
			return
		}
		// Imported problems have no maker: here the record of who made them goes.
		records, err := store.List(t.Context(), "keys/shared/prepare/")
		if err != nil || len(records) != 1 {
			t.Errorf("records of Prepare: %v, %v", records, err)
			return
		}
		raw, err := store.Get(t.Context(), "runs/default-test-workflow-id/setup.json")
		if err != nil {
			t.Error(err)
			return
		}
		var setup activities.SetupRecord
		if err := json.Unmarshal(raw, &setup); err != nil {
			t.Error(err)
		}
		key = "objects/" + setup.Tables[activities.TableTest].Hash + ".arrow"
		if hidden, err = store.Get(t.Context(), key); err != nil {
			t.Error(err)
		}
		broken := bytes.Clone(hidden)
		broken[7] ^= 1
		if err := errors.Join(store.Put(t.Context(), key, broken), store.Delete(t.Context(), records[0].Key)); err != nil {
			t.Error(err)
		}
	})
	e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(tiny), (*workflows.Carried)(nil))
	var r workflows.Result
	if err := e.GetWorkflowResult(&r); err != nil || r.Steps != 3 {
		t.Errorf("%v: %+v", err, r)
	}
}

// An update that is not finite is left out and counted; after the bound the run
// pauses with the reason, can be tuned, and goes on. All of it is a function of
// the plan.
func TestNaN(t *testing.T) {
	var ends []workflows.Result
	for range 2 {
		store := datasets.NewMemory()
		e := steer(t, store)
		e.RegisterDelayedCallback(func() {
			s := e.status()
			if s.Phase != "paused" || s.Step != 2 || s.NaN != 2 || !strings.Contains(s.Reason, "2 updates in a row were not finite") || !strings.Contains(s.Markdown(), s.Reason) {
				t.Errorf("status %+v", s)
			}
			e.send(workflows.UpdateTune, nil, json.RawMessage(`{"adam_epsilon":1e-8}`))
			e.send(workflows.UpdateResume, nil, json.RawMessage(nil))
		}, time.Hour)
		// 1e-300 is 0 as a 32-bit number, and weights without a gradient divide by it.
		e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(strings.TrimSuffix(tiny, "}")+`,"steps":4,"adam_epsilon":1e-300,"max_nan_steps":2}`), (*workflows.Carried)(nil))
		var r workflows.Result
		if err := e.GetWorkflowResult(&r); err != nil {
			t.Fatal(err)
		}
		if r.NaN != 2 || r.Steps != 4 || r.Trained == 0 {
			t.Errorf("%d updates left out in %d steps, %d tokens trained on", r.NaN, r.Steps, r.Trained)
		}
		for step, want := range []float64{1, 1, 0, 0} {
			if m := metrics(t, store, "default-test-workflow-id", step); m["update/nan"] != want || want == 1 && m["num_tokens_trained"] != 0 {
				t.Errorf("step %d: %v", step, m)
			}
		}
		ends = append(ends, r)
	}
	if ends[0].Policy != ends[1].Policy {
		t.Error("two runs of one plan end differently")
	}
}

// fails is a store that panics, or fails otherwise, where the result of a selection is recorded.
type fails struct {
	datasets.Store
	mu   sync.Mutex
	left int
	how  func() error
}

func (f *fails) PutOnce(ctx context.Context, key string, data []byte) error {
	f.mu.Lock()
	hit := strings.Contains(string(data), `"stage":"select"`) && f.left > 0
	if hit {
		f.left--
	}
	f.mu.Unlock()
	if hit {
		return f.how()
	}
	return f.Store.PutOnce(ctx, key, data)
}

// A stage that panics is tried a bounded number of times; then the run pauses with
// the reason, and goes on when it is resumed after the mending.
func TestPanicPauses(t *testing.T) {
	s := &fails{Store: datasets.NewMemory(), left: 1 << 30, how: func() error { panic("a bug in this stage") }}
	e := steer(t, s)
	e.RegisterDelayedCallback(func() {
		st := e.status()
		if st.Phase != "paused" || !strings.Contains(st.Reason, "a bug in this stage") || !strings.Contains(st.Reason, "select") {
			t.Errorf("phase %s, reason %q", st.Phase, st.Reason)
		}
		s.mu.Lock()
		if tries := 1<<30 - s.left; tries > 8 {
			t.Errorf("%d tries of what panics, want at most 8", tries)
		}
		s.left = 0
		s.mu.Unlock()
		e.send(workflows.UpdateResume, nil, json.RawMessage(nil))
	}, 2*time.Hour)
	e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(tiny), (*workflows.Carried)(nil))
	var r workflows.Result
	if err := e.GetWorkflowResult(&r); err != nil || r.Steps != 3 {
		t.Errorf("%v: %+v", err, r)
	}
}

// A short stage that keeps failing becomes an activity, which the server shows,
// and the run's own page says why.
func TestTroubleIsVisible(t *testing.T) {
	s := &fails{Store: datasets.NewMemory(), left: 5, how: func() error { return errors.New("the store says no") }}
	e := steer(t, s)
	var remote []string
	var trouble string
	e.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if !slices.Contains(remote, info.ActivityType.Name) {
			remote = append(remote, info.ActivityType.Name)
		}
		if info.ActivityType.Name == "Select" {
			trouble = e.status().Trouble
		}
	})
	e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(tiny), (*workflows.Carried)(nil))
	var r workflows.Result
	if err := e.GetWorkflowResult(&r); err != nil || r.Steps != 3 {
		t.Errorf("%v: %+v", err, r)
	}
	if !slices.Contains(remote, "Select") || !strings.Contains(trouble, "the store says no") {
		t.Errorf("activities %v, trouble %q", remote, trouble)
	}
	if e.status().Trouble != "" {
		t.Error("the trouble is over, and shown still")
	}
}

// hangs verifies nothing and never returns; panics does what its name says.
type verifier func(context.Context) (reward.Verdict, error)

func (v verifier) Verify(ctx context.Context, _, _ string) (reward.Verdict, error) { return v(ctx) }

// A verifier that panics or hangs costs its answers, which are counted, and the
// steps go on.
func TestBadVerifier(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for kind, v := range map[string]verifier{
		"error":   func(context.Context) (reward.Verdict, error) { panic("verifier") },
		"timeout": func(context.Context) (reward.Verdict, error) { <-release; return reward.Verdict{}, nil },
	} {
		store := datasets.NewMemory()
		var s testsuite.WorkflowTestSuite
		e := s.NewTestWorkflowEnvironment()
		e.SetTestTimeout(2 * time.Minute)
		e.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: time.Minute}) // a machine under load may take its time
		e.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "bad"})
		policies := activities.NewPolicies(store)
		t.Cleanup(policies.Close)
		scorer := &reward.Scorer{Timeout: 5 * time.Millisecond, MaxAbandoned: 2, Lookup: func(string) (reward.Verifier, error) { return v, nil }}
		e.RegisterActivity(&activities.Activities{Store: store, Policies: policies, Scorer: scorer, Log: zerolog.Nop()})
		e.RegisterWorkflow(workflows.Experiment)
		e.ExecuteWorkflow(workflows.Experiment, json.RawMessage(strings.TrimSuffix(tiny, "}")+`,"steps":1,"reuse":false}`), (*workflows.Carried)(nil))
		var r workflows.Result
		if err := e.GetWorkflowResult(&r); err != nil || r.Steps != 1 {
			t.Fatalf("%s: %v", kind, err)
		}
		m := metrics(t, store, "bad", 0)
		if m["verifier/timeout"]+m["verifier/error"] != 32 || m["reward"] != 0 {
			t.Errorf("%s: %v", kind, m)
		}
	}
}
