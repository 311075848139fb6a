package activities

import (
	"context"
	"fmt"
	"slices"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/sampling"
)

// completions is the answers of a step: the tables as stored, and a Batch of
// them in which the rows of one group stand side by side, hinted ones last.
type completions struct {
	rollouts *datasets.Table
	reward   []float64 // by row of the table, as verdict
	verdict  []string
	order    []int32 // row of the table that each row of the batch is
	batch    *sampling.Batch
}

func (c *completions) release() { c.rollouts.Release() }

// completions loads the answers of rounds; the caller releases them.
func (a *Activities) completions(ctx context.Context, rounds []Round, maxTokens int) (*completions, error) {
	c := &completions{}
	var err error
	if c.rollouts, err = a.loadAll(ctx, rollouts(rounds)); err != nil {
		return nil, err
	}
	for _, r := range rounds { // whose rewards may have different parts
		scores, err := a.load(ctx, r.Scores)
		if err != nil {
			c.release()
			return nil, err
		}
		c.reward, c.verdict = append(c.reward, datasets.Reward.Get(scores)...), append(c.verdict, datasets.Verdict.Get(scores)...)
		scores.Release()
	}
	if len(c.reward) != c.rollouts.Rows() {
		defer c.release()
		return nil, invalid{fmt.Errorf("%d scores for %d completions", len(c.reward), c.rollouts.Rows())}
	}
	groups := datasets.Group.Get(c.rollouts)
	c.order = make([]int32, len(groups))
	for i := range c.order {
		c.order[i] = int32(i)
	}
	slices.SortStableFunc(c.order, func(i, j int32) int { return int(groups[i]) - int(groups[j]) })
	tokens, entropies := datasets.CompletionIDs.Get(c.rollouts), datasets.Entropies.Get(c.rollouts)
	lengths := make([]int32, len(groups))
	entropy := make([][]float32, len(groups))
	for i := range lengths {
		lengths[i], entropy[i] = int32(len(tokens.Row(i))), entropies.Row(i)
	}
	c.batch, err = sampling.NewBatch(offsetsOf(pick(c.order, groups)), pick(c.order, c.reward), pick(c.order, lengths))
	if err != nil {
		c.release()
		return nil, err
	}
	b := c.batch
	b.Origin, b.HintLevel = pick(c.order, datasets.Origin.Get(c.rollouts)), pick(c.order, datasets.HintLevel.Get(c.rollouts))
	b.Entropy, b.MaxTokens = pick(c.order, entropy), maxTokens
	for i, verdict := range pick(c.order, c.verdict) {
		b.Correct[i] = verdict == string(reward.Correct)
	}
	return c, nil
}

// pick is column in the order of the batch.
func pick[T any](order []int32, column []T) []T {
	out := make([]T, len(order))
	for i, row := range order {
		out[i] = column[row]
	}
	return out
}

// place is column, which is in the order of the batch, in that of the tables.
func place[T any](order []int32, column []T) []T {
	out := make([]T, len(order))
	for i, row := range order {
		out[row] = column[i]
	}
	return out
}

// attempts are the groups as responding stages see them.
func (c *completions) attempts(p *problemSet) ([]curriculum.Attempts, error) {
	ids, groups := datasets.ProblemID.Get(c.rollouts), datasets.Group.Get(c.rollouts)
	out := make([]curriculum.Attempts, c.batch.Groups())
	for g := range out {
		lo, hi := c.batch.Group(g)
		first := c.order[lo]
		row, ok := p.rowOf[ids[first]]
		if !ok {
			return nil, invalid{fmt.Errorf("completion %d answers problem %q, which is not in the set", first, ids[first])}
		}
		out[g] = curriculum.Attempts{Group: groups[first], Row: row, Origin: c.batch.Origin[lo], Hints: c.batch.HintLevel[lo:hi], Correct: c.batch.Correct[lo:hi]}
	}
	return out, nil
}

// SelectInput is a step's rounds, to be judged.
type SelectInput struct {
	Run      Run          `json:"run"`
	Step     int          `json:"step"`
	Problems datasets.Ref `json:"problems"`
	State    datasets.Ref `json:"state"`
	Rounds   []Round      `json:"rounds"`
	Carried  int          `json:"carried,omitempty"` // of the rounds: that many were assessed in a step before
}

// TableSelections is the table that Select returns beside TableState.
const TableSelections = "selections"

// Select assesses the problems' difficulty and runs the plan's selecting
// stages: group filters, advantages, samples, tokens. Every completion gets a
// row, with the reason why where it is not trained on.
func (a *Activities) Select(ctx context.Context, in SelectInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	rounds := answers(in.Rounds)
	inputs := append([]datasets.Ref{in.State}, rollouts(rounds)...)
	for _, r := range rounds {
		inputs = append(inputs, r.Scores)
	}
	l := datasets.Lineage{Stage: "select", Version: 2, Step: in.Step, Inputs: hashes(inputs...), Params: params(struct {
		Assess                    datasets.Call
		Select                    []datasets.Call
		Steps, Carried, MaxTokens int
		Responds                  bool
	}{plan.Assess, plan.Select, plan.Horizon(), in.Carried, plan.Sampling.MaxCompletionLength, len(plan.Respond) > 0})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		return a.selectRows(ctx, in, plan, l)
	})
}

