package recipes

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/prepare"
	"github.com/gradus-rl/gradus/policy"
)

// Preparation is how a problem set is made of another one. Its stages run in the
// order in which they stand here; one that is null, or empty, does not.
type Preparation struct {
	Problems string `json:"problems"` // name or Ref of the set to start from
	Name     string `json:"name"`     // under which the result is published
	Policy   string `json:"policy"`   // Ref of the policy whose tokenizer counts and which is tried on the problems
	Seed     uint64 `json:"seed"`     // of its completions
	Reuse    bool   `json:"reuse"`    // take the results of other preparations whose every input is the same

	Where         string                 `json:"where"` // expression over the columns: the rows to start from
	Normalise     *prepare.Normalise     `json:"normalise"`
	Deduplicate   *prepare.Deduplicate   `json:"deduplicate"`
	Decontaminate *prepare.Decontaminate `json:"decontaminate"`
	Split         *prepare.Split         `json:"split"`
	Tokens        *prepare.Tokens        `json:"tokens"`
	Difficulty    *Difficulty            `json:"difficulty"`
	Hints         *prepare.Hints         `json:"hints"`
	Rewrites      *prepare.Rewrites      `json:"rewrites"`
	Filter        string                 `json:"filter"` // expression over the columns: the rows to end with
}

// Difficulty says how a difficulty map is made or which one is taken.
type Difficulty struct {
	From           string   `json:"from"`            // a difficulty map, or a problem set that has one; "" measures anew
	NumGenerations int      `json:"num_generations"` // completions per problem
	Shards         int      `json:"shards"`          // pieces that the problems are cut into, however many workers are up
	Verifier       Verifier `json:"verifier"`        // for problems that name none
	Backend        string   `json:"backend"`         // go, onnx or xla
	policy.Sampling
}

// stageDefaults are the parameters of a preparation's stage that is asked for.
func stageDefaults(name string) any {
	if name == prepare.DifficultyStage.Name {
		return Difficulty{NumGenerations: 8, Shards: 16, Verifier: "math", Backend: "go", Sampling: policy.DefaultSampling()}
	}
	s, err := datasets.FindStage(prepare.Stages(), name)
	if err != nil {
		return nil
	}
	return s.Defaults
}

// ResolvePreparation turns what a user gave, a JSON object with keys of
// [Preparation], into a complete, valid one. A stage is asked for by true, or by an
// object with some of its parameters; a dot reaches into it, as in
// {"deduplicate.threshold": 0.9}. What else stands there is an error that names it.
func ResolvePreparation(raw []byte) (Preparation, error) {
	p := Preparation{Reuse: true}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return p, fmt.Errorf("preparation: want a JSON object such as {\"problems\":\"gsm8k\",\"name\":\"gsm8k-clean\",\"deduplicate\":true}: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(given)) { // a stage comes before its parameters
		if err := p.set(key, given[key]); err != nil {
			return p, err
		}
	}
	return p, p.validate()
}

// set applies one key.
func (p *Preparation) set(key string, value json.RawMessage) error {
	section, rest, dotted := strings.Cut(key, ".")
	if !hasField(p, section) {
		return fmt.Errorf("%w %q; there are %s", ErrUnknown, key, strings.Join(fields(reflect.TypeOf(*p)), ", "))
	}
	v := reflect.ValueOf(p).Elem()
	f := v.Field(slices.Index(fields(v.Type()), section))
	if f.Kind() != reflect.Pointer { // of no stage with parameters
		return decode("", object(key, value), p)
	}
	d := stageDefaults(section)
	if dotted {
		value = object(rest, value)
	}
	on := true
	if json.Unmarshal(value, &on) == nil { // true, false or null
		f.SetZero()
		if on && string(value) != "null" {
			f.Set(reflect.New(f.Type().Elem()))
			f.Elem().Set(reflect.ValueOf(d))
		}
		return nil
	}
	if f.IsNil() {
		f.Set(reflect.New(f.Type().Elem()))
		f.Elem().Set(reflect.ValueOf(d))
	}
	return decode(section, value, f.Interface())
}

// validate proves the whole.
func (p Preparation) validate() error {
	switch calls := p.Calls(); {
	case p.Problems == "":
		return fmt.Errorf("problems is empty; it must name a problem set")
	case p.Name == "":
		return fmt.Errorf("name is empty; it must be the name of the problem set to make")
	case len(calls) == 0:
		var names []string
		for _, s := range prepare.Stages() {
			names = append(names, s.Name)
		}
		return fmt.Errorf("no stage is asked for; there are where, %s", strings.Join(names, ", "))
	default:
		for _, c := range calls {
			if _, err := bind(prepare.Stages(), c); err != nil {
				return err
			}
		}
	}
	if p.Tokens != nil && p.Policy == "" {
		return fmt.Errorf("tokens needs a policy, whose tokenizer counts")
	}
	d := p.Difficulty
	if d == nil {
		return nil
	}
	switch {
	case d.From == "" && p.Policy == "":
		return fmt.Errorf("difficulty needs a policy to try, or difficulty.from, a map made before")
	case d.NumGenerations < 1 || d.NumGenerations > 4096:
		return fmt.Errorf("difficulty.num_generations is %d; it must be from 1 to 4096", d.NumGenerations)
	case d.Shards < 1 || d.Shards > 1000:
		return fmt.Errorf("difficulty.shards is %d; it must be from 1 to 1000", d.Shards)
	}
	_, err := p.Plan()
	return err
}

// Measures reports whether a policy is tried on the problems.
func (p Preparation) Measures() bool { return p.Difficulty != nil && p.Difficulty.From == "" }

// Calls are the stages asked for, in order.
func (p Preparation) Calls() []datasets.Call {
	var out []datasets.Call
	add := func(on bool, stage string, parameters any) {
		if on {
			raw, _ := datasets.Canonical(parameters) // finite numbers and text
			out = append(out, datasets.Call{Stage: stage, Params: raw})
		}
	}
	add(p.Where != "", prepare.FilterStage.Name, prepare.Filter{Where: p.Where})
	add(p.Normalise != nil, prepare.NormaliseStage.Name, p.Normalise)
	add(p.Deduplicate != nil, prepare.DeduplicateStage.Name, p.Deduplicate)
	add(p.Decontaminate != nil, prepare.DecontaminateStage.Name, p.Decontaminate)
	add(p.Split != nil, prepare.SplitStage.Name, p.Split)
	add(p.Tokens != nil, prepare.TokensStage.Name, p.Tokens)
	add(p.Difficulty != nil, prepare.DifficultyStage.Name, prepare.Difficulty{})
	add(p.Hints != nil, prepare.HintsStage.Name, p.Hints)
	add(p.Rewrites != nil, prepare.RewritesStage.Name, p.Rewrites)
	add(p.Filter != "", prepare.FilterStage.Name, prepare.Filter{Where: p.Filter})
	return out
}

// Plan is the plan under which the preparation's completions are drawn and judged,
// as an experiment on its problems would have it.
func (p Preparation) Plan() (Plan, error) {
	given := map[string]any{"problems": p.Problems, "policy": p.Policy, "seed": p.Seed, "reuse": p.Reuse}
	if d := p.Difficulty; d != nil {
		given["sampling"], given["verifier"], given["backend"] = d.Sampling, d.Verifier, d.Backend
	}
	raw, err := json.Marshal(given)
	if err != nil {
		return Plan{}, err
	}
	return Resolve(raw)
}
