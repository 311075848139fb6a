package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// A run that stands still goes on after a collection that took all for old: what
// only its history names stays. A later run then finds all that it needs.
func TestStoreGC(t *testing.T) {
	c, _ := connectTest(t)
	t.Setenv("AWS_ACCESS_KEY_ID", local.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", local.SecretKey)
	address := strings.Replace(local.Store, "?", "/collected?", 1)
	store, err := datasets.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	servers := []string{"--temporal", local.Temporal, "--store", address, "--dir", t.TempDir()}
	w, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleCPU, worker.RoleRollout}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	plan := tiny("steps=1", "warmup.max_steps=10", "reuse=true")
	given, err := planInput("grpo", plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := launch(t.Context(), c, workflows.QueueCPU, "stalled", given); err != nil {
		t.Fatal(err)
	}
	conn := &connection{client: c, stack: local}
	hold := func(ctx context.Context) ([]datasets.Ref, error) { return held(ctx, c, spared, false) }
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) { // the server's list of runs lags behind
		refs, err := hold(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if conn.trouble(t.Context(), "stalled") == "Warm waits for a worker" && len(refs) > 0 {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("the run does not wait for a trainer; its history holds %v", refs)
		}
	}
	if err := store.Delete(t.Context(), "runs/stalled/setup.json"); err != nil {
		t.Fatal(err)
	}
	garbage, err := datasets.SaveBlob(t.Context(), store, []byte("garbage"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, "at least 2h0m0s while runs are going on, such as stalled", append([]string{"store", "gc", "--older-than", "0s", "--dry-run=false"}, servers...)...)
	run(t, "nothing was removed", append([]string{"store", "gc"}, servers...)...)
	if _, err := datasets.LoadBlob(t.Context(), store, garbage); err != nil {
		t.Fatal(err)
	}
	if _, err := datasets.Collect(t.Context(), store, datasets.CollectOptions{Before: time.Now().Add(time.Hour), Held: hold}); err != nil {
		t.Fatal(err)
	}
	if _, err := datasets.LoadBlob(t.Context(), store, garbage); !errors.Is(err, datasets.ErrNotFound) {
		t.Errorf("garbage after a collection: %v", err)
	}

	trainer, err := worker.Start(c, store, worker.Options{Roles: []string{worker.RoleTrain}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if _, err := follow(ctx, conn, "stalled", &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if r := runTest(t, c, "anew", append(plan, "reuse=false")); r.Reused != (workflows.Reused{}) {
		t.Errorf("with reuse=false: %v", r.Reused)
	}
	text := run(t, " 2 updates", append(append([]string{"run", "grpo", "--id", "again"}, servers...), plan...)...)
	if !strings.Contains(text, "of work saved") {
		t.Errorf("no word of what reuse saved in\n%s", text)
	}
}

func TestNoReuse(t *testing.T) {
	run(t, "reuse: true", "run", "grpo", "--dry-run")
	run(t, "reuse: false", "run", "grpo", "--dry-run", "--no-reuse")
}
