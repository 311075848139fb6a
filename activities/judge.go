package activities

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/gradus-rl/gradus/curriculum"
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
		return Output{}, classify(err)
	}
	l := datasets.Lineage{Stage: "score", Version: 1, Step: in.Step, Params: params(plan.Verifier),
		Inputs: hashes(append([]datasets.Ref{in.Round.Proposals}, in.Round.Rollouts...)...)}
	return a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		v, err := a.verify(ctx, in.Round, plan.Verifier)
		if err != nil {
			return datasets.Result{}, err
		}
		mixed := 0
		for g := range len(v.offsets) - 1 {
			if !sampling.Flat(v.reward[v.offsets[g]:v.offsets[g+1]]) {
				mixed++
			}
		}
		ref, err := a.save(ctx, datasets.KindScores, l,
			datasets.Reward.Of(v.reward), datasets.Verdict.Of(v.verdict), datasets.Extracted.Of(v.extracted))
		return datasets.Result{Tables: map[string]datasets.Ref{TableScores: ref}, Metrics: map[string]float64{
			MetricMixed: float64(mixed), "verifier/timeout": float64(v.counts.Timeout), "verifier/error": float64(v.counts.Error),
			"verifier/no_answer": float64(v.counts.NoAnswer),
		}}, err
	})
}

// verified is the completions of a round with their verdicts.
type verified struct {
	offsets            []int32
	reward             []float64
	verdict, extracted []string
	counts             reward.Counts
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
	answer, verifier := map[int32]string{}, map[int32]string{}
	answers, verifiers := datasets.Answer.Get(proposals), datasets.Verifier.Get(proposals)
	for i, g := range datasets.Group.Get(proposals) {
		answer[g], verifier[g] = answers[i], cmp.Or(verifiers[i], fallback)
	}
	groups := datasets.Group.Get(rollouts)
	items := make([]reward.Item, len(groups))
	for i, text := range datasets.Completion.Get(rollouts) {
		items[i] = reward.Item{Completion: text, Answer: answer[groups[i]], Verifier: verifier[groups[i]]}
	}
	verdicts, counts, err := a.Scorer.Score(ctx, items)
	if err != nil {
		return v, err
	}
	v = verified{offsets: offsetsOf(groups), counts: counts, reward: make([]float64, len(items)), verdict: make([]string, len(items)), extracted: make([]string, len(items))}
	for i, d := range verdicts {
		v.reward[i], v.verdict[i], v.extracted[i] = d.Reward, string(d.Outcome), d.Extracted
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
		return Output{}, classify(err)
	}
	inputs := []datasets.Ref{in.State}
	for _, r := range in.Rounds {
		inputs = append(append(inputs, r.Rollouts...), r.Scores)
	}
	l := datasets.Lineage{Stage: "select", Version: 1, Step: in.Step, Inputs: hashes(inputs...), Params: params(struct {
		Assess         datasets.Call
		Select         []datasets.Call
		Steps, Carried int
	}{plan.Assess, plan.Select, plan.Steps, in.Carried})}
	return a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		return a.selectRows(ctx, in, plan.Assess, plan.Select, datasets.Env{Seed: plan.Seed, Step: in.Step, Steps: plan.Steps}, l)
	})
}

