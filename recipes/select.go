package recipes

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/exchange"
	"github.com/gradus-rl/gradus/sampling"
)

// SelectRollouts runs the plan's selecting stages, and its masking ones, over
// completions made elsewhere: what a run does with its own, and nothing else. The rows
// of a step are a batch; their groups are in the order of their numbers. A row's step,
// from 1, is what schedules follow, of the plan's steps; step stands in where rows have none.
// Stages whose columns are missing are an error that names them.
func SelectRollouts(p Plan, r *exchange.Rollouts, step int) (*exchange.Selection, error) {
	if err := p.selectable(r); err != nil {
		return nil, err
	}
	n := r.Rows()
	s := &exchange.Selection{
		Advantage: make([]float64, n), Kept: make([]bool, n), Reason: make([]string, n), Reward: make([]float64, n),
		TokensKept: make([]int32, n), Tokens: make([]int32, n), TokenReasons: make([][]int32, n), TokensKnown: r.Tokens != nil || r.Entropy != nil,
	}
	order := make([]int32, n)
	stepOf := func(int32) int64 { return int64(step) }
	if r.Step != nil {
		stepOf = func(i int32) int64 { return r.Step[i] }
	}
	for i := range order {
		order[i] = int32(i)
		switch {
		case r.Tokens != nil:
			s.Tokens[i] = r.Tokens[i]
		case r.Entropy != nil:
			s.Tokens[i] = int32(len(r.Entropy[i]))
		}
		if r.Entropy != nil && len(r.Entropy[i]) != int(s.Tokens[i]) {
			return nil, fmt.Errorf("row %d has %d entropies for %d tokens", i, len(r.Entropy[i]), s.Tokens[i])
		}
	}
	slices.SortStableFunc(order, func(i, j int32) int {
		return cmp.Or(cmp.Compare(stepOf(i), stepOf(j)), cmp.Compare(r.Group[i], r.Group[j]))
	})
	for lo := 0; lo < n; {
		hi := lo + 1
		for hi < n && stepOf(order[hi]) == stepOf(order[lo]) {
			hi++
		}
		if err := p.selectStep(r, s, order[lo:hi], int(max(0, stepOf(order[lo])-1))); err != nil {
			return nil, fmt.Errorf("step %d: %w", stepOf(order[lo]), err)
		}
		lo = hi
	}
	return s, nil
}

// selectable reports what of the plan's stages the rows have no columns for.
func (p Plan) selectable(r *exchange.Rollouts) error {
	for _, c := range slices.Concat(p.Select, p.Mask) {
		stage, err := datasets.FindStage(sampling.Stages(), c.Stage)
		if err != nil {
			return err
		}
		missing := func(columns string) error {
			return fmt.Errorf("recipe %s: %s needs %s, which the rollouts lack", p.Recipe, c.Stage, columns)
		}
		switch {
		case slices.Contains(stage.Reads, sampling.Entropy) && r.Entropy == nil:
			return missing("entropies")
		case stage.Name == sampling.OverlongPenalty.Name && r.Tokens == nil && r.Entropy == nil:
			return missing("tokens")
		case stage.Name == sampling.HintReplacement.Name && (r.Origin == nil || r.HintLevel == nil):
			return missing("origin and hint_level")
		case slices.Contains(stage.Reads, sampling.Features):
			if r.Probs == nil || r.Chosen == nil || r.NormSquared == nil {
				return fmt.Errorf("%w; mask=[] leaves it out", missing("topk_probs, topk_chosen and hidden_norm_squared of a score pass of the policy"))
			}
			if model := capoModel(c); model != "sgd" {
				return fmt.Errorf("%s: optimizer_model %s needs the optimizer's moments, which rollouts do not hold: set optimizer_model=sgd, or mask=[]", c.Stage, model)
			}
		}
	}
	return nil
}

// capoModel is the model of the optimizer's step that a masking call asks for.
func capoModel(c datasets.Call) string {
	var params sampling.CAPO
	if datasets.DecodeStrict(c.Params, &params) != nil {
		return ""
	}
	return params.Model
}

