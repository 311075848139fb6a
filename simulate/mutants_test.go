//go:build mutants

package simulate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a planted bug: a text of a file, and what stands there instead.
type mutant struct {
	breaks   string // what a careless author might have done
	file     string
	old, new string // every occurrence within the function is replaced
}

const (
	learn    = "activities/learn.go"
	policies = "activities/policies.go"
	rollout  = "activities/rollout.go"
	stages   = "activities/activities.go"
	lineage  = "datasets/lineage.go"
	codec    = "datasets/codec.go"
	loop     = "workflows/experiment.go"
)

var mutants = []mutant{
	// Keys.
	{"a key forgets the seed", lineage, "data, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n", "l.Seed = 0\n\tdata, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n"},
	{"a key forgets the inputs", lineage, "data, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n", "l.Inputs = nil\n\tdata, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n"},
	{"a key forgets the step", lineage, "data, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n", "l.Step = 0\n\tdata, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n"},
	{"a key forgets the parameters", lineage, "data, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n", "l.Params = nil\n\tdata, err := l.canonical()\n\tif err != nil {\n\t\treturn \"\"\n"},
	{"a key forgets the scope: reuse cannot be turned off", stages, "if !plan.Reuse {", "if run.ID == \"\" {"},
	{"the key of a rollout forgets top_p", rollout, "}{in.Purpose, plan.Backend, sampling, in.Shard, in.Shards})}", "}{in.Purpose, plan.Backend, policy.Sampling{Temperature: sampling.Temperature, TopK: sampling.TopK, MaxCompletionLength: sampling.MaxCompletionLength}, in.Shard, in.Shards})}"},
	{"the key of an update forgets how to learn", learn, "}{learningKey(plan), plan.Backend, plan.MeasureEvery,", "}{policy.Learning{}, plan.Backend, plan.MeasureEvery,"},
	{"the key of an update forgets when to measure", learn, "}{learningKey(plan), plan.Backend, plan.MeasureEvery,", "}{learningKey(plan), plan.Backend, 0,"},
	{"the key of a proposal forgets the noise", rollout, "in.Known, plan.AnswerNoise})}", "in.Known, 0})}"},
	{"the key of a selection forgets its stages", "activities/select.go", "}{plan.Assess, plan.Select, plan.Horizon(),", "}{plan.Assess, nil, plan.Horizon(),"},
	{"the key of a response forgets its parameters", "activities/respond.go", "}{call, in.Turn,", "}{datasets.Call{Stage: call.Stage}, in.Turn,"},
	{"the key of a mask forgets its width", "activities/mask.go", "plan.Backend, plan.MaskTopK, plan.Horizon()})}", "plan.Backend, 0, plan.Horizon()})}"},
	{"the key of the warm-up forgets its batch", learn, "}{plan.Warmup, warmLearning(plan),", "}{recipes.Warmup{}, warmLearning(plan),"},
	{"the key of the problems forgets how many", "activities/prepare.go", "plan.ProblemsPerLevel, plan.Evaluation.ProblemsPerLevel, plan.Sampling", "0, plan.Evaluation.ProblemsPerLevel, plan.Sampling"},
	// What goes on with a run.
	{"the cursor runs ahead of training", "workflows/ahead.go", "d.posed = int64(proposed.Metrics[activities.MetricPosed])", "d.posed = int64(proposed.Metrics[activities.MetricPosed]) + int64(groups)"},
	{"the cursor is not carried over a renewal", loop, "`json:\"posed\"`      // cursor", "`json:\"-\"`      // cursor"},
	{"the next group's number is not carried over a renewal", loop, "`json:\"next_group\"`", "`json:\"-\"`"},
	{"waiting rounds are lost at a renewal", loop, "`json:\"pending,omitempty\"`", "`json:\"-\"`"},
	{"the reference policy is lost at a renewal", loop, "`json:\"reference\"`", "`json:\"-\"`"},
	{"the figures so far are lost at a renewal", loop, "`json:\"result\"`", "`json:\"-\"`"},
	{"the status so far is lost at a renewal", loop, "`json:\"status\"`", "`json:\"-\"`"},
	{"rounds that wait twice are dropped", loop, "e.Pending = rounds\n", "e.Pending = rounds[carried:]\n"},
	{"group numbers begin anew while rounds wait", "workflows/ahead.go", "waits := step == e.Step && len(e.Pending) > 0 ||", "waits := step < 0 ||"},
	{"the curriculum state is not taken over", loop, "\te.State = selected.Tables[activities.TableState]\n", ""},
	{"rounds that wait are assessed again", "activities/select.go", "if int(c.order[i]) >= fresh &&", "if fresh >= 0 &&"},
	{"shards are taken in the order in which they end", "workflows/shards.go", "\treturn all, nil\n", "\tslices.SortFunc(all, func(a, b shard) int { return int(1e9 * (a.out.Seconds - b.out.Seconds)) })\n\treturn all, nil\n"},
	{"the reference is the newest policy", loop, "e.Policy = updated.Tables[activities.TablePolicy]\n", "e.Policy = updated.Tables[activities.TablePolicy]\n\t\te.Reference = e.Policy\n"},
	{"what is masked is trained on", loop, "\t\t\tleft.Selections = masked.Tables[activities.TableSelections]\n", ""},
	{"a tuned plan holds in mid-step", "workflows/control.go", "e.Next = &tuned.Resolved\n", "e.Next = &tuned.Resolved\n\tif _, err := e.adopt(ctx); err != nil {\n\t\treturn Answer{}, err\n\t}\n"},
	{"a pause drops the step in hand", loop, "\te.Pending = nil\n\tif p.ShortBatch", "\te.Pending = nil\n\tif e.Status.Paused {\n\t\treturn left, e.report(ctx, t, nil)\n\t}\n\tif p.ShortBatch"},
	{"a stop drops the step in hand", loop, "\te.Pending = nil\n\tif p.ShortBatch", "\te.Pending = nil\n\tif e.Status.Stopped {\n\t\treturn left, e.report(ctx, t, nil)\n\t}\n\tif p.ShortBatch"},
	{"a run's own results count as reused", stages, "if reused && r.Run != run.ID {", "if reused {"},
	// The store.
	{"a write that failed is taken for done", codec, "\tif err != nil {\n\t\treturn Ref{}, fmt.Errorf(\"save %s: %w\", r.Kind, err)", "\tif err != nil && !errors.Is(err, ErrUnavailable) {\n\t\treturn Ref{}, fmt.Errorf(\"save %s: %w\", r.Kind, err)"},
	{"a torn object is taken for whole", codec, "o.Bytes != r.Bytes || ", ""},
	{"a torn record ends the run", lineage, "\tcase errors.Is(err, ErrCorrupt):\n\t\trecord = s.Put\n", ""},
	{"the loser of a race does not read the winner's record", lineage, "\tif errors.Is(err, ErrExists) {\n\t\tswitch", "\tif errors.Is(err, ErrExists) && r.Seconds < 0 {\n\t\tswitch"},
	{"a result is recorded by Put, so that a race has two winners", lineage, "record := s.PutOnce\n", "record := s.Put\n"},
	{"checksums are not verified", codec, "have != r.Hash {", "have == \"\" {"},
	{"an old record is written again without its figures", lineage, "if data, err = encodeResult(l, r); err == nil {", "if data, err = encodeResult(l, Result{Tables: r.Tables}); err == nil {"},
	{"a store that is down ends the run", stages, "case errors.Is(err, datasets.ErrDenied):", "case errors.Is(err, datasets.ErrDenied), errors.Is(err, datasets.ErrUnavailable):"},
	{"a full store ends the run", stages, "case errors.Is(err, datasets.ErrDenied):", "case errors.Is(err, datasets.ErrDenied), errors.Is(err, datasets.ErrNoSpace):"},
	{"refused credentials are tried again and again", stages, "case errors.Is(err, datasets.ErrDenied):", "case errors.Is(err, context.Canceled) && errors.Is(err, datasets.ErrDenied):"},
	{"a store that is down makes a name unknown", "activities/prepare.go", "if errors.Is(err, reason) {", "if errors.Is(err, reason) && err == reason {"},
	{"a run's records are written once", stages, "err = a.Store.Put(ctx, \"runs/\"", "err = a.Store.PutOnce(ctx, \"runs/\""},
	{"an evaluation is recorded by who computed it only", "activities/evaluate.go", "\te.Table, e.Seconds, e.Saved =", "\tif out.Reused {\n\t\te.Table = out.Tables[\"evaluation\"]\n\t\treturn e, nil\n\t}\n\te.Table, e.Seconds, e.Saved ="},
	{"a step's record is written once", "activities/record.go", "err = a.Store.Put(ctx, c.key(run.ID), raw)", "err = a.Store.PutOnce(ctx, c.key(run.ID), raw)"},
	{"an evaluation that another attempt recorded is tallied twice", "activities/evaluate.go", "are dropped\n\t\te = Evaluation{}\n", "are dropped\n"},
	// Caches.
	{"an engine keeps the weights of the version before", policies, "e, p.engines[key] = idle[len(idle)-1].Engine, idle[:len(idle)-1]\n", "e, p.engines[key] = idle[len(idle)-1].Engine, idle[:len(idle)-1]\n\t\tp.mu.Unlock()\n\t\treturn e, func() {\n\t\t\tp.mu.Lock()\n\t\t\tdefer p.mu.Unlock()\n\t\t\tp.engines[key] = append(p.engines[key], idleEngine{e, time.Now()})\n\t\t}, nil\n"},
	{"engines are cached without the model's shape", policies, "key := spec + string(s.Config.JSON())", "key := spec"},
	{"any cached policy will do", policies, "func(m cachedModel) bool { return m.hash == ref.Hash })", "func(m cachedModel) bool { return m.hash != \"\" })"},
	{"a trainer goes on after its policy could not be saved", policies, "\t\tt.Close()\n\t\treturn datasets.Ref{}, fmt.Errorf(\"save policy", "\t\tp.mu.Lock()\n\t\tp.trainers = append(p.trainers, cachedTrainer{ref.Hash, t, time.Now()})\n\t\tp.mu.Unlock()\n\t\treturn datasets.Ref{}, fmt.Errorf(\"save policy"},
	{"a trainer is cached under the version that it started from", policies, "cachedTrainer{out.Hash, t, time.Now()}", "cachedTrainer{ref.Hash, t, time.Now()}"},
	{"a trainer is loaded without its optimizer", policies, "s, err := policy.LoadState(", "s, err := policy.LoadModel("},
	{"the first update keeps the warm-up's optimizer", learn, "in.Policy.Hash == in.Reference.Hash, l,", "false, l,"},
	{"plans are cached by run", stages, "a.plans[run.Plan.Hash]", "a.plans[run.ID]"},
	{"problem sets are cached by kind", stages, "a.sets[r.Hash]", "a.sets[r.Kind]"},
	// Order and randomness.
	{"a batch in the order of a map", learn, "\trows, at := c.rows(c.trained)\n\tlogprobs", "\trows, at := c.rows(c.trained)\n\tfor first := range map[bool]int{true: 1, false: 2} {\n\t\tif n := len(at); first && n > 1 {\n\t\t\trows[0], rows[n-1], at[0], at[n-1] = rows[n-1], rows[0], at[n-1], at[0]\n\t\t}\n\t\tbreak\n\t}\n\tlogprobs"},
	{"figures in the order of a map", learn, "names := slices.Sorted(maps.Keys(metrics))", "names := slices.Collect(maps.Keys(metrics))"},
	{"wall time among the figures", stages, "\t\tr.Run, r.Work = run.ID,", "\t\tif r.Metrics != nil {\n\t\t\tr.Metrics[\"seconds\"] = time.Since(begin).Seconds()\n\t\t}\n\t\tr.Run, r.Work = run.ID,"},
	{"randomness is the process's", rollout, "Stream: datasets.Stream(plan.Seed, \"rollout\", in.Purpose, in.Step, ids[g], groups[g], s)", "Stream: datasets.Stream(uint64(time.Now().UnixNano()), \"rollout\", in.Purpose, in.Step, ids[g], groups[g], s)"},
	{"randomness without the seed", rollout, "datasets.Stream(plan.Seed, \"rollout\",", "datasets.Stream(0, \"rollout\","},
	{"randomness without the step", rollout, "\"rollout\", in.Purpose, in.Step,", "\"rollout\", in.Purpose,"},
	{"randomness without the sample", rollout, "ids[g], groups[g], s)", "ids[g], groups[g])"},
	{"randomness that depends on the shard", rollout, "ids[g], groups[g], s)", "ids[g], groups[g], s, in.Shard)"},
	{"a rollout's last rows fall between its shards", rollout, "t.Rows()*(in.Shard+1)/in.Shards", "t.Rows()/in.Shards*(in.Shard+1)"},
	{"hinted answers keep the hinted prompt's log-probabilities", learn, "\t\t\ts.OldLogProbs = nil //", "\t\t\t//"},
	{"tokens left out are trained on", learn, "if reasons := c.batch.TokenReason[i]; reasons != nil {", "if reasons := c.batch.TokenReason[i]; len(reasons) > 1000 {"},
}