func (a *Activities) selectRows(ctx context.Context, in SelectInput, assess datasets.Call, selects []datasets.Call, env datasets.Env, l datasets.Lineage) (datasets.Result, error) {
	var none datasets.Result
	var shards, scores []datasets.Ref
	fresh := 0 // first row that was not assessed before
	for i, r := range in.Rounds {
		shards, scores = append(shards, r.Rollouts...), append(scores, r.Scores)
		if i < in.Carried {
			fresh += int(r.Scores.Rows)
		}
	}
	rollouts, err := a.loadAll(ctx, shards)
	if err != nil {
		return none, err
	}
	defer rollouts.Release()
	scored, err := a.loadAll(ctx, scores)
	if err != nil {
		return none, err
	}
	defer scored.Release()
	if scored.Rows() != rollouts.Rows() {
		return none, invalid{fmt.Errorf("%d scores for %d completions", scored.Rows(), rollouts.Rows())}
	}
	rewards, verdicts := datasets.Reward.Get(scored), datasets.Verdict.Get(scored)
	ids, groups := datasets.ProblemID.Get(rollouts), datasets.Group.Get(rollouts)
	tokens, entropies := datasets.CompletionIDs.Get(rollouts), datasets.Entropies.Get(rollouts)

	// Assess.
	set, err := a.problems(ctx, in.Problems)
	if err != nil {
		return none, err
	}
	state, err := a.loadState(ctx, in.State)
	if err != nil {
		return none, err
	}
	rowOf := make(map[string]int32, len(set.id))
	for i, id := range set.id {
		rowOf[id] = int32(i)
	}
	visit := &curriculum.Visit{State: state}
	for i := fresh; i < len(ids); i++ {
		row, ok := rowOf[ids[i]]
		if !ok {
			return none, invalid{fmt.Errorf("completion %d answers problem %q, which is not in the set", i, ids[i])}
		}
		visit.Rows = append(visit.Rows, row)
		visit.Correct = append(visit.Correct, verdicts[i] == string(reward.Correct))
	}
	if err := datasets.Run(curriculum.Assessors(), []datasets.Call{assess}, visit, env); err != nil {
		return none, invalid{err}
	}

	// Select.
	lengths := make([]int32, tokens.Len())
	for i := range lengths {
		lengths[i] = int32(len(tokens.Row(i)))
	}
	batch, err := sampling.NewBatch(offsetsOf(groups), slices.Clone(rewards), lengths)
	if err != nil {
		return none, err
	}
	if err := datasets.Run(sampling.Stages(), selects, batch, env); err != nil {
		return none, invalid{err}
	}
	kept, tokensKept := make([]bool, len(ids)), make([]int32, len(ids))
	for i := range ids {
		kept[i], tokensKept[i] = batch.Reason[i] == "", int32(batch.KeptTokens(i))
	}
	columns := []datasets.Data{
		datasets.Group.Of(groups), datasets.Sample.Of(datasets.Sample.Get(rollouts)), datasets.ProblemID.Of(ids),
		datasets.Origin.Of(datasets.Origin.Get(rollouts)), datasets.Parent.Of(datasets.Parent.Get(rollouts)),
		datasets.HintLevel.Of(datasets.HintLevel.Get(rollouts)), datasets.PolicyVersion.Of(datasets.PolicyVersion.Get(rollouts)),
		datasets.Reward.Of(rewards), datasets.Advantage.Of(batch.Advantage), datasets.Kept.Of(kept), datasets.Reason.Of(batch.Reason),
		datasets.TokensKept.Of(tokensKept),
	}
	if slices.ContainsFunc(batch.TokenMask, func(m []bool) bool { return m != nil }) {
		masks := make([][]bool, len(ids))
		for i, m := range batch.TokenMask {
			if masks[i] = m; m == nil {
				masks[i] = slices.Repeat([]bool{true}, int(lengths[i]))
			}
		}
		columns = append(columns, datasets.TokenMask.OfSlices(masks))
	}
	r := datasets.Result{Tables: map[string]datasets.Ref{}, Metrics: stepMetrics(batch, verdicts, entropies.Values, datasets.FinishReason.Get(rollouts))}
	if r.Tables[TableSelections], err = a.save(ctx, datasets.KindSelections, l, columns...); err != nil {
		return none, err
	}
	if r.Tables[TableState], err = a.saveState(ctx, l, set.id, set.level, state); err != nil {
		return none, err
	}
	return r, nil
}

