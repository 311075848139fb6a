package curriculum

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
)

// CLPO is the parameters of Restructure.
type CLPO struct {
	// Mode is what is rewritten: "hard_only", "medium_only" or "both".
	Mode             string  `json:"mode"`
	TauHard          float64 `json:"tau_hard"`           // hard: Acc ≤ tau_hard; 0.3
	TauMediumLow     float64 `json:"tau_medium_low"`     // medium: tau_medium_low < Acc …; 0.3
	TauMediumHigh    float64 `json:"tau_medium_high"`    // … ≤ tau_medium_high; 0.7
	Rewriter         string  `json:"rewriter"`           // who rewrites, see Rewriter*; "policy"
	MaxRewriteTokens int     `json:"max_rewrite_tokens"` // longest rewritten prompt; 400
}

// Who rewrites a problem.
const (
	RewriterPolicy     = "policy"     // the policy that is trained, as in the paper
	RewriterProcedural = "procedural" // Response.Rewrite, else the first half of the worked steps as prefill
	RewriterColumn     = "column"     // the set's columns simplified and diversified
)

// Validate names the parameter that is out of range.
func (p CLPO) Validate() error {
	switch p.Mode {
	case "both", "hard_only", "medium_only":
	default:
		return fmt.Errorf("mode is %q; it must be both, hard_only or medium_only", p.Mode)
	}
	if !(p.TauHard >= 0 && p.TauHard <= 1) {
		return fmt.Errorf("tau_hard is %v; it must be in [0, 1]", p.TauHard)
	}
	if !(0 <= p.TauMediumLow && p.TauMediumLow <= p.TauMediumHigh && p.TauMediumHigh <= 1) {
		return fmt.Errorf("tau_medium_low is %v and tau_medium_high %v; they must satisfy 0 ≤ tau_medium_low ≤ tau_medium_high ≤ 1", p.TauMediumLow, p.TauMediumHigh)
	}
	switch p.Rewriter {
	case RewriterPolicy, RewriterProcedural, RewriterColumn:
	default:
		return fmt.Errorf("rewriter is %q; it must be policy, procedural or column", p.Rewriter)
	}
	if p.MaxRewriteTokens < 1 {
		return fmt.Errorf("max_rewrite_tokens is %d; it must be at least 1", p.MaxRewriteTokens)
	}
	return nil
}

// Restructure is the restructuring of CLPO (Curriculum-guided Learning for Policy
// Optimization, arXiv:2509.25004). By the share Acc of right completions to a
// problem as it stands, in this step and without hints,
//
//	Acc ≤ tau_hard                           one rewrite to be simpler
//	tau_medium_low < Acc ≤ tau_medium_high   one rewrite to be different
//
// and num_generations tries at each rewrite, in a group of its own, verified
// against the answer of the problem it was made from. A problem that is both is
// hard; one that was posed twice in the step is rewritten once.
//
// Rewriter "policy" asks the policy itself: turn 0 proposes one request for a text
// per problem, which tells it the answer and forbids to reveal it
// (templates/clpo_simplify.tmpl, templates/clpo_diversify.tmpl, in our words), and
// turn 1 poses what came back. The others, "column" and "procedural", are ours;
// they pose at once. They serve policies that cannot write prose, and tell the
// effect of the rewritten problems apart from the policy's skill at rewriting.
//
// A rewrite can change the problem or give it away, which the paper leaves open.
// Ours are guarded, and metrics count the refused by reason under
// rewrite/rejected_<reason>: empty; too_long for max_rewrite_tokens or for the
// policy's context (for a request: that it does not fit); unchanged, spaces at the
// ends aside; reveals_answer, where the prompt has the answer as a number or word
// of its own and the original has not; none, where the rewriter has no rewrite.
// rewrite/requested counts the problems to be rewritten,
// rewrite/accepted_simplified and rewrite/accepted_diversified what is posed.
var Restructure = Responder{
	Name: "clpo.restructure", Paper: "CLPO, arXiv:2509.25004", Version: 1,
	Reads: []string{"correct"}, Writes: []string{"proposals"},
	Defaults: clpoDefaults,
	Bind:     datasets.Bind(clpoDefaults, CLPO.respond),
}