// TestMutants plants the bugs by overlays, so that nothing of them stands in the
// code, and runs schedules until one finds each; what none finds is given to the unit
// tests of its package. The table goes to MUTANTS.md. At least 95 of 100 are found.
func TestMutants(t *testing.T) {
	only, err := regexp.Compile(os.Getenv("MUTANTS"))
	if err != nil {
		t.Fatal(err)
	}
	all := planted(t)
	if out, err := exec.Command(all.binary, "-test.run", "^TestSchedules$", "-schedules", "20").CombinedOutput(); err != nil {
		t.Fatalf("without a bug: %s", out)
	}
	found := make([]string, len(mutants))
	t.Run("hunt", func(t *testing.T) {
		for i, m := range mutants {
			if only.MatchString(m.breaks) {
				t.Run(m.breaks, func(t *testing.T) {
					t.Parallel()
					found[i] = cmp.Or(hunt(t, all, i), "**survives**")
					t.Log(found[i])
				})
			}
		}
	})
	var rows strings.Builder
	bySchedule, byUnit, n := 0, 0, 0
	for i, m := range mutants {
		switch {
		case found[i] == "":
			continue
		case strings.HasPrefix(found[i], "unit test"):
			byUnit++
		case found[i] != "**survives**":
			bySchedule++
		}
		n++
		fmt.Fprintf(&rows, "| %s | `%s` | %s |\n", m.breaks, m.file, found[i])
	}
	if bySchedule+byUnit < (n*95+99)/100 {
		t.Errorf("%d of %d bugs are found, want 95 of 100", bySchedule+byUnit, n)
	}
	if os.Getenv("MUTANTS") != "" {
		return
	}
	head := fmt.Sprintf("# Planted bugs\n\n"+
		"Each is one change of the code, laid over it by `go test -overlay`, so that the code itself stays as it is. Schedules run from\nseed %d on, at most %d of them, until one diverges or finds a calm run wrong in itself; what they miss is given to the unit tests of the\npackage. Made by `go test -tags mutants -timeout 6h -parallel 5 -run TestMutants ./simulate -args -schedules %d`.\n\n"+
		"%d planted, %d found by schedules, %d more by unit tests, %d survive.\n\n"+
		"| bug | file | found by |\n|---|---|---|\n", *seed, *schedules, *schedules, n, bySchedule, byUnit, n-bySchedule-byUnit)
	if err := os.WriteFile("MUTANTS.md", []byte(head+rows.String()), 0o666); err != nil {
		t.Fatal(err)
	}
}

