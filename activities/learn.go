package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/sampling"
)

// WarmInput is one chunk of the supervised warm-up.
type WarmInput struct {
	Run    Run          `json:"run"`
	Train  datasets.Ref `json:"train"`
	Policy datasets.Ref `json:"policy"`
	From   int          `json:"from"`  // optimizer steps done before
	Steps  int          `json:"steps"` // optimizer steps of this chunk
}

// Warm trains the policy on worked solutions: the policy-gradient update with
// advantage 1 and ratio 1, whose gradient is that of the log-likelihood.
func (a *Activities) Warm(ctx context.Context, in WarmInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "warm", Version: 2, Step: in.From, Inputs: hashes(in.Train, in.Policy), Params: params(struct {
		Warmup   recipes.Warmup
		Learning policy.Learning
		Backend  string
		Steps    int
		Chat     policy.Chat `json:",omitzero"`
	}{plan.Warmup, warmLearning(plan), plan.Backend, in.Steps, plan.Chat()})}
	warmed, err := a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Train)
		if err != nil {
			return datasets.Result{}, err
		}
		var rows []int32
		for i, level := range p.Level {
			if level == 0 || len(plan.Warmup.Levels) == 0 || slices.Contains(plan.Warmup.Levels, level) {
				rows = append(rows, int32(i))
			}
		}
		if len(rows) == 0 {
			return datasets.Result{}, invalid{fmt.Errorf("warmup.levels %v: no training problem has one of them", plan.Warmup.Levels)}
		}
		w := plan.Warmup
		learning := warmLearning(plan)
		tokens := 0
		var metrics policy.UpdateMetrics
		out, err := a.Policies.train(ctx, plan.Backend, in.Policy, in.From == 0, l, func(t Trainer, tokenizer *policy.Tokenizer) error {
			config, _ := t.Model()
			for step := in.From; step < in.From+in.Steps; step++ {
				pose := &curriculum.Pose{Problems: len(rows), Groups: w.BatchSize, Posed: int64(step) * int64(w.BatchSize)}
				env := datasets.Env{Seed: datasets.Stream(plan.Seed, "warm")}
				if err := datasets.Run(curriculum.Proposers(), []datasets.Call{{Stage: curriculum.Uniform.Name}}, pose, env); err != nil {
					return err
				}
				var batch []policy.Sample
				for _, r := range pose.Rows {
					i := int(rows[r])
					s, err := demonstration(tokenizer, plan.Chat(), p.Prompt[i], solutionText(ctx, plan, p, i), config.MaxPositionEmbeddings)
					if err != nil {
						return invalid{fmt.Errorf("problem %q: %w", p.ID[i], err)}
					}
					tokens += len(s.Prompt) + len(s.Completion)
					batch = append(batch, s)
				}
				var err error
				if metrics, err = t.Update(ctx, batch, learning); err != nil {
					return fmt.Errorf("warm-up step %d: %w", step, err)
				}
			}
			return nil
		})
		return datasets.Result{Tables: map[string]datasets.Ref{TablePolicy: out}, Metrics: map[string]float64{"tokens": float64(tokens), "loss": metrics.Loss}}, err
	})
	if err != nil {
		return Output{}, err
	}
	return warmed, a.record(ctx, in.Run, fmt.Sprintf("warm/%06d", in.From), WarmRecord{in.From + in.Steps, warmed.Tables[TablePolicy]})
}

// WarmRecord is what runs/<id>/warm/<from>.json holds: a chunk of the warm-up.
type WarmRecord struct {
	Steps  int          `json:"steps"`  // optimizer steps done by then
	Policy datasets.Ref `json:"policy"` // after them
}