var clpoDefaults = CLPO{Mode: "both", TauHard: 0.3, TauMediumLow: 0.3, TauMediumHigh: 0.7, Rewriter: RewriterPolicy, MaxRewriteTokens: 400}

// Purposes of a rewrite.
const (
	purposeSimplify  = "simplify"
	purposeDiversify = "diversify"
)

func (p CLPO) respond(r *Response, _ datasets.Env) error {
	if err := r.check(); err != nil {
		return err
	}
	switch {
	case r.Turn == 0 && p.Rewriter == RewriterPolicy:
		return p.request(r)
	case r.Turn == 0:
		p.rewrite(r)
	case r.Turn == 1 && p.Rewriter == RewriterPolicy:
		return p.read(r)
	}
	return nil
}

// task is a problem to be rewritten.
type task struct {
	row     int32
	purpose string
}

// tasks are the problems of the step that are hard or medium.
func (p CLPO) tasks(r *Response) []task {
	var tasks []task
	for _, o := range originals(r.Attempts) {
		if purpose := p.purpose(float64(o.right) / float64(o.tries)); purpose != "" {
			tasks = append(tasks, task{o.row, purpose})
		}
	}
	r.add("rewrite/requested", len(tasks))
	return tasks
}

// purpose is what a problem of this accuracy is rewritten for, "" = it is not.
func (p CLPO) purpose(accuracy float64) string {
	switch {
	case accuracy <= p.TauHard:
		if p.Mode != "medium_only" {
			return purposeSimplify
		}
	case accuracy > p.TauMediumLow && accuracy <= p.TauMediumHigh:
		if p.Mode != "hard_only" {
			return purposeDiversify
		}
	}
	return ""
}

// request asks the policy for its rewrites.
func (p CLPO) request(r *Response) error {
	for _, t := range p.tasks(r) {
		prompt, err := render("clpo_"+t.purpose+".tmpl", struct {
			Problem, Answer string
			MaxTokens       int
		}{r.Problems.Prompt[t.row], r.Problems.Answer[t.row], p.MaxRewriteTokens})
		if err != nil {
			return err
		}
		if !r.fits(prompt, "") {
			r.add("rewrite/rejected_too_long", 1)
			continue
		}
		r.Proposals = append(r.Proposals, Proposal{
			Group: r.Next + int32(len(r.Proposals)), Row: t.row, Prompt: prompt, Origin: OriginRequest, Purpose: t.purpose, Tries: 1,
		})
	}
	return nil
}

// read poses the policy's rewrites.
func (p CLPO) read(r *Response) error {
	var rewrites []rewrite
	for _, t := range r.Texts {
		if t.Purpose != purposeSimplify && t.Purpose != purposeDiversify {
			return fmt.Errorf("the text for problem row %d has purpose %q; it must be %s or %s", t.Row, t.Purpose, purposeSimplify, purposeDiversify)
		}
		rewrites = append(rewrites, rewrite{task: task{t.Row, t.Purpose}, prompt: unfence(t.Text)})
	}
	p.pose(r, rewrites)
	return nil
}

// rewrite poses the rewrites that a column or a procedure has.
func (p CLPO) rewrite(r *Response) {
	var rewrites []rewrite
	for _, t := range p.tasks(r) {
		write := procedural
		if p.Rewriter == RewriterColumn {
			write = column
		}
		if prompt, prefill, ok := write(r, t); ok {
			rewrites = append(rewrites, rewrite{t, prompt, prefill})
		} else {
			r.add("rewrite/rejected_none", 1)
		}
	}
	p.pose(r, rewrites)
}

