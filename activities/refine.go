package activities

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/prepare"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/reward"
)

// Names of the tables that the stages of a preparation leave.
const (
	TableProblems   = "problems"   // the set as the stage leaves it
	TableMatches    = "matches"    // what repeats, and what it repeats
	TableDifficulty = "difficulty" // how the policy did, by problem
)

// What Refine counts beside the figures of its stage.
const (
	MetricRowsIn  = "rows_in"
	MetricRowsOut = "rows_out"
	DroppedPrefix = "dropped/" // before the reason
)

// NamedRef is a table under the name that a user gave it.
type NamedRef struct {
	Name string       `json:"name"`
	Ref  datasets.Ref `json:"ref"`
}

// Preparing is a preparation with all that it starts from.
type Preparing struct {
	Preparation recipes.Preparation `json:"preparation"`
	Calls       []datasets.Call     `json:"calls"`
	Resolved    Resolved            `json:"resolved"` // the plan under which completions are drawn
	Problems    datasets.Ref        `json:"problems"`
	HeldOut     []NamedRef          `json:"held_out,omitempty"`
	Policy      datasets.Ref        `json:"policy,omitzero"`
	Map         datasets.Ref        `json:"map,omitzero"` // difficulty map made before
}

// OpenPreparation checks what the user gave, finds what it names, and has every
// stage look at the problems' columns.
func (a *Activities) OpenPreparation(ctx context.Context, given json.RawMessage) (o Preparing, err error) {
	if o.Preparation, err = recipes.ResolvePreparation(given); err != nil {
		return o, classify(ctx, invalid{err})
	}
	if err := a.look(ctx, &o); err != nil {
		return o, classify(ctx, err)
	}
	plan, err := o.Preparation.Plan()
	if err != nil {
		return o, classify(ctx, invalid{err})
	}
	o.Resolved, err = a.freeze(ctx, plan)
	return o, err
}

func (a *Activities) look(ctx context.Context, o *Preparing) (err error) {
	p := o.Preparation
	o.Calls = p.Calls()
	if o.Problems, err = a.published(ctx, p.Problems); err != nil {
		return err
	}
	if p.Decontaminate != nil {
		for _, name := range p.Decontaminate.Against {
			ref, err := a.published(ctx, name)
			if err != nil {
				return err
			}
			o.HeldOut = append(o.HeldOut, NamedRef{name, ref})
		}
	}
	if p.Policy != "" {
		if o.Policy, err = datasets.ParseRef(p.Policy); err != nil {
			return invalid{fmt.Errorf("policy: %w; gradus policy import FOLDER prints one", err)}
		}
	}
	if p.Difficulty != nil && p.Difficulty.From != "" {
		if o.Map, err = a.published(ctx, p.Difficulty.From); err != nil {
			return err
		}
	}
	t, err := a.load(ctx, o.Problems)
	if err != nil {
		return fmt.Errorf("load problems: %w", err)
	}
	defer t.Release()
	if t.Kind() != datasets.KindProblems {
		return invalid{fmt.Errorf("problems: %s is a table of kind %s, want %s", o.Problems, t.Kind(), datasets.KindProblems)}
	}
	if err := prepare.Check(t, o.Calls); err != nil {
		return invalid{err}
	}
	return nil
}

// RefineInput is a stage of a preparation and what it works on.
type RefineInput struct {
	Run      Run           `json:"run"`
	Call     datasets.Call `json:"call"`
	Problems datasets.Ref  `json:"problems"`
	HeldOut  []NamedRef    `json:"held_out,omitempty"` // to compare with
	Policy   datasets.Ref  `json:"policy,omitzero"`    // whose tokenizer counts
	Map      datasets.Ref  `json:"map,omitzero"`       // difficulty map to join
}