// plant is code with bugs in it: an overlay and the test binary made of it.
type plant struct {
	overlay, binary string
	has             map[int]bool // by index of mutants
}

// chosen is the environment variable that says which bug is at work.
const chosen = "GRADUS_PLANTED"

// planted builds all bugs that lie within functions into one binary: the function
// stands there twice, and goes to the one with the bug where that is chosen.
func planted(t *testing.T) plant {
	p := plant{has: map[int]bool{}}
	code := map[string]string{}
	for i, m := range mutants {
		name, text := source(t, m)
		if changed, ok := code[name]; ok {
			text = changed
		}
		if text, ok := twice(t, text, m, i); ok {
			code[name], p.has[i] = text, true
			folder := filepath.Dir(name)
			code[filepath.Join(folder, "planted.go")] = "package " + filepath.Base(folder) + "\n\nimport \"os\"\n\nvar planted = os.Getenv(\"" + chosen + "\")\n"
		}
	}
	p.build(t, code)
	return p
}

// source is a mutant's file.
func source(t *testing.T, m mutant) (name, code string) {
	name, err := filepath.Abs(filepath.Join("..", m.file))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), m.old) {
		t.Fatalf("%s: %s has no %q", m.breaks, m.file, m.old)
	}
	return name, string(raw)
}

