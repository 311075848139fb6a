package recipes

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/sampling"
)

// Recipe is one row: a named composition. Its Plan is the baseline with what
// the row sets.
type Recipe struct {
	Name  string
	Paper string
	Doc   string // one line
	Plan  Plan
}

// All returns the table of recipes.
func All() []Recipe {
	return []Recipe{
		row("grpo", "DeepSeekMath, arXiv:2402.03300", "group-relative advantages, flat groups left out", func(*Plan) {}),
		row("dapo", "DAPO, arXiv:2503.14476", "grpo with clip-higher and dynamic sampling: dropped groups are posed anew", func(p *Plan) {
			p.MaxRolloutRounds = 3
			p.Learning.EpsilonHigh = 0.28
		}),
		row("dr-grpo", "Dr. GRPO, arXiv:2503.20783", "grpo without the two normalisers that bias it", func(p *Plan) {
			p.Learning.LossType = policy.LossDrGRPO
			p.Select = calls(sampling.DynamicFilter.Name, sampling.GRPOAdvantage.Name)
			p.Select[1].Params = []byte(`{"scale_rewards":"none"}`)
		}),
	}
}

func row(name, paper, doc string, set func(*Plan)) Recipe {
	p := baseline()
	p.Recipe = name
	set(&p)
	return Recipe{Name: name, Paper: paper, Doc: doc, Plan: p}
}

// Lookup returns the recipe of that name.
func Lookup(name string) (Recipe, error) {
	var names []string
	for _, r := range All() {
		if r.Name == name {
			return r, nil
		}
		names = append(names, r.Name)
	}
	return Recipe{}, fmt.Errorf("unknown recipe %q; there are %s", name, strings.Join(names, ", "))
}

func calls(names ...string) []datasets.Call {
	out := make([]datasets.Call, len(names))
	for i, n := range names {
		out[i].Stage = n
	}
	return out
}

// baseline is what a recipe is unless its row says otherwise: GRPO on the
// built-in running sums with the small policy whose settings
// learn on two cores.
func baseline() Plan {
	learning := policy.DefaultLearning()
	learning.LearningRate = 1.5e-3
	learning.AdamBeta2 = 0.95
	return Plan{
		Steps: 150, Verifier: "numeric", Backend: "go",
		Families: []string{"running_sums"}, Levels: []int32{1, 2, 3, 4, 5, 6, 7, 8}, ProblemsPerLevel: 512,
		Model: Model{HiddenSize: 64, IntermediateSize: 128, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 4, RopeTheta: 1000},
		Warmup: Warmup{
			MaxSteps: 400, MaxTokens: 4 << 20, BatchSize: 128, LearningRate: 2e-3,
			Levels: []int32{1, 2, 3, 4}, Target: 0.35, Every: 5, MinSteps: 50,
		},
		PromptsPerStep: 256, NumGenerations: 8, MaxRolloutRounds: 1, ShortBatch: "train", RolloutShards: 2,
		Sampling:   policy.Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 16},
		Learning:   learning,
		Evaluation: Evaluation{ProblemsPerLevel: 32, NumGenerations: 8},
		Propose:    datasets.Call{Stage: curriculum.Uniform.Name},
		Assess:     datasets.Call{Stage: curriculum.PassRate.Name},
		Select:     calls(sampling.DynamicFilter.Name, sampling.GRPOAdvantage.Name),
	}
}

// ownProblems sets what fits problems of the user's own better than the
// built-in ones: room for an answer in words, and a batch and a warm-up that
// longer texts can afford.
func (p *Plan) ownProblems() {
	p.Sampling.MaxCompletionLength = 256
	p.PromptsPerStep = 32
	p.Learning.LearningRate = 5e-4
	p.Warmup.MaxTokens, p.Warmup.MinSteps = 1<<20, 5
	p.Evaluation.ProblemsPerLevel = 64
}

// validateStages proves that every stage exists, accepts its parameters, and
// reads only columns that are given or were written before.
func (p Plan) validateStages() error {
	if _, err := bind(curriculum.Proposers(), p.Propose); err != nil {
		return fmt.Errorf("propose: %w", err)
	}
	if _, err := bind(curriculum.Assessors(), p.Assess); err != nil {
		return fmt.Errorf("assess: %w", err)
	}
	have := slices.Clone(sampling.Given)
	for i, c := range p.Select {
		s, err := bind(sampling.Stages(), c)
		if err != nil {
			return fmt.Errorf("select[%d]: %w", i, err)
		}
		for _, column := range s.Reads {
			if !slices.Contains(have, column) {
				return fmt.Errorf("select[%d]: %s reads column %q, which no stage before it writes", i, c.Stage, column)
			}
		}
		have = append(have, s.Writes...)
	}
	if !slices.Contains(have, sampling.Advantage) {
		return fmt.Errorf("select: no stage writes column %q, so there is nothing to learn from", sampling.Advantage)
	}
	return nil
}

// bind finds a call's stage and tries its parameters.
func bind[F any](table []datasets.Stage[F], c datasets.Call) (datasets.Stage[F], error) {
	s, err := datasets.FindStage(table, c.Stage)
	if err != nil {
		return s, err
	}
	if _, err := s.Bind(c.Params); err != nil {
		return s, fmt.Errorf("%s: %w", c.Stage, err)
	}
	return s, nil
}
