package activities

import (
	"context"
	"fmt"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/sampling"
)

// MaskInput is a step's selection, to be looked at by the policy that is about
// to be updated.
type MaskInput struct {
	Run        Run          `json:"run"`
	Step       int          `json:"step"`
	Rounds     []Round      `json:"rounds"`
	Selections datasets.Ref `json:"selections"`
	Policy     datasets.Ref `json:"policy"`
	Reference  datasets.Ref `json:"reference"`
}

// What Mask returns beside the step's figures.
const (
	MetricMasked    = "tokens_masked"    // rejected by the masking stages
	MetricInspected = "tokens_inspected" // that they looked at
)

// Mask runs the plan's masking stages, those that need the policy's score pass,
// and returns the selections with what they decided.
func (a *Activities) Mask(ctx context.Context, in MaskInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "mask", Version: 1, Step: in.Step, Inputs: hashes(in.Policy, in.Selections, in.Reference), Params: params(struct {
		Mask     []datasets.Call
		Learning policy.Learning
		Backend  string
		TopK     int
		Steps    int
	}{plan.Mask, learningKey(plan), plan.Backend, plan.MaskTopK, plan.Horizon()})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		var none datasets.Result
		c, err := a.selected(ctx, plan, in.Rounds, in.Selections)
		if err != nil {
			return none, err
		}
		defer c.release()
		if c.batch.Curvature, err = a.curvature(ctx, plan, in, c); err != nil {
			return none, err
		}
		if err := datasets.Run(sampling.Stages(), plan.Mask, c.batch, datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Horizon()}); err != nil {
			return none, invalid{err}
		}
		metrics := stepMetrics(c, pick(c.order, c.reward))
		rejected := 0.0
		for _, r := range []sampling.TokenReason{sampling.TokenHessian, sampling.TokenFisher, sampling.TokenSequence, sampling.TokenBatch} {
			rejected += metrics["tokens_dropped/"+r.String()]
		}
		metrics[MetricMasked], metrics[MetricInspected] = rejected, rejected+metrics["tokens_kept"]
		if rejected > 0 {
			metrics["capo/rejected"] = rejected / metrics[MetricInspected]
		}
		metrics["capo/learning_rate"] = c.batch.Curvature.LearningRate
		ref, err := a.saveSelections(ctx, l, c)
		return datasets.Result{Tables: map[string]datasets.Ref{TableSelections: ref}, Metrics: metrics}, err
	})
}

// curvature is the score pass over the kept completions.
func (a *Activities) curvature(ctx context.Context, plan recipes.Plan, in MaskInput, c *completions) (*sampling.Curvature, error) {
	rows, at := c.rows(func(i int) bool { return c.batch.Reason[i] == "" })
	b := c.batch
	n := len(b.Reward)
	out := &sampling.Curvature{IDs: make([][]int32, n), Probs: make([][]float32, n), Chosen: make([][]int32, n), NormSquared: make([][]float32, n), Hidden: make([][]float32, n)}
	state, err := policy.LoadState(ctx, a.Store, in.Policy)
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	step := state.Step
	if in.Policy.Hash == in.Reference.Hash { // the first update starts with a fresh optimizer
		step = 0
	}
	out.LearningRate, out.Width, out.K = plan.Learning.Rate(step), state.Config.HiddenSize, min(plan.MaskTopK, state.Config.VocabSize)
	if first, second := state.HeadMoments(); first != nil && step > 0 {
		out.Adam = &sampling.Moments{
			First: first, Second: second, Step: step,
			Beta1: plan.Learning.AdamBeta1, Beta2: plan.Learning.AdamBeta2, Epsilon: plan.Learning.AdamEpsilon,
		}
	}
	if len(rows) == 0 {
		return out, nil
	}
	engine, release, err := a.Policies.engine(plan.Backend, state)
	if err != nil {
		return nil, err
	}
	defer release()
	seen, err := engine.Inspect(ctx, rows, plan.Sampling.Temperature, policy.InspectOptions{TopK: plan.MaskTopK, Hidden: true})
	if err != nil {
		return nil, fmt.Errorf("score pass: %w", err)
	}
	for j, i := range at {
		s := seen[j]
		out.IDs[i], out.Probs[i], out.Chosen[i], out.NormSquared[i], out.Hidden[i] = s.IDs, s.Probs, s.Chosen, s.NormSquared, s.Hidden
	}
	return out, nil
}

// trained reports whether any token of row i of the batch is trained on.
func (c *completions) trained(i int) bool { return c.batch.KeptTokens(i) > 0 }

// rows are the completions wanted, as the policy scores them, and the rows of
// the batch that they are.
func (c *completions) rows(wanted func(i int) bool) (rows []policy.Row, at []int) {
	prompts, tokens := datasets.PromptIDs.Get(c.rollouts), datasets.CompletionIDs.Get(c.rollouts)
	for i, row := range c.order {
		if wanted(i) {
			rows = append(rows, policy.Row{Prompt: prompts.Row(c.prompt(i)), Completion: tokens.Row(int(row))})
			at = append(at, i)
		}
	}
	return rows, at
}

// prompt is the table row whose prompt the completion at row i of the batch is
// learnt under: its own, or that of its group's first.
func (c *completions) prompt(i int) int {
	if c.batch.OriginalPrompt == nil || !c.batch.OriginalPrompt[i] {
		return int(c.order[i])
	}
	g, found := slices.BinarySearch(c.batch.Offsets, int32(i))
	if !found {
		g--
	}
	return int(c.order[c.batch.Offsets[g]])
}
