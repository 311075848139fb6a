package recipes

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func ExampleResolve() {
	p, err := Resolve([]byte(`{"recipe":"grpo","learning_rate":1e-4,"scale_rewards":"none","warmup.target":0.5}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Learning.LearningRate, p.Warmup.Target, string(p.Select[1].Params))
	_, err = Resolve([]byte(`{"recipe":"grpo","num_generation":4}`))
	fmt.Println(err)
	// Output:
	// 0.0001 0.5 {"advantage_epsilon":0.000001,"scale_rewards":"none"}
	// unknown option "num_generation"; did you mean num_generations?
}

// A resolved plan, printed and resolved again, is the same plan.
func TestResolveIsStable(t *testing.T) {
	for _, r := range All() {
		p, err := Resolve(fmt.Appendf(nil, `{"recipe":%q}`, r.Name))
		if err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Resolve(raw)
		if err != nil {
			t.Fatalf("%s: printed plan is refused: %v", r.Name, err)
		}
		if d := cmp.Diff(p, again); d != "" {
			t.Errorf("%s: %s", r.Name, d)
		}
	}
}

// A list of stages that is given takes the place of the recipe's, parameters and all.
func TestResolveStages(t *testing.T) {
	p, err := Resolve([]byte(`{"recipe":"dapo","select":[{"stage":"grpo.advantage"}]}`))
	if err != nil || len(p.Select) != 1 || string(p.Select[0].Params) != `{"advantage_epsilon":0.000001,"scale_rewards":"group"}` {
		t.Errorf("%v, %+v", err, p.Select)
	}
}

func TestResolveRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`[]`, "want a JSON object"},
		{`{"recipe":"gpro"}`, `unknown recipe "gpro"; there are grpo`},
		{`{"recipe":7}`, "recipe is 7; it must be a name"},
		{`{"stepz":3}`, `unknown option "stepz"; did you mean steps?`},
		{`{"warmup":{"targt":1}}`, `unknown option "warmup.targt"; did you mean warmup.target?`},
		{`{"warmup.targt":1}`, `unknown option "warmup.targt"; did you mean warmup.target?`},
		{`{"warmup":3}`, "warmup is 3; it must be an object with the keys max_steps, "},
		{`{"warmup.target":"high"}`, `warmup.target is "high"; it must be a number`},
		{`{"chat_template":"yes"}`, `chat_template is "yes"; it must be true or false`},
		{`{"lora_target_modules":"q_proj"}`, `lora_target_modules is "q_proj"; it must be a list such as ["q_proj"]`},
		{`{"rollout.endpoints":"http://x"}`, `rollout.endpoints is "http://x"; it must be a list such as ["http://x"]`},
		{`{"levels":"all"}`, `levels is "all"; it must be a list, each entry a whole number`},
		{`{"levels":[1,"two"]}`, `levels[1] is "two"; it must be a whole number`},
		{`{"steps":1.5}`, "steps is 1.5; it must be a whole number"},
		{`{"seed":-1}`, "seed is -1; it must be a whole number, 0 or more"},
		{`{"policy":7}`, "policy is 7; it must be text"},
		{`{"propose":"revisit"}`, `propose is "revisit"; it must be an object with the keys stage, params`},
		{`{"select":[{"stage":7}]}`, "select[0].stage is 7; it must be text"},
		{`{"recipe":"clpo","tau_hard":"low"}`, `.tau_hard is "low"; it must be a number`},
		{`{"select":[{"stage":"grpo.advantage","params":{"scale":1}}]}`, `unknown option "grpo.advantage.scale"; did you mean grpo.advantage.scale_rewards?`},
		{`{"lr":1}`, `unknown option "lr"; write learning_rate`},
		{`{"actor_rollout_ref.rollout.n":8}`, `"actor_rollout_ref.rollout.n"; write num_generations`},
		{`{"rollout":{"n":8}}`, `"rollout.n"; write num_generations`},
		{`{"warmup.lr":1}`, `"warmup.lr"; write warmup.learning_rate`},
		{`{"max_steps":8}`, `"max_steps"; write steps`},
		{`{"lora_dropout":0.1}`, `"lora_dropout"; adapters have no dropout`},
		{`{"steps":-1}`, "steps is -1; it must be from 0"},
		{`{"steps":"ten"}`, `steps is "ten"; it must be a whole number`},
		{`{"num_generations":1}`, "num_generations is 1"},
		{`{"temperature":-1}`, "temperature"},
		{`{"temperature":0}`, "temperature is 0"},
		{`{"learning_rate":-1}`, "learning_rate"},
		{`{"scale_rewards":"sometimes"}`, `scale_rewards is "sometimes"; it must be group, batch or none`},
		{`{"short_batch":"abort"}`, "short_batch"},
		{`{"select":[{"stage":"grpo.advantage"},{"stage":"d4s"}]}`, `no stage "d4s"`},
		{`{"recipe":"capo","optimizer_model":"adamw"}`, `optimizer_model is "adamw"`},
		{`{"select":[{"stage":"dapo.filter"}]}`, `no stage writes column "advantage"`},
		{`{"levels":[11]}`, "levels holds 11"},
		{`{"families":[]}`, "nothing to pose"},
		{`{"lora_r":-1}`, "lora_r is -1"},
		{`{"lora_alpha":8}`, "lora_r is 0"},
		{`{"lora_target_modules":"all-linear"}`, "lora_r is 0"},
		{`{"lora_r":4,"lora_target_modules":["lm_head"]}`, `lora_target_modules holds "lm_head"`},
		{`{"recipe":"capo","lora_r":4}`, "adapters leave the head"},
		{`{"max_tokens_per_micro_batch":-1}`, "max_tokens_per_micro_batch is -1"},
	} {
		_, err := Resolve([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.in, err, c.want)
		}
	}
}

// What is said to write in place of others' options is there, and theirs are not.
func TestTheirs(t *testing.T) {
	p, err := Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range theirs {
		if err := p.set(o.option, json.RawMessage("null")); o.option != "" && err != nil {
			t.Error(err)
		}
		for name := range strings.FieldsSeq(o.names) {
			if err := p.set(name, json.RawMessage("null")); !errors.Is(err, ErrUnknown) || seen[name] {
				t.Errorf("%s is an option, or stands there twice: %v", name, err)
			}
			seen[name] = true
		}
	}
}

// Adapters and budgets of tokens are options, and a plan without them has the
// bytes it had before they were.
func TestResolveAdapters(t *testing.T) {
	p, err := Resolve([]byte(`{"lora_r":4,"lora_alpha":8,"lora_target_modules":["q_proj","v_proj"],"max_tokens_per_micro_batch":4096}`))
	if err != nil || p.Learning.LoRARank != 4 || p.Learning.LoRAAlpha != 8 || len(p.Learning.LoRATargets) != 2 || p.Learning.MaxTokensPerMicroBatch != 4096 {
		t.Errorf("%v, %+v", err, p.Learning)
	}
	if all, err := Resolve([]byte(`{"lora_r":4,"lora_target_modules":"all-linear"}`)); err != nil || len(all.Learning.LoRATargets) != 7 {
		t.Errorf("all-linear: %v, %v", err, all.Learning.LoRATargets)
	}
	plain, err := Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(plain)
	if err != nil || strings.Contains(string(raw), "lora") || strings.Contains(string(raw), "max_tokens_per") {
		t.Errorf("%v: a plain plan names what it does not use: %s", err, raw)
	}
}

// Overrides of one resolution must not leak into the next.
func TestResolveLeavesTheTable(t *testing.T) {
	if _, err := Resolve([]byte(`{"scale_rewards":"none"}`)); err != nil {
		t.Fatal(err)
	}
	p, err := Resolve(nil)
	if err != nil || !strings.Contains(string(p.Select[1].Params), `"group"`) {
		t.Fatalf("%v, %s", err, p.Select[1].Params)
	}
}

// A parameter that several stages share is one option.
func TestResolveShared(t *testing.T) {
	p, err := Resolve([]byte(`{"recipe":"clpo","tau_hard":0.5}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []datasets.Call{p.Respond[0], p.Select[2]} {
		if !strings.Contains(string(c.Params), `"tau_hard":0.5`) {
			t.Errorf("%s has %s", c.Stage, c.Params)
		}
	}
	if p, err = Resolve([]byte(`{"recipe":"clpo","clpo.kl_scale.tau_hard":0.5}`)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(p.Respond[0].Params), `"tau_hard":0.3`) || !strings.Contains(string(p.Select[2].Params), `"tau_hard":0.5`) {
		t.Errorf("%s, %s", p.Respond[0].Params, p.Select[2].Params)
	}
}

// A verifier's settings may stand in a plan as they are, or as text.
func TestResolveVerifier(t *testing.T) {
	for given, want := range map[string]Verifier{
		`{"verifier":"math"}`: "math",
		`{"verifier":{"verifier":"math", "places":["boxed"]}}`:          `{"places":["boxed"],"verifier":"math"}`,
		`{"verifier":"{\"verifier\":\"math\",\"places\":[\"boxed\"]}"}`: `{"verifier":"math","places":["boxed"]}`,
	} {
		p, err := Resolve([]byte(given))
		if err != nil || p.Verifier != want {
			t.Errorf("%s: %q, %v", given, p.Verifier, err)
		}
	}
	if _, err := Resolve([]byte(`{"verifier":["math"]}`)); err == nil || !strings.Contains(err.Error(), "verifier") {
		t.Errorf("a list: %v", err)
	}
}