// column is the rewrite that was prepared beforehand.
func column(r *Response, t task) (prompt, prefill string, ok bool) {
	texts := r.Problems.Diversified
	if t.purpose == purposeSimplify {
		texts = r.Problems.Simplified
	}
	if len(texts) == 0 || texts[t.row] == "" {
		return "", "", false
	}
	return texts[t.row], "", true
}

// procedural is the rewrite of the procedure, else half of the worked steps.
func procedural(r *Response, t task) (prompt, prefill string, ok bool) {
	simplify := t.purpose == purposeSimplify
	if r.Rewrite != nil {
		if prompt, prefill, ok = r.Rewrite(r.Problems, t.row, simplify); ok {
			return prompt, prefill, true
		}
	}
	half := len(r.Problems.Steps[t.row]) / 2
	if !simplify || half == 0 {
		return "", "", false
	}
	return r.Problems.Prompt[t.row], r.Problems.opening(t.row, half), true
}

// rewrite is one rewritten problem.
type rewrite struct {
	task
	prompt, prefill string
}

// pose proposes the rewrites that pass all guards.
func (p CLPO) pose(r *Response, rewrites []rewrite) {
	r.add("rewrite/accepted_"+OriginSimplified, 0)
	r.add("rewrite/accepted_"+OriginDiversified, 0)
	for _, w := range rewrites {
		if reason := p.refuse(r, w); reason != "" {
			r.add("rewrite/rejected_"+reason, 1)
			continue
		}
		origin := OriginDiversified
		if w.purpose == purposeSimplify {
			origin = OriginSimplified
		}
		r.add("rewrite/accepted_"+origin, 1)
		r.Proposals = append(r.Proposals, Proposal{
			Group: r.Next + int32(len(r.Proposals)), Row: w.row, Prompt: w.prompt, Prefill: w.prefill, Origin: origin, Tries: int32(r.NumGenerations),
		})
	}
}

// refuse is why a rewrite is not posed, "" = it is. Worked steps in the prefill are
// not searched for the answer: they end before the last one.
func (p CLPO) refuse(r *Response, w rewrite) string {
	original, answer := r.Problems.Prompt[w.row], r.Problems.Answer[w.row]
	prompt := strings.TrimSpace(w.prompt)
	switch {
	case prompt == "":
		return "empty"
	case r.size(w.prompt) > p.MaxRewriteTokens || !r.fits(w.prompt, w.prefill):
		return "too_long"
	case prompt == strings.TrimSpace(original) && w.prefill == "":
		return "unchanged"
	case mentions(prompt, answer) && !mentions(original, answer):
		return "reveals_answer"
	}
	return ""
}

// fence matches a block between ``` and ```, or the end of the text, with the name
// of a language or without.
var fence = regexp.MustCompile("(?s)```(?:[\\w-]*[ \t]*\r?\n)?(.*?)(?:```|\\z)")

// unfence is the last block of a text that holds something, or the text itself
// where it has no block.
func unfence(text string) string {
	blocks := fence.FindAllStringSubmatch(text, -1)
	if blocks == nil {
		return strings.TrimSpace(text)
	}
	block := ""
	for _, b := range blocks {
		if s := strings.TrimSpace(b[1]); s != "" {
			block = s
		}
	}
	return block
}

// RescueRate counts the problems that were wrong throughout, Acc = 0, and of these
// the ones whose simplified form has tries of both kinds, 0 < Acc' < 1: rescued out
// of wrong is CLPO's hard rescue rate.
func RescueRate(attempts []Attempts) (rescued, wrong int) {
	mixed := make(map[int32]bool)
	for _, a := range attempts {
		if a.Origin == OriginSimplified && slices.Contains(a.Correct, true) && slices.Contains(a.Correct, false) {
			mixed[a.Row] = true
		}
	}
	for _, o := range originals(attempts) {
		if o.right > 0 {
			continue
		}
		wrong++
		if mixed[o.row] {
			rescued++
		}
	}
	return rescued, wrong
}
