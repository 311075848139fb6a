package datasets

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// The kinds of tables. The number after the slash is the version of the kind's
// columns; a change of meaning makes a new version.
const (
	KindProblems    = "problems/1"    // one row per problem
	KindProposals   = "proposals/2"   // one row per group posed, or per hint tried on it
	KindRollouts    = "rollouts/1"    // one row per completion
	KindScores      = "scores/1"      // one row per completion, in the order of the rollouts
	KindAssessments = "assessments/2" // one row per problem of the set: the curriculum's state
	KindSelections  = "selections/2"  // one row per completion, trained on or not
	KindMetrics     = "metrics/1"     // one row per step and figure
	KindEvaluations = "evaluations/1" // one row per completion of an evaluation
	KindCurves      = "curves/1"      // one row per evaluation of a run in a race of recipes
	KindMatches     = "matches/1"     // one row per problem that a preparation found to repeat another one
	KindDifficulty  = "difficulty/1"  // one row per problem that a policy was tried on
)

// What a problem is.
var (
	ProblemID = Column[string]{"problem"}   // unique within a problem set
	Source    = Column[string]{"source"}    // data set or family it came from
	Level     = Column[int32]{"level"}      // difficulty from 1 up, 0 = unknown
	Prompt    = Column[string]{"prompt"}    // text the policy reads
	Answer    = Column[string]{"answer"}    // gold answer
	Solution  = Column[string]{"solution"}  // worked solution, "" = none
	Steps     = ListColumn[string]{"steps"} // the solution's steps, may be empty
	Verifier  = Column[string]{"verifier"}  // name of its verifier, "" = by recipe

	// Hints written beforehand, each a list of parts that add up (Scaf-GRPO's data set).
	KnowledgeParts = ListColumn[string]{"knowledge_components_parts"}
	PlanningParts  = ListColumn[string]{"planning_skeleton_parts"}
	SolutionParts  = ListColumn[string]{"solution_breakdown_parts"}
	// Rewrites of the prompt prepared beforehand, "" = none.
	Simplified  = Column[string]{"simplified"}
	Diversified = Column[string]{"diversified"}
)

// What a preparation finds out about a problem.
var (
	PromptTokens    = Column[int32]{"tokens"}             // of the prompt, by a policy's tokenizer
	PassRateLow     = Column[float64]{"pass_rate_low"}    // 95 % interval of the pass rate (Wilson)
	PassRateHigh    = Column[float64]{"pass_rate_high"}   // its other end
	Split           = Column[string]{"split"}             // train, validation, test or a name of one's own
	NearDuplicateOf = Column[string]{"near_duplicate_of"} // problem of the set that it repeats, "" = none
	ContaminatedBy  = Column[string]{"contaminated_by"}   // held-out problem that it shares text with, "" = none

	HeldOutSet  = Column[string]{"set"}          // held-out set of the other problem, "" = the same set
	Other       = Column[string]{"other"}        // the other problem
	Similarity  = Column[float64]{"similarity"}  // 0 to 1: Jaccard's index, or the share of the other's n-grams
	SharedText  = Column[string]{"shared"}       // first n-gram that both have, "" = all of it
	OtherPrompt = Column[string]{"other_prompt"} // text of the other problem
)

// How a problem is posed and tried.
var (
	Group          = Column[int32]{"group"}              // number of the group within the step: tries of one prompt
	Sample         = Column[int32]{"sample"}             // number of the try within the group
	ProblemIndex   = Column[int32]{"index"}              // row in the problem set
	Origin         = Column[string]{"origin"}            // original, simplified, diversified, hinted; request = a text asked of the policy, no answer
	Parent         = Column[string]{"parent"}            // problem it was made from, "" = none
	HintLevel      = Column[int32]{"hint_level"}         // how much of the solution is given, 0 = none
	NumGenerations = Column[int32]{"num_generations"}    // tries to make
	FirstSample    = Column[int32]{"first_sample"}       // number of the first of them within the group
	Prefill        = Column[string]{"prefill"}           // given beginning of the answer: read by the policy after the prompt, and part of what is verified
	Purpose        = Column[string]{"purpose"}           // of a request: what the text is for
	PolicyVersion  = Column[string]{"policy"}            // hash of the policy that wrote the completion
	PromptIDs      = ListColumn[int32]{"prompt_ids"}     // tokens of the prompt
	CompletionIDs  = ListColumn[int32]{"completion_ids"} // tokens of the completion, the end token included
	LogProbs       = ListColumn[float32]{"logprobs"}     // nats, one per completion token, full softmax at the sampling temperature
	Entropies      = ListColumn[float32]{"entropies"}    // nats, one per completion token, over the full vocabulary
	Completion     = Column[string]{"completion"}        // text of the completion
	FinishReason   = Column[string]{"finish_reason"}     // stop or length
)

