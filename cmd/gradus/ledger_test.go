package main

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/files"
	"github.com/gradus-rl/gradus/ledger"
)

// stackedPairs is a plan with rewrites, hints, samples and tokens selected.
var stackedPairs = []string{"levels=[1,3]", "train_levels=[3]", "exemption=0", "mask=[]"}

// whole reads a file into one batch.
func whole(t *testing.T, path string) arrow.Record {
	t.Helper()
	r, err := files.Open(t.Context(), path, files.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []arrow.Record
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rec)
	}
	table := array.NewTableFromRecords(r.Schema(), all)
	defer table.Release()
	reader := array.NewTableReader(table, math.MaxInt32)
	defer reader.Release()
	reader.Next()
	rec := reader.Record()
	if rec.NumRows() != table.NumRows() {
		columns := make([]arrow.Array, table.NumCols())
		for i := range columns {
			if columns[i], err = array.Concatenate(table.Column(i).Data().Chunks(), memory.DefaultAllocator); err != nil {
				t.Fatal(err)
			}
		}
		return array.NewRecord(r.Schema(), columns, table.NumRows())
	}
	rec.Retain()
	return rec
}

// lines is a column as JSON texts.
func lines(t *testing.T, rec arrow.Record, name string) []string {
	t.Helper()
	at := rec.Schema().FieldIndices(name)
	if len(at) != 1 {
		t.Fatalf("no column %q in %s", name, columnNames(rec.Schema()))
	}
	out := make([]string, rec.NumRows())
	for i := range out {
		out[i] = rec.Column(at[0]).ValueStr(i)
	}
	return out
}

