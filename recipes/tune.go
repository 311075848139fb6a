package recipes

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// tunable are the keys that may change while an experiment runs, beside the
// parameters of its stages. The others say what the experiment is, or are built
// into what it was prepared with. num_iterations is not among them: the rate's
// schedule counts optimizer steps, which it would rescale in hindsight.
var tunable = []string{
	"steps", "max_generated_tokens", "prompts_per_step", "num_generations", "max_rollout_rounds", "speculate", "mask_top_k", "measure_every", "max_nan_steps", "evaluation.every", "heartbeat_timeout",
	"max_staleness", "importance_sampling_cap", "importance_sampling_mode", "importance_sampling_correction",
	"rollout.endpoints", "rollout.max_concurrency", "rollout.timeout", "rollout.tries",
	"sampling.temperature", "sampling.top_p", "sampling.top_k",
	"learning.learning_rate", "learning.lr_scheduler_type", "learning.weight_decay", "learning.adam_beta1", "learning.adam_beta2", "learning.adam_epsilon",
	"learning.max_grad_norm", "learning.loss_type", "learning.epsilon", "learning.epsilon_high", "learning.beta", "learning.mini_batch_size",
}

// Tune is a plan with changes of an experiment that has done stepsDone steps.
// changes is a JSON object under the keys that [Resolve] takes, such as
// {"learning_rate":5e-4}. What may not change in mid-run is refused by name, and
// the changed plan must be as valid as a new one; plan itself stays as it is.
func Tune(plan Plan, changes json.RawMessage, stepsDone int) (Plan, error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(changes, &given); err != nil || len(given) == 0 {
		return Plan{}, fmt.Errorf(`there is nothing to tune in %q: want a JSON object such as {"learning_rate":5e-4}`, changes)
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if string(given[key]) == "null" {
			return Plan{}, fmt.Errorf("%s is null: want a value", key)
		}
		for _, path := range plan.paths(key, given[key]) {
			if !slices.Contains(tunable, path) {
				return Plan{}, fmt.Errorf("%s cannot be tuned; what can is %s, and the parameters of the plan's stages", path, strings.Join(tunable, ", "))
			}
		}
		if err := plan.set(key, given[key]); err != nil {
			return Plan{}, err
		}
	}
	if plan.Steps < stepsDone {
		return Plan{}, fmt.Errorf("steps is %d; it must be at least %d, the steps that are done by then", plan.Steps, stepsDone)
	}
	if err := plan.settle(); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

// paths are the plan's own keys, in full, that key sets: sampling.temperature
// for temperature. The parameter of a stage has none.
func (p *Plan) paths(key string, value json.RawMessage) []string {
	section, _, _ := strings.Cut(key, ".")
	switch {
	case hasField(p, section):
		var members map[string]json.RawMessage
		if json.Unmarshal(value, &members) != nil {
			return []string{key}
		}
		var out []string
		for _, name := range slices.Sorted(maps.Keys(members)) {
			out = append(out, p.paths(key+"."+name, members[name])...)
		}
		return out
	case hasField(&p.Sampling, key):
		return []string{"sampling." + key}
	case hasField(&p.Learning, key):
		return []string{"learning." + key}
	}
	return nil
}