// selectStep selects among the rows in order, which are those of a step, group by
// group.
func (p Plan) selectStep(r *exchange.Rollouts, s *exchange.Selection, order []int32, step int) error {
	offsets := []int32{0}
	for i := 1; i < len(order); i++ {
		if r.Group[order[i]] != r.Group[order[i-1]] {
			offsets = append(offsets, int32(i))
		}
	}
	b, err := sampling.NewBatch(append(offsets, int32(len(order))), pick(order, r.Reward), pick(order, s.Tokens))
	if err != nil {
		return err
	}
	b.MaxTokens = p.Sampling.MaxCompletionLength
	given(order, r.Correct, &b.Correct)
	given(order, r.Origin, &b.Origin)
	given(order, r.HintLevel, &b.HintLevel)
	given(order, r.Entropy, &b.Entropy)
	env := datasets.Env{Seed: p.Seed, Step: step, Steps: p.Horizon()}
	if err := datasets.Run(sampling.Stages(), p.Select, b, env); err != nil {
		return err
	}
	if len(p.Mask) > 0 {
		if b.Curvature, err = curvature(r, b, order, p.Learning.Rate(int64(step))); err != nil {
			return err
		}
		if err := datasets.Run(sampling.Stages(), p.Mask, b, env); err != nil {
			return err
		}
	}
	for i, row := range order {
		s.Advantage[row], s.Reward[row], s.Reason[row], s.Kept[row] = b.Advantage[i], b.Reward[i], b.Reason[i], b.Reason[i] == ""
		s.TokensKept[row] = int32(b.KeptTokens(i))
		if b.TokenReason[i] != nil {
			s.TokenReasons[row] = make([]int32, len(b.TokenReason[i]))
			for t, reason := range b.TokenReason[i] {
				s.TokenReasons[row][t] = int32(reason)
			}
		}
	}
	place(order, b.KLScale, &s.KLScale, len(s.Kept))
	place(order, b.OriginalPrompt, &s.OriginalPrompt, len(s.Kept))
	return nil
}

// curvature is the score pass as the rows tell of it.
func curvature(r *exchange.Rollouts, b *sampling.Batch, order []int32, rate float64) (*sampling.Curvature, error) {
	c := &sampling.Curvature{LearningRate: rate, Probs: pick(order, r.Probs), Chosen: pick(order, r.Chosen), NormSquared: pick(order, r.NormSquared)}
	for i, n := range b.Tokens {
		if n > 0 {
			c.K = max(c.K, len(c.Probs[i])/int(n))
		}
	}
	if c.K == 0 {
		return nil, errors.New("topk_probs is empty")
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

// given is pick where there is such a column.
func given[T any](order []int32, column []T, to *[]T) {
	if column != nil {
		*to = pick(order, column)
	}
}

// place puts a column of the batch, where there is one, into one of n rows.
func place[T any](order []int32, column []T, to *[]T, n int) {
	if column == nil {
		return
	}
	if *to == nil {
		*to = make([]T, n)
	}
	for i, row := range order {
		(*to)[row] = column[i]
	}
}

// Selecting says what a plan's selection does, in the words of its stages.
func (p Plan) Selecting() string {
	var names []string
	for _, c := range slices.Concat(p.Select, p.Mask) {
		names = append(names, c.Stage)
	}
	return strings.Join(names, ", ")
}

// Near are the names that look like the one given, at most n, the most alike first.
func Near(name string, names []string, n int) []string {
	type candidate struct {
		name string
		far  int
	}
	var found []candidate
	for _, other := range names {
		far := distance(name, other)
		if strings.Contains(other, name) || strings.Contains(name, other) {
			far = min(far, 2)
		}
		if far <= 1+len(name)/4 {
			found = append(found, candidate{other, far})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.far - b.far })
	var out []string
	for _, c := range found[:min(n, len(found))] {
		out = append(out, c.name)
	}
	return out
}
