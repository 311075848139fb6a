package curriculum

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Oracle poses problems by their true learnability: as Learnable, but with the
// pass rate p of the problem's level as measured beside the training. It is the
// upper end of a race between samplers, not a recipe: what it knows costs
// rollouts that nobody counts. Before the first measurement every level has
// p = 1/2.
var Oracle = Proposer{
	Name: "oracle", Paper: "-", Version: 1,
	Reads: []string{"posed", "levels"}, Writes: []string{"proposals"},
	Defaults: learnableDefaults,
	Bind:     datasets.Bind(learnableDefaults, Learnability.divine),
}

func (p Learnability) divine(pose *Pose, env datasets.Env) error {
	if err := pose.check(); err != nil {
		return err
	}
	if len(pose.Levels) != pose.Problems {
		return fmt.Errorf("%d levels for %d problems", len(pose.Levels), pose.Problems)
	}
	s := NewState(pose.Problems)
	for i := range pose.Problems {
		if rate, ok := pose.Known[pose.Levels[i]]; ok {
			s.PosteriorAlpha[i], s.PosteriorBeta[i] = rate, 1-rate
		}
	}
	known := *pose
	known.State = s
	if err := p.propose(&known, env); err != nil {
		return err
	}
	pose.Rows, pose.Posed = known.Rows, known.Posed
	return nil
}
