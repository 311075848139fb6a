package recipes

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func ExampleTune() {
	p, err := Resolve([]byte(`{"recipe":"grpo","steps":100}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	tuned, err := Tune(p, json.RawMessage(`{"learning_rate":1e-4,"steps":120}`), 30)
	fmt.Println(tuned.Learning.LearningRate, tuned.Learning.MaxSteps, err)
	_, err = Tune(p, json.RawMessage(`{"steps":20}`), 30)
	fmt.Println(err)
	// Output:
	// 0.0001 120 <nil>
	// steps is 20; it must be at least 30, the steps that are done by then
}

// A tuned plan is the plan that the same keys give from the start.
func TestTune(t *testing.T) {
	for _, changes := range []string{
		`{"learning_rate":1e-4,"beta":0.01,"max_grad_norm":0.5}`,
		`{"learning.epsilon":0.1,"learning":{"epsilon_high":0.3}}`,
		`{"temperature":0.8,"sampling.top_p":0.9,"sampling":{"top_k":5}}`,
		`{"prompts_per_step":7,"num_generations":3,"steps":9,"max_generated_tokens":1000}`,
		`{"evaluation.every":5}`,
		`{"evaluation":{"every":5}}`,
		`{"scale_rewards":"none"}`,
		`{"grpo.advantage.scale_rewards":"none","tau_hard":0.4}`,
		`{"capo.mask.hessian":1e-3}`,
	} {
		t.Run(changes, func(t *testing.T) {
			p, err := Resolve([]byte(`{"recipe":"gradus"}`))
			if err != nil {
				t.Fatal(err)
			}
			before, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Resolve([]byte(`{"recipe":"gradus",` + changes[1:]))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Tune(p, json.RawMessage(changes), 9)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			after, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(before), string(after)); d != "" {
				t.Errorf("the plan itself changed: %s", d)
			}
			if cmp.Equal(p, got) {
				t.Error("nothing changed")
			}
		})
	}
}

func TestTuneRefuses(t *testing.T) {
	p, err := Resolve([]byte(`{"recipe":"clpo","steps":20}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, want string }{
		{``, "nothing to tune"},
		{`{}`, "nothing to tune"},
		{`null`, "nothing to tune"},
		{`[1]`, "want a JSON object"},
		{`{"seed":4}`, "seed cannot be tuned; what can is steps, "},
		{`{"recipe":"dapo"}`, "recipe cannot be tuned"},
		{`{"problems":"gsm8k"}`, "problems cannot be tuned"},
		{`{"families":["gcd"]}`, "families cannot be tuned"},
		{`{"levels":[1]}`, "levels cannot be tuned"},
		{`{"policy":""}`, "policy cannot be tuned"},
		{`{"model":{"hidden_size":128}}`, "model.hidden_size cannot be tuned"},
		{`{"backend":"xla"}`, "backend cannot be tuned"},
		{`{"warmup.target":0.5}`, "warmup.target cannot be tuned"},
		{`{"respond":[]}`, "respond cannot be tuned"},
		{`{"propose":{"stage":"revisit"}}`, "propose.stage cannot be tuned"},
		{`{"propose.stage":"revisit"}`, "propose.stage cannot be tuned"},
		{`{"max_completion_length":9}`, "sampling.max_completion_length cannot be tuned"},
		{`{"sampling":{"temperature":1,"max_completion_length":9}}`, "sampling.max_completion_length cannot be tuned"},
		{`{"learning.max_steps":9}`, "learning.max_steps cannot be tuned"},
		{`{"learning.temperature":9}`, "learning.temperature cannot be tuned"},
		{`{"num_iterations":2}`, "learning.num_iterations cannot be tuned"},
		{`{"evaluation":{"problems_per_level":9}}`, "evaluation.problems_per_level cannot be tuned"},
		{`{"learning_rat":1e-3}`, `unknown option "learning_rat"; did you mean learning, learning_rate?`},
		{`{"learning_rate":"high"}`, "learning_rate"},
		{`{"learning_rate":null}`, "learning_rate is null"},
		{`{"learning_rate":1e-4,"epsilon":-1}`, "epsilon is -1"},
		{`{"temperature":0}`, "temperature is 0"},
		{`{"tau_hard":2}`, "tau_hard"},
		{`{"steps":10}`, "steps is 10; it must be at least 12"},
	} {
		if _, err := Tune(p, json.RawMessage(c.in), 12); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.in, err, c.want)
		}
	}
}

// Every key that is said to be tunable is one.
func TestTunable(t *testing.T) {
	p, err := Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range tunable {
		value := json.RawMessage(raw)
		for name := range strings.SplitSeq(key, ".") {
			var members map[string]json.RawMessage
			if err := json.Unmarshal(value, &members); err != nil {
				t.Fatal(err)
			}
			value = members[name]
		}
		if paths := p.paths(key, value); !slices.Equal(paths, []string{key}) {
			t.Errorf("%s sets %v", key, paths)
		}
		got, err := Tune(p, json.RawMessage(fmt.Sprintf("{%q:%s}", key, value)), 0)
		if err != nil || !cmp.Equal(p, got) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}
