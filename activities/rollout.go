package activities

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
)

// ProposeInput says how many groups to pose next.
type ProposeInput struct {
	Run        Run          `json:"run"`
	Problems   datasets.Ref `json:"problems"`
	State      datasets.Ref `json:"state"`
	Step       int          `json:"step"`
	Posed      int64        `json:"posed"`       // cursor of the proposing stage
	FirstGroup int32        `json:"first_group"` // number of the first new group within the step
	Groups     int          `json:"groups"`
	Known      []Score      `json:"known,omitempty"` // pass rates by level of the newest evaluation, for stages that may know them
}

// TableProposals is the table that Propose and Pose return.
const TableProposals = "proposals"

// MetricPosed is the cursor that Propose hands back.
const MetricPosed = "posed"

// Propose chooses the problems to pose, by the plan's proposing stage.
func (a *Activities) Propose(ctx context.Context, in ProposeInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	if plan.Propose.Stage != curriculum.Oracle.Name {
		in.Known = nil // and no part of the key
	}
	l := datasets.Lineage{Stage: "propose", Version: 2, Step: in.Step, Inputs: hashes(in.Problems, in.State), Params: params(struct {
		Call                          datasets.Call
		Posed                         int64
		FirstGroup                    int32
		Groups, NumGenerations, Steps int
		Known                         []Score
		AnswerNoise                   float64
	}{plan.Propose, in.Posed, in.FirstGroup, in.Groups, plan.NumGenerations, plan.Horizon(), in.Known, plan.AnswerNoise})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		state, err := a.loadState(ctx, in.State)
		if err != nil {
			return datasets.Result{}, err
		}
		pose := &curriculum.Pose{Problems: len(p.ID), Levels: p.Level, State: state, Groups: in.Groups, Posed: in.Posed, Known: map[int32]float64{}}
		for _, s := range in.Known {
			pose.Known[s.Level] = s.PassAt1
		}
		env := datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Horizon()}
		if err := datasets.Run(curriculum.Proposers(), []datasets.Call{plan.Propose}, pose, env); err != nil {
			return datasets.Result{}, invalid{err}
		}
		r, err := a.proposals(ctx, l, p, original(pose.Rows, in.FirstGroup, plan.NumGenerations), p.noisy(plan))
		r.Metrics = map[string]float64{MetricPosed: float64(pose.Posed)}
		return r, err
	})
}

// PoseInput poses every problem of a set, for an evaluation.
type PoseInput struct {
	Run            Run          `json:"run"`
	Problems       datasets.Ref `json:"problems"`
	NumGenerations int          `json:"num_generations"`
}

// Pose proposes every problem of a set once.
func (a *Activities) Pose(ctx context.Context, in PoseInput) (Output, error) {
	l := datasets.Lineage{Stage: "pose", Version: 2, Inputs: hashes(in.Problems), Params: params(in.NumGenerations)}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		rows := make([]int32, len(p.ID))
		for i := range rows {
			rows[i] = int32(i)
		}
		return a.proposals(ctx, l, p, original(rows, 0, in.NumGenerations), p.answer)
	})
}

// original poses problems as they stand, a group each.
func original(rows []int32, first int32, generations int) []curriculum.Proposal {
	out := make([]curriculum.Proposal, len(rows))
	for i, r := range rows {
		out[i] = curriculum.Proposal{Group: first + int32(i), Row: r, Origin: curriculum.OriginOriginal, Tries: int32(generations)}
	}
	return out
}

func (p *problemSet) answer(row int32) string { return p.Answer[row] }

// noisy is the answers that training takes for right: with answer_noise, that
// share of the problems has the answer of another problem.
func (p *problemSet) noisy(plan recipes.Plan) func(row int32) string {
	return func(row int32) string {
		if float64(datasets.Stream(plan.Seed, "noise", p.ID[row])>>11)/(1<<53) >= plan.AnswerNoise {
			return p.Answer[row]
		}
		return p.Answer[datasets.Stream(plan.Seed, "noise answer", p.ID[row])%uint64(len(p.ID))]
	}
}

