package datasets_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// row is an imported problem for comparison.
type row struct {
	ID, Source, Prompt, Answer, Solution, Verifier string
	Level                                          int32
	Steps                                          []string
}

func rows(table *datasets.Table) []row {
	v := make([]row, table.Rows())
	for i := range v {
		v[i] = row{
			datasets.ProblemID.Get(table)[i], datasets.Source.Get(table)[i], datasets.Prompt.Get(table)[i], datasets.Answer.Get(table)[i],
			datasets.Solution.Get(table)[i], datasets.Verifier.Get(table)[i], datasets.Level.Get(table)[i], datasets.Steps.Get(table).Row(i),
		}
	}
	return v
}

func importFile(t *testing.T, name string, o datasets.ImportOptions) []row {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	noError(t, err)
	defer f.Close()
	table, rejects, err := datasets.ImportJSONL(t.Context(), checked(t), f, f.Name(), o)
	noError(t, err)
	defer table.Release()
	if len(rejects) != 0 {
		t.Fatalf("%d rejects: %v", len(rejects), rejects[0].Err)
	}
	return rows(table)
}

func TestImportHabits(t *testing.T) {
	none := []string{}
	for name, want := range map[string][]row{
		"gsm8k.jsonl": {
			{"gsm8k-1", "gsm8k", "Mira picks 12 plums and gives half of them to Tom. How many plums does she keep?", "6",
				"She gives away 12/2 = <<12/2=6>>6 plums.\nShe keeps 12-6 = <<12-6=6>>6 plums.", "", 0,
				[]string{"She gives away 12/2 = 6 plums.", "She keeps 12-6 = 6 plums."}},
			{"gsm8k-2", "gsm8k", "A mill grinds 50 sacks a day. How many sacks does it grind in 25 days?", "1250",
				"It grinds 50*25 = <<50*25=1250>>1,250 sacks.", "", 0, []string{"It grinds 50*25 = 1,250 sacks."}},
			{"gsm8k-3", "gsm8k", "The sea is 4 degrees, the air is 9 degrees colder. How warm is the air’s top?", "-5",
				"4-9 = <<4-9=-5>>-5", "", 0, []string{"4-9 = -5"}},
		},
		"math.jsonl": {
			{"made/up/1.json", "math", `Compute $\frac{1}{2}+\frac{1}{3}$.`, `\frac{5}{6}`, `The sum is $\boxed{\frac{5}{6}}$.`, "", 2, none},
			{"made/up/2.json", "math", "How many primes are below $10$?", "4", "2, 3, 5 and 7.", "", 1, none},
			{"made/up/3.json", "math", "What is $x$ if $x=x$?", "x", "", "", 0, none},
		},
		"aime.jsonl": {
			{"60", "aime", "Find the number of edges of a cube.", "012", "Count them.", "", 0, none},
			{"61", "aime", `Find $17 \bmod 5$.`, "002", `$17=3\cdot 5+2$.`, "", 0, none},
		},
		"amc.jsonl": {
			{"0", "amc", "What is half of $54$?", "27", "", "", 0, none},
			{"1", "amc", "What is half of $1$?", "0.5", "", "", 0, none},
		},
		"svamp.jsonl": {
			{"made-1", "svamp", "Ana has 290 pears. She lays them in 2 baskets. How many pears are in each basket?", "145", "290 / 2 = 145", "", 0, none},
			{"made-2", "svamp", "The well was 0.5 m above, and fell by 3. How deep is it now?", "-2.5", "0.5 - 3 = -2.5", "", 0, none},
			{"made-3", "svamp", "A tree has 4 and 5 apples on each of 10 branches, but for 3 bare ones. How many apples are there?", "63", "(4 + 5) * (10 - 3) = 63", "", 0, none},
		},
		"plain.jsonl": {
			{"s1", "sums", "2+3=", "5", "2+3=5", "exact", 1, []string{"2+3=5"}},
			{"plain-3", "plain", "7*8=", "56", "", "", 0, none},
		},
	} {
		equal(t, name, want, importFile(t, name, datasets.ImportOptions{}))
	}
}

func TestImportOptions(t *testing.T) {
	got := importFile(t, "plain.jsonl", datasets.ImportOptions{Source: "mine", Verifier: "numeric"})
	equal(t, "verifiers", []string{"exact", "numeric"}, []string{got[0].Verifier, got[1].Verifier})
	equal(t, "sources", []string{"sums", "mine"}, []string{got[0].Source, got[1].Source})
	equal(t, "id", "mine-3", got[1].ID)
	// AIME's rows have question and answer, too, but no ####.
	_, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(`{"question":"q","problem":"p","answer":"1"}`), "f", datasets.ImportOptions{Habit: "gsm8k"})
	if err == nil || !strings.Contains(err.Error(), "####") {
		t.Errorf("forced habit: %v", err)
	}
	_, _, err = datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(`{}`), "f", datasets.ImportOptions{Habit: "gsm9k"})
	if err == nil || !strings.Contains(err.Error(), "want one of verl, skyrl, plain, roll") {
		t.Errorf("unknown habit: %v", err)
	}
}

