package filter

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// schema has a column of every type that our tables have, and some of other
// writers' types.
var schema = arrow.NewSchema([]arrow.Field{
	{Name: "problem", Type: arrow.BinaryTypes.String},
	{Name: "level", Type: arrow.PrimitiveTypes.Int32},
	{Name: "attempts", Type: arrow.PrimitiveTypes.Int64},
	{Name: "pass_rate", Type: arrow.PrimitiveTypes.Float64},
	{Name: "kept", Type: arrow.FixedWidthTypes.Boolean},
	{Name: "steps", Type: arrow.ListOfNonNullable(arrow.BinaryTypes.String)},
	{Name: "ids", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int32)},
	{Name: "logprobs", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Float32)},
	{Name: "source", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, Nullable: true},
	{Name: "score", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "reward-model", Type: arrow.StructOf(arrow.Field{Name: "ground_truth", Type: arrow.BinaryTypes.LargeString, Nullable: true}), Nullable: true},
	{Name: "when", Type: arrow.FixedWidthTypes.Timestamp_s, Nullable: true},
}, nil)

const rowsJSON = `[
{"problem":"a","level":1,"attempts":8,"pass_rate":0,"kept":true,"steps":["x","y"],"ids":[1,2],"logprobs":[-0.5],"source":"gsm8k","score":0.5,"reward-model":{"ground_truth":"7"},"when":"2026-01-02T00:00:00Z"},
{"problem":"b","level":2,"attempts":8,"pass_rate":0.5,"kept":false,"steps":[],"ids":[],"logprobs":[],"source":"math","score":null,"reward-model":null,"when":null},
{"problem":"c","level":5,"attempts":9000000000,"pass_rate":1,"kept":true,"steps":["draw a diagram"],"ids":[7],"logprobs":[-1,-2],"source":null,"score":2,"reward-model":{"ground_truth":null},"when":null}]`

func record(t testing.TB) arrow.Record {
	t.Helper()
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(rowsJSON))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestRows(t *testing.T) {
	rec := record(t)
	defer rec.Release()
	for _, x := range []struct {
		source string
		want   []int32
	}{
		{`true`, []int32{0, 1, 2}},
		{`pass_rate > 0.1 and pass_rate < 0.9`, []int32{1}},
		{`pass_rate >= 0.5`, []int32{1, 2}},
		{`level in 2..5`, []int32{1, 2}},
		{`level in [1, 5] && kept`, []int32{0, 2}},
		{`problem in ["a", "b"] and not kept`, []int32{1}},
		{`attempts > 8_000_000_000`, []int32{2}},
		{`len(steps) > 0 and steps[0] contains "diagram"`, []int32{2}},
		{`any(steps, # startsWith "d") or level == 1`, []int32{0, 2}},
		{`sum(ids) == 3`, []int32{0}},
		{`len(ids) > 0 and max(ids) > 5`, []int32{2}},
		{`all(logprobs, # > -1)`, []int32{0, 1}},
		{`source == "gsm8k"`, []int32{0}},
		{`source == nil`, []int32{2}},
		{`source matches "^(gsm|ma)"`, []int32{0, 1}}, // null: undecided
		{`score > 0`, []int32{0, 2}},                  // null: undecided
		{`score > 0 or score == nil`, []int32{0, 2}},  // as in SQL
		{`score == nil or score > 0`, []int32{0, 1, 2}},
		{`$env["reward-model"]?.ground_truth == "7"`, []int32{0}},
		{`when startsWith "2026-01-02"`, []int32{0}},
	} {
		f, err := Compile(x.source, schema)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		got, err := f.Rows(rec)
		if err != nil || !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, %v; want %v", x.source, got, err, x.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, x := range []struct{ source, want string }{
		{``, "unexpected"},
		{`level`, "bool"},
		{`level > "x"`, "mismatched types int and string"},
		{`passrate > 0.5`, "the columns are problem, level, attempts, pass_rate"},
		{`lenght(problem) > 1`, "lenght"},
		{`let a = problem + problem; a == ""`, "let"},
		{`all(1..1000000, all(1..1000000, true))`, "predicate may not hold"},
		{`count(1..9, true) > 3`, "a range may stand only"},
		{`level in 1..100000`, "a range may stand only"},
		{`any(ids, # in ids)`, "ids may not be read"},
		{`any(steps, len(split(#, "")) > 1)`, "split"},
		{`reduce(steps, #acc + #acc, "a") == ""`, "reduce"},
		{`repeat(problem, 1000000) == ""`, "repeat"},
		{`replace(problem, "", problem) == ""`, "replace"},
		{`now() > now()`, "now"},
		{strings.Repeat("(", 20_000), "bytes"},
		{strings.Repeat("kept and ", 1000) + "kept", "nodes"},
	} {
		if _, err := Compile(x.source, schema); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%.80s: got %v, want an error with %q", x.source, err, x.want)
		}
	}
}

func TestRowErrors(t *testing.T) {
	rec := record(t)
	defer rec.Release()
	for _, x := range []struct{ source, want string }{
		{`steps[0] == "x"`, "row 1"},
		{`score`, "row 0: invalid operation: bool(float64)"},
	} {
		f, err := Compile(x.source, schema)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Rows(rec); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want an error with %q", x.source, err, x.want)
		}
	}
}

// Whatever is written, compiling and running it ends, soon, without a panic.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		`pass_rate > 0.1`, `level in 2..5`, `any(steps, # startsWith "d")`, `$env["reward-model"]?.ground_truth == "7"`, `score ?? 0 > 1`,
		`problem matches "(a|b)*c"`, `{"a": [1, 2]}.a[0] == 1`, `filter(ids, # > 1) | len() > 0`, `steps[-1:][0] == "y"`, `1 ** 1000 > level % 0`,
		`kept ? true : level`, `if kept { true } else { false }`, `count(ids, {# > 1}) > 0`, "`x` + \"\\u00e9\" == problem", `sum(ids, # * 2) > 3`,
	} {
		f.Add(s)
	}
	rec := record(f)
	defer rec.Release()
	f.Fuzz(func(t *testing.T, source string) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if f, err := Compile(source, schema); err == nil {
				_, _ = f.Rows(rec)
			}
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("does not end")
		}
	})
}

func ExampleCompile() {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "problem", Type: arrow.BinaryTypes.String},
		{Name: "pass_rate", Type: arrow.PrimitiveTypes.Float64},
	}, nil)
	f, err := Compile("pass_rate > 0.1 and pass_rate < 0.9", schema)
	if err != nil {
		fmt.Println(err)
		return
	}
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema,
		strings.NewReader(`[{"problem":"easy","pass_rate":1},{"problem":"right","pass_rate":0.5},{"problem":"hard","pass_rate":0}]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer rec.Release()
	rows, err := f.Rows(rec)
	fmt.Println(rows, err)
	// Output: [1] <nil>
}
