package curriculum

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
)

// ScafGRPO is the parameters of Scaffold.
type ScafGRPO struct {
	Exemption float64  `json:"exemption"` // share of the planned steps that begin without hints, in [0, 1]; the paper: 0.15, its code: 50 steps
	Search    string   `json:"search"`    // "parallel" (the paper's code) or "sequential" (the paper)
	Tiers     []string `json:"tiers"`     // of knowledge, planning and solution; all, as in the paper, where its code leaves planning out
	Parts     int      `json:"parts"`     // hint levels per tier; 4
	Source    string   `json:"source"`    // where hints come from, see Hints*; "column"
}

// Where hints come from.
const (
	HintsColumn     = "column"     // parts written beforehand, in the set's hint columns
	HintsSolution   = "solution"   // the worked solution, as text after the prompt
	HintsProcedural = "procedural" // the worked steps, as the given beginning of the answer
)

// tiers of hints in the order in which levels are numbered.
var tiers = [...]struct{ name, label string }{
	{"knowledge", "Knowledge Hints"},
	{"planning", "Planning Hints"},
	{"solution", "Solution Hints"},
}

// solutionTier is the one that hints from the worked solution belong to.
const solutionTier = 2

// Validate names the parameter that is out of range.
func (p ScafGRPO) Validate() error {
	if !(p.Exemption >= 0 && p.Exemption <= 1) {
		return fmt.Errorf("exemption is %v; it must be in [0, 1]", p.Exemption)
	}
	if p.Search != "parallel" && p.Search != "sequential" {
		return fmt.Errorf("search is %q; it must be parallel or sequential", p.Search)
	}
	if len(p.Tiers) == 0 {
		return errors.New("tiers is empty; it must name some of knowledge, planning and solution")
	}
	for i, name := range p.Tiers {
		if name != "knowledge" && name != "planning" && name != "solution" {
			return fmt.Errorf("tiers[%d] is %q; it must be knowledge, planning or solution", i, name)
		}
		if slices.Contains(p.Tiers[:i], name) {
			return fmt.Errorf("tiers[%d] is %q, which is named before", i, name)
		}
	}
	if p.Parts < 1 || p.Parts > 100 {
		return fmt.Errorf("parts is %d; it must be from 1 to 100", p.Parts)
	}
	switch p.Source {
	case HintsColumn:
	case HintsSolution, HintsProcedural:
		if !slices.Contains(p.Tiers, tiers[solutionTier].name) {
			return fmt.Errorf("tiers is %q; with source %s it must have solution", p.Tiers, p.Source)
		}
	default:
		return fmt.Errorf("source is %q; it must be column, solution or procedural", p.Source)
	}
	return nil
}

// Scaffold is the hierarchical scaffolding of Scaf-GRPO (arXiv:2510.19807): a
// problem that the policy cannot solve at all is tried once more with a hint, and
// with the weakest one that is enough. Once the exemption is over,
//
//	step ≥ exemption·steps
//
// every group of a problem as it stands with no right completion is tried under
// hint levels, one try each, in the group itself. Levels count up through the
// tiers knowledge, planning and solution in this order, parts levels each (1 to 4,
// 5 to 8, 9 to 12); a tier that is left out keeps its numbers. Within a tier hints
// add up; tiers do not mix. Which success replaces which failure is for the
// selection to say.
//
// Search "parallel" tries all levels in turn 0. Search "sequential" tries one level
// per turn, weakest first, and ends for a group with its first success.
//
// Source "column" joins parts written beforehand and puts them after the prompt
// under the tier's label (templates/hint.tmpl). A list of another length than
// parts is dealt out evenly. "solution" and "procedural" are ours, for sets without
// such columns, and know the solution tier only. They cut the worked steps into
// cumulative pieces, the last step left out, so that an answer is always the
// policy's own. "solution" puts them after the prompt, and ends before the first
// step that has the answer as a number or word of its own where the prompt has
// not; without steps it cuts the solution into lines, or else sentences.
// "procedural" gives them as the beginning of the answer, which the policy
// continues. Of levels with the same text only the lowest is tried.
//
// Ours, too: a group is left alone where a rewrite of its problem had a success in
// this step.
//
// Metrics, by the groups without success: scaffold/exempt for those left alone in
// the exemption, scaffold/no_hint for those without any hint, scaffold/groups for
// those tried; scaffold/proposals for the tries, scaffold/too_long for levels left
// out since they do not fit the policy's context.
var Scaffold = Responder{
	Name: "scaf-grpo.scaffold", Paper: "Scaf-GRPO, arXiv:2510.19807", Version: 1,
	Reads: []string{"correct"}, Writes: []string{"proposals"},
	Horizon:  true,
	Defaults: scaffoldDefaults(),
	// Decoding writes into the default list of tiers, hence new ones every time.
	Bind: func(params json.RawMessage) (func(*Response, datasets.Env) error, error) {
		return datasets.Bind(scaffoldDefaults(), ScafGRPO.respond)(params)
	},
}

func scaffoldDefaults() ScafGRPO {
	return ScafGRPO{Exemption: 0.15, Search: "parallel", Tiers: []string{"knowledge", "planning", "solution"}, Parts: 4, Source: HintsColumn}
}

