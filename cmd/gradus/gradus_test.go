package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

var update = flag.Bool("update", false, "rewrite the recorded histories")

// local is the stack of these tests, in a folder of its own.
var local *stack.Stack

// asProgram makes the test binary the program itself.
const asProgram = "GRADUS_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	flag.Parse()
	var err error
	if local, err = stack.Start(context.Background(), stack.Options{UI: true, Progress: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, "start the local stack:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := local.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func connectTest(t testing.TB) (client.Client, datasets.Store) {
	t.Helper()
	store, err := local.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.DialContext(t.Context(), client.Options{HostPort: local.Temporal, Namespace: local.Namespace, Logger: worker.Logger(zerolog.Nop())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, store
}

// tiny is an experiment of seconds that does its work itself.
func tiny(more ...string) []string {
	return append([]string{
		"seed=3", "steps=3", "levels=[1]", "problems_per_level=64", "model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=1",
		"warmup.max_steps=60", "warmup.min_steps=50", "warmup.every=10", "warmup.batch_size=32", "warmup.learning_rate=5e-3", "prompts_per_step=8", "num_generations=4",
		"evaluation.problems_per_level=8", "evaluation.num_generations=2", "max_completion_length=8", "reuse=false",
	}, more...)
}

func runTest(t *testing.T, c client.Client, id string, pairs []string) *workflows.Result {
	t.Helper()
	return runOn(t, c, workflows.QueueCPU, id, pairs)
}

func runOn(t *testing.T, c client.Client, queue, id string, pairs []string) *workflows.Result {
	t.Helper()
	given, err := planInput("grpo", pairs)
	if err != nil {
		t.Fatal(err)
	}
	run, err := launch(t.Context(), c, queue, id, given)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	r, err := follow(ctx, &connection{client: c, stack: local}, run.GetID(), &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return r
}

// artifacts are all that a run's steps refer to, by hash.
func artifacts(t *testing.T, s datasets.Store, run string, steps int) []activities.StepRecord {
	t.Helper()
	var out []activities.StepRecord
	for i := range steps {
		raw, err := s.Get(t.Context(), activities.StepKey(run, i))
		if err != nil {
			t.Fatal(err)
		}
		var r activities.StepRecord
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// The same seed gives the same bytes in every artifact, whether one worker
// does all, on one queue or on several, or three share the work; another seed
// gives others.
func TestExperimentIsReproducible(t *testing.T) {
	c, store := connectTest(t)
	results := map[string]*workflows.Result{}
	records := map[string][]activities.StepRecord{}
	one, three := [][]string{nil}, [][]string{{worker.RoleCPU}, {worker.RoleRollout}, {worker.RoleRollout, worker.RoleTrain}}
	stacked := []string{"recipe=gradus", "levels=[1,3]", "train_levels=[3]", "exemption=0"}
	ahead := append([]string{"max_staleness=2"}, stacked...)
	for _, fleet := range []struct {
		id    string
		roles [][]string
		queue string
		plan  []string
	}{
		{"one", one, workflows.QueueCPU, nil},
		{"eager", one, workflows.QueueAll, nil},
		{"three", three, workflows.QueueCPU, nil},
		{"other", one, workflows.QueueCPU, []string{"seed=4"}},
		{"one-gradus", one, workflows.QueueAll, stacked},
		{"three-gradus", three, workflows.QueueCPU, stacked},
		{"one-ahead", one, workflows.QueueCPU, ahead},
		{"eager-ahead", one, workflows.QueueAll, ahead},
		{"three-ahead", three, workflows.QueueCPU, ahead},
	} {
		var ws []*worker.Worker
		for _, roles := range fleet.roles {
			w, err := worker.Start(c, store, worker.Options{Roles: roles, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			ws = append(ws, w)
		}
		results[fleet.id] = runOn(t, c, fleet.queue, fleet.id, tiny(fleet.plan...))
		for _, w := range ws {
			w.Stop()
		}
		records[fleet.id] = artifacts(t, store, fleet.id, 3)
	}
	for _, same := range [][2]string{{"one", "eager"}, {"one", "three"}, {"one-gradus", "three-gradus"}, {"one-ahead", "eager-ahead"}, {"one-ahead", "three-ahead"}} {
		if d := cmp.Diff(records[same[0]], records[same[1]]); d != "" {
			t.Errorf("runs %v leave different artifacts: %s", same, d)
		}
		if d := cmp.Diff(results[same[0]].Policy, results[same[1]].Policy); d != "" {
			t.Errorf("final policies of %v differ: %s", same, d)
		}
	}
	if r := results["one-gradus"]; r.Trained == 0 || r.Inspected == 0 || r.Completions <= 3*8*4 {
		t.Errorf("the stacked recipe did not do its part: %+v", r)
	}
	if cmp.Equal(results["one"].Policy, results["other"].Policy) {
		t.Error("another seed ends with the same policy")
	}
	r := results["one"]
	if r.Steps != 3 || r.WarmSteps < 50 || r.Trained == 0 || r.Completions != 3*8*4 || r.After.All.Problems != r.Before.All.Problems || r.Before.All.Problems == 0 {
		t.Errorf("result %+v", r)
	}
	checkSelections(t, store, records["one"])
	if *update {
		record(t, c, "one", filepath.Join("..", "..", "workflows", "testdata", "experiment.json"))
		record(t, c, "one-gradus", filepath.Join("..", "..", "workflows", "testdata", "gradus.json"))
		record(t, c, "one-ahead", filepath.Join("..", "..", "workflows", "testdata", "ahead.json"))
	}
	if _, err := policy.LoadState(t.Context(), store, r.Policy); err != nil {
		t.Errorf("final policy: %v", err)
	}
}

// checkSelections: every completion has a row, kept or with a reason, and the
// reasons add up.
func checkSelections(t *testing.T, s datasets.Store, steps []activities.StepRecord) {
	t.Helper()
	for _, r := range steps {
		var b bytes.Buffer
		var rows []struct {
			Kept       bool    `json:"kept"`
			Reason     string  `json:"reason"`
			TokensKept int     `json:"tokens_kept"`
			Advantage  float64 `json:"advantage"`
		}
		table, err := datasets.Load(t.Context(), s, memory.DefaultAllocator, r.Selections)
		if err != nil {
			t.Fatal(err)
		}
		err = datasets.WriteJSONL(&b, table, 0)
		table.Release()
		if err != nil {
			t.Fatal(err)
		}
		for d := json.NewDecoder(&b); d.More(); {
			rows = append(rows, struct {
				Kept       bool    `json:"kept"`
				Reason     string  `json:"reason"`
				TokensKept int     `json:"tokens_kept"`
				Advantage  float64 `json:"advantage"`
			}{})
			if err := d.Decode(&rows[len(rows)-1]); err != nil {
				t.Fatal(err)
			}
		}
		if len(rows) != 32 {
			t.Errorf("step %d has %d selections, want one per completion, 32", r.Step, len(rows))
		}
		for i, row := range rows {
			if row.Kept != (row.Reason == "") || row.Kept != (row.TokensKept > 0) || !row.Kept && row.Advantage != 0 {
				t.Errorf("step %d, row %d: %+v", r.Step, i, row)
			}
		}
	}
}

// record writes a run's history where the replay test finds it.
func record(t *testing.T, c client.Client, id, file string) {
	t.Helper()
	h := &historypb.History{}
	for i := c.GetWorkflowHistory(t.Context(), id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		e, err := i.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.Events = append(h.Events, e)
	}
	raw, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What the Temporal UI sends when it is wrong is refused at once, by name.
func TestExperimentRefuses(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, x := range []struct{ in, want string }{
		{`{"recipe":"gpro"}`, `unknown recipe "gpro"`},
		{`{"recipe":"grpo","num_generation":8}`, `unknown option "num_generation"; did you mean num_generations?`},
		{`{"recipe":"grpo","num_generations":1}`, "num_generations is 1; it must be from 2"},
		{`{"recipe":"grpo","problems":"nowhere"}`, `problems "nowhere"`},
		{`{"recipe":"grpo","backend":"abacus"}`, "abacus"},
	} {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: workflows.QueueCPU}, "Experiment", json.RawMessage(x.in))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err = run.Get(ctx, nil)
		cancel()
		var app *temporal.ApplicationError
		if !errors.As(err, &app) || !strings.Contains(app.Message(), x.want) || app.Type() != activities.ErrorInvalid {
			t.Errorf("%s: got %v, want a refusal with %q", x.in, err, x.want)
		}
	}
}

// A file in the shape of GSM8K goes through: import, warm-up, training, with
// every gold solution verified as right.
func TestImportedProblems(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var b strings.Builder
	for i := range 60 {
		fmt.Fprintf(&b, `{"question": "Ann has %d figs and buys %d more. How many?", "answer": "She has %d+%d=<<%d+%d=%d>>%d figs.\n#### %d"}`+"\n", i, 2*i, i, 2*i, i, 2*i, 3*i, 3*i, 3*i)
	}
	path := filepath.Join(t.TempDir(), "figs.jsonl")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	name, err := (&problemsImport{paths: []string{path}}).run(t.Context(), &out, store)
	if err != nil || !strings.Contains(out.String(), "figs: 60 problems, 0 rejected") {
		t.Fatalf("%v: %s", err, out.String())
	}
	r := runTest(t, c, "figs", tiny("problems="+name, "warmup.max_steps=10", "steps=1", "max_completion_length=48"))
	if r.Steps != 1 || r.After == nil {
		t.Errorf("result %+v", r)
	}
	// A policy to go on from, by way of a Hugging Face folder.
	state, err := policy.LoadState(t.Context(), store, r.Policy)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "policy")
	if err := policy.WriteDir(folder, state); err != nil {
		t.Fatal(err)
	}
	given := map[string]json.RawMessage{"policy": quote(folder)}
	if err := storePolicy(t.Context(), store, given); err != nil {
		t.Fatal(err)
	}
	again := runTest(t, c, "figs-2", tiny("problems="+name, "policy="+string(given["policy"]), "steps=1", "max_completion_length=48"))
	if again.WarmSteps != 0 {
		t.Errorf("a given policy was warmed up for %d steps", again.WarmSteps)
	}
	var s workflows.Status
	if s, err = status(t.Context(), c, "figs"); err != nil || s.Phase != "finished" || !strings.Contains(s.Markdown(), "| all |") {
		t.Errorf("%v, %+v", err, s)
	}
}

// Dynamic sampling refills up to its bound; a short batch can wait.
func TestRefillAndWait(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	r := runTest(t, c, "refill", tiny("max_rollout_rounds=2", "warmup.max_steps=10"))
	if r.Completions <= 3*8*4 {
		t.Errorf("%d completions: a policy that knows nothing must have been refilled", r.Completions)
	}
	r = runTest(t, c, "wait", tiny("short_batch=wait", "warmup.max_steps=10"))
	if r.Steps != 3 || r.Trained != 0 {
		t.Errorf("a batch that never fills was trained on: %+v", r)
	}
}

// The reference policy, several passes and mini-batches go the whole way: with
// a KL term and another pass the same rollouts give another policy.
func TestReferenceAndIterations(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	plain := runTest(t, c, "plain", tiny("steps=2"))
	other := runTest(t, c, "kl", tiny("steps=2", "beta=0.1", "num_iterations=2", "mini_batch_size=16"))
	if plain.Before.All != other.Before.All {
		t.Errorf("runs of one seed start differently: %+v, %+v", plain.Before.All, other.Before.All)
	}
	if plain.Trained == 0 || cmp.Equal(plain.Policy, other.Policy) {
		t.Errorf("beta and num_iterations change nothing: %+v", other)
	}
	kl := 0.0
	for _, r := range artifacts(t, store, "kl", 2) {
		table, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, r.Metrics)
		if err != nil {
			t.Fatal(err)
		}
		values := datasets.Value.Get(table)
		for i, name := range datasets.Name.Get(table) {
			if name == "kl" {
				kl = values[i]
			}
		}
		table.Release()
	}
	if kl <= 0 {
		t.Errorf("the KL to the reference is %v after two steps away from it", kl)
	}
}

// Recorded histories replay with today's workflow code.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "workflows", "testdata", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded histories: %v", err)
	}
	for _, f := range files {
		r := sdkworker.NewWorkflowReplayer()
		r.RegisterWorkflow(workflows.Experiment)
		r.RegisterWorkflow(workflows.Evaluate)
		r.RegisterWorkflow(workflows.Sweep)
		r.RegisterWorkflow(workflows.Prepare)
		raw, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		h, err := client.HistoryFromJSON(raw, client.HistoryJSONOptions{})
		raw.Close()
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		// The runs of a sweep are named after it.
		o := sdkworker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: h.Events[0].GetWorkflowExecutionStartedEventAttributes().WorkflowId}}
		if err := r.ReplayWorkflowHistoryWithOptions(worker.Logger(zerolog.Nop()), h, o); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
		fail string
	}{
		{[]string{"recipes"}, "grpo", ""},
		{[]string{"recipes", "show", "dapo"}, "epsilon_high: 0.28", ""},
		{[]string{"run", "grpo", "--dry-run", "learning_rate=1e-5", "--steps", "7"}, "steps: 7", ""},
		{[]string{"run", "grpo", "--dry-run", "learning_rat=1e-5"}, "", "learning_rate?"},
		{[]string{"run", "grpo", "--dry-run", "lr=1e-5"}, "", "write learning_rate"},
		{[]string{"run", "grpo", "--dry-run", "--learning_rate=1e-5"}, "", "unknown flag --learning_rate; write learning_rate="},
		{[]string{"tune", "RUN", "--tau-hard", "0.5"}, "", "unknown flag --tau-hard; write tau_hard="},
		{[]string{"run", "grpo", "--lr=1e-5"}, "", "unknown flag --lr; write learning_rate"},
		{[]string{"run", "grpo", "--nonsense"}, "", "unknown flag: --nonsense"},
		{[]string{"status", "--learning_rate=1e-5"}, "", "unknown flag: --learning_rate"},
		{[]string{"run", "grpo", "--dry-run", "nonsense"}, "", "want key=value"},
		{[]string{"run", "missing.yaml", "--dry-run"}, "", "missing.yaml"},
		{[]string{"run", "grpo"}, "", "gradus dev"},
		{[]string{"status", "--temporal", "127.0.0.1:1"}, "", "belong together"},
		{[]string{"worker", "--role", "gpu", "--temporal", local.Temporal, "--store", "file://" + t.TempDir()}, "", `unknown role "gpu"`},
		{[]string{"bench", "nothing"}, "", `unknown command "nothing" for "gradus bench"`},
		{[]string{"data", "nothing"}, "", `unknown command "nothing" for "gradus data"`},
		{[]string{"policy", "import", "/nowhere", "--temporal", local.Temporal, "--store", "file://" + t.TempDir()}, "", "/nowhere"},
		{[]string{"recipes", "--output", "xml", "show", "gpro"}, "", "unknown recipe"},
	} {
		var out bytes.Buffer
		r := root()
		r.SetOut(&out)
		r.SetErr(&out)
		r.SetArgs(append(slices.Clone(c.args), "--dir", t.TempDir()))
		err := r.ExecuteContext(t.Context())
		if c.fail == "" && (err != nil || !strings.Contains(out.String(), c.want)) {
			t.Errorf("%v: %v\n%s", c.args, err, out.String())
		}
		if c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
			t.Errorf("%v: got %v, want an error with %q", c.args, err, c.fail)
		}
	}
}

// A printed plan, run again from its file, is the same plan.
func TestPlanFile(t *testing.T) {
	given, err := planInput("dapo", []string{"steps=9", "families=[gcd, sorting]"})
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := printPlan(&first, given); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(path, first.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := planInput(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := printPlan(&second, again); err != nil {
		t.Fatalf("%v; keys %v", err, slices.Sorted(maps.Keys(again)))
	}
	if d := cmp.Diff(first.String(), second.String()); d != "" {
		t.Error(d)
	}
}

// What starts at once has names of its own.
func TestStamp(t *testing.T) {
	a, b := stamp(), stamp()
	if a == b || len(a) != len("20060102-150405-abcd") {
		t.Errorf("%s, %s", a, b)
	}
}