func (a *Activities) selectRows(ctx context.Context, in SelectInput, plan recipes.Plan, l datasets.Lineage) (datasets.Result, error) {
	var none datasets.Result
	env := datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Horizon()}
	rounds := answers(in.Rounds)
	c, err := a.completions(ctx, rounds, plan.Sampling.MaxCompletionLength)
	if err != nil {
		return none, err
	}
	defer c.release()

	// Assess: what was not assessed in a step before.
	set, err := a.problems(ctx, in.Problems)
	if err != nil {
		return none, err
	}
	state, err := a.loadState(ctx, in.State)
	if err != nil {
		return none, err
	}
	fresh := 0
	for _, r := range answers(in.Rounds[:in.Carried]) {
		fresh += int(r.Scores.Rows)
	}
	attempts, err := c.attempts(set)
	if err != nil {
		return none, err
	}
	visit := &curriculum.Visit{State: state}
	for g, t := range attempts {
		lo, hi := c.batch.Group(g)
		for i := lo; i < hi; i++ {
			if int(c.order[i]) >= fresh && t.Origin == curriculum.OriginOriginal { // a rewritten problem is another problem
				visit.Rows, visit.Correct = append(visit.Rows, t.Row), append(visit.Correct, c.batch.Correct[i])
				visit.HintLevel = append(visit.HintLevel, c.batch.HintLevel[i])
			}
		}
	}
	if err := datasets.Run(curriculum.Assessors(), []datasets.Call{plan.Assess}, visit, env); err != nil {
		return none, invalid{err}
	}

	given := slices.Clone(c.batch.Reward)
	if err := datasets.Run(sampling.Stages(), plan.Select, c.batch, env); err != nil {
		return none, invalid{err}
	}
	r := datasets.Result{Tables: map[string]datasets.Ref{}, Metrics: stepMetrics(c, given)}
	for name, v := range visit.Metrics {
		r.Metrics[name] = v
	}
	if rescued, wrong := curriculum.RescueRate(attempts); len(plan.Respond) > 0 && wrong > 0 {
		r.Metrics["rewrite/rescue_rate"] = float64(rescued) / float64(wrong)
	}
	if r.Tables[TableSelections], err = a.saveSelections(ctx, l, c); err != nil {
		return none, err
	}
	if r.Tables[TableState], err = a.saveState(ctx, l, set.ID, set.Level, state); err != nil {
		return none, err
	}
	return r, nil
}

// saveSelections stores what became of every completion.
func (a *Activities) saveSelections(ctx context.Context, l datasets.Lineage, c *completions) (datasets.Ref, error) {
	b, t := c.batch, c.rollouts
	n := len(c.order)
	kept, tokens := make([]bool, n), make([]int32, n)
	for i := range n {
		kept[i], tokens[i] = b.Reason[i] == "", int32(b.KeptTokens(i))
	}
	columns := []datasets.Data{
		datasets.Group.Of(datasets.Group.Get(t)), datasets.Sample.Of(datasets.Sample.Get(t)), datasets.ProblemID.Of(datasets.ProblemID.Get(t)),
		datasets.Origin.Of(datasets.Origin.Get(t)), datasets.Parent.Of(datasets.Parent.Get(t)),
		datasets.HintLevel.Of(datasets.HintLevel.Get(t)), datasets.PolicyVersion.Of(datasets.PolicyVersion.Get(t)),
		datasets.Reward.Of(place(c.order, b.Reward)), datasets.Advantage.Of(place(c.order, b.Advantage)), datasets.Kept.Of(place(c.order, kept)),
		datasets.Reason.Of(place(c.order, b.Reason)), datasets.TokensKept.Of(place(c.order, tokens)),
	}
	if slices.ContainsFunc(b.TokenReason, func(r []sampling.TokenReason) bool { return r != nil }) {
		reasons := make([][]int32, n)
		for i, row := range b.TokenReason {
			reasons[i] = make([]int32, b.Tokens[i])
			for t, r := range row {
				reasons[i][t] = int32(r)
			}
		}
		columns = append(columns, datasets.TokenReasons.OfSlices(place(c.order, reasons)))
	}
	if b.KLScale != nil {
		columns = append(columns, datasets.KLScale.Of(place(c.order, b.KLScale)))
	}
	if b.OriginalPrompt != nil {
		columns = append(columns, datasets.OriginalPrompt.Of(place(c.order, b.OriginalPrompt)))
	}
	if b.PolicyShift != nil {
		columns = append(columns, datasets.ObjectiveShift.OfSlices(place(c.order, b.ObjectiveShift)), datasets.PolicyShift.OfSlices(place(c.order, b.PolicyShift)))
	}
	return a.save(ctx, datasets.KindSelections, l, columns...)
}

