package datasets_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// lines are n problems, as text; the last one has a hint where asked for.
func lines(n int, hint bool) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"p%d","prompt":"%s %d","answer":%d`, i, strings.Repeat("word ", 40), i, i)
		if hint && i == n-1 {
			b.WriteString(`,"planning_skeleton_parts":["plan"]`)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// What goes through an importer in batches is what ImportJSONL makes at once.
func TestImporterStreams(t *testing.T) {
	for _, c := range []struct {
		rows int
		hint bool
	}{{3, false}, {3, true}, {16500, true}} {
		mem := checked(t)
		want, _, err := datasets.ImportJSONL(t.Context(), mem, strings.NewReader(lines(c.rows, c.hint)), "f.jsonl", datasets.ImportOptions{})
		noError(t, err)
		store := datasets.NewMemory()
		var refs []datasets.Ref
		for range 2 {
			in, err := datasets.NewImporter(mem, "f.jsonl", datasets.ImportOptions{})
			noError(t, err)
			noError(t, in.Lines(t.Context(), strings.NewReader(lines(c.rows, c.hint)), "f.jsonl"))
			ref, err := in.Save(t.Context(), store)
			noError(t, errors.Join(err, in.Close()))
			refs = append(refs, ref)
		}
		equal(t, "the same twice", refs[0], refs[1])
		if c.rows < 100 {
			whole, err := datasets.Save(t.Context(), store, want)
			noError(t, err)
			equal(t, "one batch", whole, refs[0])
		}
		got, err := datasets.Load(t.Context(), store, mem, refs[0])
		noError(t, err)
		if !array.RecordEqual(want.Record(), got.Record()) {
			t.Errorf("%d rows: other rows than ImportJSONL makes", c.rows)
		}
		wantLineage, err := want.Lineage()
		noError(t, err)
		gotLineage, err := got.Lineage()
		noError(t, err)
		equal(t, "lineage", wantLineage, gotLineage)
		got.Release()
		want.Release()
		n := 0
		for part, err := range datasets.Scan(t.Context(), store, mem, refs[0]) {
			noError(t, err)
			n += part.Rows()
			part.Release()
		}
		equal(t, "rows of a scan", c.rows, n)
	}
}

// Large objects are scanned from disk, and verified before the first batch.
func TestScanLarge(t *testing.T) {
	mem := checked(t)
	store := datasets.NewMemory()
	w := datasets.NewWriter(mem, false)
	const batches, n = 3, 1000
	rng := rand.NewChaCha8([32]byte{5})
	values := make([]string, n)
	for i := range values { // hard to compress
		text := make([]byte, 16<<10)
		_, _ = rng.Read(text) // it never fails
		for k := range text {
			text[k] &= 0x7f
		}
		values[i] = string(text)
	}
	for range batches {
		table, err := datasets.NewTable(mem, datasets.KindScores, datasets.Lineage{Stage: "s"}, datasets.Reward.Of(make([]float64, n)), datasets.Verdict.Of(make([]string, n)), datasets.Extracted.Of(values))
		noError(t, err)
		noError(t, w.Write(table))
		table.Release()
	}
	ref, err := w.Save(t.Context(), store)
	noError(t, errors.Join(err, w.Close()))
	if ref.Bytes < 33<<20 {
		t.Fatalf("%d bytes are too few for this test", ref.Bytes)
	}
	seen := 0
	for part, err := range datasets.Scan(t.Context(), store, mem, ref) {
		noError(t, err)
		equal(t, "texts", values, datasets.Extracted.Get(part))
		part.Release()
		if seen++; seen == batches-1 {
			break
		}
	}
	key := "objects/" + ref.Hash + ".arrow"
	data, err := store.Get(t.Context(), key)
	noError(t, err)
	data[len(data)/2] ^= 1
	noError(t, store.Put(t.Context(), key, data))
	for part, err := range datasets.Scan(t.Context(), store, mem, ref) {
		if part != nil || !errors.Is(err, datasets.ErrCorrupt) {
			t.Errorf("a damaged object: %v", err)
		}
	}
	noError(t, store.Delete(t.Context(), key))
	for _, err := range datasets.Scan(t.Context(), store, mem, ref) {
		var damaged *datasets.DamagedError
		if !errors.As(err, &damaged) || !errors.Is(err, datasets.ErrNotFound) {
			t.Errorf("an absent object: %v", err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	mem := checked(t)
	w := datasets.NewWriter(mem, true)
	if _, err := w.Save(t.Context(), datasets.NewMemory()); err == nil {
		t.Error("nothing is a table")
	}
	one := scores(t, mem, 1)
	defer one.Release()
	other, err := one.WithLineage(datasets.Lineage{Stage: "other"})
	noError(t, err)
	defer other.Release()
	noError(t, w.Write(one))
	if err := w.Write(other); err == nil {
		t.Error("two lineages in one table")
	}
	noError(t, w.Close())
}

// Frameworks' own columns.
func TestImportFrameworks(t *testing.T) {
	for text, want := range map[string]row{
		`{"data_source":"openai/gsm8k","prompt":[{"role":"system","content":"Think."},{"role":"user","content":"1+1?"}],"ability":"math","reward_model":{"style":"rule","ground_truth":"2"},"extra_info":{"split":"train","index":7}}`: {"openai/gsm8k/train/7", "openai/gsm8k", "Think.\n\n1+1?", "2", "", "", 0, []string{}},
		`{"prompt":[{"role":"user","content":[{"type":"text","text":"1+1"},{"type":"text","text":"?"}]}],"reward_spec":{"method":"rule","ground_truth":2.0},"env_class":"math"}`:                                                       {"f-1", "f", "1+1?", "2", "", "", 0, []string{}},
		`{"prompt":[{"role":"user","content":"1+1?"}],"answer":"2"}`:                                            {"f-1", "f", "1+1?", "2", "", "", 0, []string{}},
		`{"id":"a","messages":"[{\"role\":\"user\",\"content\":\"1+1?\"}]","ground_truth":"2","tag":"sums"}`:    {"a", "sums", "1+1?", "2", "", "", 0, []string{}},
		`{"prompt":"1+1?","ground_truth":2}`:                                                                    {"f-1", "f", "1+1?", "2", "", "", 0, []string{}},
		`{"prompt":"1+1?","solution":"It is \\boxed{\\frac{4}{2}}."}`:                                           {"f-1", "f", "1+1?", `\frac{4}{2}`, `It is \boxed{\frac{4}{2}}.`, "", 0, []string{}},
		`{"prompt":"1+1?","solution":"2"}`:                                                                      {"f-1", "f", "1+1?", "2", "", "", 0, []string{}},
		`{"problem":"1+1?","solution":"No \\boxed{3} but \\boxed{\\{2\\}}","level":"Level 3","type":"Algebra"}`: {"f-1", "f", "1+1?", `\{2\}`, `No \boxed{3} but \boxed{\{2\}}`, "", 3, []string{}},
	} {
		table, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(text), "f.jsonl", datasets.ImportOptions{})
		noError(t, err)
		equal(t, text, []row{want}, rows(table))
		table.Release()
	}
	for text, want := range map[string]string{
		`{"prompt":[{"role":"assistant","content":"x"}],"answer":"2"}`:           `field "prompt": want a chat of texts by system and user, got {"content":"x","role":"assistant"}`,
		`{"prompt":[{"role":"user","content":[{"type":"image"}]}],"answer":"2"}`: `field "prompt": want a chat`,
		`{"prompt":[{"role":"user","content":" "}],"answer":"2"}`:                `field "prompt": want a chat of texts by system and user, got no text`,
		`{"prompt":"x","reward_model":{"style":"rule"}}`:                         `field "reward_model.ground_truth": want text or a number, got no such field`,
		`{"problem":"x","solution":"nothing"}`:                                   `field "solution": want a solution with \boxed{gold answer}, got no answer in a \boxed`,
	} {
		_, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(text), "f.jsonl", datasets.ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// The user's word on columns goes over the habits.
func TestImportMap(t *testing.T) {
	text := `{"frage":"1+1?","meta":{"gold":{"x":2}},"answer":"a text","prompt":"not this"}`
	o := datasets.ImportOptions{Map: map[string]string{"prompt": "frage", "answer": "meta.gold.x", "solution": "answer"}}
	table, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(text), "f.jsonl", o)
	noError(t, err)
	defer table.Release()
	equal(t, "row", []row{{"f-1", "f", "1+1?", "2", "a text", "", 0, []string{}}}, rows(table))
	for want, columns := range map[string]map[string]string{
		`field "antwort" of the map is not known: want one of id, prompt, answer, solution, steps, level, source, verifier`: {"antwort": "answer"},
		`f.jsonl:1: want a column "meta.silver", which is to fill answer, got answer, frage, meta, prompt`:                  {"answer": "meta.silver"},
	} {
		_, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(text), "f.jsonl", datasets.ImportOptions{Map: columns})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// Batches of other formats read as JSON lines do.
func TestImportRecords(t *testing.T) {
	mem := checked(t)
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "prompt", Type: arrow.ListOf(arrow.StructOf(arrow.Field{Name: "role", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "content", Type: arrow.BinaryTypes.LargeString}))},
		{Name: "answer", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "steps", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true},
	}, nil)
	rec, _, err := array.RecordFromJSON(mem, schema, strings.NewReader(`[
		{"id":4,"prompt":[{"role":"user","content":"a"}],"answer":27.0,"steps":["s","t"]},
		{"id":null,"prompt":[{"role":"user","content":"b"}],"answer":0.1,"steps":null},
		{"id":5,"prompt":[{"role":"user","content":"c"}],"answer":null,"steps":null},
		{"id":4,"prompt":[{"role":"user","content":"d"}],"answer":1,"steps":null}]`))
	noError(t, err)
	defer rec.Release()
	var rejected []string
	in, err := datasets.NewImporter(memory.DefaultAllocator, "set", datasets.ImportOptions{SkipBad: true, Reject: func(r datasets.Reject) error {
		rejected = append(rejected, r.Err.Error()+" "+string(r.Row))
		return nil
	}})
	noError(t, err)
	noError(t, in.Record(t.Context(), rec, "a.parquet", 1))
	last := rec.NewSlice(3, 4)
	defer last.Release()
	noError(t, in.Record(t.Context(), last, "b.parquet", 1))
	store := datasets.NewMemory()
	ref, err := in.Save(t.Context(), store)
	noError(t, errors.Join(err, in.Close()))
	table, err := datasets.Load(t.Context(), store, mem, ref)
	noError(t, err)
	defer table.Release()
	equal(t, "rows", []row{{"4", "set", "a", "27", "", "", 0, []string{"s", "t"}}, {"set-2", "set", "b", "0.1", "", "", 0, []string{}}}, rows(table))
	equal(t, "rejects", []string{
		`a.parquet:3: field "answer": want text or a number, got null {"answer":null,"id":5,"prompt":[{"content":"c","role":"user"}],"steps":null}`,
		`a.parquet:4: field "id": want an id of its own, got "4", which line 1 has too {"answer":1,"id":4,"prompt":[{"content":"d","role":"user"}],"steps":null}`,
		`b.parquet:1: field "id": want an id of its own, got "4", which a.parquet:1 has too {"answer":1,"id":4,"prompt":[{"content":"d","role":"user"}],"steps":null}`,
	}, rejected)
}
