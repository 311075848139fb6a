// Package curriculum decides what to pose next and how: which problems, how
// many tries each, and what is known of their difficulty. One file per paper;
// each stage is a pure function over columns.
package curriculum

import "github.com/gradus-rl/gradus/datasets"

// State is the curriculum state: what is known of every problem of the set,
// one row per problem, in the order of the problem set.
type State struct {
	Visits    []int32   // steps in which the problem was posed
	Attempts  []int64   // completions seen
	Successes []int64   // completions that were right
	PassRate  []float64 // share right at the last visit
	Average   []float64 // moving average of PassRate over the visits
	LastStep  []int32   // step of the last visit, -1 before the first
	Bucket    []string  // difficulty after the last visit, see Bucket*

	PosteriorAlpha []float64 // Beta posterior of the pass rate: α of it
	PosteriorBeta  []float64 // β of it
	Stagnation     []int32   // visits in a row without a better pass rate
	HintNeeded     []int32   // lowest hint level that solved it when hints were last tried, 0 = none did
	HintedStep     []int32   // last step in which a hint solved it, -1 = never
	GraduatedStep  []int32   // first step that solved it without a hint after one had, -1 = not yet
}

// NewState is the state of n problems that were never posed.
func NewState(n int) *State {
	s := &State{
		Visits: make([]int32, n), Attempts: make([]int64, n), Successes: make([]int64, n),
		PassRate: make([]float64, n), Average: make([]float64, n), LastStep: make([]int32, n), Bucket: make([]string, n),
		PosteriorAlpha: make([]float64, n), PosteriorBeta: make([]float64, n), Stagnation: make([]int32, n),
		HintNeeded: make([]int32, n), HintedStep: make([]int32, n), GraduatedStep: make([]int32, n),
	}
	for i := range n {
		s.LastStep[i], s.HintedStep[i], s.GraduatedStep[i], s.Bucket[i] = -1, -1, -1, BucketUnseen
		s.PosteriorAlpha[i], s.PosteriorBeta[i] = 1, 1 // the uniform prior
	}
	return s
}

// Pose is what a proposing stage works on: it fills Rows and moves the cursor
// Posed on.
type Pose struct {
	Problems int     // size of the problem set
	Levels   []int32 // level of each problem, 0 where unknown
	State    *State
	Groups   int   // how many groups to pose
	Posed    int64 // cursor: how far the stage has come in its order; 0 at the start of an experiment

	Known map[int32]float64 // pass rates by level as measured beside the training, for Oracle alone

	Rows []int32 // out: the problem of each group, as a row of the set
}

// Visit is what an assessing stage works on: the completions of one step, those
// to the problems as they stand and those under hints. It updates State and
// fills Metrics.
type Visit struct {
	State     *State
	Rows      []int32 // problem of each completion, as a row of the set
	Correct   []bool  // whether the completion is right
	HintLevel []int32 // level of the hint it was given, 0 = none; nil = none had any

	Metrics map[string]float64 // out: the difficulty histogram and counts of the step
}

// Problems is a problem set as columns, one row per problem.
type Problems struct {
	ID, Source, Prompt, Answer, Solution, Verifier []string
	Level                                          []int32
	Steps                                          [][]string // steps of the solution, may be empty

	// Prepared beforehand, and nil where the set has none.
	Knowledge, Planning, Breakdown [][]string // hint parts that add up
	Simplified, Diversified        []string   // rewritten prompts
}

// Attempts is one group of completions of the step so far, as a responding
// stage sees it.
type Attempts struct {
	Group   int32
	Row     int32   // problem, as a row of the set
	Origin  string  // see Origin*
	Hints   []int32 // level of the hint each completion was given, 0 = none
	Correct []bool  // verdict on each completion
}

// Text is what the policy wrote for a Proposal of OriginRequest.
type Text struct {
	Row     int32  // problem the request was made for
	Purpose string // its Purpose
	Text    string
}

// Response is what a responding stage works on. A responding stage never calls
// a model: it fills Proposals, which are rolled out and verified, and is asked
// again, with Turn one higher and what came of them, until it proposes nothing.
type Response struct {
	Problems       *Problems
	State          *State
	NumGenerations int
	MaxPrompt      int                   // longest prompt with prefill that fits the policy's context, in tokens; 0 = no bound
	Count          func(text string) int // tokens of a text; nil = characters
	Rewrite        Rewriter              // rewrites by procedure; nil = there is none

	Turn     int
	Attempts []Attempts // of all groups of the step, by group number
	Texts    []Text     // written for this stage's requests of the turns before
	Next     int32      // first free group number

	Proposals []Proposal         // out
	Metrics   map[string]float64 // out: counts, for example of rewrites rejected by reason
}

// Rewriter rewrites the problem in a row of p by procedure: to be easier, or else
// to be different. The answer stays. Part of the work may be done in prefill, the
// given beginning of the answer. ok is false where it has no rewrite.
type Rewriter func(p *Problems, row int32, simplify bool) (prompt, prefill string, ok bool)

// Proposal is one prompt to be rolled out.
type Proposal struct {
	Group       int32  // a new number, or that of the group it is tried for once more (hints)
	Row         int32  // problem, as a row of the set
	Prompt      string // what the policy reads
	Prefill     string // given beginning of the answer; part of what is verified
	Origin      string
	Purpose     string // of a request: what the text is for, free for the stage's use
	HintLevel   int32
	FirstSample int32 // number of the first try within the group
	Tries       int32
}

// Origins of proposals: how the problem is posed.
const (
	OriginOriginal    = "original"
	OriginSimplified  = "simplified"  // rewritten to be easier
	OriginDiversified = "diversified" // rewritten to be different
	OriginHinted      = "hinted"      // with a hint
	OriginRequest     = "request"     // a text asked of the policy; no answer, not verified, not trained on
)

// Proposer is a stage that chooses problems; Assessor one that judges their
// difficulty from the answers; Responder one that answers a step's failures with
// other forms of the problems.
type (
	Proposer  = datasets.Stage[*Pose]
	Assessor  = datasets.Stage[*Visit]
	Responder = datasets.Stage[*Response]
)

// Proposers is the table of the stages that choose problems.
func Proposers() []Proposer { return []Proposer{Uniform, Revisit, Learnable, Oracle} }

// Assessors is the table of the stages that judge difficulty.
func Assessors() []Assessor { return []Assessor{PassRate} }

// Responders is the table of the stages that answer failures with other forms
// of the problems.
func Responders() []Responder { return []Responder{Restructure, Scaffold} }
