package activities

import (
	"context"
	"fmt"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
)

// RespondInput is a step's rounds so far, for one of the plan's responding
// stages to answer.
type RespondInput struct {
	Run       Run          `json:"run"`
	Step      int          `json:"step"`
	Stage     int          `json:"stage"` // place in the plan's list
	Turn      int          `json:"turn"`  // how often it was asked in this step
	Problems  datasets.Ref `json:"problems"`
	State     datasets.Ref `json:"state"`
	Policy    datasets.Ref `json:"policy"`
	Rounds    []Round      `json:"rounds"`
	NextGroup int32        `json:"next_group"`
}

// What Respond returns beside TableProposals, which is absent when the stage
// has nothing more to propose, and beside the stage's own figures.
const (
	MetricNextGroup = "next_group" // first group number that is free now
	MetricRequest   = "request"    // 1: the proposals ask for texts
)

// Respond asks a responding stage what to pose in answer to the step's results:
// rewritten problems, hints.
func (a *Activities) Respond(ctx context.Context, in RespondInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	if in.Stage >= len(plan.Respond) {
		return Output{}, classify(ctx, invalid{fmt.Errorf("respond[%d]: the plan has %d", in.Stage, len(plan.Respond))})
	}
	call := plan.Respond[in.Stage]
	inputs := []datasets.Ref{in.Problems, in.State, in.Policy}
	for _, r := range in.Rounds {
		inputs = append(append(inputs, r.Rollouts...), r.Scores)
	}
	l := datasets.Lineage{Stage: "respond", Version: 1, Step: in.Step, Inputs: hashes(inputs...), Params: params(struct {
		Call                              datasets.Call
		Turn, Steps, Tries, MaxCompletion int
		NextGroup                         int32
		Chat                              policy.Chat `json:",omitzero"`
	}{call, in.Turn, plan.Horizon(), plan.NumGenerations, plan.Sampling.MaxCompletionLength, in.NextGroup, plan.Chat()})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		tokenizer, config, err := a.Policies.reader(ctx, in.Policy)
		if err != nil {
			return datasets.Result{}, err
		}
		r := &curriculum.Response{
			Problems: &p.Problems, NumGenerations: plan.NumGenerations, Turn: in.Turn, Next: in.NextGroup, Rewrite: rewriter,
			MaxPrompt: config.MaxPositionEmbeddings - plan.Sampling.MaxCompletionLength,
			Count:     func(text string) int { return length(tokenizer, plan.Chat(), text) },
		}
		if r.State, err = a.loadState(ctx, in.State); err != nil {
			return datasets.Result{}, err
		}
		c, err := a.completions(ctx, answers(in.Rounds), plan.Sampling.MaxCompletionLength)
		if err != nil {
			return datasets.Result{}, err
		}
		defer c.release()
		if r.Attempts, err = c.attempts(p); err != nil {
			return datasets.Result{}, err
		}
		if r.Texts, err = a.requested(ctx, in.Rounds, call.Stage); err != nil {
			return datasets.Result{}, err
		}
		if err := datasets.Run(curriculum.Responders(), []datasets.Call{call}, r, datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Horizon()}); err != nil {
			return datasets.Result{}, invalid{err}
		}
		return a.propose(ctx, l, p, r, in.NextGroup, tokenizer, p.noisy(plan))
	})
}

// propose stores what a responding stage proposes. A text with characters that
// the policy cannot read is left out, and counted.
func (a *Activities) propose(ctx context.Context, l datasets.Lineage, p *problemSet, r *curriculum.Response, next int32, tokenizer *policy.Tokenizer, answer func(row int32) string) (datasets.Result, error) {
	out := datasets.Result{Metrics: r.Metrics}
	if out.Metrics == nil {
		out.Metrics = map[string]float64{}
	}
	var proposals []curriculum.Proposal
	for _, o := range r.Proposals {
		next = max(next, o.Group+1)
		if _, err := tokenizer.Encode(o.Prompt + o.Prefill); err != nil {
			out.Metrics["respond/unreadable"]++
			continue
		}
		proposals = append(proposals, o)
	}
	out.Metrics[MetricNextGroup] = float64(next)
	if len(proposals) == 0 {
		return out, nil
	}
	for _, o := range proposals {
		if (o.Origin == curriculum.OriginRequest) != (proposals[0].Origin == curriculum.OriginRequest) {
			return out, invalid{fmt.Errorf("turn %d proposes both requests and problems", r.Turn)}
		}
	}
	if proposals[0].Origin == curriculum.OriginRequest {
		out.Metrics[MetricRequest] = 1
	}
	stored, err := a.proposals(ctx, l, p, proposals, answer)
	out.Tables = stored.Tables
	return out, err
}

