package curriculum

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
)

// Learnability is the parameters of Learnable.
type Learnability struct {
	// Explore is added to every problem's weight, in [0, 1], so that a problem
	// taken for solved or hopeless is looked at again now and then. 0.05, ours:
	// a fifth of the largest p(1 − p).
	Explore float64 `json:"explore"`
}

// Validate names the parameter that is out of range.
func (p Learnability) Validate() error {
	if !(p.Explore >= 0 && p.Explore <= 1) {
		return fmt.Errorf("explore is %v; it must be in [0, 1]", p.Explore)
	}
	return nil
}

// Learnable poses the problems whose outcome is least certain, which is to
// sample for learnability (Foster et al. 2025, "Learning to Reason at the
// Frontier of Learnability", arXiv:2502.12272, abstract: questions with a high
// variance of success come first). It draws groups without replacement, with
// weights
//
//	w = p(1 − p) + explore,    p = α/(α + β), the posterior's mean
//
// One draw per problem decides: the smallest E/w come first, E exponential with
// mean 1 (Efraimidis and Spirakis 2006), which costs O(n log n) and takes the
// problems in the same law as drawing one after another. A problem that was
// never posed has p = 1/2 and so the largest weight. More groups than problems
// are drawn in rounds of all of them.
//
// Where p comes from is ours: it is what training itself has shown, which costs
// no rollouts and lags. The cursor counts groups, and a step that proposes again,
// after groups were dropped, draws afresh.
var Learnable = Proposer{
	Name: "learnable", Paper: "Learning to Reason at the Frontier of Learnability, arXiv:2502.12272", Version: 1,
	Reads: []string{"posed", "assessments"}, Writes: []string{"proposals"},
	Defaults: learnableDefaults,
	Bind:     datasets.Bind(learnableDefaults, Learnability.propose),
}

var learnableDefaults = Learnability{Explore: 0.05}

func (p Learnability) propose(pose *Pose, env datasets.Env) error {
	if err := pose.check(); err != nil {
		return err
	}
	rng := env.RNG(fmt.Sprintf("learnable/%d", pose.Posed))
	for left := pose.Groups; left > 0; left -= pose.Problems {
		pose.Rows = append(pose.Rows, p.draw(pose.State, rng)[:min(left, pose.Problems)]...)
	}
	pose.Posed += int64(pose.Groups)
	return nil
}

// draw is all problems in the order in which they are drawn.
func (p Learnability) draw(s *State, rng *rand.Rand) []int32 {
	rows, keys := make([]int32, len(s.Visits)), make([]float64, len(s.Visits))
	for i := range rows {
		mean := s.PosteriorAlpha[i] / (s.PosteriorAlpha[i] + s.PosteriorBeta[i])
		rows[i], keys[i] = int32(i), rng.ExpFloat64()/(mean*(1-mean)+p.Explore)
	}
	slices.SortFunc(rows, func(a, b int32) int {
		return cmp.Or(cmp.Compare(keys[a], keys[b]), cmp.Compare(a, b))
	})
	return rows
}
