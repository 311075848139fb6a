package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// preparing starts a preparation of a problem set, by key=value pairs.
func preparing(t *testing.T, c client.Client, problems string, pairs ...string) string {
	t.Helper()
	given, err := prepareInput(problems, pairs)
	if err != nil {
		t.Fatal(err)
	}
	id, err := startPreparation(t.Context(), c, workflows.QueueCPU, given)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// prepared is a preparation's result.
func prepared(t *testing.T, c client.Client, id string) *activities.Prepared {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	r, err := followPreparation(ctx, &connection{client: c, stack: local}, id, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return r
}

// tables are what the stages left, without the time they took.
func tables(p *activities.Prepared) (out []map[string]datasets.Ref) {
	for _, s := range p.Stages {
		out = append(out, s.Tables)
	}
	return out
}

// A preparation that loses its worker in the middle of a difficulty map goes on from
// the pieces that are done and ends with the same bytes; asked for again it costs
// nothing; its map serves another one.
func TestPrepare(t *testing.T) {
	c, store := connectTest(t)
	set, err := families.Make(memory.DefaultAllocator, families.Options{Families: []string{"running_sums"}, Levels: []int{1, 2}, PerLevel: 40, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Release()
	ref, err := datasets.Save(t.Context(), store, set)
	if err != nil {
		t.Fatal(err)
	}
	if err := datasets.Publish(t.Context(), store, "to-prepare", ref); err != nil {
		t.Fatal(err)
	}
	start := func() *worker.Worker {
		w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := start()
	model := runTest(t, c, "before-preparing", tiny("steps=1", "levels=[1,2]")).Policy
	stages := []string{"normalise=true", "deduplicate=true", "decontaminate.against=[to-prepare@1]", "decontaminate.min_n=13", "decontaminate.drop=false", "split=true", "tokens=true", "policy=" + model.String(),
		"difficulty.num_generations=100", "difficulty.max_completion_length=8", "hints=true", "rewrites=true", "filter=attempts > 0"}
	with := func(more ...string) []string { return append(more, stages...) }

	calm := prepared(t, c, preparing(t, c, "to-prepare", with("name=calm", "reuse=false")...))
	if len(calm.Stages) != 9 {
		t.Fatalf("%d stages", len(calm.Stages))
	}
	for _, s := range calm.Stages {
		dropped := 0.0
		for name, n := range s.Metrics {
			if strings.HasPrefix(name, activities.DroppedPrefix) {
				dropped += n
			}
		}
		if s.Metrics[activities.MetricRowsIn] != s.Metrics[activities.MetricRowsOut]+dropped || s.Reused {
			t.Errorf("%s: %v, reused %v", s.Stage, s.Metrics, s.Reused)
		}
	}
	if m := calm.Stages[5].Metrics; m["measured"] == 0 || m["attempts"] != 100*m["measured"] || m["successes"] == 0 {
		t.Errorf("difficulty: %v", m)
	}
	if m := calm.Stages[2].Metrics; m["contaminated"] != m[activities.MetricRowsIn] {
		t.Errorf("compared with itself: %v", m)
	}
	if at, err := datasets.Resolve(t.Context(), store, "calm"); err != nil || at != calm.Problems {
		t.Errorf("published %v, %v", at, err)
	}
	w.Stop()

	process := func() *process {
		return gradus(t, "worker", "--role", "all", "--name", "prepares", "--temporal", local.Temporal, "--store", local.Store, "--dir", t.TempDir())
	}
	p := process()
	id := preparing(t, c, "to-prepare", with("name=killed", "reuse=false")...)
	var s workflows.PrepareStatus
	for begin := time.Now(); s.Done == 0 && time.Since(begin) < time.Minute; time.Sleep(5 * time.Millisecond) {
		s, _ = prepareStatus(t.Context(), c, id) // until there is a worker that answers
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	if s.Done == 0 || s.Done == s.Pieces {
		t.Fatalf("killed at %d of %d pieces, which is not in the middle", s.Done, s.Pieces)
	}
	p = process()
	killed := prepared(t, c, id)
	if d := cmp.Diff(tables(calm), tables(killed)); d != "" {
		t.Error(d)
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()

	w = start()
	defer w.Stop()
	again := with("name=again")
	first := prepared(t, c, preparing(t, c, "to-prepare", again...))
	second := preparing(t, c, "to-prepare", again...)
	r := prepared(t, c, second)
	if d := cmp.Diff(tables(first), tables(r)); d != "" {
		t.Error(d)
	}
	for _, s := range r.Stages {
		if !s.Reused {
			t.Errorf("%s was done again", s.Stage)
		}
	}
	if named, err := datasets.Resolve(t.Context(), store, "again@2"); err == nil {
		t.Errorf("a second version %v of the same rows", named)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", local.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", local.SecretKey)
	do := console{t, local.Store}
	exported := strings.Count(do.says("", "data", "export", "calm", "-o", "-", "--split", "train", "--where", "pass_rate < 1"), `"split":"train"`)
	if verl := do.says("", "data", "export", "calm", "--format", "verl", "-o", "-", "--split", "train", "--where", "pass_rate < 1"); exported == 0 || strings.Count(verl, `"difficulty":`) != exported {
		t.Errorf("%d rows of the split are not solved, and verl is given\n%s", exported, verl)
	}
	do.refuses("to-prepare has no column split", "data", "export", "to-prepare", "--format", "trl", "--split", "train", "-o", "-")
	if *update {
		record(t, c, second, filepath.Join("..", "..", "workflows", "testdata", "prepare.json"))
	}
	mapped := prepared(t, c, preparing(t, c, "to-prepare", "name=mapped", "difficulty.from="+calm.Stages[5].Tables[activities.TableDifficulty].String()))
	if m := mapped.Stages[0].Metrics; m["measured"] != calm.Stages[5].Metrics["measured"] || m["successes"] != calm.Stages[5].Metrics["successes"] {
		t.Errorf("the map taken over: %v", m)
	}
}

// What cannot be is refused before anything starts, by name.
func TestPrepareRefuses(t *testing.T) {
	for pairs, want := range map[string]string{
		"":                             "name is empty",
		"name=x":                       "no stage is asked for",
		"name=x dedup=true":            `unknown option "dedup"`,
		"name=x deduplicate.near=2":    "deduplicate.near is 2; it must be true or false",
		"name=x deduplicate=3":         "deduplicate is 3; it must be an object with the keys",
		"name=x deduplicate.far=2":     `unknown option "deduplicate.far"`,
		"name=x tokens=true":           "tokens needs a policy",
		"name=x difficulty=true":       "difficulty needs a policy",
		"name=x split.fractions={a:2}": "above 0 and at most 1",
		"name=x decontaminate=true":    "against is empty",
	} {
		given, err := prepareInput("some", strings.Fields(pairs))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := resolvePreparation(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", pairs, err, want)
		}
	}
	given, err := prepareInput("some", []string{"name=x", "deduplicate=true", "deduplicate.threshold=0.9", "split={fractions: {a: 0.5, b: 0.5}}", "hints=true", "hints=false"})
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := resolvePreparation(given)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(p); err != nil || !strings.Contains(string(raw), `"threshold":0.9`) || !strings.Contains(string(raw), `"fractions":{"a":0.5,"b":0.5}`) || p.Hints != nil {
		t.Errorf("%s, %v", raw, err)
	}
}