// twice is code with the function that a mutant changes and its changed twin; false
// if the mutant changes no function.
func twice(t *testing.T, code string, m mutant, i int) (string, bool) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, m.file, code, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := func(p token.Pos) int { return files.Position(p).Offset }
	for _, d := range f.Decls {
		d, ok := d.(*ast.FuncDecl)
		if !ok || d.Body == nil || strings.Contains(d.Name.Name, "_planted") {
			continue
		}
		whole, body := code[at(d.Pos()):at(d.End())], at(d.Body.Lbrace)+1
		if !strings.Contains(whole, m.old) {
			continue
		}
		twin := fmt.Sprintf("%s_planted%d", d.Name.Name, i)
		call := twin
		if d.Recv != nil {
			call = d.Recv.List[0].Names[0].Name + "." + twin
		}
		var args []string
		for _, field := range d.Type.Params.List {
			for _, n := range field.Names {
				args = append(args, n.Name)
			}
		}
		if last := d.Type.Params.List; len(last) > 0 {
			if _, variadic := last[len(last)-1].Type.(*ast.Ellipsis); variadic {
				args[len(args)-1] += "..."
			}
		}
		call += "(" + strings.Join(args, ", ") + ")"
		if d.Type.Results != nil {
			call = "return " + call
		} else {
			call += "; return"
		}
		changed := strings.Replace(strings.ReplaceAll(whole, m.old, m.new), d.Name.Name+"(", twin+"(", 1)
		return code[:body] + fmt.Sprintf(" if planted == %q { %s };", fmt.Sprint(i), call) + code[body:] + "\n" + changed + "\n", true
	}
	return "", false
}

