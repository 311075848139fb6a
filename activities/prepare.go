package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/reward"
)

// Names of the tables that Prepare returns.
const (
	TableTrain      = "train"      // posed in training
	TableWarm       = "warm"       // of the warm-up: the training problems of all levels
	TableValidation = "validation" // of the warm-up
	TableTest       = "test"       // held out, for evaluations
	TableState      = "state"      // curriculum state
	TablePolicy     = "policy"
)

// Prepare makes or finds the problems, splits them, and makes or loads the
// first policy. Prompts that do not fit the context are refused, or left out
// with skip_bad.
func (a *Activities) Prepare(ctx context.Context, run Run) (Output, error) {
	plan, err := a.plan(ctx, run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	var inputs []string
	for _, name := range []string{plan.Problems, plan.EvalProblems} {
		if name == "" {
			continue
		}
		ref, err := a.published(ctx, name)
		if err != nil {
			return Output{}, classify(ctx, err)
		}
		inputs = append(inputs, ref.Hash)
	}
	need, err := a.reach(ctx, plan)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l := datasets.Lineage{Stage: "prepare", Version: 2, Inputs: inputs, Params: params(struct {
		Problems, EvalProblems, Policy, Verifier string
		Families                                 []string
		Levels, TrainLevels                      []int32
		PerLevel, EvalPerLevel, Length           int
		SkipBad                                  bool
		Model                                    recipes.Model
		Reach                                    reach
		Chat                                     policy.Chat `json:",omitzero"`
		Split                                    int         `json:",omitzero"` // version of how a set of the user's own is split
	}{plan.Problems, plan.EvalProblems, plan.Policy, string(plan.Verifier), plan.Families, plan.Levels, plan.TrainLevels,
		plan.ProblemsPerLevel, plan.Evaluation.ProblemsPerLevel, plan.Sampling.MaxCompletionLength, plan.SkipBad, plan.Model, need, plan.Chat(), min(1, len(inputs))})}
	out, err := a.stage(ctx, run, run, l, func(ctx context.Context, l datasets.Lineage) (datasets.Result, error) {
		sets, err := a.split(ctx, plan)
		if err != nil {
			return datasets.Result{}, err
		}
		defer func() {
			for _, t := range sets {
				t.Release()
			}
		}()
		state, err := a.firstPolicy(ctx, plan, sets, need)
		if err != nil {
			return datasets.Result{}, err
		}
		r := datasets.Result{Tables: map[string]datasets.Ref{}, Metrics: map[string]float64{}}
		for _, name := range slices.Sorted(maps.Keys(sets)) {
			t, dropped, err := fitting(sets[name], state, plan)
			if err != nil {
				return r, err
			}
			labelled, err := t.WithLineage(l)
			t.Release()
			if err != nil {
				return r, err
			}
			ref, err := datasets.Save(ctx, a.Store, labelled)
			if name == TableTrain && err == nil {
				r.Tables[TableWarm] = ref
				ref, r.Tables[TableState], err = a.posed(ctx, l, labelled, ref, plan.TrainLevels)
			}
			labelled.Release()
			if err != nil {
				return r, err
			}
			r.Tables[name] = ref
			r.Metrics["problems/"+name], r.Metrics["too_long/"+name] = float64(ref.Rows), float64(dropped)
		}
		if r.Tables[TablePolicy], err = policy.SaveState(ctx, a.Store, state, l); err != nil {
			return r, err
		}
		r.Metrics["weights"] = float64(state.Config.Parameters())
		return r, nil
	})
	if err != nil {
		return Output{}, err
	}
	return out, a.record(ctx, run, "setup", SetupRecord{run.Plan, out.Tables})
}

// SetupRecord is what runs/<id>/setup.json holds: what the run starts from.
type SetupRecord struct {
	Plan   datasets.Ref            `json:"plan"`
	Tables map[string]datasets.Ref `json:"tables"`
}

// posed stores the problems of the levels that training poses, and the state of
// a curriculum that has posed none of them yet.
func (a *Activities) posed(ctx context.Context, l datasets.Lineage, t *datasets.Table, ref datasets.Ref, levels []int32) (posed, state datasets.Ref, err error) {
	if len(levels) > 0 {
		var rows []int32
		for i, level := range datasets.Level.Get(t) {
			if slices.Contains(levels, level) {
				rows = append(rows, int32(i))
			}
		}
		if len(rows) == 0 {
			return posed, state, invalid{fmt.Errorf("train_levels %v: no training problem has one of them", levels)}
		}
		taken, err := datasets.Take(memory.DefaultAllocator, t, rows)
		if err != nil {
			return posed, state, err
		}
		defer taken.Release()
		if t, err = taken.WithLineage(l); err != nil {
			return posed, state, err
		}
		defer t.Release()
		if ref, err = datasets.Save(ctx, a.Store, t); err != nil {
			return posed, state, err
		}
	}
	state, err = a.saveState(ctx, l, datasets.ProblemID.Get(t), datasets.Level.Get(t), curriculum.NewState(t.Rows()))
	return ref, state, err
}

// split returns the training, validation and test problems; the caller
// releases them. Problems of the user's own are split as partition has it.
func (a *Activities) split(ctx context.Context, plan recipes.Plan) (map[string]*datasets.Table, error) {
	sets := map[string]*datasets.Table{}
	if plan.Problems == "" {
		for name, per := range map[string]int{
			TableTrain: plan.ProblemsPerLevel, TableValidation: plan.Evaluation.ProblemsPerLevel, TableTest: plan.Evaluation.ProblemsPerLevel,
		} {
			levels := make([]int, len(plan.Levels))
			for i, l := range plan.Levels {
				levels[i] = int(l)
			}
			t, err := families.Make(memory.DefaultAllocator, families.Options{
				Families: plan.Families, Levels: levels, PerLevel: per, Seed: plan.Seed, Split: name,
			})
			if err != nil {
				return nil, invalid{err}
			}
			sets[name] = t
		}
	} else {
		all, err := a.named(ctx, plan.Problems)
		if err != nil {
			return nil, err
		}
		defer all.Release()
		rows := partition(all)
		levels := datasets.Level.Get(all)
		rows[TableTest] = perLevel(rows[TableTest], levels, plan.Evaluation.ProblemsPerLevel)
		rows[TableValidation] = perLevel(rows[TableValidation], levels, plan.Evaluation.ProblemsPerLevel)
		for _, name := range []string{TableTrain, TableValidation, TableTest} {
			if len(rows[name]) == 0 {
				return nil, invalid{fmt.Errorf("problems %q: %d problems are too few to hold any out for %s", plan.Problems, all.Rows(), name)}
			}
			if sets[name], err = datasets.Take(memory.DefaultAllocator, all, rows[name]); err != nil {
				return nil, err
			}
		}
	}
	if plan.EvalProblems != "" {
		all, err := a.named(ctx, plan.EvalProblems)
		if err != nil {
			return nil, err
		}
		defer all.Release()
		var every []int32
		if all.Has(datasets.Split.Name) {
			every = partition(all)[TableTest]
		} else {
			for i := range all.Rows() {
				every = append(every, int32(i))
			}
		}
		test, err := datasets.Take(memory.DefaultAllocator, all, perLevel(every, datasets.Level.Get(all), plan.Evaluation.ProblemsPerLevel))
		if err != nil {
			return nil, err
		}
		sets[TableTest].Release()
		sets[TableTest] = test
	}
	return sets, nil
}

// partition is the rows of a problem set for training, validation and test. A set
// with a column "split" says itself which they are; rows of other splits are left out.
// What it has no rows for, or all of it where it has no such column, is held out of the
// training rows by a hash of the id: a sixteenth each for validation and test.
func partition(t *datasets.Table) map[string][]int32 {
	rows := map[string][]int32{}
	if t.Has(datasets.Split.Name) {
		for i, name := range datasets.Split.Get(t) {
			rows[name] = append(rows[name], int32(i))
		}
	} else {
		for i := range t.Rows() {
			rows[TableTrain] = append(rows[TableTrain], int32(i))
		}
	}
	held := []string{TableTest, TableValidation}
	missing := [2]bool{len(rows[TableTest]) == 0, len(rows[TableValidation]) == 0}
	ids := datasets.ProblemID.Get(t)
	var train []int32
	for _, i := range rows[TableTrain] {
		if h := datasets.Stream(0, "split", ids[i]) % 16; h < 2 && missing[h] {
			rows[held[h]] = append(rows[held[h]], i)
		} else {
			train = append(train, i)
		}
	}
	rows[TableTrain] = train
	return rows
}

// published finds a problem set by its name or Ref.
func (a *Activities) published(ctx context.Context, name string) (datasets.Ref, error) {
	ref, err := datasets.Resolve(ctx, a.Store, name)
	if err != nil {
		return ref, given(fmt.Errorf("problems %q: %w", name, err))
	}
	return ref, nil
}

// given marks an error about what the user named as the user's to mend, but for
// what the store failed at.
func given(err error) error {
	for _, reason := range []error{datasets.ErrUnavailable, datasets.ErrDenied, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, reason) {
			return err
		}
	}
	return invalid{err}
}