func (p ScafGRPO) respond(r *Response, env datasets.Env) error {
	if err := r.check(); err != nil {
		return err
	}
	if p.Search == "parallel" && r.Turn > 0 {
		return nil
	}
	rescued := make(map[int32]bool) // problems of which a rewrite had a success
	solved := make(map[int32]bool)  // groups with a success, under a hint or without
	tries := make(map[int32]int)    // completions by group
	for _, a := range r.Attempts {
		tries[a.Group] += len(a.Correct)
		if !slices.Contains(a.Correct, true) {
			continue
		}
		solved[a.Group] = true
		if a.Origin == OriginSimplified || a.Origin == OriginDiversified {
			rescued[a.Row] = true
		}
	}
	exempt := float64(env.Step) < p.Exemption*float64(env.Steps)
	for _, metric := range []string{"groups", "proposals", "too_long", "no_hint", "exempt"} {
		r.add("scaffold/"+metric, 0)
	}
	for _, a := range r.Attempts {
		if a.Origin != OriginOriginal || tries[a.Group] == 0 || solved[a.Group] || rescued[a.Row] {
			continue
		}
		if exempt {
			r.add("scaffold/exempt", 1)
			continue
		}
		if err := p.scaffold(r, a, tries[a.Group]); err != nil {
			return err
		}
	}
	return nil
}

// scaffold proposes the hints of this turn for a group that has so many tries.
func (p ScafGRPO) scaffold(r *Response, a Attempts, tries int) error {
	all, err := p.hints(r.Problems, a.Row)
	if err != nil {
		return err
	}
	hints := slices.DeleteFunc(slices.Clone(all), func(h hint) bool { return !r.fits(h.prompt, h.prefill) })
	if r.Turn == 0 {
		r.add("scaffold/too_long", len(all)-len(hints))
		switch {
		case len(all) == 0:
			r.add("scaffold/no_hint", 1)
		case len(hints) > 0:
			r.add("scaffold/groups", 1)
		}
	}
	if p.Search == "sequential" {
		hints = hints[min(r.Turn, len(hints)):min(r.Turn+1, len(hints))]
	}
	r.add("scaffold/proposals", len(hints))
	for i, h := range hints {
		r.Proposals = append(r.Proposals, Proposal{
			Group: a.Group, Row: a.Row, Prompt: h.prompt, Prefill: h.prefill,
			Origin: OriginHinted, HintLevel: h.level, FirstSample: int32(tries + i), Tries: 1,
		})
	}
	return nil
}

// hint is a problem with a hint.
type hint struct {
	level           int32
	prompt, prefill string
}

// hints is all hints to the problem in a row, by level.
func (p ScafGRPO) hints(problems *Problems, row int32) ([]hint, error) {
	var all []hint
	for i, tier := range tiers {
		if !slices.Contains(p.Tiers, tier.name) {
			continue
		}
		parts := p.parts(problems, row, i)
		for k := 1; k <= p.Parts && len(parts) > 0; k++ {
			n := (k*len(parts) + p.Parts - 1) / p.Parts // k of p.Parts shares, rounded up
			h := hint{level: int32(i*p.Parts + k), prompt: problems.Prompt[row]}
			if p.Source == HintsProcedural {
				h.prefill = problems.opening(row, n)
			} else {
				var err error
				h.prompt, err = render("hint.tmpl", struct{ Problem, Label, Hint string }{h.prompt, tier.label, strings.Join(parts[:n], "\n")})
				if err != nil {
					return nil, err
				}
			}
			if last := len(all) - 1; last < 0 || h.prompt != all[last].prompt || h.prefill != all[last].prefill {
				all = append(all, h)
			}
		}
	}
	return all, nil
}

// parts is what the hints of a tier add up from.
func (p ScafGRPO) parts(problems *Problems, row int32, tier int) []string {
	if p.Source == HintsColumn {
		if column := [...][][]string{problems.Knowledge, problems.Planning, problems.Breakdown}[tier]; len(column) > 0 {
			return nonEmpty(column[row])
		}
		return nil
	}
	if tier != solutionTier {
		return nil
	}
	steps := problems.Steps[row]
	if p.Source == HintsSolution {
		if len(steps) == 0 {
			steps = pieces(problems.Solution[row])
		}
		answer := problems.Answer[row]
		tells := func(step string) bool { return mentions(step, answer) }
		if at := slices.IndexFunc(steps, tells); at >= 0 && !tells(problems.Prompt[row]) {
			steps = steps[:at+1]
		}
	}
	return steps[:max(0, len(steps)-1)]
}

// sentenceEnd matches the space after a sentence.
var sentenceEnd = regexp.MustCompile(`([.!?])\s+`)

// pieces cuts a solution into its lines, or into sentences where it has one line.
func pieces(solution string) []string {
	if lines := nonEmpty(strings.Split(solution, "\n")); len(lines) > 1 {
		return lines
	}
	return nonEmpty(strings.Split(sentenceEnd.ReplaceAllString(solution, "$1\n"), "\n"))
}

// nonEmpty is the texts without those that are blank, spaces at their ends cut off.
func nonEmpty(texts []string) []string {
	var out []string
	for _, s := range texts {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// SolutionParts is what hints from a problem's worked solution add up from, as
// [Scaffold] with source "solution" cuts it. It reads prompts, answers, solutions
// and steps.
func SolutionParts(problems *Problems, row int32) []string {
	return ScafGRPO{Source: HintsSolution}.parts(problems, row, solutionTier)
}
