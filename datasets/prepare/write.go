package prepare

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/datasets/filter"
)

// Hints is the parameters of HintsStage.
type Hints struct {
	Overwrite bool `json:"overwrite"` // also where a problem has hints
}

// HintsStage cuts worked solutions into the parts that scaf-grpo.scaffold with
// source=column gives as hints: the column solution_breakdown_parts. The parts are
// those of curriculum.SolutionParts: the steps, else lines, else sentences, up to and
// without the one that tells the answer. Figures: rows with parts of their own, cut
// ones, and those without a solution to cut.
var HintsStage = Stage{
	Name: "hints", Paper: "Scaf-GRPO, arXiv:2510.19807", Version: 1,
	Defaults: Hints{},
	Bind:     datasets.Bind(Hints{}, Hints.run),
}

func (p Hints) run(s *Set, _ datasets.Env) error {
	t := s.Problems
	parts := lists(t, datasets.SolutionParts)
	problems := &curriculum.Problems{
		Prompt: datasets.Prompt.Get(t), Answer: datasets.Answer.Get(t), Solution: datasets.Solution.Get(t), Steps: lists(t, datasets.Steps),
	}
	for i := range parts {
		if len(parts[i]) > 0 && !p.Overwrite {
			s.Figures["had"]++
			continue
		}
		if parts[i] = curriculum.SolutionParts(problems, int32(i)); len(parts[i]) == 0 {
			s.Figures["without"]++
			continue
		}
		s.Figures["cut"]++
	}
	return s.with(datasets.SolutionParts.OfSlices(parts))
}

// lists is a column of lists, empty ones where the table has none.
func lists(t *datasets.Table, c datasets.ListColumn[string]) [][]string {
	out := make([][]string, t.Rows())
	if t.Has(c.Name) {
		l := c.Get(t)
		for i := range out {
			out[i] = l.Row(i)
		}
	}
	return out
}

// Rewrites is the parameters of RewritesStage: none.
type Rewrites struct{}

// RewritesStage writes easier and different forms of the problems of built-in
// families, by families.Rewrite, where a problem has none: the columns simplified and
// diversified, which clpo with rewriter=column poses. Figures: rows that got either.
// A simplification that is a beginning of the answer is none of the prompt, and is
// left to clpo with rewriter=procedural.
var RewritesStage = Stage{
	Name: "rewrites", Paper: "CLPO, arXiv:2509.25004", Version: 1,
	Defaults: Rewrites{},
	Bind:     datasets.Bind(Rewrites{}, Rewrites.run),
}

func (p Rewrites) run(s *Set, _ datasets.Env) error {
	t := s.Problems
	source, prompt, answer, level := datasets.Source.Get(t), datasets.Prompt.Get(t), datasets.Answer.Get(t), datasets.Level.Get(t)
	steps := lists(t, datasets.Steps)
	var columns []datasets.Data
	for _, c := range []datasets.Column[string]{datasets.Simplified, datasets.Diversified} {
		texts := make([]string, t.Rows())
		if t.Has(c.Name) {
			texts = slices.Clone(c.Get(t))
		}
		for i := range texts {
			if texts[i] != "" {
				continue
			}
			if text, prefill, ok := families.Rewrite(source[i], prompt[i], answer[i], steps[i], level[i], c == datasets.Simplified); ok && prefill == "" {
				texts[i] = text
				s.Figures[c.Name]++
			}
		}
		columns = append(columns, c.Of(texts))
	}
	return s.with(columns...)
}

// Filter is the parameters of FilterStage.
type Filter struct {
	Where string `json:"where"` // expression over the columns
}

// FilterStage keeps the rows of which an expression in the language of package
// filter holds; dropped: filter.
var FilterStage = Stage{
	Name: "filter", Version: 1,
	Defaults: Filter{},
	Bind:     datasets.Bind(Filter{}, Filter.run),
}

// Validate names the parameter that is missing.
func (p Filter) Validate() error {
	if strings.TrimSpace(p.Where) == "" {
		return fmt.Errorf("where is empty; it must be an expression such as pass_rate > 0.1 and pass_rate < 0.9")
	}
	return nil
}

func (p Filter) run(s *Set, _ datasets.Env) error {
	f, err := filter.Compile(p.Where, s.Problems.Record().Schema())
	if err != nil {
		return err
	}
	rows, err := f.Rows(s.Problems.Record())
	if err != nil {
		return err
	}
	s.Dropped["filter"] = s.Problems.Rows() - len(rows)
	return s.keep(rows)
}

// oneOf refuses a value that is none of those allowed.
func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s is %q; it must be one of %s", key, value, strings.Join(allowed, ", "))
}
