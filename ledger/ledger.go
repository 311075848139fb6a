// Package ledger reads back what a run left behind: which problems it posed, what
// became of every completion, and why.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/exchange"
	"github.com/gradus-rl/gradus/recipes"
)

// Run is the records of a run's steps. A fork's steps before its beginning are
// those of the run it goes on from.
type Run struct {
	ID       string
	Problems datasets.Ref // its training problems
	store    datasets.Store
	steps    []step
}

// step is where the record of a step is.
type step struct {
	run    string // whose it is
	number int    // from 0
}

// Open finds the steps of a run. Of a fork whose origin's records are gone, those
// before its beginning are missing.
func Open(ctx context.Context, store datasets.Store, id string) (*Run, error) {
	r := &Run{ID: id, store: store}
	_, plan, carried, err := activities.LoadStep(ctx, store, recipes.Origin{Run: id})
	if err != nil {
		return nil, err
	}
	var c struct {
		Setup map[string]datasets.Ref `json:"setup"`
	}
	if err := json.Unmarshal(carried, &c); err != nil {
		return nil, fmt.Errorf("read the newest record of %s: %w: %v", id, datasets.ErrCorrupt, err)
	}
	r.Problems = c.Setup[activities.TableTrain]
	for end := -1; ; { // steps before end are another run's than id's
		found, err := activities.RecordedSteps(ctx, store, id)
		if err != nil {
			return nil, err
		}
		begin := 0
		if plan.Fork != nil {
			begin = *plan.Fork.Step
		}
		var own []step
		for _, s := range found {
			if s >= begin && (end < 0 || s < end) {
				own = append(own, step{id, s})
			}
		}
		r.steps = append(own, r.steps...)
		if plan.Fork == nil {
			return r, nil
		}
		origin := *plan.Fork
		if _, plan, _, err = activities.LoadStep(ctx, store, origin); err != nil {
			return r, nil // its records are gone
		}
		id, end = origin.Run, begin
	}
}

// Steps are the numbers of the recorded steps, from 0, ascending.
func (r *Run) Steps() []int {
	out := make([]int, len(r.steps))
	for i, s := range r.steps {
		out[i] = s.number
	}
	return out
}

// Record is the record of a step, counted from 0; of the step before the first it
// is the run's start.
func (r *Run) Record(ctx context.Context, number int) (activities.StepRecord, error) {
	var record activities.StepRecord
	at := step{r.ID, number}
	if i, ok := r.find(number); ok {
		at = r.steps[i]
	} else if len(r.steps) > 0 {
		at.run = r.steps[0].run
	}
	key := activities.StepKey(at.run, at.number)
	raw, err := r.store.Get(ctx, key)
	if errors.Is(err, datasets.ErrNotFound) {
		return record, fmt.Errorf("run %s has no record of step %d: %w", r.ID, number+1, err)
	}
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return record, fmt.Errorf("%s: %w: %v", key, datasets.ErrCorrupt, err)
	}
	return record, nil
}

func (r *Run) find(number int) (int, bool) {
	return slices.BinarySearchFunc(r.steps, number, func(s step, n int) int { return s.number - n })
}

func (r *Run) load(ctx context.Context, ref datasets.Ref) (*datasets.Table, error) {
	return datasets.Load(ctx, r.store, memory.DefaultAllocator, ref)
}