// build makes the test binary of this package with files in place of others.
func (p *plant) build(t *testing.T, code map[string]string) {
	t.Helper()
	folder := t.TempDir()
	replace := map[string]string{}
	for name, text := range code {
		replace[name] = filepath.Join(folder, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[name], []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	p.overlay, p.binary = filepath.Join(folder, "overlay.json"), filepath.Join(folder, "test")
	if err := os.WriteFile(p.overlay, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "test", "-c", "-ldflags=-s -w", "-overlay", p.overlay, "-o", p.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
}

// hunt says what finds a mutant, "" if nothing does.
func hunt(t *testing.T, p plant, i int) string {
	t.Helper()
	m := mutants[i]
	if !p.has[i] {
		name, code := source(t, m)
		p.build(t, map[string]string{name: strings.ReplaceAll(code, m.old, m.new)})
		defer os.Remove(p.binary)
	}
	run := func(name string, args ...string) (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", chosen, i), "GOMAXPROCS=1") // as many hunt at once as there are cores
		out, err := cmd.CombinedOutput()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		return string(out), err != nil
	}
	if out, failed := run(p.binary, "-test.run", "^TestSchedules$", "-schedules", fmt.Sprint(*schedules), "-seed", fmt.Sprint(*seed), "-test.timeout", "1h"); failed {
		return reason(out)
	}
	if out, failed := run("go", "test", "-overlay", p.overlay, "../"+filepath.Dir(m.file)); failed {
		if name := regexp.MustCompile(`--- FAIL: (\w+)`).FindStringSubmatch(out); name != nil {
			return "unit test `" + name[1] + "`"
		}
		t.Fatalf("%s: %s", m.breaks, out)
	}
	return ""
}

var (
	bySeed  = regexp.MustCompile(`(?s)seed (\d+): plan [^\n]*\n[^\n]*\n *([^\n]*)`)
	byCalm  = regexp.MustCompile(`a calm run of [^\n]*?\}: ([^\n]*)`)
	hashes  = regexp.MustCompile(`[0-9a-f]{24,}`)
	longest = 160
)

// reason is the first failure of a test's output, cut short.
func reason(out string) string {
	text := "fails"
	if m := byCalm.FindStringSubmatch(out); m != nil {
		text = "a calm run: " + m[1]
	} else if m := bySeed.FindStringSubmatch(out); m != nil {
		text = "seed " + m[1] + ": " + m[2]
	}
	text = strings.ReplaceAll(hashes.ReplaceAllStringFunc(text, func(h string) string { return h[:8] }), "|", "\\|")
	if cut := []rune(text); len(cut) > longest {
		text = string(cut[:longest]) + "…"
	}
	return text
}