// hints is what a table has of the columns that problems may lack, by name; nil = the
// column is not there.
func hints(table *datasets.Table) map[string][]string {
	out := map[string][]string{}
	for _, c := range []datasets.ListColumn[string]{datasets.KnowledgeParts, datasets.PlanningParts, datasets.SolutionParts} {
		if table.Has(c.Name) {
			for i := range table.Rows() {
				out[c.Name] = append(out[c.Name], strings.Join(c.Get(table).Row(i), "|"))
			}
		}
	}
	for _, c := range []datasets.Column[string]{datasets.Simplified, datasets.Diversified} {
		if table.Has(c.Name) {
			out[c.Name] = slices.Clone(c.Get(table))
		}
	}
	return out
}

// Every habit takes hints and rewrites along. A column is there when a row has it.
func TestImportHints(t *testing.T) {
	f, err := os.Open("testdata/hints.jsonl")
	noError(t, err)
	defer f.Close()
	table, _, err := datasets.ImportJSONL(t.Context(), checked(t), f, "hints.jsonl", datasets.ImportOptions{})
	noError(t, err)
	defer table.Release()
	want := map[string][]string{
		"knowledge_components_parts": {"A cube is a solid.|Its sides are squares.", ""},
		"planning_skeleton_parts":    {"Count the sides of one.|Double them.", ""},
		"solution_breakdown_parts":   {"A cube has 6 sides.|6*2 = 12", ""},
		"simplified":                 {"One cube has 6 sides. How many have 2 cubes?", ""},
	}
	equal(t, "hints", want, hints(table))

	var out bytes.Buffer
	noError(t, datasets.WriteJSONL(&out, table, 0))
	again, _, err := datasets.ImportJSONL(t.Context(), checked(t), &out, "again.jsonl", datasets.ImportOptions{})
	noError(t, err)
	defer again.Release()
	equal(t, "hints read back", want, hints(again))
	equal(t, "rows read back", rows(table), rows(again))

	for name, row := range map[string]string{
		"plain": `"prompt":"p","answer":"a"`,
		"math":  `"problem":"p","answer":"a"`,
		"gsm8k": `"question":"q","answer":"It is 5.\n#### 5"`,
		"svamp": `"Body":"b","Question":"q","Answer":5`,
	} {
		for text, want := range map[string]map[string][]string{
			"": {}, // tables of sets without them stay as they were
			`,"diversified":"","planning_skeleton_parts":[],"simplified":null,"knowledge_components_parts":null`: {},
			`,"diversified":"d"`:                   {"diversified": {"d", ""}},
			`,"planning_skeleton_parts":["a","b"]`: {"planning_skeleton_parts": {"a|b", ""}},
		} {
			table, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader("{"+row+text+"}\n{"+row+"}"), name, datasets.ImportOptions{})
			noError(t, err)
			equal(t, name+text, want, hints(table))
			table.Release()
		}
	}
}

const good = `{"prompt":"p","answer":"a"}` + "\n"

