package recipes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
)

// Sweep is a number of runs that are compared with each other.
type Sweep struct {
	Parallel int        `json:"parallel"` // runs at once
	Settings []string   `json:"settings"` // what is compared, in words: "learning_rate=0.0001 recipe=grpo"
	Runs     []SweepRun `json:"runs"`     // every setting with every seed
}

// SweepRun is one run of a sweep.
type SweepRun struct {
	Name    string          `json:"name"`    // of the run within the sweep
	Setting int             `json:"setting"` // in Settings
	Seed    uint64          `json:"seed"`
	Given   json.RawMessage `json:"given"` // as Resolve takes it
}

// mostRuns bounds a sweep: all of its plans stand in one event of its history.
const mostRuns = 1000

// ExpandSweep turns what a user gave, an object such as
//
//	{"base": {"recipe": "grpo"}, "grid": {"learning_rate": [1e-4, 5e-4]}, "list": [{"beta": 0}, {"beta": 0.01}], "seeds": [1, 2, 3], "parallel": 2}
//
// into its runs: each entry of the list with each point of the grid and each
// seed, over the keys of base. All but one of grid, list and base may be left
// out; without seeds there is one run a setting, on the seed of its plan. resolve
// gives the plan of what a run is given; if it refuses one, nothing runs.
func ExpandSweep(raw []byte, resolve func([]byte) (Plan, error)) (Sweep, error) {
	given := struct {
		Base     map[string]json.RawMessage   `json:"base"`
		Grid     map[string][]json.RawMessage `json:"grid"`
		List     []map[string]json.RawMessage `json:"list"`
		Seeds    []uint64                     `json:"seeds"`
		Parallel int                          `json:"parallel"`
	}{Parallel: 2}
	if err := datasets.DecodeStrict(raw, &given); err != nil {
		return Sweep{}, fmt.Errorf(`sweep: want an object such as {"base":{"recipe":"grpo"},"grid":{"learning_rate":[1e-4,5e-4]},"seeds":[1,2,3],"parallel":2}: %w`, err)
	}
	if given.Parallel < 1 || given.Parallel > 100 {
		return Sweep{}, fmt.Errorf("sweep: parallel is %d; it must be from 1 to 100", given.Parallel)
	}
	settings := given.List
	if len(settings) == 0 {
		settings = []map[string]json.RawMessage{{}}
	}
	for _, key := range slices.Sorted(maps.Keys(given.Grid)) {
		if len(given.Grid[key]) == 0 {
			return Sweep{}, fmt.Errorf("sweep: grid: %s has no values", key)
		}
		var next []map[string]json.RawMessage
		for _, s := range settings {
			if _, twice := s[key]; twice {
				return Sweep{}, fmt.Errorf("sweep: %s stands in grid and in list", key)
			}
			for _, v := range given.Grid[key] {
				point := maps.Clone(s)
				point[key] = v
				next = append(next, point)
			}
		}
		if settings = next; len(settings) > mostRuns {
			break
		}
	}
	if n := len(settings) * max(1, len(given.Seeds)); n > mostRuns {
		return Sweep{}, fmt.Errorf("sweep: %d runs or more; there may be %d", n, mostRuns)
	}
	out := Sweep{Parallel: given.Parallel}
	for i, s := range settings {
		if s["seed"] != nil && len(given.Seeds) > 0 {
			return Sweep{}, errors.New("sweep: seed stands in grid or list, and seeds beside it")
		}
		name, err := settingName(s)
		if err != nil {
			return Sweep{}, fmt.Errorf("sweep: %w", err)
		}
		if slices.Contains(out.Settings, name) {
			return Sweep{}, fmt.Errorf("sweep: %s is there twice", name)
		}
		out.Settings = append(out.Settings, name)
		for k := range max(1, len(given.Seeds)) {
			plan := maps.Clone(given.Base)
			if plan == nil {
				plan = map[string]json.RawMessage{}
			}
			maps.Copy(plan, s)
			if len(given.Seeds) > 0 {
				if slices.Contains(given.Seeds[:k], given.Seeds[k]) {
					return Sweep{}, fmt.Errorf("sweep: seed %d is there twice", given.Seeds[k])
				}
				plan["seed"] = fmt.Appendf(nil, "%d", given.Seeds[k])
			}
			r := SweepRun{Setting: i}
			if r.Given, err = datasets.Canonical(plan); err != nil {
				return Sweep{}, fmt.Errorf("sweep: %s: %w", name, err)
			}
			resolved, err := resolve(r.Given)
			if err != nil {
				return Sweep{}, fmt.Errorf("sweep: %s: %w", name, err)
			}
			r.Seed = resolved.Seed
			r.Name = fmt.Sprintf("%0*d-%s-seed=%d", len(fmt.Sprint(len(settings))), i+1, strings.Map(slug, name[:min(len(name), 80)]), r.Seed)
			out.Runs = append(out.Runs, r)
		}
	}
	return out, nil
}

// settingName is a setting in words.
func settingName(s map[string]json.RawMessage) (string, error) {
	if len(s) == 0 {
		return "base", nil
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		value, err := datasets.Canonical(s[key])
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		parts = append(parts, key+"="+string(bytes.Trim(value, `"`)))
	}
	return strings.Join(parts, " "), nil
}

// slug keeps the characters that names of runs may have everywhere.
func slug(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._=-", r) {
		return r
	}
	return '-'
}
