package curriculum

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Rest is the parameters of Revisit.
type Rest struct {
	RevisitAfter int `json:"revisit_after"` // steps for which a solved problem is passed over, ≥ 0; 10, ours
}

// Validate names the parameter that is out of range.
func (p Rest) Validate() error {
	if p.RevisitAfter < 0 {
		return fmt.Errorf("revisit_after is %d; it must be at least 0", p.RevisitAfter)
	}
	return nil
}

// Revisit poses problems in the order of Uniform, but lets a problem rest that
// was solved at its last visit, p = 1, until revisit_after steps have gone by:
//
//	pass over  ⇔  p = 1  and  step − last_step < revisit_after
//
// Its group would have no advantage, so its rollouts are better spent on others.
// It comes back since a policy forgets; it is never dropped for good. The stage
// is ours; that a group without variance teaches nothing is DAPO's observation
// (arXiv:2503.14476).
//
// The cursor moves over what is passed over. Once a step has passed over as many
// positions as there are problems it takes the rest in order, so that it always
// poses as many groups as it was asked for.
var Revisit = Proposer{
	Name: "revisit", Paper: "-", Version: 1,
	Reads: []string{"posed", "assessments"}, Writes: []string{"proposals"},
	Defaults: restDefaults,
	Bind:     datasets.Bind(restDefaults, Rest.propose),
}

var restDefaults = Rest{RevisitAfter: 10}

func (p Rest) propose(pose *Pose, env datasets.Env) error {
	if err := pose.check(); err != nil {
		return err
	}
	for posed, passed := 0, 0; posed < pose.Groups; {
		row := pose.next(env)
		if passed < pose.Problems && p.rests(pose.State, row, env.Step) {
			passed++
			continue
		}
		pose.Rows = append(pose.Rows, row)
		posed++
	}
	return nil
}

func (p Rest) rests(s *State, row int32, step int) bool {
	return s.Visits[row] > 0 && s.PassRate[row] == 1 && step-int(s.LastStep[row]) < p.RevisitAfter
}

// check is for stages that read the state.
func (p *Pose) check() error {
	if p.Problems <= 0 {
		return errNoProblems
	}
	if p.State == nil || len(p.State.Visits) != p.Problems {
		return fmt.Errorf("the state is not that of %d problems", p.Problems)
	}
	return nil
}