// warmLearning is how the warm-up learns. It takes nothing from what a recipe
// sets for its own updates, so that recipes share one warm-up.
func warmLearning(plan recipes.Plan) policy.Learning {
	l := policy.DefaultLearning()
	l.LearningRate, l.LRSchedulerType, l.WarmupSteps = plan.Warmup.LearningRate, policy.SchedulerCosine, 20
	l.MaxSteps = int64(max(plan.Warmup.MaxSteps, 21)) * 3 / 2 // the warm-up usually stops early: keep the tail of the cosine out
	l.WeightDecay, l.AdamBeta2 = 0.01, 0.95
	l.Temperature, l.MaxCompletionLength, l.Shards = plan.Sampling.Temperature, plan.Sampling.MaxCompletionLength, plan.Learning.Shards
	return l
}

// demonstration is a worked solution as a sample to learn from. What does not
// fit the context is cut off.
func demonstration(t *policy.Tokenizer, c policy.Chat, prompt, solution string, context int) (policy.Sample, error) {
	p, err := t.Prompt(c, prompt, "")
	if err != nil {
		return policy.Sample{}, err
	}
	answer, err := t.EncodeMore(solution)
	if err != nil {
		return policy.Sample{}, err
	}
	answer = append(answer, t.EOS())
	answer = answer[:min(len(answer), context-len(p))]
	advantages := make([]float32, len(answer))
	for i := range advantages {
		advantages[i] = 1
	}
	return policy.Sample{Prompt: p, Completion: answer, Advantages: advantages}, nil
}

// learningKey is the part of how a plan learns that makes a difference: a
// constant rate does not depend on the steps to come, so that a run that is
// extended has the bytes of one that was planned longer.
func learningKey(plan recipes.Plan) policy.Learning {
	l := plan.Learning
	if plan.Horizon() == 0 {
		l.MaxSteps = 0
	}
	return l
}

// UpdateInput is a step's selection, to be learnt from.
type UpdateInput struct {
	Run        Run                `json:"run"`
	Step       int                `json:"step"`
	Rounds     []Round            `json:"rounds"`
	Selections datasets.Ref       `json:"selections"`
	Policy     datasets.Ref       `json:"policy"`
	Reference  datasets.Ref       `json:"reference"`
	Metrics    map[string]float64 `json:"metrics"` // of the stages before, to be kept with the step
}

// MetricNaN is 1 where the update's loss, gradient or weights were not finite.
const MetricNaN = "update/nan"

// TableMetrics is the table that Update returns beside TablePolicy.
const TableMetrics = "metrics"

