package families

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// The splits. A problem belongs to one of them by the hash of its family and prompt, whatever the seed and the level,
// so that two problem sets of different splits never share a prompt.
const (
	Train      = "train"      // 6 of 8 prompts
	Validation = "validation" // 1 of 8
	Test       = "test"       // 1 of 8
)

// Options say which problems [Make] draws.
type Options struct {
	Families []string `json:"families"`  // names; none = all
	Levels   []int    `json:"levels"`    // from 1 to Levels; none = all
	PerLevel int      `json:"per_level"` // problems per family and level, at most MaxPerLevel
	Seed     uint64   `json:"seed"`
	Split    string   `json:"split"` // Train, Validation or Test; "" = Train
}

// MaxPerLevel bounds Options.PerLevel.
const MaxPerLevel = 1 << 20

// patience is how many draws in a row may yield nothing new before a level is taken to be exhausted. At a level of 250
// equally likely prompts it misses the last one with probability (1-1/250)^4096, one in ten million.
const patience = 4096

// complete fills in defaults and checks every field.
func (o Options) complete() (Options, error) {
	if len(o.Families) == 0 {
		for _, f := range All() {
			o.Families = append(o.Families, f.Name)
		}
	}
	if len(o.Levels) == 0 {
		for level := 1; level <= Levels; level++ {
			o.Levels = append(o.Levels, level)
		}
	}
	if o.Split == "" {
		o.Split = Train
	}
	for i, name := range o.Families {
		if _, err := Lookup(name); err != nil {
			return o, err
		}
		if slices.Contains(o.Families[:i], name) {
			return o, fmt.Errorf("family %q is named twice", name)
		}
	}
	for i, level := range o.Levels {
		if level < 1 || level > Levels {
			return o, fmt.Errorf("level %d is not from 1 to %d", level, Levels)
		}
		if slices.Contains(o.Levels[:i], level) {
			return o, fmt.Errorf("level %d is named twice", level)
		}
	}
	if o.PerLevel < 1 || o.PerLevel > MaxPerLevel {
		return o, fmt.Errorf("per_level %d is not from 1 to %d", o.PerLevel, MaxPerLevel)
	}
	switch o.Split {
	case Train, Validation, Test:
		return o, nil
	}
	return o, fmt.Errorf("unknown split %q, expected %s, %s or %s", o.Split, Train, Validation, Test)
}

// Make draws a problem set of kind problems/1: for each level in rising order, and for each family as named, PerLevel
// problems with distinct prompts. A level that does not have as many, in this split, gives those that are found.
//
// The identifier of a problem is <family>-<level>-<hash>, with 8 hexadecimal digits of the hash of its family and
// prompt. The problems of a family and level depend on seed and split only, and a smaller PerLevel gives the first
// ones of a larger.
func Make(mem memory.Allocator, o Options) (*datasets.Table, error) {
	t, err := makeTable(mem, o)
	if err != nil {
		return nil, fmt.Errorf("make problems: %w", err)
	}
	return t, nil
}

func makeTable(mem memory.Allocator, o Options) (*datasets.Table, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	params, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var c columns
	for _, level := range slices.Sorted(slices.Values(o.Levels)) {
		for _, name := range o.Families {
			family, err := Lookup(name)
			if err != nil {
				return nil, err
			}
			c.draw(family, level, o)
		}
	}
	lineage := datasets.Lineage{Stage: "families.make", Version: 1, Params: params, Seed: o.Seed}
	return datasets.NewTable(mem, datasets.KindProblems, lineage,
		datasets.ProblemID.Of(c.ids), datasets.Source.Of(c.sources), datasets.Level.Of(c.levels),
		datasets.Prompt.Of(c.prompts), datasets.Answer.Of(c.answers), datasets.Solution.Of(c.solutions),
		datasets.Steps.OfSlices(c.steps), datasets.Verifier.Of(c.verifiers))
}

// columns collects a problem set.
type columns struct {
	ids, sources, prompts, answers, solutions, verifiers []string
	levels                                               []int32
	steps                                                [][]string
}

// draw adds the problems of one family and level.
func (c *columns) draw(family Family, level int, o Options) {
	rng := source(o.Seed, family.Name, level)
	seen := map[string]bool{} // identifiers, so that two prompts of one hash count as one
	for fruitless := 0; len(seen) < o.PerLevel && fruitless < patience; fruitless++ {
		p := family.Generate(rng, level)
		id, split := place(family.Name, level, p.Prompt)
		if split != o.Split || seen[id] {
			continue
		}
		seen[id], fruitless = true, 0
		c.ids = append(c.ids, id)
		c.sources = append(c.sources, family.Name)
		c.levels = append(c.levels, int32(level))
		c.prompts = append(c.prompts, p.Prompt)
		c.answers = append(c.answers, p.Answer)
		c.solutions = append(c.solutions, p.Solution)
		c.steps = append(c.steps, p.Steps)
		c.verifiers = append(c.verifiers, family.Verifier)
	}
}

// source is the randomness of one family and level.
func source(seed uint64, family string, level int) *rand.Rand {
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%d", family, level))
	return rand.New(rand.NewPCG(seed, binary.BigEndian.Uint64(h[:])))
}

// place returns a problem's identifier and its split, by separate parts of one hash.
func place(family string, level int, prompt string) (id, split string) {
	h := sha256.Sum256([]byte(strings.Join([]string{family, prompt}, "\x00")))
	split = Train
	switch h[24] % 8 { // any byte would do; this one deals the few prompts of running_sums-1 most evenly
	case 6:
		split = Validation
	case 7:
		split = Test
	}
	return fmt.Sprintf("%s-%d-%x", family, level, h[:4]), split
}
