package recipes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/sampling"
)

// Origin is a step of a run that another one goes on from.
type Origin struct {
	Run  string `json:"run"`            // its ID
	Step *int   `json:"step,omitempty"` // steps that it had done; none means all that are recorded
}

func (o Origin) String() string {
	if o.Step == nil {
		return "run " + o.Run
	}
	return fmt.Sprintf("run %s after step %d", o.Run, *o.Step)
}

// SplitFork takes the origin out of what a user gave, an object such as
// {"fork":{"run":"grpo-1","step":40},"learning_rate":1e-4}, and returns the changes
// beside it. The origin is nil where nothing names one.
func SplitFork(raw []byte) (*Origin, json.RawMessage, error) {
	var given map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &given) != nil || given["fork"] == nil {
		return nil, raw, nil // what is wrong with it, Resolve says
	}
	var o Origin
	if err := datasets.DecodeStrict(given["fork"], &o); err != nil || o.Run == "" || o.Step != nil && *o.Step < 0 {
		return nil, nil, fmt.Errorf(`fork is %s; want an object such as {"run":"grpo-1","step":40}, where step, 0 or more, may be left out`, given["fork"])
	}
	delete(given, "fork")
	if len(given) == 0 {
		return &o, nil, nil
	}
	changes, err := json.Marshal(given)
	return &o, changes, err
}

// forkable are the keys and sections that may change, beside the tunable ones,
// where a run goes on from a step that is done. seed is that of the steps to come.
// respond is not among them: what a policy must be able to read is settled when
// it is made.
var forkable = []string{
	"seed", "backend", "reuse", "short_batch", "rollout_shards", "rollout", "propose", "assess", "select", "mask",
}

// Continue is a plan with changes, for a run that goes on from where one with
// that plan had done stepsDone steps. changes is nothing or a JSON object under
// the keys that [Resolve] takes; keys with the value that they have do not
// count. Beside what [Tune] may change it may change the seed of the steps to
// come and the stages that choose and select. What the steps done rest on is
// refused by name.
func Continue(plan Plan, changes json.RawMessage, stepsDone int) (Plan, error) {
	plan, err := plan.clone()
	if err != nil {
		return Plan{}, err
	}
	var given map[string]json.RawMessage
	if len(changes) > 0 {
		if err := json.Unmarshal(changes, &given); err != nil {
			return Plan{}, fmt.Errorf(`changes %q: want a JSON object such as {"learning_rate":5e-4}`, changes)
		}
	}
	keys := slices.Sorted(maps.Keys(given))
	slices.SortStableFunc(keys, func(a, b string) int { return rank(a) - rank(b) })
	for _, key := range keys {
		if string(given[key]) == "null" {
			return Plan{}, fmt.Errorf("%s is null: want a value", key)
		}
		before := plan
		if plan, err = plan.clone(); err != nil {
			return Plan{}, err
		}
		if err := plan.set(key, given[key]); err != nil {
			return Plan{}, err
		}
		for _, path := range plan.paths(key, given[key]) {
			section, _, _ := strings.Cut(path, ".")
			allowed := slices.Contains(tunable, path) || slices.Contains(forkable, section)
			switch {
			case allowed && !(section == "seed" && plan.AnswerNoise > 0), equal(before, plan):
			case allowed:
				return Plan{}, errors.New("seed cannot change in a run with answer_noise: it says which answers are wrong")
			default:
				return Plan{}, fmt.Errorf("%s cannot change: the steps that are done rest on it; what can is %s, and the parameters of the plan's stages",
					path, strings.Join(slices.Concat(forkable, tunable), ", "))
			}
		}
	}
	if err := plan.settle(); err != nil {
		return Plan{}, err
	}
	if plan.Steps <= stepsDone {
		return Plan{}, fmt.Errorf("steps is %d, and %d are done: there is nothing to go on with; give more steps, or an earlier step to go on from", plan.Steps, stepsDone)
	}
	return plan, nil
}

// clone is a copy that shares nothing.
func (p Plan) clone() (Plan, error) {
	raw, err := datasets.Canonical(p)
	if err != nil {
		return Plan{}, err
	}
	var out Plan
	return out, json.Unmarshal(raw, &out)
}

func equal(a, b Plan) bool {
	x, err := datasets.Canonical(a)
	y, failed := datasets.Canonical(b)
	return err == nil && failed == nil && bytes.Equal(x, y)
}

// Scheduled names what in the plan depends on how many steps are planned. Where
// that is nothing, a run that is extended has the bytes of one that was planned
// longer.
func (p Plan) Scheduled() []string {
	var out []string
	if p.Learning.LRSchedulerType != policy.SchedulerConstant {
		out = append(out, "lr_scheduler_type "+p.Learning.LRSchedulerType)
	}
	for _, c := range p.calls() {
		if horizon(curriculum.Proposers(), c.Stage) || horizon(curriculum.Assessors(), c.Stage) || horizon(curriculum.Responders(), c.Stage) || horizon(sampling.Stages(), c.Stage) {
			out = append(out, c.Stage)
		}
	}
	return out
}

func horizon[F any](table []datasets.Stage[F], stage string) bool {
	s, err := datasets.FindStage(table, stage)
	return err == nil && s.Horizon
}

// Horizon is the number of planned steps where something depends on it, else 0.
func (p Plan) Horizon() int {
	if len(p.Scheduled()) == 0 {
		return 0
	}
	return p.Steps
}