// Update performs the policy update on the kept completions and tokens and
// writes the step's metrics. A step that kept nothing leaves the policy as it
// is, and so does one whose update is not finite (MetricNaN); the first update
// starts with a fresh optimizer, whatever warmed it up.
func (a *Activities) Update(ctx context.Context, in UpdateInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "update", Version: 2, Step: in.Step, Inputs: hashes(in.Policy, in.Selections, in.Reference), Params: params(struct {
		Learning           policy.Learning
		Backend            string
		MeasureEvery, TopK int
		Metrics            map[string]float64
		Cap                float64 `json:",omitempty"`
		Mode               string  `json:",omitempty"`
	}{learningKey(plan), plan.Backend, plan.MeasureEvery, plan.MaskTopK, in.Metrics, gapCap(plan), gapMode(plan)})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		batch, err := a.batch(ctx, plan, in)
		if err != nil {
			return datasets.Result{}, err
		}
		metrics := maps.Clone(in.Metrics)
		if metrics == nil {
			metrics = map[string]float64{}
		}
		out := in.Policy
		trained := 0
		if len(batch) > 0 {
			if plan.Learning.Beta > 0 {
				scored, err := a.score(ctx, plan, in.Reference, batch)
				if err != nil {
					return datasets.Result{}, fmt.Errorf("score by the reference policy: %w", err)
				}
				for i := range batch {
					batch[i].RefLogProbs = scored[i].LogProbs
				}
			}
			if limit := gapCap(plan); limit > 0 {
				scored, err := a.score(ctx, plan, in.Policy, batch)
				if err != nil {
					return datasets.Result{}, fmt.Errorf("score by the policy to be updated: %w", err)
				}
				maps.Copy(metrics, gapMetrics(policy.Correct(batch, scored, limit, plan.ImportanceSamplingMode)))
			}
			out, err = a.Policies.train(ctx, plan.Backend, in.Policy, in.Policy.Hash == in.Reference.Hash, l, func(t Trainer, _ *policy.Tokenizer) error {
				m, err := t.Update(ctx, batch, plan.Learning)
				if err != nil {
					return err
				}
				maps.Copy(metrics, updateMetrics(m))
				return nil
			})
			if errors.Is(err, policy.ErrNotFinite) {
				a.Log.Warn().Str("run", in.Run.ID).Int("step", in.Step).Err(err).Msg("update left out")
				out, batch = in.Policy, nil
				metrics[MetricNaN] = 1
			} else if err != nil {
				return datasets.Result{}, err
			}
			if len(batch) > 0 && plan.MeasureEvery > 0 && in.Step%plan.MeasureEvery == 0 {
				measured, err := a.divergence(ctx, plan, in, out)
				if err != nil {
					return datasets.Result{}, fmt.Errorf("measure divergence: %w", err)
				}
				maps.Copy(metrics, measured)
			}
			for _, s := range batch {
				for t := range s.Completion {
					if s.Mask == nil || s.Mask[t] > 0 {
						trained++
					}
				}
			}
		}
		metrics["num_tokens_trained"] = float64(trained)
		names := slices.Sorted(maps.Keys(metrics))
		steps, values := make([]int32, len(names)), make([]float64, len(names))
		for i, n := range names {
			steps[i], values[i] = int32(in.Step), metrics[n]
		}
		table, err := a.save(ctx, datasets.KindMetrics, l, datasets.Step.Of(steps), datasets.Name.Of(names), datasets.Value.Of(values))
		if err != nil {
			return datasets.Result{}, err
		}
		r := datasets.Result{Tables: map[string]datasets.Ref{TablePolicy: out, TableMetrics: table}, Metrics: map[string]float64{"trained": float64(trained)}}
		for _, n := range []string{"loss", "grad_norm", "kl", "learning_rate", MetricNaN} {
			if v, ok := metrics[n]; ok {
				r.Metrics[n] = v
			}
		}
		return r, nil
	})
}

// updateMetrics are the figures of an update under TRL's names.
func updateMetrics(m policy.UpdateMetrics) map[string]float64 {
	return map[string]float64{
		"loss": m.Loss, "grad_norm": m.GradNorm, "learning_rate": m.LearningRate, "kl": m.KL, "update/entropy": m.Entropy,
		"clip_ratio/low_mean": m.ClipRatioLow, "clip_ratio/high_mean": m.ClipRatioHigh, "clip_ratio/region_mean": m.ClipRatioRegion,
		"ratio/mean": m.RatioMean, "ratio/max": m.RatioMax,
		"update/padding": m.Padding,
	}
}

// batch is the kept completions as samples.
func (a *Activities) batch(ctx context.Context, plan recipes.Plan, in UpdateInput) ([]policy.Sample, error) {
	c, err := a.selected(ctx, plan, in.Rounds, in.Selections)
	if err != nil {
		return nil, err
	}
	defer c.release()
	rows, at := c.rows(c.trained)
	logprobs := datasets.LogProbs.Get(c.rollouts)
	out := make([]policy.Sample, len(rows))
	for j, i := range at {
		n := len(rows[j].Completion)
		s := policy.Sample{
			Prompt: slices.Clone(rows[j].Prompt), Completion: slices.Clone(rows[j].Completion),
			OldLogProbs: slices.Clone(logprobs.Row(int(c.order[i]))), Advantages: slices.Repeat([]float32{float32(c.batch.Advantage[i])}, n),
		}
		if c.batch.OriginalPrompt != nil && c.batch.OriginalPrompt[i] {
			s.OldLogProbs = nil // they were those under the hint
		}
		if c.batch.KLScale != nil {
			s.KLScales = slices.Repeat([]float32{float32(c.batch.KLScale[i])}, n)
		}
		if reasons := c.batch.TokenReason[i]; reasons != nil {
			s.Mask = make([]float32, n)
			for t, r := range reasons {
				if r == sampling.TokenKept {
					s.Mask[t] = 1
				}
			}
		}
		out[j] = s
	}
	return out, nil
}