func (a *Activities) named(ctx context.Context, name string) (*datasets.Table, error) {
	ref, err := a.published(ctx, name)
	if err != nil {
		return nil, err
	}
	return a.load(ctx, ref)
}

// perLevel keeps the first n rows of each level.
func perLevel(rows, level []int32, n int) []int32 {
	seen := map[int32]int{}
	var out []int32
	for _, r := range rows {
		if seen[level[r]]++; seen[level[r]] <= n {
			out = append(out, r)
		}
	}
	return out
}

// fitting leaves out, or refuses, the problems whose prompt and answer cannot
// fit the policy's context.
func fitting(t *datasets.Table, s *policy.State, plan recipes.Plan) (*datasets.Table, int, error) {
	if plan.ChatTemplate && !s.Tokenizer.HasChat() {
		return nil, 0, invalid{fmt.Errorf("chat_template is true, and the policy has none, in %s or %s", policy.ChatTemplateFile, policy.TokenizerConfigFile)}
	}
	var keep []int32
	ids := datasets.ProblemID.Get(t)
	for i, prompt := range datasets.Prompt.Get(t) {
		tokens, err := s.Tokenizer.Prompt(plan.Chat(), prompt, "")
		if err == nil && len(tokens)+plan.Sampling.MaxCompletionLength > s.Config.MaxPositionEmbeddings {
			err = fmt.Errorf("prompt of %d tokens and max_completion_length %d exceed the policy's context of %d",
				len(tokens), plan.Sampling.MaxCompletionLength, s.Config.MaxPositionEmbeddings)
		}
		switch {
		case err == nil:
			keep = append(keep, int32(i))
		case !plan.SkipBad:
			return nil, 0, invalid{fmt.Errorf("problem %q: %w (skip_bad=true leaves such problems out)", ids[i], err)}
		}
	}
	if len(keep) == 0 {
		return nil, 0, invalid{fmt.Errorf("none of %d problems fits the policy's context of %d tokens with max_completion_length %d", t.Rows(), s.Config.MaxPositionEmbeddings, plan.Sampling.MaxCompletionLength)}
	}
	out, err := datasets.Take(memory.DefaultAllocator, t, keep)
	return out, t.Rows() - len(keep), err
}

