// Package claims is a fair race between recipes: what each paper claims, on
// problems that a small policy learns in seconds, with equal budgets, paired
// seeds and confidence intervals.
//
// The x-axis is all tokens generated for the training: rewritten, hinted,
// dropped and wasted ones are counted in. The y-axis is pass@1 on held-out
// problems that no recipe filters. Every arm, the baselines too, is tuned over
// as many settings, on seeds of its own.
package claims

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Settings are keys of a Plan.
type Settings map[string]any

// with is s with the keys of others, later ones first.
func (s Settings) with(others ...Settings) Settings {
	out := maps.Clone(s)
	if out == nil {
		out = Settings{}
	}
	for _, o := range others {
		maps.Copy(out, o)
	}
	return out
}

// Role says what an arm is in the race for.
type Role string

// The roles.
const (
	Method   Role = "method"
	Baseline Role = "baseline"
	Ablation Role = "ablation" // the method without one of its parts, or with chance in its place
	End      Role = "end"      // an end of the scale: problems by chance, or by their true learnability
)

// Arm is one contestant.
type Arm struct {
	Name  string
	Role  Role
	Plan  Settings
	Grid  []Settings // settings it is tuned over, the first being the one taken without tuning
	Tuned string     // name of the arm whose tuned settings it takes, "" = its own
}

// Measure says what a Test compares.
type Measure string

// The measures.
const (
	Final       Measure = "final pass@1" // at the end of the budget
	NotBelow    Measure = "final pass@1, not below"
	Unsolved    Measure = "pass@1 where it could do nothing"          // at the end, at the levels without a success before
	Flat        Measure = "pass@1 where it could do nothing, at most" // that of the arm alone
	Tokens      Measure = "tokens to target"                          // generated
	Trained     Measure = "trained tokens"                            // to the target
	TrainedAll  Measure = "trained tokens of the whole run"
	Completions Measure = "completions to target"  // drawn
	Rejected    Measure = "share of tokens masked" // of those that CAPO looked at
)

// Test is one sentence of a claim: the arm against another on the same seeds.
//
// Final and Unsolved: the difference arm − versus must exceed AtLeast with its
// whole 95 % interval. NotBelow: that interval must not lie below 0 as a whole.
// Costs: the ratio versus/arm must reach AtLeast with its whole interval.
// Rejected: the arm's share must stay below AtLeast. Flat: the arm itself must
// not exceed AtLeast with its whole interval at the levels of Unsolved.
type Test struct {
	Says        string
	Arm, Versus string
	Measure     Measure
	AtLeast     float64
}

// Claim is what a paper claims, as a race.
type Claim struct {
	Name     string
	Says     string
	Shared   Settings // of all arms
	Families []string // seeds take turns at them, so that every pair of runs is of one family
	Budget   int64    // generated tokens of each run
	Target   float64  // pass@1, fixed beforehand
	Tries    int      // at each held-out problem before the training, to find the levels where the policy can do nothing; 0 = not looked for
	Arms     []Arm
	Tests    []Test
}

// rates is a grid of learning rates.
func rates(rs ...float64) []Settings {
	out := make([]Settings, len(rs))
	for i, r := range rs {
		out[i] = Settings{"learning_rate": r}
	}
	return out
}

// chains are three families that a small policy learns in seconds: a line of
// results, each made of the one before and the next digit.
var chains = []string{"running_sums", "running_differences", "running_products"}

// puzzles are three families that a small policy learns and whose problems can
// be put differently, which those of chains cannot: their results fix the digits.
var puzzles = []string{"running_maxima", "running_minima", "running_counts"}

// base are the settings of all races: a policy of some 85 thousand weights,
// warmed up on the easy half of the levels; one core per run.
func base() Settings {
	return Settings{
		"levels": []int{1, 2, 3, 4, 5, 6, 7, 8}, "problems_per_level": 512,
		"prompts_per_step": 32, "num_generations": 8, "steps": 100, "reuse": true, "rollout_shards": 1, "shards": 1,
		"warmup.target": 0.35, "warmup.max_steps": 400,
		"evaluation.problems_per_level": 10, "evaluation.num_generations": 4, "evaluation.every": 10,
	}
}

