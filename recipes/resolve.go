package recipes

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/sampling"
)

// Resolve turns what a user gave, a JSON object with any keys of Plan, into a
// complete, valid Plan. "recipe" names the row to start from (default grpo).
// A key is a field of Plan, a field of its sampling or learning section (so
// that {"learning_rate": 1e-4} works as in TRL), or a parameter of the recipe's
// stages, of all that have it; a dot reaches into a section ("warmup.target")
// or one stage ("grpo.advantage.scale_rewards"). With "problems" the defaults are those for
// longer texts. Whatever else stands there is an error
// that names it, and no part of a refused input is applied.
func Resolve(raw []byte) (Plan, error) {
	var given map[string]json.RawMessage
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &given); err != nil {
			return Plan{}, fmt.Errorf("plan: want a JSON object such as {\"recipe\":\"grpo\"}: %w", err)
		}
	}
	name := "grpo"
	if r, ok := given["recipe"]; ok {
		if err := json.Unmarshal(r, &name); err != nil {
			return Plan{}, fmt.Errorf("recipe is %.100s; it must be a name such as grpo", r)
		}
	}
	recipe, err := Lookup(name)
	if err != nil {
		return Plan{}, err
	}
	p := recipe.Plan
	if own, ok := given["problems"]; ok && string(own) != `""` {
		p.ownProblems()
	}
	keys := slices.Sorted(maps.Keys(given))
	// Stage lists first: other keys may be parameters of their stages.
	slices.SortStableFunc(keys, func(a, b string) int { return rank(a) - rank(b) })
	for _, key := range keys {
		if err := p.set(key, given[key]); err != nil {
			return Plan{}, err
		}
	}
	if p.Fork != nil {
		return Plan{}, fmt.Errorf("fork stands in the plan: what goes on from the step of a run is started by gradus fork")
	}
	if err := p.settle(); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// settle derives what follows from other keys and proves the whole.
func (p *Plan) settle() error {
	p.Learning.Temperature = p.Sampling.Temperature
	p.Learning.MaxCompletionLength = p.Sampling.MaxCompletionLength
	p.Learning.MaxSteps = int64(max(1, p.Steps*p.Learning.NumIterations))
	if err := p.complete(); err != nil {
		return err
	}
	if err := p.validateStages(); err != nil {
		return err
	}
	return p.Validate()
}

func rank(key string) int {
	if slices.Contains([]string{"propose", "assess", "respond", "select", "mask"}, key) {
		return 0
	}
	return 1
}

// set applies one key.
func (p *Plan) set(key string, value json.RawMessage) error {
	section, rest, dotted := strings.Cut(key, ".")
	switch {
	case hasField(p, section) && dotted:
		return p.set(section, object(rest, value))
	case hasField(p, key):
		switch key { // decoding would leave the parameters of the calls that were there
		case "respond":
			p.Respond = nil
		case "select":
			p.Select = nil
		case "mask":
			p.Mask = nil
		}
		return decode("", object(key, value), p)
	case hasField(&p.Sampling, key):
		return decode("", object(key, value), &p.Sampling)
	case hasField(&p.Learning, key) && key != "max_steps": // which follows from steps
		return decode("", object(key, value), &p.Learning)
	}
	owned := false
	for _, c := range p.calls() {
		param := strings.TrimPrefix(key, c.Stage+".")
		if slices.Contains(parameters(c.Stage), param) {
			owned = true
			merged, err := merge(c.Params, param, value)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			c.Params = merged
		}
	}
	if !owned {
		return fmt.Errorf("%w %q%s", ErrUnknown, key, suggest(key, p.options()))
	}
	return nil
}

// calls are the plan's stage calls, to be changed in place. The slices are
// copied first, as a recipe's row shares them.
func (p *Plan) calls() []*datasets.Call {
	out := []*datasets.Call{&p.Propose, &p.Assess}
	for _, list := range []*[]datasets.Call{&p.Respond, &p.Select, &p.Mask} {
		*list = slices.Clone(*list)
		for i := range *list {
			out = append(out, &(*list)[i])
		}
	}
	return out
}

// complete writes every stage's parameters out in full.
func (p *Plan) complete() error {
	for _, c := range p.calls() {
		d, ok := defaults(c.Stage)
		if !ok {
			continue // validateStages names it
		}
		full := reflect.New(reflect.TypeOf(d))
		full.Elem().Set(reflect.ValueOf(d))
		if err := decode(c.Stage, c.Params, full.Interface()); err != nil {
			return err
		}
		raw, err := datasets.Canonical(full.Interface())
		if err != nil {
			return fmt.Errorf("%s: %w", c.Stage, err)
		}
		c.Params = raw
	}
	return nil
}

// defaults are the default parameters of a stage of any room.
func defaults(stage string) (any, bool) {
	if s, err := datasets.FindStage(curriculum.Proposers(), stage); err == nil {
		return s.Defaults, true
	}
	if s, err := datasets.FindStage(curriculum.Assessors(), stage); err == nil {
		return s.Defaults, true
	}
	if s, err := datasets.FindStage(curriculum.Responders(), stage); err == nil {
		return s.Defaults, true
	}
	if s, err := datasets.FindStage(sampling.Stages(), stage); err == nil {
		return s.Defaults, true
	}
	return nil, false
}

func parameters(stage string) []string {
	d, ok := defaults(stage)
	if !ok {
		return nil
	}
	return fields(reflect.TypeOf(d))
}

func hasField(v any, key string) bool {
	return slices.Contains(fields(reflect.TypeOf(v).Elem()), key)
}

// fields are the JSON names of a struct's fields.
func fields(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		out = append(out, name)
	}
	return out
}

// options are the keys that set takes without a dot.
func (p *Plan) options() []string {
	all := slices.Concat(fields(reflect.TypeOf(*p)), fields(reflect.TypeOf(p.Sampling)), fields(reflect.TypeOf(p.Learning)))
	for _, c := range p.calls() {
		all = append(all, parameters(c.Stage)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// suggest names the option that others call key, or those that look like it.
func suggest(key string, all []string) string {
	if hint := Theirs(key); hint != "" {
		section := key[:strings.LastIndex(key, ".")+1]
		if own := section + strings.TrimPrefix(hint, "write "); slices.Contains(all, own) {
			return "; write " + own
		}
		return "; " + hint
	}
	var near []string
	for _, o := range all {
		if strings.Contains(o, key) || strings.Contains(key, o) || distance(key, o) <= 2 {
			near = append(near, o)
		}
	}
	if near != nil {
		return "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return "; there are " + strings.Join(all, ", ")
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// object is the JSON object {path: value}, where dots in path nest.
func object(path string, value json.RawMessage) json.RawMessage {
	head, rest, dotted := strings.Cut(path, ".")
	if dotted {
		value = object(rest, value)
	}
	raw, err := json.Marshal(map[string]json.RawMessage{head: value})
	if err != nil {
		return value // not JSON; decoding it says so
	}
	return raw
}

// merge sets one member of a JSON object.
func merge(into json.RawMessage, key string, value json.RawMessage) (json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if len(into) > 0 {
		if err := json.Unmarshal(into, &m); err != nil {
			return nil, err
		}
	}
	m[key] = value
	return json.Marshal(m)
}