// What a run left is exported, selected from anew with the same outcome, explained
// problem by problem so that the parts add up, and shown.
func TestLedger(t *testing.T) {
	do, c, store := newConsole(t)
	result := runTest(t, c, "ledger", tiny(append([]string{"recipe=gradus"}, stackedPairs...)...))
	if result.Trained == 0 {
		t.Fatalf("%+v", result)
	}
	dir := t.TempDir()

	t.Run("select", func(t *testing.T) {
		rollouts := filepath.Join(dir, "rollouts.parquet")
		do.says("rows", "data", "export", "--run", "ledger", "--all", "-o", rollouts)
		before := whole(t, rollouts)
		for _, name := range []string{"kept.parquet", "kept.jsonl.zst", "kept.arrow"} {
			kept := filepath.Join(dir, name)
			do.says("completions kept by scaf-grpo.replace, dapo.filter", slices.Concat([]string{"select", "--recipe", "gradus", rollouts, "-o", kept}, tiny(stackedPairs...))...)
			after := whole(t, kept)
			for _, column := range []string{"advantage", "kept", "reason", "reward_trained", "tokens_kept", "token_mask", "kl_scale"} {
				if d := cmp.Diff(lines(t, before, column), lines(t, after, column)); d != "" {
					t.Errorf("%s: column %s differs from the run's own selection: %s", name, column, d)
				}
			}
		}
		kept := slices.Index(lines(t, before, "kept"), "true")
		if dropped := slices.Index(lines(t, before, "kept"), "false"); kept < 0 || dropped < 0 || !strings.Contains(strings.Join(lines(t, before, "token_mask"), ""), "0,1") {
			t.Errorf("the run selects nothing: %v", lines(t, before, "tokens_kept"))
		}
		only := filepath.Join(dir, "only.csv")
		do.refuses("CSV cannot hold", slices.Concat([]string{"select", "--recipe", "gradus", rollouts, "-o", only}, tiny(stackedPairs...))...)
		if _, err := os.Stat(only); !os.IsNotExist(err) {
			t.Errorf("a refused file is there: %v", err)
		}
		do.refuses("mask=[] leaves it out", "select", "--recipe", "capo", rollouts, "-o", only)
	})

	t.Run("export", func(t *testing.T) {
		rollouts := do.says("rows", "data", "export", "--run", "ledger", "--step", "2", "-o", "-", "--columns", "step,kept,advantage,token_mask", "--where", "kept")
		if n := strings.Count(rollouts, "\n"); n == 0 || n != strings.Count(rollouts, `{"step":2,"kept":true,"advantage":`) {
			t.Errorf("step 2:\n%s", rollouts)
		}
		curves := do.says("3 rows", "data", "export", "--run", "ledger", "--metrics", "-o", "-", "--columns", "step,completions,kept")
		if !strings.HasPrefix(curves, `{"step":1,"completions":`) || strings.Count(curves, `,"kept":`) != 3 {
			t.Errorf("metrics:\n%s", curves)
		}
		do.refuses("name it by --run", "data", "export", "ledger-sums", "--metrics", "-o", "-")
		for format, want := range map[string][]string{
			"trl":  {"prompt", "completion", "prompt_ids", "completion_ids", "completion_mask", "advantages", "sampling_per_token_logps"},
			"verl": {"data_source", "prompt", "ability", "reward_model", "extra_info", "responses", "response_mask", "rollout_log_probs", "advantages"},
		} {
			out := filepath.Join(dir, format+".parquet")
			do.says("rows", "data", "export", "--run", "ledger", "--format", format, "-o", out)
			rec := whole(t, out)
			for _, name := range want {
				lines(t, rec, name)
			}
		}
	})

	t.Run("waiting", func(t *testing.T) {
		if r := runTest(t, c, "ledger-wait", tiny("short_batch=wait", "warmup.max_steps=10")); r.Trained != 0 {
			t.Fatalf("%+v", r)
		}
		r, err := ledger.Open(t.Context(), store, "ledger-wait")
		if err != nil {
			t.Fatal(err)
		}
		record, err := r.Record(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := r.Completions(t.Context(), record, "")
		if err != nil || len(rows) != 3*8*4 {
			t.Fatalf("%d completions wait after 3 steps, %v", len(rows), err)
		}
		do.says("not learnt from: no step had a full batch yet", "why", rows[0].Problem, "--run", "ledger-wait")
		h, err := ledger.Why(t.Context(), r, rows[0].Problem)
		if err != nil || len(h.Visits) == 0 || len(h.Visits[0].Posed) != 1 || len(h.Visits[0].Posed[0].Completions) != 4 {
			t.Errorf("%v: %+v", err, h)
		}
	})

	t.Run("fork", func(t *testing.T) {
		do.result("fork", "ledger", "--at", "1", "--id", "ledger-fork")
		whyAddsUp(t, store, "ledger-fork")
	})

	t.Run("problems", func(t *testing.T) {
		path := filepath.Join(dir, "sums.jsonl")
		if err := os.WriteFile(path, []byte(`{"prompt":"1+1=","answer":"2"}`+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		do.says("sums", "data", "import", path, "--name", "ledger-sums")
		out := filepath.Join(dir, "sums.parquet")
		do.says("1 rows", "data", "export", "ledger-sums", "--format", "verl", "-o", out)
		if model := lines(t, whole(t, out), "reward_model"); !strings.Contains(model[0], `"ground_truth":"2"`) {
			t.Errorf("reward_model %v", model)
		}
		do.refuses("name one table", "data", "export", "-o", out)
		do.says("1+1=", "data", "show", "ledger-sums", "--columns", "prompt,answer")
	})

	t.Run("why", func(t *testing.T) { whyAddsUp(t, store, "ledger") })

	t.Run("text", func(t *testing.T) {
		r, err := ledger.Open(t.Context(), store, "ledger")
		if err != nil {
			t.Fatal(err)
		}
		record, err := r.Record(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := r.Completions(t.Context(), record, "")
		if err != nil {
			t.Fatal(err)
		}
		id := rows[0].Problem
		do.says("step 1: unseen →", "why", id, "--run", "ledger")
		do.refuses("did you mean", "why", id[:len(id)-1]+"~", "--run", "ledger")
		do.refuses("no record of a run", "why", id, "--run", "nowhere")
		state := record.State.String()
		do.says("bucket", "data", "show", state, "--where", "visits > 0", "--sort", "-pass_rate", "-n", "3", "--columns", "problem,bucket,pass_rate")
		do.refuses("the columns are problem, level, visits", "data", "show", state, "--where", "visit > 0")
		do.refuses("no column", "data", "show", state, "--sort", "x")
		shown := do.says(`{"problem":`, "data", "show", state, "--where", "visits > 0", "--sort", "-pass_rate", "-n", "0", "--output", "json", "--columns", "problem,pass_rate")
		var last float64 = 2
		for d := json.NewDecoder(strings.NewReader(shown)); d.More(); {
			var row struct {
				Rate float64 `json:"pass_rate"`
			}
			if err := d.Decode(&row); err != nil || row.Rate > last {
				t.Fatalf("%v: %v after %v", err, row.Rate, last)
			}
			last = row.Rate
		}
	})
}

// whyAddsUp: over all problems the histories are the steps' metrics.
func whyAddsUp(t *testing.T, store datasets.Store, run string) {
	t.Helper()
	r, err := ledger.Open(t.Context(), store, run)
	if err != nil {
		t.Fatal(err)
	}
	sums := make([]map[string]float64, len(r.Steps()))
	for i := range sums {
		sums[i] = map[string]float64{}
	}
	sources, err := r.Sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id := range sources {
		h, err := ledger.Why(t.Context(), r, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range h.Visits {
			sum := sums[v.Step-1]
			sum["difficulty/posed"]++
			for _, p := range v.Posed {
				for _, c := range p.Completions {
					sum["completions"]++
					if p.Origin != "original" {
						sum["completions/"+p.Origin]++
					}
					if c.Kept {
						sum["kept"]++
					}
				}
				for reason, n := range p.Reasons {
					sum["dropped/"+reason] += float64(n)
				}
				for reason, n := range p.TokenReasons {
					sum["tokens_dropped/"+reason] += float64(n)
				}
				sum["num_tokens_trained"] += float64(p.TokensKept)
			}
		}
		if n := h.State.Visits; int(n) != len(h.Visits) {
			t.Errorf("%s: %d visits of %d", id, len(h.Visits), n)
		}
	}
	for i, sum := range sums {
		record, err := r.Record(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := r.Metrics(t.Context(), record)
		if err != nil {
			t.Fatal(err)
		}
		metrics["kept"] *= metrics["completions"]
		for _, bucket := range []string{"all_wrong", "hard", "medium", "easy", "solved"} {
			metrics["difficulty/posed"] += metrics["difficulty/"+bucket]
		}
		for name, v := range metrics {
			counted := strings.HasPrefix(name, "dropped/") || strings.HasPrefix(name, "tokens_dropped/") || strings.HasPrefix(name, "completions/") && sum[name] > 0
			if !counted && !slices.Contains([]string{"completions", "kept", "num_tokens_trained", "difficulty/posed"}, name) {
				continue
			}
			if math.Abs(v-sum[name]) > 1e-6 {
				t.Errorf("step %d: %s is %v, and the problems' histories add up to %v", i+1, name, v, sum[name])
			}
		}
		if sum["completions"] == 0 {
			t.Errorf("step %d: nothing is counted: %v", i+1, sum)
		}
	}
}