// requested are the texts that the policy wrote at a stage's request.
func (a *Activities) requested(ctx context.Context, rounds []Round, stage string) ([]curriculum.Text, error) {
	var out []curriculum.Text
	for _, r := range rounds {
		if !r.Request || r.Stage != stage {
			continue
		}
		proposals, err := a.load(ctx, r.Proposals)
		if err != nil {
			return nil, err
		}
		defer proposals.Release()
		written, err := a.loadAll(ctx, r.Rollouts)
		if err != nil {
			return nil, err
		}
		defer written.Release()
		rows, purposes, tries := datasets.ProblemIndex.Get(proposals), datasets.Purpose.Get(proposals), datasets.NumGenerations.Get(proposals)
		texts := datasets.Completion.Get(written)
		at := 0
		for i := range rows {
			for range tries[i] {
				if at >= len(texts) {
					return nil, invalid{fmt.Errorf("%d texts for the requests of %s", len(texts), r.Proposals)}
				}
				out = append(out, curriculum.Text{Row: rows[i], Purpose: purposes[i], Text: texts[at]})
				at++
			}
		}
	}
	return out, nil
}

// rewriter is the problem families' own way of rewriting.
func rewriter(p *curriculum.Problems, row int32, simplify bool) (prompt, prefill string, ok bool) {
	var steps []string
	if p.Steps != nil {
		steps = p.Steps[row]
	}
	return families.Rewrite(p.Source[row], p.Prompt[row], p.Answer[row], steps, p.Level[row], simplify)
}

// length is how many tokens a text has as a prompt; of one that the policy cannot read, its
// characters.
func length(t *policy.Tokenizer, c policy.Chat, text string) int {
	ids, err := t.Prompt(c, text, "")
	if err != nil {
		return len([]rune(text))
	}
	return len(ids)
}

// reader is what is needed to know a policy's tokens: of a large policy no more
// than two small files.
func (p *Policies) reader(ctx context.Context, ref datasets.Ref) (*policy.Tokenizer, policy.Config, error) {
	m, err := policy.LoadManifest(ctx, p.store, ref)
	if err != nil {
		return nil, policy.Config{}, fmt.Errorf("load policy: %w", err)
	}
	var key string
	for _, name := range []string{policy.ConfigFile, policy.GenerationFile, policy.TokenizerFile, policy.TokenizerConfigFile, policy.ChatTemplateFile} {
		key += m.Files[name].Hash + "\n"
	}
	p.mu.Lock()
	t, c, known := p.tokenizer, p.shape, p.readerKey == key
	p.mu.Unlock()
	if known {
		return t, c, nil
	}
	if t, c, err = policy.LoadTokenizer(ctx, p.store, m); err != nil {
		return nil, c, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokenizer, p.shape, p.readerKey = t, c, key
	return t, c, nil
}

// posable are prompts of all that the plan's responding stages may pose of the
// problems by themselves, as if the policy failed at everything: what a new
// policy must be able to read.
func posable(plan recipes.Plan, p *problemSet) ([]string, error) {
	var out []string
	attempts := make([]curriculum.Attempts, 0, 2*len(p.ID))
	for i := range p.ID {
		for half := range 2 { // a hard and a medium one
			attempts = append(attempts, curriculum.Attempts{
				Group: int32(len(attempts)), Row: int32(i), Origin: curriculum.OriginOriginal, Hints: make([]int32, 2), Correct: []bool{false, half == 1},
			})
		}
	}
	for _, call := range plan.Respond {
		for half := range 2 {
			var some []curriculum.Attempts
			for i := half; i < len(attempts); i += 2 {
				some = append(some, attempts[i])
			}
			r := &curriculum.Response{
				Problems: &p.Problems, State: curriculum.NewState(len(p.ID)), NumGenerations: 2, Attempts: some, Next: int32(len(attempts)), Rewrite: rewriter,
			}
			if err := datasets.Run(curriculum.Responders(), []datasets.Call{call}, r, datasets.Env{Step: max(0, plan.Steps-1), Steps: plan.Steps}); err != nil {
				return nil, err
			}
			for _, o := range r.Proposals {
				prompt := o.Prompt
				if prompt == "" {
					prompt = p.Prompt[o.Row]
				}
				out = append(out, prompt+o.Prefill)
			}
		}
	}
	return out, nil
}