// divergence measures the KL divergence of the update, token by token over the
// support that the masking stages saw, and how well CAPO's m_F ranks it.
func (a *Activities) divergence(ctx context.Context, plan recipes.Plan, in UpdateInput, after datasets.Ref) (map[string]float64, error) {
	c, err := a.selected(ctx, plan, in.Rounds, in.Selections)
	if err != nil {
		return nil, err
	}
	defer c.release()
	rows, at := c.rows(c.trained)
	var seen []policy.Inspected
	var kl [][]float32
	for i, version := range []datasets.Ref{in.Policy, after} {
		model, err := a.Policies.model(ctx, version)
		if err != nil {
			return nil, err
		}
		engine, release, err := a.Policies.engine(plan.Backend, model)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			seen, err = engine.Inspect(ctx, rows, plan.Sampling.Temperature, policy.InspectOptions{TopK: plan.MaskTopK})
		} else {
			kl, err = engine.Divergence(ctx, rows, seen, plan.Sampling.Temperature)
		}
		release()
		if err != nil {
			return nil, err
		}
	}
	var measured, predicted []float64
	sum := 0.0
	for j, i := range at {
		for t, v := range kl[j] {
			sum += float64(v)
			measured = append(measured, float64(v))
			if c.batch.PolicyShift != nil {
				predicted = append(predicted, float64(c.batch.PolicyShift[i][t]))
			}
		}
	}
	m := map[string]float64{"capo/kl_mean": sum / float64(max(1, len(measured)))}
	if len(predicted) == len(measured) {
		m["capo/spearman"] = sampling.Spearman(predicted, measured)
	}
	return m, nil
}

// gapCap is the cap of the weights for the gap between the policy that drew and
// the one that learns, 0 where there is none.
func gapCap(plan recipes.Plan) float64 {
	if plan.MaxStaleness == 0 && plan.Rollout.Engine == "" || !plan.ImportanceSamplingCorrection {
		return 0
	}
	return plan.ImportanceSamplingCap
}

// gapMode is the mode of these weights where it is not the default, or there are
// none.
func gapMode(plan recipes.Plan) string {
	if gapCap(plan) == 0 || plan.ImportanceSamplingMode == policy.TokenTruncate {
		return ""
	}
	return plan.ImportanceSamplingMode
}

// gapMetrics are the figures of a policy gap, under TRL's names where it has them.
func gapMetrics(g policy.Gap) map[string]float64 {
	return map[string]float64{
		"sampling/importance_sampling_ratio/mean": g.Mean, "sampling/importance_sampling_ratio/max": g.Max,
		"sampling/importance_sampling_ratio/truncated": g.Truncated, "sampling/kl": g.KL,
	}
}

// score is what a version of the policy thinks of the batch.
func (a *Activities) score(ctx context.Context, plan recipes.Plan, ref datasets.Ref, batch []policy.Sample) ([]policy.Scored, error) {
	model, err := a.Policies.model(ctx, ref)
	if err != nil {
		return nil, err
	}
	engine, release, err := a.Policies.engine(plan.Backend, model)
	if err != nil {
		return nil, err
	}
	defer release()
	rows := make([]policy.Row, len(batch))
	for i, s := range batch {
		rows[i] = policy.Row{Prompt: s.Prompt, Completion: s.Completion}
	}
	return engine.Score(ctx, rows, plan.Sampling.Temperature)
}
