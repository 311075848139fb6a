package recipes

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets/exchange"
)

// rows reads rollouts from JSON with the schema given.
func rows(t *testing.T, text string, mapping map[string]string, fields ...arrow.Field) *exchange.Rollouts {
	t.Helper()
	schema := arrow.NewSchema(fields, nil)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	r, err := exchange.NewRollouts(schema, mapping)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(rec); err != nil {
		t.Fatal(err)
	}
	return r
}

func plan(t *testing.T, given string) Plan {
	t.Helper()
	p, err := Resolve(json.RawMessage(given))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// verl's names: groups by uid, rewards per token; the rows of a group apart.
func TestSelectRollouts(t *testing.T) {
	list := arrow.ListOf(arrow.PrimitiveTypes.Float32)
	verl := rows(t, `[
		{"uid":"p","token_level_scores":[0,1],"responses":[5,6],"entropys":[0.1,2]},
		{"uid":"q","token_level_scores":[0],"responses":[5],"entropys":[1]},
		{"uid":"p","token_level_scores":[0,0],"responses":[7,8],"entropys":[3,0.2]},
		{"uid":"q","token_level_scores":[0],"responses":[5],"entropys":[1]}]`, nil,
		arrow.Field{Name: "uid", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "token_level_scores", Type: list},
		arrow.Field{Name: "responses", Type: arrow.ListOf(arrow.PrimitiveTypes.Int64)}, arrow.Field{Name: "entropys", Type: list})
	s, err := SelectRollouts(plan(t, `{"recipe":"grpo"}`), verl, 0)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(s.Advantage[0]-1) > 1e-4 || math.Abs(s.Advantage[2]+1) > 1e-4 || !slices.Equal(s.Kept, []bool{true, false, true, false}) {
		t.Errorf("advantages %v, kept %v", s.Advantage, s.Kept)
	}
	if s.Reason[1] == "" || s.TokensKept[0] != 2 || s.TokensKept[1] != 0 {
		t.Errorf("reasons %v, tokens %v", s.Reason, s.TokensKept)
	}
	// D³S keeps the tokens of greatest |A|·H: the third and the first of their rows are those.
	s, err = SelectRollouts(plan(t, `{"recipe":"d3s","tokens_initial":0.5,"tokens_final":0.5}`), verl, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.TokenReasons[0], []int32{1, 0}) || !slices.Equal(s.TokenReasons[2], []int32{0, 1}) {
		t.Errorf("token reasons %v", s.TokenReasons)
	}
	// Steps are batches of their own: with each row in one, every group is flat.
	verl.Step = []int64{0, 0, 1, 1}
	if s, err = SelectRollouts(plan(t, `{"recipe":"grpo"}`), verl, 0); err != nil || slices.Contains(s.Kept, true) {
		t.Errorf("%v: kept %v", err, s.Kept)
	}
}

// CAPO's mask, with the columns of a score pass; and what is missing is named.
func TestSelectRolloutsMask(t *testing.T) {
	list := arrow.ListOf(arrow.PrimitiveTypes.Float32)
	fields := []arrow.Field{
		{Name: "problem", Type: arrow.PrimitiveTypes.Int64}, {Name: "reward", Type: arrow.PrimitiveTypes.Float64}, {Name: "num_tokens", Type: arrow.PrimitiveTypes.Int32},
		{Name: "topk_probs", Type: arrow.ListOf(list)}, {Name: "topk_chosen", Type: arrow.ListOf(arrow.PrimitiveTypes.Int32)}, {Name: "hidden_norm_squared", Type: list},
	}
	r := rows(t, `[
		{"problem":1,"reward":1,"num_tokens":1,"topk_probs":[[0.99,0.01]],"topk_chosen":[0],"hidden_norm_squared":[1]},
		{"problem":1,"reward":0,"num_tokens":1,"topk_probs":[[0.5,0.5]],"topk_chosen":[0],"hidden_norm_squared":[1e9]}]`, nil, fields...)
	s, err := SelectRollouts(plan(t, `{"recipe":"capo","optimizer_model":"sgd"}`), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.TokensKept[0] != 1 || s.TokensKept[1] != 0 {
		t.Errorf("tokens kept %v, reasons %v", s.TokensKept, s.TokenReasons)
	}
	for _, x := range []struct{ given, want string }{
		{`{"recipe":"capo"}`, "optimizer_model=sgd"},
		{`{"recipe":"d3s"}`, "d3s.tokens needs entropies"},
		{`{"recipe":"scaf-grpo"}`, "origin and hint_level"},
	} {
		if _, err := SelectRollouts(plan(t, x.given), r, 0); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want an error with %q", x.given, err, x.want)
		}
	}
	schema := arrow.NewSchema(fields[1:], nil)
	if _, err := exchange.NewRollouts(schema, nil); err == nil || !strings.Contains(err.Error(), "no column for group") {
		t.Errorf("no group: %v", err)
	}
	if _, err := exchange.NewRollouts(schema, map[string]string{"group": "num_tokens", "colour": "reward"}); err == nil || !strings.Contains(err.Error(), `unknown field "colour"`) {
		t.Errorf("an unknown field: %v", err)
	}
	nested := arrow.Field{Name: "extra_info", Type: arrow.StructOf(arrow.Field{Name: "index", Type: arrow.PrimitiveTypes.Int64})}
	r = rows(t, `[{"extra_info":{"index":3},"reward":1},{"extra_info":{"index":3},"reward":0}]`, map[string]string{"group": "extra_info.index"}, nested, fields[1])
	if s, err := SelectRollouts(plan(t, `{"recipe":"grpo"}`), r, 0); err != nil || s.TokensKnown || !s.Kept[0] || !s.Kept[1] {
		t.Errorf("%v: %+v", err, s)
	}
}

func TestNear(t *testing.T) {
	names := []string{"gsm8k-1", "gsm8k-12", "math-3"}
	if got := Near("gsm8k-13", names, 5); !slices.Equal(got, []string{"gsm8k-1", "gsm8k-12"}) {
		t.Errorf("got %v", got)
	}
	if got := Near("svamp", names, 5); got != nil {
		t.Errorf("got %v", got)
	}
}