func TestImportRefuses(t *testing.T) {
	huge := `{"prompt":"` + strings.Repeat("x", 10<<20) + `","answer":"a"}`
	for name, c := range map[string]struct {
		text string // after one good row
		want datasets.RowError
	}{
		"syntax":           {`{"prompt":"p","answer":}`, datasets.RowError{Line: 2, Want: "one JSON object per line", Got: "invalid character '}' looking for beginning of value at byte 24"}},
		"half":             {`{"prompt":"p","ans`, datasets.RowError{Line: 2, Want: "one JSON object per line", Got: "unexpected end of JSON input at byte 18"}},
		"no object":        {`["p"]`, datasets.RowError{Line: 2, Want: "one JSON object per line", Got: `"[\"p\"]"`}},
		"missing":          {`{"prompt":"p"}`, datasets.RowError{Line: 2, Field: "answer", Want: "text or a number", Got: "no such field"}},
		"empty":            {`{"prompt":" \n","answer":"a"}`, datasets.RowError{Line: 2, Field: "prompt", Want: "text or a number", Got: "an empty text"}},
		"null":             {`{"prompt":"p","answer":null}`, datasets.RowError{Line: 2, Field: "answer", Want: "text or a number", Got: "null"}},
		"type":             {`{"prompt":["p"],"answer":"a"}`, datasets.RowError{Line: 2, Field: "prompt", Want: "text or a number", Got: `["p"]`}},
		"level":            {`{"prompt":"p","answer":"a","level":2.5}`, datasets.RowError{Line: 2, Field: "level", Want: "a whole number from 0 to 2147483647", Got: `"2.5"`}},
		"level below zero": {`{"prompt":"p","answer":"a","level":-1}`, datasets.RowError{Line: 2, Field: "level", Want: "a whole number from 0 to 2147483647", Got: `"-1"`}},
		"steps":            {`{"prompt":"p","answer":"a","steps":"one"}`, datasets.RowError{Line: 2, Field: "steps", Want: "a list of texts", Got: `"one"`}},
		"hints":            {`{"prompt":"p","answer":"a","planning_skeleton_parts":"first"}`, datasets.RowError{Line: 2, Field: "planning_skeleton_parts", Want: "a list of texts", Got: `"first"`}},
		"hint of numbers":  {`{"prompt":"p","answer":"a","solution_breakdown_parts":["a",2]}`, datasets.RowError{Line: 2, Field: "solution_breakdown_parts", Want: "a list of texts", Got: `["a",2]`}},
		"rewrite":          {`{"prompt":"p","answer":"a","diversified":["d"]}`, datasets.RowError{Line: 2, Field: "diversified", Want: "text or a number", Got: `["d"]`}},
		"UTF-8":            {"\n{\"prompt\":\"\xff\",\"answer\":\"a\"}", datasets.RowError{Line: 3, Want: "UTF-8", Got: "byte 0xff at position 12"}},
		"10 MB":            {huge, datasets.RowError{Line: 2, Want: "a row of at most 8388608 bytes", Got: "10485786 bytes"}},
		"same id":          {`{"prompt":"p","answer":"a","id":7}` + "\n" + `{"prompt":"q","answer":"b","id":"7"}`, datasets.RowError{Line: 3, Field: "id", Want: "an id of its own", Got: `"7", which line 2 has too`}},
	} {
		c.want.File = "f.jsonl"
		_, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(good+c.text), "f.jsonl", datasets.ImportOptions{})
		var got *datasets.RowError
		if !errors.As(err, &got) {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		equal(t, name, c.want, *got)
		if len(err.Error()) > 300 {
			t.Errorf("%s: a message of %d bytes", name, len(err.Error()))
		}

		// With SkipBad the rows before and after stay.
		table, rejects, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(good+c.text+"\n"+good), "f.jsonl", datasets.ImportOptions{SkipBad: true})
		noError(t, err)
		if len(rejects) != 1 || table.Rows() < 2 {
			t.Errorf("%s: %d rejects, %d rows", name, len(rejects), table.Rows())
		} else {
			equal(t, name+" rejected", c.want, *rejects[0].Err)
		}
		table.Release()
	}
}

func TestImportRefusesFiles(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "f: want at least one good row, got an empty file"},
		"blank":         {"\n \n", "f: want at least one good row, got an empty file"},
		"all bad":       {"{\n{\n", "2 bad ones, the first: f:1: want one JSON object per line"},
		"keys":          {`{"frage":"x","antwort":"y"}`, "f:1: want the keys prompt + reward_model, or prompt + reward_spec, or prompt + answer, or messages + ground_truth, or prompt + ground_truth, or prompt + solution, or problem + answer, or problem + solution, or question + answer, or Body + Question + Answer, got antwort, frage"},
		"no ####":       {`{"question":"q","answer":"so it is 5"}`, `f:1: field "answer": want a solution that ends with "#### gold answer", got no ####`},
		"empty ####":    {`{"question":"q","answer":"so it is 5 ####  "}`, `f:1: field "answer": want a solution that ends with "#### gold answer", got nothing after ####`},
		"JSON document": {"[\n" + good + "]", "f:1: want one JSON object per line"},
		"UTF-16":        {"\xff\xfe{\x00", "f:1: want UTF-8, got byte 0xff at position 1"},
	} {
		_, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(c.text), "f", datasets.ImportOptions{SkipBad: name == "all bad"})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// Editors add a byte order mark and other line ends.
func TestImportWindowsFile(t *testing.T) {
	text := "\xEF\xBB\xBF" + strings.ReplaceAll(good+good, "\n", "\r\n")
	table, _, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader(text), "f.jsonl", datasets.ImportOptions{})
	noError(t, err)
	defer table.Release()
	equal(t, "ids", []string{"f-1", "f-2"}, datasets.ProblemID.Get(table))
}

func TestImportEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := datasets.ImportJSONL(ctx, checked(t), strings.NewReader(good), "f", datasets.ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	broken := errors.New("disk on fire")
	_, _, err := datasets.ImportJSONL(t.Context(), checked(t), io.MultiReader(strings.NewReader(good), failing{broken}), "f", datasets.ImportOptions{SkipBad: true})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "f:2") {
		t.Errorf("broken reader: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A line without end costs no more memory than MaxRow.
func TestImportLongLineInLittleMemory(t *testing.T) {
	endless := io.LimitReader(zeros{}, 1<<30)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	table, rejects, err := datasets.ImportJSONL(t.Context(), checked(t), io.MultiReader(endless, strings.NewReader("\n"+good)), "f", datasets.ImportOptions{SkipBad: true})
	runtime.ReadMemStats(&after)
	noError(t, err)
	defer table.Release()
	equal(t, "row error", "f:1: want a row of at most 8388608 bytes, got 1073741824 bytes", rejects[0].Err.Error())
	if used := after.TotalAlloc - before.TotalAlloc; used > 8*datasets.MaxRow {
		t.Errorf("%d bytes were allocated", used)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestWriteRejects(t *testing.T) {
	_, rejects, err := datasets.ImportJSONL(t.Context(), checked(t), strings.NewReader("{\"a\xff\n{}x\n"), "f", datasets.ImportOptions{SkipBad: true})
	if err == nil {
		t.Fatal("no error without a good row")
	}
	var out bytes.Buffer
	noError(t, datasets.WriteRejects(&out, rejects))
	equal(t, "rejects", `{"line":1,"error":"f:1: want UTF-8, got byte 0xff at position 4","row":"{\"a�\n"}
{"line":2,"error":"f:2: want one JSON object per line, got invalid character 'x' after top-level value at byte 3","row":"{}x\n"}
`, out.String())
}

// What WriteJSONL writes, ImportJSONL reads.
func TestExportAndImport(t *testing.T) {
	want := importFile(t, "gsm8k.jsonl", datasets.ImportOptions{Verifier: "numeric"})
	f, err := os.Open("testdata/gsm8k.jsonl")
	noError(t, err)
	defer f.Close()
	table, _, err := datasets.ImportJSONL(t.Context(), checked(t), f, "gsm8k.jsonl", datasets.ImportOptions{Verifier: "numeric"})
	noError(t, err)
	defer table.Release()
	var out bytes.Buffer
	noError(t, datasets.WriteJSONL(&out, table, 0))
	again, _, err := datasets.ImportJSONL(t.Context(), checked(t), &out, "other.jsonl", datasets.ImportOptions{})
	noError(t, err)
	defer again.Release()
	equal(t, "rows", want, rows(again))
}

func TestWriteJSONL(t *testing.T) {
	mem := checked(t)
	table := scores(t, mem, 1, math.NaN(), math.Inf(-1), .1)
	defer table.Release()
	var out bytes.Buffer
	noError(t, datasets.WriteJSONL(&out, table, 2))
	equal(t, "two rows", `{"reward":1,"verdict":"correct","extracted":"é0"}
{"reward":null,"verdict":"wrong","extracted":"é1"}
`, out.String())
	if err := datasets.WriteJSONL(full{}, table, 0); !errors.Is(err, errFull) {
		t.Errorf("full disk: %v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestRecognise(t *testing.T) {
	for keys, want := range map[string]string{
		"prompt answer": "plain", "answer question": "gsm8k", "problem answer question id": "math", "Answer Body Question": "svamp", "question": "", "": "",
	} {
		h, err := datasets.Recognise(strings.Fields(keys))
		if h.Name != want || (err == nil) != (want != "") {
			t.Errorf("keys %q: habit %q, error %v, want %q", keys, h.Name, err, want)
		}
	}
	if slices.ContainsFunc(datasets.Habits(), func(h datasets.Habit) bool { return h.Doc == "" }) {
		t.Error("a habit lacks its doc")
	}
}

func FuzzImportJSONL(f *testing.F) {
	files, err := os.ReadDir("testdata")
	noError(f, err)
	for _, file := range files {
		if !file.IsDir() {
			data, err := os.ReadFile("testdata/" + file.Name())
			noError(f, err)
			f.Add(data)
		}
	}
	f.Add([]byte(good + "{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(t, 0)
		table, rejects, err := datasets.ImportJSONL(t.Context(), mem, bytes.NewReader(data), "f", datasets.ImportOptions{SkipBad: true})
		if err != nil {
			return
		}
		defer table.Release()
		if table.Rows()+len(rejects) > 1+bytes.Count(data, []byte("\n")) {
			t.Errorf("%d rows and %d rejects from %q", table.Rows(), len(rejects), data)
		}
		ids := datasets.ProblemID.Get(table)
		slices.Sort(ids)
		if len(slices.Compact(ids)) != table.Rows() {
			t.Error("ids repeat")
		}
		for i, prompt := range datasets.Prompt.Get(table) {
			if strings.TrimSpace(prompt) == "" || strings.TrimSpace(datasets.Answer.Get(table)[i]) == "" {
				t.Errorf("row %d has an empty prompt or answer", i)
			}
		}
	})
}
