package activities

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/activity"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// ProposeInput says how many groups to pose next.
type ProposeInput struct {
	Run        Run          `json:"run"`
	Problems   datasets.Ref `json:"problems"`
	State      datasets.Ref `json:"state"`
	Step       int          `json:"step"`
	Posed      int64        `json:"posed"`       // groups posed so far in the experiment
	FirstGroup int32        `json:"first_group"` // number of the first new group within the step
	Groups     int          `json:"groups"`
}

// TableProposals is the table that Propose and Pose return.
const TableProposals = "proposals"

// Propose chooses the problems to pose, by the plan's proposing stage.
func (a *Activities) Propose(ctx context.Context, in ProposeInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(err)
	}
	l := datasets.Lineage{Stage: "propose", Version: 1, Step: in.Step, Inputs: hashes(in.Problems, in.State), Params: params(struct {
		Call                          datasets.Call
		Posed                         int64
		FirstGroup                    int32
		Groups, NumGenerations, Steps int
	}{plan.Propose, in.Posed, in.FirstGroup, in.Groups, plan.NumGenerations, plan.Steps})}
	return a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		state, err := a.loadState(ctx, in.State)
		if err != nil {
			return datasets.Result{}, err
		}
		pose := &curriculum.Pose{Problems: len(p.id), Levels: p.level, State: state, Groups: in.Groups, Posed: in.Posed}
		env := datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Steps}
		if err := datasets.Run(curriculum.Proposers(), []datasets.Call{plan.Propose}, pose, env); err != nil {
			return datasets.Result{}, invalid{err}
		}
		return a.proposals(ctx, l, p, pose.Rows, in.FirstGroup, plan.NumGenerations)
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
	l := datasets.Lineage{Stage: "pose", Version: 1, Inputs: hashes(in.Problems), Params: params(in.NumGenerations)}
	return a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		rows := make([]int32, len(p.id))
		for i := range rows {
			rows[i] = int32(i)
		}
		return a.proposals(ctx, l, p, rows, 0, in.NumGenerations)
	})
}

func (a *Activities) proposals(ctx context.Context, l datasets.Lineage, p *problemSet, rows []int32, first int32, generations int) (datasets.Result, error) {
	n := len(rows)
	group, level, hint, tries := make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n)
	id, prompt, answer, verifier := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	origin, parent := make([]string, n), make([]string, n)
	for i, r := range rows {
		group[i], level[i], tries[i] = first+int32(i), p.level[r], int32(generations)
		id[i], prompt[i], answer[i], verifier[i], origin[i] = p.id[r], p.prompt[r], p.answer[r], p.verifier[r], "original"
	}
	ref, err := a.save(ctx, datasets.KindProposals, l,
		datasets.Group.Of(group), datasets.ProblemID.Of(id), datasets.ProblemIndex.Of(rows), datasets.Level.Of(level),
		datasets.Prompt.Of(prompt), datasets.Answer.Of(answer), datasets.Verifier.Of(verifier), datasets.Origin.Of(origin),
		datasets.Parent.Of(parent), datasets.HintLevel.Of(hint), datasets.NumGenerations.Of(tries))
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
	defer beat(ctx)()
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(err)
	}
	sampling := plan.Sampling
	if in.Greedy {
		sampling.Temperature = 0
	}
	l := datasets.Lineage{Stage: "rollout", Version: 1, Step: in.Step, Inputs: hashes(in.Proposals, in.Policy), Params: params(struct {
		Purpose, Backend string
		Sampling         policy.Sampling
		Shard, Shards    int
	}{in.Purpose, plan.Backend, sampling, in.Shard, in.Shards})}
	return a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
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
		origins, parents := datasets.Origin.Get(t), datasets.Parent.Get(t)
		var c struct {
			group, sample, level, hint               []int32
			id, origin, parent, policy, text, finish []string
			prompt, tokens                           [][]int32
			logprobs, entropies                      [][]float32
		}
		var rows []policy.Prompt
		for g := lo; g < hi; g++ {
			tokens, err := model.Tokenizer.Encode(prompts[g])
			if err != nil {
				return datasets.Result{}, invalid{fmt.Errorf("problem %q: %w", ids[g], err)}
			}
			for s := range tries[g] {
				rows = append(rows, policy.Prompt{IDs: tokens, Stream: datasets.Stream(plan.Seed, "rollout", in.Purpose, in.Step, ids[g], groups[g], s)})
				c.group, c.sample, c.level, c.hint = append(c.group, groups[g]), append(c.sample, s), append(c.level, levels[g]), append(c.hint, hints[g])
				c.id, c.origin, c.parent = append(c.id, ids[g]), append(c.origin, origins[g]), append(c.parent, parents[g])
				c.policy, c.prompt = append(c.policy, in.Policy.Hash), append(c.prompt, tokens)
			}
		}
		local := !activity.IsActivity(ctx) || activity.GetInfo(ctx).IsLocalActivity
		completions, err := engine.Generate(ctx, rows, sampling, func(done, total int) {
			if !local {
				activity.RecordHeartbeat(ctx, done, total)
			}
		})
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
		return datasets.Result{Tables: map[string]datasets.Ref{TableRollouts: ref}, Metrics: map[string]float64{"tokens": float64(generated)}}, err
	})
}
