package workflows

import (
	"fmt"
	"strings"

	"github.com/gradus-rl/gradus/activities"
)

// Reused is what an experiment took over from earlier ones: results whose every
// input is the same. The units of work are activities.
type Reused struct {
	Rollouts    int     `json:"rollouts"`    // shards
	Completions int64   `json:"completions"` // in them
	Tokens      int64   `json:"tokens"`      // of them
	Responses   int     `json:"responses"`   // hints and rewrites
	Assessments int     `json:"assessments"` // of problems, with the selection of completions
	Updates     int     `json:"updates"`     // chunks of the warm-up counted in
	Others      int     `json:"others"`      // problem sets, proposals, scores, masks, figures of evaluations
	Seconds     float64 `json:"seconds"`     // that the earlier runs worked for all of them
}

// String says it in a line, "" where nothing was reused.
func (r Reused) String() string {
	var parts []string
	part := func(n int, one, many, more string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one+more)
		case n > 1:
			parts = append(parts, thousands(int64(n))+" "+many+more)
		}
	}
	part(r.Rollouts, "rollout", "rollouts", fmt.Sprintf(" (%s completions, %s tokens)", thousands(r.Completions), thousands(r.Tokens)))
	part(r.Responses, "set of hints or rewrites", "sets of hints or rewrites", "")
	part(r.Assessments, "assessment", "assessments", "")
	part(r.Updates, "update", "updates", "")
	part(r.Others, "lesser result", "lesser results", "")
	if len(parts) == 0 {
		return ""
	}
	last := len(parts) - 1
	list := parts[last]
	if last > 0 {
		list = strings.Join(parts[:last], ", ") + " and " + list
	}
	return fmt.Sprintf("reused %s from earlier runs: %.1f s of work saved", list, r.Seconds)
}

// thousands is a number with its digits in groups of three.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// count counts an activity's result, as one of a kind, where it is that of an
// earlier run.
func (r *Reused) count(out activities.Output, kind *int) {
	if out.Saved > 0 {
		*kind++
		r.Seconds += out.Saved
	}
}

// add adds what was taken over elsewhere.
func (r *Reused) add(o Reused) {
	r.Rollouts += o.Rollouts
	r.Completions += o.Completions
	r.Tokens += o.Tokens
	r.Responses += o.Responses
	r.Assessments += o.Assessments
	r.Updates += o.Updates
	r.Others += o.Others
	r.Seconds += o.Seconds
}
