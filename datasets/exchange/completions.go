package exchange

import (
	"cmp"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Completion is an answer of a run, with all that became of it.
type Completion struct {
	Step                                    int32 // whose update it was meant for, from 1
	Group, Sample, Level, HintLevel         int32
	Problem, Source, Origin, Parent, Policy string
	Prompt, Prefill, Answer                 string // texts that the policy read, and the gold answer
	Proposals                               string // hash of the table that posed it
	Text, FinishReason                      string
	PromptIDs, Tokens                       []int32
	LogProbs, Entropies                     []float32
	Reward                                  float64 // of the verifier
	Verdict, Extracted                      string
	TrainedReward, Advantage                float64 // as the selecting stages left them
	Kept                                    bool
	Reason                                  string
	TokensKept                              int32
	TokenReasons                            []int32 // nil = all tokens alike
	KLScale                                 float64
	OriginalPrompt                          bool    // learnt under GroupPrompt and GroupPromptIDs
	GroupPrompt                             string  // of the group's first completion
	GroupPromptIDs                          []int32 // of the group's first completion
}

// mask is 1 for the tokens that are trained on, 0 for the others.
func (c *Completion) mask() []int32 {
	m := make([]int32, len(c.Tokens))
	for t := range m {
		if c.Kept && (c.TokenReasons == nil || c.TokenReasons[t] == 0) {
			m[t] = 1
		}
	}
	return m
}

// learnt is the prompt under which the completion is learnt, and the
// log-probabilities it was drawn with there: nil where it was drawn under another.
func (c *Completion) learnt() (prompt string, ids []int32, logprobs []float32) {
	if c.OriginalPrompt {
		return c.GroupPrompt, c.GroupPromptIDs, nil
	}
	return c.Prompt + c.Prefill, c.PromptIDs, some(c.LogProbs)
}

// some is the list, never nil.
func some[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// Completions lays completions out; the caller releases the record. A token's mask
// is 1 where it was trained on. The log-probabilities are those of the policy that
// drew, at the sampling temperature, in nats.
//
// Under the own layout all columns are as the run's tables have them, with the
// verifier's reward as reward. For TRL they are named as GRPOTrainer's own batches
// are: prompt_ids, completion_ids, completion_mask, advantages,
// sampling_per_token_logps. For verl as its DataProto's: prompts, responses,
// response_mask, rollout_log_probs, advantages (one per token), beside data_source,
// prompt, ability, reward_model and extra_info. A completion that was written under a
// hint and learnt without it has the prompt without, and null for log-probabilities.
func Completions(mem memory.Allocator, rows []Completion, o Options) (arrow.Record, error) {
	n := len(rows)
	prompt := func(i int) string { p, _, _ := rows[i].learnt(); return p }
	promptIDs := func(i int) []int32 { _, p, _ := rows[i].learnt(); return some(p) }
	logprobs := func(i int) []float32 { _, _, l := rows[i].learnt(); return l }
	mask := func(i int) []int32 { return rows[i].mask() }
	tokens := func(i int) []int32 { return some(rows[i].Tokens) }
	problem := texts("problem", func(i int) string { return rows[i].Problem })
	info := []column{
		ints("step", func(i int) int32 { return rows[i].Step }), ints("group", func(i int) int32 { return rows[i].Group }),
		ints("sample", func(i int) int32 { return rows[i].Sample }), ints("level", func(i int) int32 { return rows[i].Level }),
		texts("origin", func(i int) string { return rows[i].Origin }), texts("parent", func(i int) string { return rows[i].Parent }),
		ints("hint_level", func(i int) int32 { return rows[i].HintLevel }), texts("policy", func(i int) string { return rows[i].Policy }),
		texts("finish_reason", func(i int) string { return rows[i].FinishReason }), texts("verdict", func(i int) string { return rows[i].Verdict }),
		texts("extracted", func(i int) string { return rows[i].Extracted }), bools("kept", func(i int) bool { return rows[i].Kept }),
		texts("reason", func(i int) string { return rows[i].Reason }), ints("tokens_kept", func(i int) int32 { return rows[i].TokensKept }),
	}
	source, answer := func(i int) string { return rows[i].Source }, func(i int) string { return rows[i].Answer }
	text, reward := func(i int) string { return rows[i].Text }, floats("reward", func(i int) float64 { return rows[i].Reward })
	switch o.Layout {
	case Own:
		return build(mem, n, append([]column{problem, texts("source", source),
			texts("prompt", func(i int) string { return rows[i].Prompt }), texts("prefill", func(i int) string { return rows[i].Prefill }),
			texts("answer", answer), texts("completion", text), reward,
			floats("reward_trained", func(i int) float64 { return rows[i].TrainedReward }), floats("advantage", func(i int) float64 { return rows[i].Advantage }),
			intLists("prompt_ids", func(i int) []int32 { return some(rows[i].PromptIDs) }), intLists("completion_ids", tokens),
			floatLists("logprobs", func(i int) []float32 { return some(rows[i].LogProbs) }),
			floatLists("entropies", func(i int) []float32 { return some(rows[i].Entropies) }),
			intLists("token_mask", mask), intLists("token_reasons", func(i int) []int32 { return rows[i].TokenReasons }),
			floats("kl_scale", func(i int) float64 { return rows[i].KLScale }), bools("original_prompt", func(i int) bool { return rows[i].OriginalPrompt }),
		}, info...)), nil
	case TRL:
		asked, said := chat("prompt", "user", prompt), chat("completion", "assistant", text)
		if o.Plain {
			asked, said = texts("prompt", prompt), texts("completion", text)
		}
		return build(mem, n, append([]column{asked, said, texts("answer", answer), problem, texts("source", source), reward,
			floats("advantages", func(i int) float64 { return rows[i].Advantage }), intLists("prompt_ids", promptIDs), intLists("completion_ids", tokens),
			intLists("completion_mask", mask), floatLists("sampling_per_token_logps", logprobs),
		}, info...)), nil
	case Verl:
		advantages := func(i int) []float32 {
			a := make([]float32, len(rows[i].Tokens))
			for t, m := range rows[i].mask() {
				a[t] = float32(m) * float32(rows[i].Advantage)
			}
			return a
		}
		extra := append([]column{texts("split", func(int) string { return cmp.Or(o.Split, "train") }), scalar("index", arrow.PrimitiveTypes.Int64, func(i int) int64 { return int64(i) }), problem}, info...)
		return build(mem, n, []column{texts("data_source", source), chat("prompt", "user", prompt), texts("ability", func(int) string { return o.Ability }),
			object("reward_model", texts("style", func(int) string { return "rule" }), texts("ground_truth", answer)), object("extra_info", extra...),
			texts("response", text), reward, intLists("prompts", promptIDs), intLists("responses", tokens),
			intLists("response_mask", mask), floatLists("rollout_log_probs", logprobs), floatLists("advantages", advantages),
		}), nil
	}
	return nil, fmt.Errorf("layout %q: want %s or %s", o.Layout, TRL, Verl)
}
