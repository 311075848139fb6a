package activities

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/sampling"
)

// Round is one round of posing: proposals, the shards of their rollouts, and
// their scores.
type Round struct {
	Proposals datasets.Ref   `json:"proposals"`
	Rollouts  []datasets.Ref `json:"rollouts"`
	Scores    datasets.Ref   `json:"scores"`
	Stage     string         `json:"stage,omitempty"`   // responding stage that proposed it, "" = the proposing one
	Request   bool           `json:"request,omitempty"` // its completions are texts for the stage, not answers; there are no scores
}

// answers are the rounds whose completions are answers.
func answers(rounds []Round) []Round {
	var out []Round
	for _, r := range rounds {
		if !r.Request {
			out = append(out, r)
		}
	}
	return out
}

func rollouts(rounds []Round) []datasets.Ref {
	var out []datasets.Ref
	for _, r := range rounds {
		out = append(out, r.Rollouts...)
	}
	return out
}

// ScoreInput is a round whose completions are to be verified.
type ScoreInput struct {
	Run   Run   `json:"run"`
	Step  int   `json:"step"`
	Round Round `json:"round"`
}

// TableScores is the table that Score returns.
const TableScores = "scores"

// MetricMixed is Score's count of groups whose rewards are not all equal.
const MetricMixed = "mixed_groups"

// Score verifies every completion of a round. A verifier that fails or hangs
// costs its answer, which is counted, and never the step.
func (a *Activities) Score(ctx context.Context, in ScoreInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "score", Version: 3, Step: in.Step, Params: params(plan.Verifier),
		Inputs: hashes(append([]datasets.Ref{in.Round.Proposals}, in.Round.Rollouts...)...)}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		v, err := a.verify(ctx, in.Round, string(plan.Verifier))
		if err != nil {
			return datasets.Result{}, err
		}
		mixed := 0
		for g := range len(v.offsets) - 1 {
			if !sampling.Flat(v.reward[v.offsets[g]:v.offsets[g+1]]) {
				mixed++
			}
		}
		columns := []datasets.Data{datasets.Reward.Of(v.reward), datasets.Verdict.Of(v.verdict), datasets.Extracted.Of(v.extracted), datasets.VerdictReason.Of(v.reasons)}
		for _, name := range slices.Sorted(maps.Keys(v.parts)) {
			columns = append(columns, datasets.RewardPart(name).Of(v.parts[name]))
		}
		metrics := map[string]float64{
			MetricMixed: float64(mixed), "verifier/timeout": float64(v.counts.Timeout), "verifier/error": float64(v.counts.Error),
			"verifier/no_answer": float64(v.counts.NoAnswer), "verifier/calls": float64(len(v.reward)),
		}
		for _, reason := range v.reasons {
			if reason != "" {
				metrics["verifier/reason/"+reason]++
			}
		}
		ref, err := a.save(ctx, datasets.KindScores, l, columns...)
		return datasets.Result{Tables: map[string]datasets.Ref{TableScores: ref}, Metrics: metrics}, err
	})
}

// verified is the completions of a round with their verdicts.
type verified struct {
	offsets                     []int32
	reward                      []float64
	verdict, extracted, reasons []string
	parts                       map[string][]float64 // of rewards, by name; NaN where a verdict has no such part
	counts                      reward.Counts
}

func (a *Activities) verify(ctx context.Context, r Round, fallback string) (v verified, err error) {
	proposals, err := a.load(ctx, r.Proposals)
	if err != nil {
		return v, err
	}
	defer proposals.Release()
	rollouts, err := a.loadAll(ctx, r.Rollouts)
	if err != nil {
		return v, err
	}
	defer rollouts.Release()
	answers, verifiers, prefills := datasets.Answer.Get(proposals), datasets.Verifier.Get(proposals), datasets.Prefill.Get(proposals)
	asked, tries := datasets.Group.Get(proposals), datasets.NumGenerations.Get(proposals)
	groups, texts := datasets.Group.Get(rollouts), datasets.Completion.Get(rollouts)
	items := make([]reward.Item, 0, len(groups))
	for i := range asked { // the shards hold each proposal's tries in order
		for range tries[i] {
			if at := len(items); at >= len(groups) || groups[at] != asked[i] {
				return v, invalid{fmt.Errorf("completion %d is not of group %d, as the proposals have it", at, asked[i])}
			}
			items = append(items, reward.Item{Completion: prefills[i] + texts[len(items)], Answer: answers[i], Verifier: cmp.Or(verifiers[i], fallback)})
		}
	}
	if len(items) != len(groups) {
		return v, invalid{fmt.Errorf("%d completions for %d tries proposed", len(groups), len(items))}
	}
	verdicts, counts, err := a.Scorer.Score(ctx, items)
	if err != nil {
		return v, err
	}
	v = verified{offsets: offsetsOf(groups), counts: counts, reward: make([]float64, len(items)), verdict: make([]string, len(items)),
		extracted: make([]string, len(items)), reasons: make([]string, len(items)), parts: map[string][]float64{}}
	for i, d := range verdicts {
		v.reward[i], v.verdict[i], v.extracted[i], v.reasons[i] = d.Reward, string(d.Outcome), d.Extracted, d.Reason
		for _, p := range d.Parts {
			if v.parts[p.Name] == nil {
				v.parts[p.Name] = slices.Repeat([]float64{math.NaN()}, len(items))
			}
			v.parts[p.Name][i] = p.Value
		}
	}
	return v, nil
}

// offsetsOf cuts rows into groups where the group number changes.
func offsetsOf(groups []int32) []int32 {
	out := []int32{0}
	for i := range groups {
		if i > 0 && groups[i] != groups[i-1] {
			out = append(out, int32(i))
		}
	}
	if len(groups) > 0 {
		out = append(out, int32(len(groups)))
	}
	return out
}