// How a completion is judged and used.
var (
	Reward        = Column[float64]{"reward"}        // of the verifier
	Verdict       = Column[string]{"verdict"}        // correct, wrong, no_answer, timeout or error
	Extracted     = Column[string]{"extracted"}      // the answer the verifier read
	VerdictReason = Column[string]{"verdict_reason"} // what made the verdict, such as too_long or time_limit; "" = the meaning of the answer
	Advantage     = Column[float64]{"advantage"}     // of every token of the completion
	Kept          = Column[bool]{"kept"}             // trained on
	Reason        = Column[string]{"reason"}         // why it was not kept, "" when it was
	TokensKept    = Column[int32]{"tokens_kept"}     // tokens trained on
	Greedy        = Column[bool]{"greedy"}           // decoded at temperature 0

	// Per completion token: 0 = trained on, else why not, as sampling.TokenReason
	// numbers it. An absent column means that all tokens of kept completions are.
	TokenReasons   = ListColumn[int32]{"token_reasons"}
	KLScale        = Column[float64]{"kl_scale"}     // factor of beta for the completion; absent = 1
	OriginalPrompt = Column[bool]{"original_prompt"} // learnt under the group's prompt without hint; absent = false
	// CAPO's prediction per completion token; absent = not made.
	ObjectiveShift = ListColumn[float32]{"objective_shift"} // m_H
	PolicyShift    = ListColumn[float32]{"policy_shift"}    // m_F
)

// RewardPart is the column of one named part of a reward, before its weight; NaN where a verdict has no such part.
func RewardPart(name string) Column[float64] { return Column[float64]{rewardPart + name} }

const rewardPart = "reward_"

// What the curriculum knows about a problem.
var (
	Visits          = Column[int32]{"visits"}              // steps that posed it
	Attempts        = Column[int64]{"attempts"}            // completions so far
	Successes       = Column[int64]{"successes"}           // of which correct
	PassRate        = Column[float64]{"pass_rate"}         // of the last visit, 0 to 1
	PassRateAverage = Column[float64]{"pass_rate_average"} // over visits, as the assessment averages
	LastStep        = Column[int32]{"last_step"}           // step of the last visit, -1 = never
	Bucket          = Column[string]{"bucket"}             // difficulty bucket by the assessment's names
	PosteriorAlpha  = Column[float64]{"posterior_alpha"}   // Beta posterior of the pass rate
	PosteriorBeta   = Column[float64]{"posterior_beta"}
	Stagnation      = Column[int32]{"stagnation"}     // visits in a row without a better pass rate
	HintNeeded      = Column[int32]{"hint_needed"}    // lowest hint level that solved it when a hint was last tried, 0 = none did
	HintedStep      = Column[int32]{"hinted_step"}    // last step in which a hint solved it, -1 = never
	GraduatedStep   = Column[int32]{"graduated_step"} // first step that solved it without a hint after one had, -1 = not yet
)

// Figures of a run in long form.
var (
	Step  = Column[int32]{"step"}
	Name  = Column[string]{"name"}
	Value = Column[float64]{"value"}
)

// Learning curves of a race of recipes; costs are those of the training so far.
var (
	ClaimName       = Column[string]{"claim"}
	Arm             = Column[string]{"arm"}
	Seed            = Column[int32]{"seed"}
	PassAt1         = Column[float64]{"pass_at_1"}
	PassAt8         = Column[float64]{"pass_at_8"}
	GreedyRate      = Column[float64]{"greedy_rate"}
	Completions     = Column[int64]{"completions"}
	TokensGenerated = Column[int64]{"tokens"}
	TokensTrained   = Column[int64]{"tokens_trained"}
	VerifierCalls   = Column[int64]{"verifier_calls"}
	Seconds         = Column[float64]{"seconds"}
)

// Kind declares the columns of a kind of table. Their order here is their order in
// every table.
type Kind struct {
	Name     string
	Columns  []AnyColumn
	Optional []string // names of the columns a table may lack
	Prefix   string   // columns of float64 whose names start so may follow those declared; "" = none
}

// Kinds returns all kinds.
func Kinds() []Kind { return slices.Clone(kinds()) }

