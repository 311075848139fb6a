package activities

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/reward"
)

// SummariseInput is the rollouts of an evaluation.
type SummariseInput struct {
	Run     Run    `json:"run"`
	Purpose string `json:"purpose"` // test, validation
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
	Saved    float64      `json:"saved,omitempty"` // as in [Output]
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
		return Evaluation{}, classify(ctx, err)
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
	out, err := a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		var ids, texts, verdicts []string
		var levels, samples []int32
		var rewards []float64
		var greedy []bool
		e = Evaluation{}
		for i, r := range rounds {
			v, err := a.verify(ctx, r, string(plan.Verifier))
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
		return Evaluation{}, err
	}
	if out.Reused { // the figures follow from the rollouts; those of work that another run was quicker with are dropped
		e = Evaluation{}
		for i, r := range rounds {
			v, err := a.verify(ctx, r, string(plan.Verifier))
			if err != nil {
				return e, classify(ctx, err)
			}
			t, err := a.loadAll(ctx, r.Rollouts)
			if err != nil {
				return e, classify(ctx, err)
			}
			e.tally(v, slices.Clone(datasets.Level.Get(t)), i == 1)
			t.Release()
		}
	}
	e.Table, e.Seconds, e.Saved = out.Tables["evaluation"], out.Seconds, out.Saved
	return e, a.record(ctx, in.Run, fmt.Sprintf("evaluations/%s-%06d", in.Purpose, in.Step), EvaluationRecord{in.Step, in.Sampled, in.Greedy, e})
}

// EvaluationRecord is what runs/<id>/evaluations/<purpose>-<step>.json holds.
type EvaluationRecord struct {
	Step       int        `json:"step"`
	Sampled    Round      `json:"sampled"`
	Greedy     *Round     `json:"greedy,omitempty"`
	Evaluation Evaluation `json:"evaluation"`
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
