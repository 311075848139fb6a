package prepare

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
)

// Split is the parameters of SplitStage.
type Split struct {
	Fractions Fractions `json:"fractions"` // share of the problems by the name of their part; they add up to 1
	Salt      string    `json:"salt"`      // another one gives another split
}

// Fractions are shares by name.
type Fractions map[string]float64

// UnmarshalJSON takes the shares given for all there are.
func (f *Fractions) UnmarshalJSON(raw []byte) error {
	*f = nil
	return json.Unmarshal(raw, (*map[string]float64)(f))
}

// SplitStage deals problems out by a hash of their id: the column split. Names go by
// the alphabet, the first takes the lowest hashes. As nothing but id and salt counts,
// a problem stays where it is when others come or go, and while the fractions stay.
// A filter such as split == "train" makes a set of one part. Figures: rows of each
// part.
var SplitStage = Stage{
	Name: "split", Version: 1,
	Defaults: splitDefaults,
	Bind:     datasets.Bind(splitDefaults, Split.run),
}

var splitDefaults = Split{Fractions: Fractions{"train": 0.9, "validation": 0.05, "test": 0.05}}

// Validate names the parameter that is out of range.
func (p Split) Validate() error {
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(p.Fractions)) {
		f := p.Fractions[name]
		if name == "" || !(f > 0 && f <= 1) {
			return fmt.Errorf("fractions: %q has %v; it must have a name and be above 0 and at most 1", name, f)
		}
		sum += f
	}
	if math.Abs(sum-1) > 1e-9 {
		return fmt.Errorf("fractions add up to %v; they must to 1", sum)
	}
	return nil
}

func (p Split) run(s *Set, _ datasets.Env) error {
	parts := make([]string, s.Problems.Rows())
	for i, id := range datasets.ProblemID.Get(s.Problems) {
		parts[i] = p.part(id)
		s.Figures["rows/"+parts[i]]++
	}
	return s.with(datasets.Split.Of(parts))
}

// part is the part that a problem belongs to.
func (p Split) part(id string) string {
	names := slices.Sorted(maps.Keys(p.Fractions))
	at, edge := float64(datasets.Stream(0, "prepare split", p.Salt, id)>>11)/(1<<53), 0.0
	for _, name := range names {
		if edge += p.Fractions[name]; at < edge {
			return name
		}
	}
	return names[len(names)-1]
}