// kinds are those of Kinds, made once: they are looked up for every table.
var kinds = sync.OnceValue(func() []Kind {
	return []Kind{
		{Name: KindProblems, Columns: []AnyColumn{ProblemID, Source, Level, Prompt, Answer, Solution, Steps, Verifier, KnowledgeParts, PlanningParts, SolutionParts, Simplified, Diversified,
			PromptTokens, Attempts, Successes, PassRate, PassRateLow, PassRateHigh, Split, NearDuplicateOf, ContaminatedBy},
			Optional: names(KnowledgeParts, PlanningParts, SolutionParts, Simplified, Diversified,
				PromptTokens, Attempts, Successes, PassRate, PassRateLow, PassRateHigh, Split, NearDuplicateOf, ContaminatedBy)},
		{Name: KindProposals, Columns: []AnyColumn{Group, ProblemID, ProblemIndex, Level, Prompt, Answer, Verifier, Origin, Parent, HintLevel, NumGenerations, FirstSample, Prefill, Purpose}},
		{Name: KindRollouts, Columns: []AnyColumn{Group, Sample, ProblemID, Level, Origin, Parent, HintLevel, PolicyVersion, PromptIDs, CompletionIDs, LogProbs, Entropies, Completion, FinishReason}},
		{Name: KindScores, Columns: []AnyColumn{Reward, Verdict, Extracted, VerdictReason}, Optional: names(VerdictReason), Prefix: rewardPart},
		{Name: KindAssessments, Columns: []AnyColumn{ProblemID, Level, Visits, Attempts, Successes, PassRate, PassRateAverage, LastStep, Bucket, PosteriorAlpha, PosteriorBeta, Stagnation, HintNeeded, HintedStep, GraduatedStep}},
		{Name: KindSelections, Columns: []AnyColumn{Group, Sample, ProblemID, Origin, Parent, HintLevel, PolicyVersion, Reward, Advantage, Kept, Reason, TokensKept, TokenReasons, KLScale, OriginalPrompt, ObjectiveShift, PolicyShift},
			Optional: names(TokenReasons, KLScale, OriginalPrompt, ObjectiveShift, PolicyShift)},
		{Name: KindMetrics, Columns: []AnyColumn{Step, Name, Value}},
		{Name: KindEvaluations, Columns: []AnyColumn{ProblemID, Level, Sample, Completion, Reward, Verdict, Greedy}},
		{Name: KindCurves, Columns: []AnyColumn{ClaimName, Arm, Seed, Step, PassAt1, PassAt8, GreedyRate, Completions, TokensGenerated, TokensTrained, VerifierCalls, Seconds}},
		{Name: KindMatches, Columns: []AnyColumn{ProblemID, Reason, HeldOutSet, Other, Similarity, SharedText, Prompt, OtherPrompt}},
		{Name: KindDifficulty, Columns: []AnyColumn{ProblemID, Prompt, Attempts, Successes, PassRate, PassRateLow, PassRateHigh, PolicyVersion}},
	}
})

func names(columns ...AnyColumn) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.String()
	}
	return out
}

// LookupKind returns the kind of that name, or an error that lists the kinds.
func LookupKind(name string) (Kind, error) {
	if i := slices.IndexFunc(kinds(), func(k Kind) bool { return k.Name == name }); i >= 0 {
		return kinds()[i], nil
	}
	var names []string
	for _, k := range kinds() {
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("kind %.80q is not known: want one of %s", name, strings.Join(names, ", "))
}

// layout checks that the columns named, in any order, make a table of this kind, and
// returns their declarations in the kind's order.
func (k Kind) layout(names []string) ([]AnyColumn, error) {
	var further []AnyColumn
	for i, name := range names {
		if !slices.ContainsFunc(k.Columns, func(c AnyColumn) bool { return c.String() == name }) {
			if k.Prefix == "" || !strings.HasPrefix(name, k.Prefix) {
				return nil, fmt.Errorf("%s has no column %.80q", k.Name, name)
			}
			further = append(further, Column[float64]{name})
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%s: column %q is given twice", k.Name, name)
		}
	}
	var present []AnyColumn
	for _, c := range k.Columns {
		switch {
		case slices.Contains(names, c.String()):
			present = append(present, c)
		case !slices.Contains(k.Optional, c.String()):
			return nil, fmt.Errorf("%s: column %q is missing", k.Name, c)
		}
	}
	return append(present, further...), nil
}

// ArrowType is the Arrow type of a column, as Arrow names it.
func ArrowType(c AnyColumn) string { return c.dataType().String() }