// stepMetrics are the figures of a step's completions, under the names that
// TRL gives them where it has one. Rewards are those before filtering, beside
// those trained on.
func stepMetrics(b *sampling.Batch, verdicts []string, entropies []float32, finish []string) map[string]float64 {
	m := map[string]float64{"completions": float64(len(verdicts)), "groups": float64(b.Groups())}
	mean := func(name string, sum float64, n int) {
		if n > 0 {
			m[name] = sum / float64(n)
		}
	}
	var right, reward, trained, tokens, clipped, entropy float64
	kept := 0
	for i, v := range verdicts {
		reward += b.Reward[i]
		tokens += float64(b.Tokens[i])
		if v == "correct" {
			right++
		}
		if finish[i] == "length" {
			clipped++
		}
		if b.Reason[i] == "" {
			trained += b.Reward[i]
			kept++
		} else {
			m["dropped/"+b.Reason[i]]++
		}
	}
	for _, e := range entropies {
		entropy += float64(e)
	}
	flat, keptGroups := 0, 0
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		if sampling.Flat(b.Reward[lo:hi]) {
			flat++
		}
		if slices.Contains(b.Reason[lo:hi], "") {
			keptGroups++
		}
	}
	m["num_tokens"], m["kept_groups"] = tokens, float64(keptGroups)
	mean("pass_rate", right, len(verdicts))
	mean("reward", reward, len(verdicts))
	mean("reward_trained", trained, kept)
	mean("kept", float64(kept), len(verdicts))
	mean("completions/mean_length", tokens, len(verdicts))
	mean("completions/clipped_ratio", clipped, len(verdicts))
	mean("entropy", entropy, len(entropies))
	mean("frac_reward_zero_std", float64(flat), b.Groups())
	return m
}

// SummariseInput is the rollouts of an evaluation.
type SummariseInput struct {
	Run     Run    `json:"run"`
	Step    int    `json:"step"`
	Sampled Round  `json:"sampled"`
	Greedy  *Round `json:"greedy,omitempty"`
}

// Evaluation is how well a policy does on a problem set.
type Evaluation struct {
	Table    datasets.Ref `json:"table"` // every completion
	All      Score        `json:"all"`
	Levels   []Score      `json:"levels"` // ascending
	Seconds  float64      `json:"seconds"`
	Sampling int          `json:"num_generations"`
}

// Score is the figures of one level, or of all problems (level 0).
type Score struct {
	Level    int32   `json:"level,omitempty"`
	Problems int     `json:"problems"`
	PassAt1  float64 `json:"pass_at_1"` // mean share of right completions
	PassAtK  float64 `json:"pass_at_k"` // at least one right of num_generations
	PassAt8  float64 `json:"pass_at_8"` // unbiased, Chen et al. 2021 (arXiv:2107.03374): 1 − C(n−c, 8)/C(n, 8); at k = n where n < 8
	ConsAtK  float64 `json:"cons_at_k"` // the commonest extracted answer is right
	Greedy   float64 `json:"greedy"`    // the greedy completion is right
}