// All returns the claims.
func All() []Claim {
	grid := rates(5e-4, 2.5e-4, 1e-3)
	grpo := Arm{Name: "grpo", Role: Baseline, Plan: Settings{"recipe": "grpo"}, Grid: grid}
	dapo := Arm{Name: "dapo", Role: Baseline, Plan: Settings{"recipe": "dapo"}, Grid: grid}
	oracle := Arm{Name: "oracle", Role: End, Plan: Settings{"recipe": "grpo", "propose": Settings{"stage": "oracle"}}, Tuned: "grpo"}
	// without is an ablation: the method with other settings at the method's tuning.
	without := func(name, method string, changes Settings) Arm {
		return Arm{Name: name, Role: Ablation, Plan: Settings{"recipe": method}.with(changes), Tuned: method}
	}
	// Five times the rate of the conservative arm and a twelfth of its batch, with
	// the paper's schedule.
	aggressive := Settings{
		"prompts_per_step": 3, "learning_rate": 2.5e-3, "steps": 300, "warmup_steps": 30, "lr_scheduler_type": "cosine", "evaluation.every": 30,
	}
	capo := aggressive.with(Settings{"recipe": "capo"})
	scaffold := []Settings{{"stage": "scaf-grpo.scaffold", "params": Settings{"source": "procedural"}}}
	restructure := []Settings{{"stage": "clpo.restructure", "params": Settings{"rewriter": "procedural"}}}
	clips := []Settings{{"epsilon": 0.2}, {"max_grad_norm": 0.1}, {"epsilon": 0.1}}
	return []Claim{
		{
			Name: "clpo", Says: "CLPO beats grpo and dapo in final pass@1 on problems of mixed difficulty at equal generated tokens",
			Families: puzzles, Shared: base(), Budget: 100_000, Target: 0.65,
			Arms: []Arm{
				{Name: "clpo", Role: Method, Plan: Settings{"recipe": "clpo"}, Grid: grid}, grpo, dapo,
				without("hard only", "clpo", Settings{"mode": "hard_only"}),
				without("medium only", "clpo", Settings{"mode": "medium_only"}),
				without("one KL", "clpo", Settings{"hard_scale": 1}),
				oracle,
			},
			Tests: []Test{
				{"clpo ends higher than grpo", "clpo", "grpo", Final, 0},
				{"clpo ends higher than dapo", "clpo", "dapo", Final, 0},
				{"simplifying the hard matters", "clpo", "medium only", Final, 0},
				{"diversifying the medium matters", "clpo", "hard only", Final, 0},
				{"the difficulty-scaled KL matters", "clpo", "one KL", Final, 0},
			},
		},
		{
			Name: "scaf-grpo", Says: "Scaf-GRPO solves problems whose initial pass@64 is 0, where grpo stays flat; exemption and lowest level matter",
			Families: chains, Shared: base().with(Settings{"train_levels": []int{4, 7, 8}, "steps": 170, "evaluation.every": 20}), Budget: 200_000, Target: 0.65, Tries: 64,
			Arms: []Arm{
				{Name: "scaf-grpo", Role: Method, Plan: Settings{"recipe": "scaf-grpo"}, Grid: grid}, grpo,
				without("no exemption", "scaf-grpo", Settings{"exemption": 0}),
				without("highest level", "scaf-grpo", Settings{"hint_level": "highest"}),
			},
			Tests: []Test{
				{"grpo stays flat there", "grpo", "", Flat, 0.05},
				{"scaf-grpo solves what could not be solved", "scaf-grpo", "grpo", Unsolved, 0},
				{"scaf-grpo ends higher than grpo", "scaf-grpo", "grpo", Final, 0},
				{"the exemption matters", "scaf-grpo", "no exemption", Final, 0},
				{"the lowest-level rule matters", "scaf-grpo", "highest level", Final, 0},
			},
		},
		{
			Name: "d3s", Says: "D3S reaches grpo's final pass@1 with at most 25 % of its trained tokens; without the schedule it over-fits",
			Families: chains, Shared: base(), Budget: 150_000, Target: 0.65,
			Arms: []Arm{
				{Name: "d3s", Role: Method, Plan: Settings{"recipe": "d3s"}, Grid: grid}, grpo,
				// The same, but for shares that stay below a half to the end.
				{Name: "d3s, lean", Role: Method, Plan: Settings{"recipe": "d3s", "samples_final": 0.5, "tokens_final": 0.5}, Grid: grid},
				without("no schedule", "d3s", Settings{"intra_final": 0.5, "samples_final": 0.25, "tokens_final": 0.2}),
				without("chance", "d3s", Settings{"d3s.samples.random": true, "d3s.tokens.random": true}),
				without("samples only", "d3s", Settings{"tokens_initial": 1}),
				without("tokens only", "d3s", Settings{"intra_initial": 1, "samples_initial": 1}),
				oracle,
			},
			Tests: []Test{
				{"d3s does not end below grpo", "d3s", "grpo", NotBelow, 0},
				{"on a quarter of its trained tokens", "d3s", "grpo", TrainedAll, 4},
				{"lean d3s does not end below grpo", "d3s, lean", "grpo", NotBelow, 0},
				{"on a quarter of its trained tokens", "d3s, lean", "grpo", TrainedAll, 4},
				{"d3s beats chance of the same size", "d3s", "chance", Final, 0},
				{"the schedule matters", "d3s", "no schedule", Final, 0},
				{"selecting tokens costs nothing", "d3s", "samples only", NotBelow, 0},
				{"selecting samples costs nothing", "d3s", "tokens only", NotBelow, 0},
			},
		},
		{
			Name: "capo", Says: "CAPO is stable at 5 times the learning rate and a twelfth of the batch, where grpo collapses",
			Families: chains, Shared: base().with(Settings{"loss_type": "grpo", "evaluation.every": 5}), Budget: 50_000, Target: 0.5,
			Arms: []Arm{
				{Name: "capo, aggressive", Role: Method, Plan: capo, Grid: []Settings{{"fisher": 1e-4, "hessian": 1e-2}, {"fisher": 1e-2, "hessian": 1.0}, {"fisher": 1e-1, "hessian": 10.0}}},
				{Name: "grpo, aggressive", Role: Baseline, Plan: aggressive.with(Settings{"recipe": "grpo"}), Grid: clips},
				{Name: "grpo, conservative", Role: Baseline, Plan: Settings{"recipe": "grpo", "prompts_per_step": 36, "learning_rate": 5e-4}, Grid: clips},
				{Name: "grpo, best", Role: Baseline, Plan: Settings{"recipe": "grpo"}, Grid: grid},
				{Name: "capo, no hessian bound", Role: Ablation, Plan: capo.with(Settings{"hessian": 1e30}), Tuned: "capo, aggressive"},
				{Name: "capo, no fisher bound", Role: Ablation, Plan: capo.with(Settings{"fisher": 1e30}), Tuned: "capo, aggressive"},
				{Name: "capo, sgd model", Role: Ablation, Plan: capo.with(Settings{"optimizer_model": "sgd"}), Tuned: "capo, aggressive"},
			},
			Tests: []Test{
				{"capo is stable where grpo collapses", "capo, aggressive", "grpo, aggressive", Final, 0.1},
				{"capo rejects under 8 % of tokens", "capo, aggressive", "", Rejected, 0.08},
				{"capo needs a tenth of conservative grpo's completions", "capo, aggressive", "grpo, conservative", Completions, 10},
				{"capo needs fewer completions than grpo at its best", "capo, aggressive", "grpo, best", Completions, 1},
			},
		},
		{
			Name: "gradus", Says: "gradus reaches the target with at least 2 times fewer generated tokens than the best tuned baseline",
			Families: chains, Shared: base(), Budget: 150_000, Target: 0.65,
			Arms: []Arm{
				{Name: "gradus", Role: Method, Plan: Settings{"recipe": "gradus"}, Grid: grid}, grpo, dapo,
				{Name: "lite-ppo", Role: Baseline, Plan: Settings{"recipe": "lite-ppo"}, Grid: grid},
				without("without clpo", "gradus", Settings{"respond": scaffold}),
				without("without scaf-grpo", "gradus", Settings{"respond": restructure}),
				without("without d3s", "gradus", Settings{"intra_initial": 1, "samples_initial": 1, "tokens_initial": 1}),
				without("without capo", "gradus", Settings{"mask": []Settings{}}),
				oracle,
			},
			Tests: []Test{
				{"half of grpo's tokens", "gradus", "grpo", Tokens, 2},
				{"half of dapo's tokens", "gradus", "dapo", Tokens, 2},
				{"half of lite-ppo's tokens", "gradus", "lite-ppo", Tokens, 2},
				{"clpo helps the stack", "gradus", "without clpo", Final, 0},
				{"scaf-grpo helps the stack", "gradus", "without scaf-grpo", Final, 0},
				{"d3s helps the stack", "gradus", "without d3s", Final, 0},
				{"capo helps the stack", "gradus", "without capo", Final, 0},
			},
		},
		{
			Name: "noise", Says: "with half of the problems carrying random answers, no recipe falls below uniform sampling by more than its interval",
			Families: chains, Shared: base().with(Settings{"answer_noise": 0.5}), Budget: 150_000, Target: 0.65,
			Arms:  alone("grpo", "dapo", "dr-grpo", "lite-ppo", "clpo", "scaf-grpo", "d3s", "capo", "gradus"),
			Tests: notBelow("grpo", "dapo", "dr-grpo", "lite-ppo", "clpo", "scaf-grpo", "d3s", "capo", "gradus"),
		},
	}
}

// alone are recipes as they stand, at one setting.
func alone(names ...string) []Arm {
	out := make([]Arm, len(names))
	for i, name := range names {
		out[i] = Arm{Name: name, Role: Method, Plan: Settings{"recipe": name}, Grid: rates(5e-4)}
		if i == 0 {
			out[i].Role = Baseline
		}
	}
	return out
}

// notBelow are tests that none of the arms ends lower than versus by more than
// its interval, which is what an upper bound below 0 would mean.
func notBelow(versus string, arms ...string) []Test {
	var out []Test
	for _, a := range arms {
		out = append(out, Test{Says: a + " is not worse than " + versus, Arm: a, Versus: versus, Measure: NotBelow})
	}
	return out
}

// Lookup returns the claim of that name.
func Lookup(name string) (Claim, error) {
	var names []string
	for _, c := range All() {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Claim{}, fmt.Errorf("unknown claim %q; there are %s", name, strings.Join(names, ", "))
}

// arm is the arm of that name.
func (c Claim) arm(name string) (Arm, bool) {
	i := slices.IndexFunc(c.Arms, func(a Arm) bool { return a.Name == name })
	if i < 0 {
		return Arm{}, false
	}
	return c.Arms[i], true
}
