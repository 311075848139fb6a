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
}

// NewState is the state of n problems that were never posed.
func NewState(n int) *State {
	s := &State{
		Visits: make([]int32, n), Attempts: make([]int64, n), Successes: make([]int64, n),
		PassRate: make([]float64, n), Average: make([]float64, n), LastStep: make([]int32, n), Bucket: make([]string, n),
	}
	for i := range n {
		s.LastStep[i], s.Bucket[i] = -1, BucketUnseen
	}
	return s
}

// Pose is what a proposing stage works on: it fills Rows.
type Pose struct {
	Problems int     // size of the problem set
	Levels   []int32 // level of each problem, 0 where unknown
	State    *State
	Groups   int   // how many groups to pose
	Posed    int64 // groups posed so far in this experiment: the cursor

	Rows []int32 // out: the problem of each group, as a row of the set
}

// Visit is what an assessing stage works on: the completions of one step. It
// updates State.
type Visit struct {
	State   *State
	Rows    []int32 // problem of each completion, as a row of the set
	Correct []bool  // whether the completion is right
}

// Proposer is a stage that chooses problems; Assessor one that judges their
// difficulty from the answers.
type (
	Proposer = datasets.Stage[*Pose]
	Assessor = datasets.Stage[*Visit]
)

// Proposers is the table of the stages that choose problems.
func Proposers() []Proposer { return []Proposer{Uniform} }

// Assessors is the table of the stages that judge difficulty.
func Assessors() []Assessor { return []Assessor{PassRate} }