// Refine runs one stage of a preparation.
func (a *Activities) Refine(ctx context.Context, in RefineInput) (Output, error) {
	stage, err := datasets.FindStage(prepare.Stages(), in.Call.Stage)
	if err != nil {
		return Output{}, classify(ctx, invalid{err})
	}
	inputs := []datasets.Ref{in.Problems}
	for _, h := range in.HeldOut {
		inputs = append(inputs, h.Ref)
	}
	for _, r := range []datasets.Ref{in.Policy, in.Map} {
		if !r.IsZero() {
			inputs = append(inputs, r)
		}
	}
	l := datasets.Lineage{Stage: "refine", Version: 1, Inputs: hashes(inputs...), Params: params(struct {
		Call    datasets.Call
		Version int
	}{in.Call, stage.Version})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		t, err := a.load(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		s := prepare.NewSet(t)
		t.Release()
		defer func() { s.Release() }()
		if err := a.equip(ctx, s, in); err != nil {
			return datasets.Result{}, err
		}
		before := s.Problems.Rows()
		if err := s.Run(in.Call); err != nil {
			return datasets.Result{}, invalid{err}
		}
		if s.Problems.Rows() == 0 {
			return datasets.Result{}, invalid{fmt.Errorf("%s leaves none of %d problems: %v", in.Call.Stage, before, s.Dropped)}
		}
		r := datasets.Result{Tables: map[string]datasets.Ref{}, Metrics: map[string]float64{
			MetricRowsIn: float64(before), MetricRowsOut: float64(s.Problems.Rows()),
		}}
		for name, v := range s.Figures {
			r.Metrics[name] = v
		}
		for reason, n := range s.Dropped {
			r.Metrics[DroppedPrefix+reason] = float64(n)
		}
		out, err := s.Problems.WithLineage(l)
		if err != nil {
			return r, err
		}
		defer out.Release()
		if r.Tables[TableProblems], err = datasets.Save(ctx, a.Store, out); err != nil || len(s.Matches) == 0 {
			return r, err
		}
		r.Tables[TableMatches], err = a.saveMatches(ctx, l, s.Matches)
		return r, err
	})
}

// equip gives a set what its stage needs besides.
func (a *Activities) equip(ctx context.Context, s *prepare.Set, in RefineInput) error {
	for _, h := range in.HeldOut {
		t, err := a.load(ctx, h.Ref)
		if err != nil {
			return fmt.Errorf("load held-out problems %q: %w", h.Name, err)
		}
		s.HeldOut = append(s.HeldOut, prepare.HeldOut{Name: h.Name, ID: datasets.ProblemID.Get(t), Prompt: datasets.Prompt.Get(t)})
		t.Release()
	}
	if !in.Policy.IsZero() {
		tokenizer, _, err := a.Policies.reader(ctx, in.Policy)
		if err != nil {
			return given(err)
		}
		s.Count = func(text string) (int, error) {
			ids, err := tokenizer.Encode(text)
			return len(ids), err
		}
	}
	if in.Map.IsZero() {
		return nil
	}
	t, err := a.load(ctx, in.Map)
	if err != nil {
		return fmt.Errorf("load difficulty map: %w", err)
	}
	defer t.Release()
	if !t.Has(datasets.ProblemID.Name) || !t.Has(datasets.Prompt.Name) || !t.Has(datasets.Attempts.Name) {
		return invalid{fmt.Errorf("%s is a table of kind %s without attempts: no difficulty map", in.Map, t.Kind())}
	}
	s.Measured = &prepare.Measured{
		ID: datasets.ProblemID.Get(t), Prompt: datasets.Prompt.Get(t),
		Attempts: append([]int64(nil), datasets.Attempts.Get(t)...), Successes: append([]int64(nil), datasets.Successes.Get(t)...),
	}
	return nil
}

func (a *Activities) saveMatches(ctx context.Context, l datasets.Lineage, matches []prepare.Match) (datasets.Ref, error) {
	var id, reason, set, other, shared, prompt, otherPrompt []string
	var similarity []float64
	for _, m := range matches {
		id, reason, set, other = append(id, m.ID), append(reason, m.Reason), append(set, m.Set), append(other, m.Other)
		shared, prompt, otherPrompt = append(shared, m.Shared), append(prompt, m.Prompt), append(otherPrompt, m.OtherPrompt)
		similarity = append(similarity, m.Similarity)
	}
	return a.save(ctx, datasets.KindMatches, l, datasets.ProblemID.Of(id), datasets.Reason.Of(reason), datasets.HeldOutSet.Of(set),
		datasets.Other.Of(other), datasets.Similarity.Of(similarity), datasets.SharedText.Of(shared), datasets.Prompt.Of(prompt), datasets.OtherPrompt.Of(otherPrompt))
}

// PosePieceInput is a piece of a problem set on which a policy is tried: the rows
// [n·piece/pieces, n·(piece+1)/pieces).
type PosePieceInput struct {
	Run            Run          `json:"run"`
	Problems       datasets.Ref `json:"problems"`
	Policy         datasets.Ref `json:"policy"`
	NumGenerations int          `json:"num_generations"`
	Piece          int          `json:"piece"`
	Pieces         int          `json:"pieces"`
}