// Summarise verifies an evaluation's completions and reports on them.
func (a *Activities) Summarise(ctx context.Context, in SummariseInput) (Evaluation, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Evaluation{}, classify(err)
	}
	rounds := []Round{in.Sampled}
	if in.Greedy != nil {
		rounds = append(rounds, *in.Greedy)
	}
	var refs []datasets.Ref
	for _, r := range rounds {
		refs = append(append(refs, r.Proposals), r.Rollouts...)
	}
	var e Evaluation
	l := datasets.Lineage{Stage: "summarise", Version: 1, Step: in.Step, Inputs: hashes(refs...), Params: params(plan.Verifier)}
	out, err := a.stage(ctx, in.Run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		var ids, texts, verdicts []string
		var levels, samples []int32
		var rewards []float64
		var greedy []bool
		for i, r := range rounds {
			v, err := a.verify(ctx, r, plan.Verifier)
			if err != nil {
				return datasets.Result{}, err
			}
			t, err := a.loadAll(ctx, r.Rollouts)
			if err != nil {
				return datasets.Result{}, err
			}
			ids, texts = append(ids, datasets.ProblemID.Get(t)...), append(texts, datasets.Completion.Get(t)...)
			levels, samples = append(levels, datasets.Level.Get(t)...), append(samples, datasets.Sample.Get(t)...)
			t.Release()
			rewards, verdicts = append(rewards, v.reward...), append(verdicts, v.verdict...)
			greedy = append(greedy, slices.Repeat([]bool{i == 1}, len(v.reward))...)
			e.tally(v, levels[len(levels)-len(v.reward):], i == 1)
		}
		ref, err := a.save(ctx, datasets.KindEvaluations, l,
			datasets.ProblemID.Of(ids), datasets.Level.Of(levels), datasets.Sample.Of(samples), datasets.Completion.Of(texts),
			datasets.Reward.Of(rewards), datasets.Verdict.Of(verdicts), datasets.Greedy.Of(greedy))
		return datasets.Result{Tables: map[string]datasets.Ref{"evaluation": ref}}, err
	})
	if err != nil {
		return e, err
	}
	if out.Reused { // the figures follow from the rollouts
		for i, r := range rounds {
			v, err := a.verify(ctx, r, plan.Verifier)
			if err != nil {
				return e, classify(err)
			}
			t, err := a.loadAll(ctx, r.Rollouts)
			if err != nil {
				return e, classify(err)
			}
			e.tally(v, slices.Clone(datasets.Level.Get(t)), i == 1)
			t.Release()
		}
	}
	e.Table, e.Seconds = out.Tables["evaluation"], out.Seconds
	return e, nil
}

// tally adds the groups of one round to the figures.
func (e *Evaluation) tally(v verified, level []int32, greedy bool) {
	for g := range len(v.offsets) - 1 {
		lo, hi := v.offsets[g], v.offsets[g+1]
		n, right := int(hi-lo), 0
		votes := map[string]int{}
		best, bestRight := 0, false
		for i := lo; i < hi; i++ {
			correct := v.verdict[i] == string(reward.Correct)
			if correct {
				right++
			}
			// Ties go to the answer that reached the count first.
			if votes[v.extracted[i]]++; votes[v.extracted[i]] > best {
				best, bestRight = votes[v.extracted[i]], correct
			}
		}
		at, found := slices.BinarySearchFunc(e.Levels, level[lo], func(s Score, l int32) int { return cmp.Compare(s.Level, l) })
		if !found {
			e.Levels = slices.Insert(e.Levels, at, Score{Level: level[lo]})
		}
		for _, s := range []*Score{&e.All, &e.Levels[at]} {
			if greedy {
				s.Greedy += float64(right)
				continue
			}
			s.Problems++
			s.PassAt1 += float64(right) / float64(n)
			s.PassAt8 += PassAtK(n, right, min(8, n))
			if right > 0 {
				s.PassAtK++
			}
			if bestRight {
				s.ConsAtK++
			}
		}
		e.Sampling = max(e.Sampling, n)
	}
	for i := range len(e.Levels) + 1 {
		s := &e.All
		if i > 0 {
			s = &e.Levels[i-1]
		}
		n := float64(max(1, s.Problems)) // counted by the sampled round, which comes first
		if greedy {
			s.Greedy /= n
			continue
		}
		s.PassAt1, s.PassAt8, s.PassAtK, s.ConsAtK = s.PassAt1/n, s.PassAt8/n, s.PassAtK/n, s.ConsAtK/n
	}
}

// PassAtK is the unbiased estimate of the chance that one of k completions is
// right, from n completions of which c are (Chen et al. 2021,
// arXiv:2107.03374, eq. 1):
//
//	1 − C(n−c, k) / C(n, k)
func PassAtK(n, c, k int) float64 {
	if n-c < k {
		return 1
	}
	wrong := 1.0
	for i := n - c + 1; i <= n; i++ {
		wrong *= 1 - float64(k)/float64(i)
	}
	return 1 - wrong
}