// Completions are the completions that a step selected from, in the order of its
// selections: all, or those of one problem, for which only the shards that hold them
// are read. A step that waits for a full batch (Metrics is zero) has its selections
// so far.
func (r *Run) Completions(ctx context.Context, record activities.StepRecord, problem string) ([]exchange.Completion, error) {
	var out []exchange.Completion
	var rows []int32 // of the selections
	first := int32(0)
	for _, round := range record.Rounds {
		if round.Request {
			continue
		}
		found, at, err := r.round(ctx, round, problem)
		if err != nil {
			return nil, fmt.Errorf("step %d of run %s: %w", record.Step+1, r.ID, err)
		}
		for i := range found {
			found[i].Step = int32(record.Step) + 1
			rows = append(rows, first+at[i])
		}
		out = append(out, found...)
		first += int32(round.Scores.Rows)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, r.selected(ctx, record, out, rows)
}

// round is the completions of a round, but for what was selected of them, with
// their rows in the round.
func (r *Run) round(ctx context.Context, round activities.Round, problem string) (out []exchange.Completion, rows []int32, err error) {
	proposals, err := r.load(ctx, round.Proposals)
	if err != nil {
		return nil, nil, err
	}
	defer proposals.Release()
	ids, tries := datasets.ProblemID.Get(proposals), datasets.NumGenerations.Get(proposals)
	prompts, prefills, answers := datasets.Prompt.Get(proposals), datasets.Prefill.Get(proposals), datasets.Answer.Get(proposals)
	wanted := func(p int) bool { return problem == "" || ids[p] == problem }
	if problem != "" && !slices.Contains(ids, problem) {
		return nil, nil, nil
	}
	scores, err := r.load(ctx, round.Scores)
	if err != nil {
		return nil, nil, err
	}
	defer scores.Release()
	rewards, verdicts, extracted := datasets.Reward.Get(scores), datasets.Verdict.Get(scores), datasets.Extracted.Get(scores)
	row, shards := int32(0), len(round.Rollouts)
	for s, ref := range round.Rollouts { // each has the tries of its share of the proposals, in order
		lo, hi := len(ids)*s/shards, len(ids)*(s+1)/shards
		if !slices.ContainsFunc(ids[lo:hi], func(id string) bool { return problem == "" || id == problem }) {
			row += int32(ref.Rows)
			continue
		}
		t, err := r.load(ctx, ref)
		if err != nil {
			return nil, nil, err
		}
		c := columns(t)
		k := 0
		for p := lo; p < hi; p++ {
			for range tries[p] {
				if k >= t.Rows() || int(row) >= len(rewards) || c.problem[k] != ids[p] {
					t.Release()
					return nil, nil, fmt.Errorf("shard %d: completion %d is not one of problem %q, as the proposals have it", s, k, ids[p])
				}
				if wanted(p) {
					a := c.row(k)
					a.Proposals, a.Prompt, a.Prefill, a.Answer = round.Proposals.Hash, prompts[p], prefills[p], answers[p]
					a.Reward, a.Verdict, a.Extracted = rewards[row], verdicts[row], extracted[row]
					out, rows = append(out, a), append(rows, row)
				}
				k, row = k+1, row+1
			}
		}
		t.Release()
	}
	return out, rows, nil
}

// rollouts is the columns of a shard.
type rollouts struct {
	group, sample, level, hint            []int32
	problem, origin, parent, policy, text []string
	finish                                []string
	prompt, tokens                        datasets.Lists[int32]
	logprobs, entropies                   datasets.Lists[float32]
}

func columns(t *datasets.Table) rollouts {
	return rollouts{
		group: datasets.Group.Get(t), sample: datasets.Sample.Get(t), level: datasets.Level.Get(t), hint: datasets.HintLevel.Get(t),
		problem: datasets.ProblemID.Get(t), origin: datasets.Origin.Get(t), parent: datasets.Parent.Get(t), policy: datasets.PolicyVersion.Get(t),
		text: datasets.Completion.Get(t), finish: datasets.FinishReason.Get(t), prompt: datasets.PromptIDs.Get(t), tokens: datasets.CompletionIDs.Get(t),
		logprobs: datasets.LogProbs.Get(t), entropies: datasets.Entropies.Get(t),
	}
}

// row is completion i, in memory of its own.
func (c *rollouts) row(i int) exchange.Completion {
	return exchange.Completion{
		Group: c.group[i], Sample: c.sample[i], Level: c.level[i], HintLevel: c.hint[i],
		Problem: c.problem[i], Origin: c.origin[i], Parent: c.parent[i], Policy: c.policy[i], Text: c.text[i], FinishReason: c.finish[i],
		PromptIDs: slices.Clone(c.prompt.Row(i)), Tokens: slices.Clone(c.tokens.Row(i)),
		LogProbs: slices.Clone(c.logprobs.Row(i)), Entropies: slices.Clone(c.entropies.Row(i)),
	}
}

// selected fills in what became of completions, which are the given rows of the
// step's selections.
func (r *Run) selected(ctx context.Context, record activities.StepRecord, out []exchange.Completion, rows []int32) error {
	t, err := r.load(ctx, record.Selections)
	if err != nil {
		return fmt.Errorf("step %d of run %s: selections: %w", record.Step+1, r.ID, err)
	}
	defer t.Release()
	reward, advantage, kept := datasets.Reward.Get(t), datasets.Advantage.Get(t), datasets.Kept.Get(t)
	reason, tokens, problem := datasets.Reason.Get(t), datasets.TokensKept.Get(t), datasets.ProblemID.Get(t)
	groups := map[int32]int{} // first completion of each
	for i := range out {
		c, row := &out[i], rows[i]
		if int(row) >= t.Rows() || problem[row] != c.Problem {
			return fmt.Errorf("step %d of run %s: selection %d is not of problem %q, as the rollouts have it", record.Step+1, r.ID, row, c.Problem)
		}
		c.TrainedReward, c.Advantage, c.Kept, c.Reason, c.TokensKept, c.KLScale = reward[row], advantage[row], kept[row], reason[row], tokens[row], 1
		if t.Has(datasets.TokenReasons.Name) {
			c.TokenReasons = slices.Clone(datasets.TokenReasons.Get(t).Row(int(row)))
		}
		if t.Has(datasets.KLScale.Name) {
			c.KLScale = datasets.KLScale.Get(t)[row]
		}
		if t.Has(datasets.OriginalPrompt.Name) {
			c.OriginalPrompt = datasets.OriginalPrompt.Get(t)[row]
		}
		if _, ok := groups[c.Group]; !ok {
			groups[c.Group] = i
		}
		first := &out[groups[c.Group]]
		c.GroupPrompt, c.GroupPromptIDs = first.Prompt+first.Prefill, first.PromptIDs
	}
	return nil
}

// Metrics are a step's figures; none where it waits for a full batch.
func (r *Run) Metrics(ctx context.Context, record activities.StepRecord) (map[string]float64, error) {
	m := map[string]float64{}
	if record.Metrics.IsZero() {
		return m, nil
	}
	t, err := r.load(ctx, record.Metrics)
	if err != nil {
		return nil, fmt.Errorf("step %d of run %s: metrics: %w", record.Step+1, r.ID, err)
	}
	defer t.Release()
	values := datasets.Value.Get(t)
	for i, name := range datasets.Name.Get(t) {
		m[name] = values[i]
	}
	return m, nil
}

// Sources are the sources of the run's training problems, by problem.
func (r *Run) Sources(ctx context.Context) (map[string]string, error) {
	t, err := r.load(ctx, r.Problems)
	if err != nil {
		return nil, fmt.Errorf("training problems of run %s: %w", r.ID, err)
	}
	defer t.Release()
	source := datasets.Source.Get(t)
	out := make(map[string]string, len(source))
	for i, id := range datasets.ProblemID.Get(t) {
		out[id] = source[i]
	}
	return out, nil
}