// PosePiece proposes every problem of a piece that fits the policy, under its row's
// number as the group, so that completions do not depend on how many pieces there
// are. Without any that fits it returns no table.
func (a *Activities) PosePiece(ctx context.Context, in PosePieceInput) (Output, error) {
	plan, err := a.plan(ctx, in.Run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "posePiece", Version: 1, Inputs: hashes(in.Problems, in.Policy), Params: params(struct {
		NumGenerations, Piece, Pieces, Length int
	}{in.NumGenerations, in.Piece, in.Pieces, plan.Sampling.MaxCompletionLength})}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		p, err := a.problems(ctx, in.Problems)
		if err != nil {
			return datasets.Result{}, err
		}
		tokenizer, config, err := a.Policies.reader(ctx, in.Policy)
		if err != nil {
			return datasets.Result{}, given(err)
		}
		var posed []curriculum.Proposal
		for i := len(p.ID) * in.Piece / in.Pieces; i < len(p.ID)*(in.Piece+1)/in.Pieces; i++ {
			tokens, err := tokenizer.Encode(p.Prompt[i])
			if err != nil || len(tokens)+plan.Sampling.MaxCompletionLength > config.MaxPositionEmbeddings {
				continue
			}
			posed = append(posed, curriculum.Proposal{Group: int32(i), Row: int32(i), Origin: curriculum.OriginOriginal, Tries: int32(in.NumGenerations)})
		}
		if len(posed) == 0 {
			return datasets.Result{}, nil
		}
		return a.proposals(ctx, l, p, posed, p.answer)
	})
}

// TallyInput is what a policy was asked and how it did, piece by piece.
type TallyInput struct {
	Run      Run          `json:"run"`
	Problems datasets.Ref `json:"problems"`
	Policy   datasets.Ref `json:"policy"`
	Rounds   []Round      `json:"rounds"` // proposals and scores are read
}

// Tally makes a difficulty map: the attempts and successes of each problem.
func (a *Activities) Tally(ctx context.Context, in TallyInput) (Output, error) {
	if len(in.Rounds) == 0 {
		return Output{}, classify(ctx, invalid{fmt.Errorf("difficulty: no prompt of %d fits the policy's context with max_completion_length tokens after it", in.Problems.Rows)})
	}
	var inputs []datasets.Ref
	for _, r := range in.Rounds {
		inputs = append(inputs, r.Proposals, r.Scores)
	}
	l := datasets.Lineage{Stage: "tally", Version: 1, Inputs: hashes(append(inputs, in.Problems, in.Policy)...)}
	return a.stage(ctx, in.Run, in, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		var ids, prompts, policies []string
		var attempts, successes []int64
		for _, r := range in.Rounds {
			t, err := a.load(ctx, r.Proposals)
			if err != nil {
				return datasets.Result{}, err
			}
			ids, prompts = append(ids, datasets.ProblemID.Get(t)...), append(prompts, datasets.Prompt.Get(t)...)
			for _, n := range datasets.NumGenerations.Get(t) {
				attempts, policies = append(attempts, int64(n)), append(policies, in.Policy.Hash)
			}
			t.Release()
			if t, err = a.load(ctx, r.Scores); err != nil {
				return datasets.Result{}, err
			}
			at := 0
			verdicts := datasets.Verdict.Get(t)
			t.Release()
			for len(successes) < len(attempts) {
				n, right := int(attempts[len(successes)]), int64(0)
				if at+n > len(verdicts) {
					return datasets.Result{}, invalid{fmt.Errorf("%d verdicts on the proposals %s", len(verdicts), r.Proposals)}
				}
				for _, v := range verdicts[at : at+n] {
					if v == string(reward.Correct) {
						right++
					}
				}
				at += n
				successes = append(successes, right)
			}
		}
		ref, err := a.save(ctx, datasets.KindDifficulty, l, append(prepare.Rates(attempts, successes),
			datasets.ProblemID.Of(ids), datasets.Prompt.Of(prompts), datasets.PolicyVersion.Of(policies))...)
		return datasets.Result{Tables: map[string]datasets.Ref{TableDifficulty: ref}}, err
	})
}

// PreparedStage is what a stage of a preparation did.
type PreparedStage struct {
	Stage string `json:"stage"`
	Output
}

// Prepared is a problem set made of another one; what runs/<id>/preparation.json
// holds.
type Prepared struct {
	Name     string          `json:"name"`
	From     datasets.Ref    `json:"from"`
	Problems datasets.Ref    `json:"problems"`
	Stages   []PreparedStage `json:"stages"`
}

// PublishInput is what a preparation ends with.
type PublishInput struct {
	Run      Run      `json:"run"`
	Prepared Prepared `json:"prepared"`
}

// Publish gives the result of a preparation its name.
func (a *Activities) Publish(ctx context.Context, in PublishInput) error {
	if err := a.record(ctx, in.Run, "preparation", in.Prepared); err != nil {
		return err
	}
	if err := datasets.Publish(ctx, a.Store, in.Prepared.Name, in.Prepared.Problems); err != nil {
		return classify(ctx, given(err))
	}
	return nil
}