// selected is the answers of rounds with what saveSelections stored of them; the
// caller releases them.
func (a *Activities) selected(ctx context.Context, plan recipes.Plan, rounds []Round, selections datasets.Ref) (*completions, error) {
	t, err := a.load(ctx, selections)
	if err != nil {
		return nil, err
	}
	defer t.Release()
	c, err := a.completions(ctx, answers(rounds), plan.Sampling.MaxCompletionLength)
	if err != nil {
		return nil, err
	}
	if t.Rows() != len(c.order) {
		defer c.release()
		return nil, invalid{fmt.Errorf("%d selections for %d completions", t.Rows(), len(c.order))}
	}
	b := c.batch
	b.Reward, b.Advantage = pick(c.order, datasets.Reward.Get(t)), pick(c.order, datasets.Advantage.Get(t))
	b.Reason = pick(c.order, datasets.Reason.Get(t))
	if t.Has(datasets.TokenReasons.Name) {
		reasons := datasets.TokenReasons.Get(t)
		for i, row := range c.order {
			b.TokenReason[i] = make([]sampling.TokenReason, b.Tokens[i])
			for t, r := range reasons.Row(int(row)) {
				b.TokenReason[i][t] = sampling.TokenReason(r)
			}
		}
	}
	if t.Has(datasets.KLScale.Name) {
		b.KLScale = pick(c.order, datasets.KLScale.Get(t))
	}
	if t.Has(datasets.OriginalPrompt.Name) {
		b.OriginalPrompt = pick(c.order, datasets.OriginalPrompt.Get(t))
	}
	if t.Has(datasets.PolicyShift.Name) {
		objective, policy := datasets.ObjectiveShift.Get(t), datasets.PolicyShift.Get(t)
		b.ObjectiveShift, b.PolicyShift = make([][]float32, len(c.order)), make([][]float32, len(c.order))
		for i, row := range c.order {
			b.ObjectiveShift[i], b.PolicyShift[i] = slices.Clone(objective.Row(int(row))), slices.Clone(policy.Row(int(row)))
		}
	}
	return c, nil
}

// stepMetrics are the figures of a step's answers, under the names that TRL
// gives them where it has one. Pass rate and reward are those of the problems
// as they stand, before any filter; given are the verifier's rewards.
func stepMetrics(c *completions, given []float64) map[string]float64 {
	b := c.batch
	m := map[string]float64{"completions": float64(len(b.Reward)), "groups": float64(b.Groups())}
	mean := func(name string, sum float64, n int) {
		if n > 0 {
			m[name] = sum / float64(n)
		}
	}
	finish := pick(c.order, datasets.FinishReason.Get(c.rollouts))
	var right, reward, trained, tokens, keptTokens, clipped, entropy float64
	plain, kept, entropies := 0, 0, 0
	for i := range b.Reward {
		tokens += float64(b.Tokens[i])
		for _, e := range b.Entropy[i] {
			entropy += float64(e)
		}
		entropies += len(b.Entropy[i])
		if finish[i] == "length" {
			clipped++
		}
		if b.Origin[i] == sampling.OriginOriginal {
			plain++
			reward += given[i]
			if b.Correct[i] {
				right++
			}
		} else {
			m["completions/"+b.Origin[i]]++
			m["num_tokens/"+b.Origin[i]] += float64(b.Tokens[i])
		}
		if b.Reason[i] != "" {
			m["dropped/"+b.Reason[i]]++
			continue
		}
		kept++
		trained += b.Reward[i]
		keptTokens += float64(b.KeptTokens(i))
		for _, r := range b.TokenReason[i] {
			if r != sampling.TokenKept {
				m["tokens_dropped/"+r.String()]++
			}
		}
		if b.Origin[i] != sampling.OriginOriginal {
			m["kept/"+b.Origin[i]]++
		}
	}
	flat, keptGroups := 0, 0
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		if sampling.Flat(given[lo:hi]) {
			flat++
		}
		if slices.Contains(b.Reason[lo:hi], "") {
			keptGroups++
		}
	}
	m["kept_groups"], m["tokens_kept"] = float64(keptGroups), keptTokens
	mean("pass_rate", right, plain)
	mean("reward", reward, plain)
	mean("reward_trained", trained, kept)
	mean("kept", float64(kept), len(b.Reward))
	mean("completions/mean_length", tokens, len(b.Reward))
	mean("completions/clipped_ratio", clipped, len(b.Reward))
	mean("entropy", entropy, entropies)
	mean("frac_reward_zero_std", float64(flat), b.Groups())
	return m
}
