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
		row("dapo", "DAPO, arXiv:2503.14476", "grpo with clip-higher, an overlong penalty and dynamic sampling: dropped groups are posed anew", func(p *Plan) {
			p.MaxRolloutRounds = 3
			p.Learning.EpsilonHigh = 0.28
			p.Select = calls("dapo.overlong", `dapo.filter {"metric":"acc"}`, "grpo.advantage")
		}),
		row("dr-grpo", "Dr. GRPO, arXiv:2503.20783", "grpo without the two normalisers that bias it", func(p *Plan) {
			p.Learning.LossType = policy.LossDrGRPO
			p.Select = calls("dapo.filter", `grpo.advantage {"scale_rewards":"none"}`)
		}),
		row("lite-ppo", "Tricks or Traps, arXiv:2508.08221", "rewards centred by group and scaled by batch, loss averaged over tokens, no filter", func(p *Plan) {
			p.Select = calls(`grpo.advantage {"scale_rewards":"batch"}`)
		}),
		row("clpo", "CLPO, arXiv:2509.25004", "hard problems simplified, medium ones diversified, both trained on beside the originals", func(p *Plan) {
			p.Respond = calls(`clpo.restructure {"rewriter":"procedural"}`)
			p.Select = calls("dapo.filter", "clpo.mix", "clpo.kl_scale", "grpo.advantage")
			p.Learning.Beta = 0.001
		}),
		row("scaf-grpo", "Scaf-GRPO, arXiv:2510.19807", "problems that all tries fail are tried under hints; the least that helps stands in for one failure", func(p *Plan) {
			p.Respond = calls(`scaf-grpo.scaffold {"source":"procedural"}`)
			p.Select = calls("scaf-grpo.replace", "dapo.filter", "grpo.advantage")
		}),
		row("d3s", "D3S, arXiv:2509.22115", "completions of greatest advantage variance and tokens of greatest |A|·H, few at first", func(p *Plan) {
			p.Select = calls("dapo.filter", "grpo.advantage", "d3s.samples", "d3s.tokens")
		}),
		row("capo", "CAPO, arXiv:2510.00819", "tokens left out whose step would shift the objective or the policy too far", func(p *Plan) {
			p.Mask = calls(smallCAPO)
			p.Learning.LossType = policy.LossGRPO
			p.MeasureEvery = 10
		}),
		row("gradus", "the four together", "restructure, scaffold, select samples and tokens, mask tokens", func(p *Plan) {
			p.Propose = calls("revisit")[0]
			p.Respond = calls(`clpo.restructure {"rewriter":"procedural"}`, `scaf-grpo.scaffold {"source":"procedural"}`)
			p.Select = calls("scaf-grpo.replace", "dapo.filter", "clpo.mix", "clpo.kl_scale", "grpo.advantage", "d3s.samples", "d3s.tokens")
			p.Mask = calls(smallCAPO)
			p.Learning.Beta = 0.001
			p.MeasureEvery = 10
		}),
	}
}

// smallCAPO has bounds that the built-in small policy can learn within: its steps
// are larger than those of a large one, and the published bounds reject four
// tokens of ten, mostly the surprising ones, which is ruin. These reject under 8 %,
// as the paper has it.
const smallCAPO = `capo.mask {"hessian":1,"fisher":0.01}`

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

// calls are stages by name, each followed by its own parameters where it has any.
func calls(stages ...string) []datasets.Call {
	out := make([]datasets.Call, len(stages))
	for i, s := range stages {
		name, params, _ := strings.Cut(s, " ")
		out[i].Stage = name
		if params != "" {
			out[i].Params = []byte(params)
		}
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
		Families: []string{"running_sums"}, Levels: []int32{1, 2, 3, 4, 5, 6, 7, 8}, ProblemsPerLevel: 512, TrainLevels: []int32{},
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
		Respond:    []datasets.Call{},
		Select:     calls(sampling.DynamicFilter.Name, sampling.GRPOAdvantage.Name),
		Mask:       []datasets.Call{},
		MaskTopK:   50, MaxNaNSteps: 3,
		Reuse: true,

		ImportanceSamplingCap: 2, ImportanceSamplingMode: policy.TokenTruncate, ImportanceSamplingCorrection: true,
		Rollout: Rollout{Endpoints: []string{}, API: "completions", MaxConcurrency: 16, Timeout: 300, Tries: 12},

		HeartbeatTimeout: 10,
	}
}

// ownProblems sets what fits problems of the user's own better than the
// built-in ones: room for an answer in words, a batch and a warm-up that
// longer texts can afford, hints cut from the solutions, CLPO's own way of
// rewriting, and CAPO's published bounds.
func (p *Plan) ownProblems() {
	for i, c := range p.Respond {
		switch c.Stage {
		case curriculum.Restructure.Name:
			p.Respond[i].Params = nil
		case curriculum.Scaffold.Name:
			p.Respond[i].Params = []byte(`{"source":"solution"}`)
		}
	}
	for i, c := range p.Mask {
		if c.Stage == sampling.CurvatureMask.Name {
			p.Mask[i].Params = nil
		}
	}
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
	for i, c := range p.Respond {
		if _, err := bind(curriculum.Responders(), c); err != nil {
			return fmt.Errorf("respond[%d]: %w", i, err)
		}
	}
	have := slices.Clone(sampling.Given)
	list := func(name string, calls []datasets.Call) error {
		for i, c := range calls {
			s, err := bind(sampling.Stages(), c)
			if err != nil {
				return fmt.Errorf("%s[%d]: %w", name, i, err)
			}
			for _, column := range s.Reads {
				if !slices.Contains(have, column) {
					return fmt.Errorf("%s[%d]: %s reads column %q, which no stage before it writes", name, i, c.Stage, column)
				}
			}
			have = append(have, s.Writes...)
		}
		return nil
	}
	if err := list("select", p.Select); err != nil {
		return err
	}
	if !slices.Contains(have, sampling.Advantage) {
		return fmt.Errorf("select: no stage writes column %q, so there is nothing to learn from", sampling.Advantage)
	}
	have = append(have, sampling.Features)
	return list("mask", p.Mask)
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