// reach is what a new policy must be able to read.
type reach struct {
	Alphabet string // characters, sorted
	Context  int    // longest prompt with its completion
}

func (r reach) with(texts []string, completion int) reach {
	characters := map[rune]bool{}
	for _, c := range r.Alphabet {
		characters[c] = true
	}
	for _, t := range texts {
		for _, c := range t {
			characters[c] = true
		}
		r.Context = max(r.Context, len([]rune(t))+max(completion, 1))
	}
	r.Alphabet = string(slices.Sorted(maps.Keys(characters)))
	return r
}

// reachOf is what the problems themselves ask for: prompts, with worked
// solutions after them, and a completion after these.
func reachOf(ctx context.Context, plan recipes.Plan, sets map[string]*datasets.Table) reach {
	var r reach
	for _, name := range []string{TableTrain, TableValidation, TableTest} {
		p := newProblemSet(sets[name])
		texts := make([]string, len(p.ID))
		for i := range texts {
			texts[i] = p.Prompt[i] + solutionText(ctx, plan, p, i)
		}
		r = r.with(texts, plan.Sampling.MaxCompletionLength)
	}
	return r
}

// reach is what the plan's responding stages may pose beyond what the problems
// ask for: nothing, as a rule, and then recipes share their first policy.
func (a *Activities) reach(ctx context.Context, plan recipes.Plan) (reach, error) {
	if plan.Policy != "" || len(plan.Respond) == 0 {
		return reach{}, nil
	}
	sets, err := a.split(ctx, plan)
	if err != nil {
		return reach{}, err
	}
	defer func() {
		for _, t := range sets {
			t.Release()
		}
	}()
	base := reachOf(ctx, plan, sets)
	prompts, err := posable(plan, newProblemSet(sets[TableTrain]))
	if err != nil {
		return reach{}, invalid{err}
	}
	if more := base.with(prompts, plan.Sampling.MaxCompletionLength); more != base {
		return more, nil
	}
	return reach{}, nil
}