// proposals stores what is to be rolled out. A proposal without a prompt of its
// own has the problem's.
func (a *Activities) proposals(ctx context.Context, l datasets.Lineage, p *problemSet, proposed []curriculum.Proposal, answer func(row int32) string) (datasets.Result, error) {
	var c struct {
		group, row, level, hint, tries, first                           []int32
		id, prompt, prefill, answer, verifier, origin, parent, purposes []string
	}
	for _, o := range proposed {
		prompt, parent := o.Prompt, p.ID[o.Row]
		if prompt == "" {
			prompt = p.Prompt[o.Row]
		}
		if o.Origin == curriculum.OriginOriginal {
			parent = ""
		}
		c.group, c.row, c.level, c.hint = append(c.group, o.Group), append(c.row, o.Row), append(c.level, p.Level[o.Row]), append(c.hint, o.HintLevel)
		c.tries, c.first, c.id = append(c.tries, o.Tries), append(c.first, o.FirstSample), append(c.id, p.ID[o.Row])
		c.prompt, c.prefill, c.answer = append(c.prompt, prompt), append(c.prefill, o.Prefill), append(c.answer, answer(o.Row))
		c.verifier, c.origin = append(c.verifier, p.Verifier[o.Row]), append(c.origin, o.Origin)
		c.parent, c.purposes = append(c.parent, parent), append(c.purposes, o.Purpose)
	}
	ref, err := a.save(ctx, datasets.KindProposals, l,
		datasets.Group.Of(c.group), datasets.ProblemID.Of(c.id), datasets.ProblemIndex.Of(c.row), datasets.Level.Of(c.level),
		datasets.Prompt.Of(c.prompt), datasets.Answer.Of(c.answer), datasets.Verifier.Of(c.verifier), datasets.Origin.Of(c.origin),
		datasets.Parent.Of(c.parent), datasets.HintLevel.Of(c.hint), datasets.NumGenerations.Of(c.tries), datasets.FirstSample.Of(c.first),
		datasets.Prefill.Of(c.prefill), datasets.Purpose.Of(c.purposes))
	return datasets.Result{Tables: map[string]datasets.Ref{TableProposals: ref}}, err
}

// RolloutInput is one shard of a rollout.
type RolloutInput struct {
	Run       Run          `json:"run"`
	Purpose   string       `json:"purpose"` // names the stream of randomness: train, test, …
	Greedy    bool         `json:"greedy,omitempty"`
	Step      int          `json:"step"`
	Proposals datasets.Ref `json:"proposals"`
	Policy    datasets.Ref `json:"policy"`
	Shard     int          `json:"shard"`
	Shards    int          `json:"shards"`
}

// TableRollouts is the table that Rollout returns.
const TableRollouts = "rollouts"

