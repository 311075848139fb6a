package exchange

import (
	"bytes"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func jsonl(t *testing.T, rec arrow.Record, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	var b bytes.Buffer
	if err := datasets.WriteJSON(&b, rec); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func same(t *testing.T, name, got, want string) {
	t.Helper()
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

func TestProblems(t *testing.T) {
	problems, rejects, err := datasets.ImportJSONL(t.Context(), memory.DefaultAllocator, strings.NewReader(
		`{"id":"a","prompt":"1+1=","answer":"2","level":3,"solution":"two"}`+"\n"+`{"id":"b","prompt":"2+2=","answer":"4"}`+"\n"), "sums.jsonl", datasets.ImportOptions{})
	if err != nil || rejects != nil {
		t.Fatal(err, rejects)
	}
	defer problems.Release()
	mem := memory.DefaultAllocator
	state, err := datasets.NewTable(mem, datasets.KindAssessments, datasets.Lineage{}, datasets.ProblemID.Of([]string{"b", "a"}), datasets.Level.Of([]int32{0, 3}),
		datasets.Visits.Of([]int32{0, 1}), datasets.Attempts.Of([]int64{0, 8}), datasets.Successes.Of([]int64{0, 2}), datasets.PassRate.Of([]float64{0, 0.25}),
		datasets.PassRateAverage.Of([]float64{0, 0.25}), datasets.LastStep.Of([]int32{-1, 0}), datasets.Bucket.Of([]string{"unseen", "hard"}),
		datasets.PosteriorAlpha.Of([]float64{1, 2}), datasets.PosteriorBeta.Of([]float64{1, 6}), datasets.Stagnation.Of([]int32{0, 0}),
		datasets.HintNeeded.Of([]int32{0, 0}), datasets.HintedStep.Of([]int32{-1, -1}), datasets.GraduatedStep.Of([]int32{-1, -1}))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Release()

	rec, err := Problems(mem, problems, nil, Options{Layout: Verl, Split: "train", Ability: "math"})
	same(t, "verl", jsonl(t, rec, err), `
{"data_source":"sums","prompt":[{"role":"user","content":"1+1="}],"ability":"math","reward_model":{"style":"rule","ground_truth":"2"},"extra_info":{"split":"train","index":0,"problem":"a","level":3,"verifier":""}}
{"data_source":"sums","prompt":[{"role":"user","content":"2+2="}],"ability":"math","reward_model":{"style":"rule","ground_truth":"4"},"extra_info":{"split":"train","index":1,"problem":"b","level":0,"verifier":""}}`)
	rec, err = Problems(mem, problems, state, Options{Layout: TRL, Plain: true})
	same(t, "trl", jsonl(t, rec, err), `
{"prompt":"1+1=","answer":"2","solution":"two","source":"sums","problem":"a","level":3,"verifier":"","pass_rate":0.25,"difficulty":75,"weight":0.75}
{"prompt":"2+2=","answer":"4","solution":"","source":"sums","problem":"b","level":0,"verifier":"","pass_rate":null,"difficulty":null,"weight":null}`)
	if _, err := Problems(mem, state, nil, Options{Layout: TRL}); err == nil || !strings.Contains(err.Error(), "want problems/") {
		t.Errorf("a table of another kind: %v", err)
	}
}

// A completion whose hint is taken away is learnt under its group's prompt, for which
// there are no log-probabilities; masked tokens have no advantage.
func TestCompletions(t *testing.T) {
	rows := []Completion{
		{Problem: "a", Source: "s", Origin: "original", Prompt: "1+1=", Answer: "2", Text: "2.", PromptIDs: []int32{1}, Tokens: []int32{5, 6}, LogProbs: []float32{-0.5, -1},
			Reward: 1, Advantage: 0.5, Kept: true, TokensKept: 1, TokenReasons: []int32{0, 1}},
		{Problem: "a", Source: "s", Origin: "hinted", HintLevel: 1, Prompt: "1+1=", Prefill: "think: ", Answer: "2", Text: "2", PromptIDs: []int32{1, 2}, Tokens: []int32{5},
			LogProbs: []float32{-2}, Reward: 1, Advantage: 1, Kept: true, TokensKept: 1, OriginalPrompt: true, GroupPrompt: "1+1=", GroupPromptIDs: []int32{1}},
	}
	get := func(o Options, columns ...string) string {
		rec, err := Completions(memory.DefaultAllocator, rows, o)
		if err != nil {
			t.Fatal(err)
		}
		defer rec.Release()
		var fields []arrow.Field
		var arrays []arrow.Array
		for _, name := range columns {
			a, err := at(rec, name)
			if err != nil {
				t.Fatal(err)
			}
			fields, arrays = append(fields, arrow.Field{Name: name, Type: a.DataType()}), append(arrays, a)
		}
		return jsonl(t, array.NewRecord(arrow.NewSchema(fields, nil), arrays, rec.NumRows()), nil)
	}
	same(t, "verl", get(Options{Layout: Verl}, "prompt", "prompts", "responses", "response_mask", "rollout_log_probs", "advantages", "reward_model.ground_truth", "extra_info.hint_level"), `
{"prompt":[{"role":"user","content":"1+1="}],"prompts":[1],"responses":[5,6],"response_mask":[1,0],"rollout_log_probs":[-0.5,-1],"advantages":[0.5,0],"reward_model.ground_truth":"2","extra_info.hint_level":0}
{"prompt":[{"role":"user","content":"1+1="}],"prompts":[1],"responses":[5],"response_mask":[1],"rollout_log_probs":null,"advantages":[1],"reward_model.ground_truth":"2","extra_info.hint_level":1}`)
	same(t, "trl", get(Options{Layout: TRL, Plain: true}, "prompt", "completion", "completion_mask", "advantages", "sampling_per_token_logps"), `
{"prompt":"1+1=","completion":"2.","completion_mask":[1,0],"advantages":0.5,"sampling_per_token_logps":[-0.5,-1]}
{"prompt":"1+1=","completion":"2","completion_mask":[1],"advantages":1,"sampling_per_token_logps":null}`)
	same(t, "own", get(Options{}, "prompt", "prefill", "prompt_ids", "token_mask", "token_reasons", "logprobs", "original_prompt"), `
{"prompt":"1+1=","prefill":"","prompt_ids":[1],"token_mask":[1,0],"token_reasons":[0,1],"logprobs":[-0.5,-1],"original_prompt":false}
{"prompt":"1+1=","prefill":"think: ","prompt_ids":[1,2],"token_mask":[1],"token_reasons":null,"logprobs":[-2],"original_prompt":true}`)
}

func TestTake(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int32}, {Name: "l", Type: arrow.ListOf(arrow.BinaryTypes.String)}}, nil)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(`[{"n":0,"l":[]},{"n":1,"l":["a"]},{"n":2,"l":["b","c"]},{"n":3,"l":null}]`))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	taken, err := Take(memory.DefaultAllocator, rec, []int32{3, 1, 2})
	same(t, "take", jsonl(t, taken, err), `
{"n":3,"l":null}
{"n":1,"l":["a"]}
{"n":2,"l":["b","c"]}`)
	taken, err = Take(memory.DefaultAllocator, rec, nil)
	same(t, "take none", jsonl(t, taken, err), "")
}