// firstPolicy loads the plan's policy, or makes a new one whose alphabet and
// context are what the problems need, and what is needed besides.
func (a *Activities) firstPolicy(ctx context.Context, plan recipes.Plan, sets map[string]*datasets.Table, need reach) (*policy.State, error) {
	if plan.Policy != "" {
		ref, err := datasets.ParseRef(plan.Policy)
		if err != nil {
			return nil, invalid{fmt.Errorf("policy: %w; gradus policy import FOLDER prints one", err)}
		}
		s, err := policy.LoadModel(ctx, a.Store, ref)
		if err != nil {
			return nil, given(fmt.Errorf("policy %s: %w", ref, err))
		}
		return s, nil
	}
	if need == (reach{}) {
		need = reachOf(ctx, plan, sets)
	}
	tokenizer, err := policy.NewCharTokenizer(need.Alphabet)
	if err != nil {
		return nil, invalid{fmt.Errorf("tokenizer: %w", err)}
	}
	eos, pad := tokenizer.EOS(), tokenizer.Pad()
	c := policy.Config{
		VocabSize: tokenizer.Size(), HiddenSize: plan.Model.HiddenSize, IntermediateSize: plan.Model.IntermediateSize,
		NumHiddenLayers: plan.Model.NumHiddenLayers, NumAttentionHeads: plan.Model.NumAttentionHeads, NumKeyValueHeads: plan.Model.NumKeyValueHeads,
		MaxPositionEmbeddings: need.Context, RMSNormEps: 1e-6, RopeTheta: plan.Model.RopeTheta, TieWordEmbeddings: plan.Model.TieWordEmbeddings,
		EOSTokenID: policy.TokenIDs{eos}, PadTokenID: &pad,
	}
	if err := c.Validate(); err != nil {
		return nil, invalid{fmt.Errorf("model: %w", err)}
	}
	return &policy.State{Config: c, Tokenizer: tokenizer, Weights: policy.NewWeights(c, datasets.Stream(plan.Seed, "weights"))}, nil
}

// solutionText is the completion that warm-up teaches for problem i: its
// worked solution, closed by "#### answer" where the verifier would not find
// the answer in it.
func solutionText(ctx context.Context, plan recipes.Plan, p *problemSet, i int) string {
	v, err := reward.ByName(verifierOf(plan, p.Verifier[i]))
	if err == nil && p.Solution[i] != "" {
		if verdict, err := v.Verify(ctx, p.Solution[i], p.Answer[i]); err == nil && verdict.Reward == 1 {
			return p.Solution[i]
		}
	}
	if p.Solution[i] == "" {
		return "#### " + p.Answer[i]
	}
	return p.Solution[i] + "\n#### " + p.Answer[i]
}

func verifierOf(plan recipes.Plan, own string) string {
	if own != "" {
		return own
	}
	return string(plan.Verifier)
}

// saveState stores the curriculum state.
func (a *Activities) saveState(ctx context.Context, l datasets.Lineage, ids []string, levels []int32, s *curriculum.State) (datasets.Ref, error) {
	return a.save(ctx, datasets.KindAssessments, l,
		datasets.ProblemID.Of(ids), datasets.Level.Of(levels), datasets.Visits.Of(s.Visits), datasets.Attempts.Of(s.Attempts),
		datasets.Successes.Of(s.Successes), datasets.PassRate.Of(s.PassRate), datasets.PassRateAverage.Of(s.Average),
		datasets.LastStep.Of(s.LastStep), datasets.Bucket.Of(s.Bucket), datasets.PosteriorAlpha.Of(s.PosteriorAlpha),
		datasets.PosteriorBeta.Of(s.PosteriorBeta), datasets.Stagnation.Of(s.Stagnation), datasets.HintNeeded.Of(s.HintNeeded),
		datasets.HintedStep.Of(s.HintedStep), datasets.GraduatedStep.Of(s.GraduatedStep))
}

// loadState reads the curriculum state into memory of its own.
func (a *Activities) loadState(ctx context.Context, r datasets.Ref) (*curriculum.State, error) {
	t, err := a.load(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("load curriculum state: %w", err)
	}
	defer t.Release()
	return &curriculum.State{
		Visits: slices.Clone(datasets.Visits.Get(t)), Attempts: slices.Clone(datasets.Attempts.Get(t)), Successes: slices.Clone(datasets.Successes.Get(t)),
		PassRate: slices.Clone(datasets.PassRate.Get(t)), Average: slices.Clone(datasets.PassRateAverage.Get(t)),
		LastStep: slices.Clone(datasets.LastStep.Get(t)), Bucket: datasets.Bucket.Get(t),
		PosteriorAlpha: slices.Clone(datasets.PosteriorAlpha.Get(t)), PosteriorBeta: slices.Clone(datasets.PosteriorBeta.Get(t)),
		Stagnation: slices.Clone(datasets.Stagnation.Get(t)), HintNeeded: slices.Clone(datasets.HintNeeded.Get(t)),
		HintedStep: slices.Clone(datasets.HintedStep.Get(t)), GraduatedStep: slices.Clone(datasets.GraduatedStep.Get(t)),
	}, nil
}