// Rollout draws the completions of one shard: the groups [n·shard/shards,
// n·(shard+1)/shards) of the proposals. The randomness of a completion is a
// function of (seed, purpose, step, problem, group, sample).
func (a *Activities) Rollout(ctx context.Context, in RolloutInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	sampling := plan.Sampling
	if in.Greedy {
		sampling.Temperature = 0
	}
	l := datasets.Lineage{Stage: "rollout", Version: 2, Step: in.Step, Inputs: hashes(in.Proposals, in.Policy), Params: params(struct {
		Purpose, Backend string
		Sampling         policy.Sampling
		Shard, Shards    int
		Chat             policy.Chat `json:",omitzero"`
		Elsewhere        []string    `json:",omitempty"`
	}{in.Purpose, plan.Backend, sampling, in.Shard, in.Shards, plan.Chat(), elsewhere(plan)})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		model, err := a.Policies.model(ctx, in.Policy)
		if err != nil {
			return datasets.Result{}, err
		}
		engine, release, err := a.Policies.engine(plan.Backend, model)
		if err != nil {
			return datasets.Result{}, err
		}
		defer release()
		t, err := a.load(ctx, in.Proposals)
		if err != nil {
			return datasets.Result{}, err
		}
		defer t.Release()
		lo, hi := t.Rows()*in.Shard/in.Shards, t.Rows()*(in.Shard+1)/in.Shards
		groups, ids, levels := datasets.Group.Get(t), datasets.ProblemID.Get(t), datasets.Level.Get(t)
		prompts, tries, hints := datasets.Prompt.Get(t), datasets.NumGenerations.Get(t), datasets.HintLevel.Get(t)
		origins, parents, prefills, firsts := datasets.Origin.Get(t), datasets.Parent.Get(t), datasets.Prefill.Get(t), datasets.FirstSample.Get(t)
		var c struct {
			group, sample, level, hint               []int32
			id, origin, parent, policy, text, finish []string
			prompt, tokens                           [][]int32
			logprobs, entropies                      [][]float32
		}
		var rows []policy.Prompt
		var problems []posed
		for g := lo; g < hi; g++ {
			tokens, err := model.Tokenizer.Prompt(plan.Chat(), prompts[g], prefills[g])
			if err != nil {
				return datasets.Result{}, invalid{fmt.Errorf("problem %q: %w", ids[g], err)}
			}
			for s := firsts[g]; s < firsts[g]+tries[g]; s++ {
				rows = append(rows, policy.Prompt{IDs: tokens, Stream: datasets.Stream(plan.Seed, "rollout", in.Purpose, in.Step, ids[g], groups[g], s)})
				c.group, c.sample, c.level, c.hint = append(c.group, groups[g]), append(c.sample, s), append(c.level, levels[g]), append(c.hint, hints[g])
				c.id, c.origin, c.parent = append(c.id, ids[g]), append(c.origin, origins[g]), append(c.parent, parents[g])
				c.policy, c.prompt, problems = append(c.policy, in.Policy.Hash), append(c.prompt, tokens), append(problems, posed{prompts[g], prefills[g]})
			}
		}
		begin := time.Now()
		progress := func(done, total int) {
			if remote(ctx) && time.Since(begin) > pulse(ctx) {
				activity.RecordHeartbeat(ctx, done, total)
			}
		}
		var completions []policy.Completion
		rescored := 0
		if plan.Rollout.Engine == "" {
			completions, err = engine.Generate(ctx, rows, sampling, progress)
		} else {
			completions, rescored, err = a.ask(ctx, plan, asked{policy: in.Policy, model: model, engine: engine, sampling: sampling, problems: problems, rows: rows, prompts: c.prompt}, progress)
		}
		if err != nil {
			return datasets.Result{}, fmt.Errorf("generate: %w", err)
		}
		generated := 0
		for _, r := range completions {
			generated += len(r.IDs)
			c.tokens, c.logprobs, c.entropies = append(c.tokens, r.IDs), append(c.logprobs, r.LogProbs), append(c.entropies, r.Entropies)
			c.text, c.finish = append(c.text, model.Tokenizer.Decode(r.IDs)), append(c.finish, r.FinishReason)
		}
		ref, err := a.save(ctx, datasets.KindRollouts, l,
			datasets.Group.Of(c.group), datasets.Sample.Of(c.sample), datasets.ProblemID.Of(c.id), datasets.Level.Of(c.level),
			datasets.Origin.Of(c.origin), datasets.Parent.Of(c.parent), datasets.HintLevel.Of(c.hint), datasets.PolicyVersion.Of(c.policy),
			datasets.PromptIDs.OfSlices(c.prompt), datasets.CompletionIDs.OfSlices(c.tokens), datasets.LogProbs.OfSlices(c.logprobs),
			datasets.Entropies.OfSlices(c.entropies), datasets.Completion.Of(c.text), datasets.FinishReason.Of(c.finish))
		return datasets.Result{Tables: map[string]datasets.Ref{TableRollouts: ref}, Metrics: map[string]float64{"tokens": float64(generated), MetricRescored: float64(rescored)}}, err
	})
}
