package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/exchange"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/sampling"
)

// History is what a run did with a problem.
type History struct {
	Run     string  `json:"run"`
	Problem string  `json:"problem"`
	Source  string  `json:"source"`
	Level   int32   `json:"level,omitempty"`
	Prompt  string  `json:"prompt"`
	Answer  string  `json:"answer"`
	Steps   int     `json:"steps"` // of the run that are recorded
	State   State   `json:"state"` // what the curriculum knows of it at the end
	Visits  []Visit `json:"visits"`
}

// Visit is a step that posed the problem.
type Visit struct {
	Step    int     `json:"step"`               // that posed it, from 1
	Trained int     `json:"trained,omitempty"`  // step that learnt from it, 0 = none did
	LeftOut string  `json:"left_out,omitempty"` // why the step's update is not in the policy
	Before  State   `json:"before"`
	After   State   `json:"after"`
	Posed   []Posed `json:"posed"`
}

// State is what the curriculum knows of the problem.
type State struct {
	Visits         int32   `json:"visits"`
	Attempts       int64   `json:"attempts"`
	Successes      int64   `json:"successes"`
	Bucket         string  `json:"bucket"`
	PassRate       float64 `json:"pass_rate"`
	PosteriorAlpha float64 `json:"posterior_alpha"`
	PosteriorBeta  float64 `json:"posterior_beta"`
	Stagnation     int32   `json:"stagnation"`
	HintNeeded     int32   `json:"hint_needed,omitempty"`
	lastStep       int32
}

// Posed is a form in which the problem was posed, with all its tries.
type Posed struct {
	Group        int32          `json:"group"`
	Origin       string         `json:"origin"`
	HintLevel    int32          `json:"hint_level,omitempty"`
	Prompt       string         `json:"prompt"`
	Completions  []Try          `json:"completions"`
	Kept         int            `json:"kept"`
	Reasons      map[string]int `json:"reasons,omitempty"`       // of those that were not kept
	Tokens       int            `json:"tokens"`                  // of all completions
	TokensKept   int            `json:"tokens_kept"`             // trained on
	TokenReasons map[string]int `json:"token_reasons,omitempty"` // of tokens of kept completions that were not
}

// Try is a completion.
type Try struct {
	Sample     int32   `json:"sample"`
	Text       string  `json:"completion"`
	Verdict    string  `json:"verdict"`
	Extracted  string  `json:"extracted,omitempty"`
	Reward     float64 `json:"reward"`
	Advantage  float64 `json:"advantage"`
	Kept       bool    `json:"kept"`
	Reason     string  `json:"reason,omitempty"`
	Tokens     int     `json:"tokens"`
	TokensKept int32   `json:"tokens_kept"`
}

// Why tells a problem's history in a run. It goes back from the newest record along
// the curriculum state, which knows the step of each problem's last visit, and so
// reads only the steps that posed the problem, and of their rollouts only the shards
// that hold it. An id that is not in the training set is an error with those like it.
func Why(ctx context.Context, r *Run, problem string) (*History, error) {
	t, err := r.load(ctx, r.Problems)
	if err != nil {
		return nil, fmt.Errorf("training problems of run %s: %w", r.ID, err)
	}
	defer t.Release()
	ids := datasets.ProblemID.Get(t)
	row := slices.Index(ids, problem)
	if row < 0 {
		hint := fmt.Sprintf("; there are %d, such as %s", len(ids), strings.Join(ids[:min(3, len(ids))], ", "))
		if near := recipes.Near(problem, ids, 5); near != nil {
			hint = "; did you mean " + strings.Join(near, ", ") + "?"
		}
		return nil, fmt.Errorf("run %s trains on no problem %q%s", r.ID, problem, hint)
	}
	h := &History{
		Run: r.ID, Problem: problem, Source: datasets.Source.Get(t)[row], Level: datasets.Level.Get(t)[row],
		Prompt: datasets.Prompt.Get(t)[row], Answer: datasets.Answer.Get(t)[row], Steps: len(r.steps), Visits: []Visit{},
	}
	if len(r.steps) == 0 {
		return h, nil
	}
	newest, err := r.Record(ctx, r.steps[len(r.steps)-1].number)
	if err != nil {
		return nil, err
	}
	state, err := r.state(ctx, newest, problem)
	if err != nil {
		return nil, err
	}
	h.State = state
	for state.Visits > 0 && int(state.lastStep) >= r.steps[0].number {
		v, err := r.visit(ctx, int(state.lastStep), problem)
		if err != nil {
			return nil, err
		}
		if v.After.Visits <= v.Before.Visits {
			return nil, fmt.Errorf("run %s: step %d should have posed %q, and did not: %w", r.ID, v.Step, problem, datasets.ErrCorrupt)
		}
		state = v.Before
		h.Visits = append(h.Visits, v)
	}
	slices.Reverse(h.Visits)
	return h, nil
}

// visit is what a step did with the problem. Where it waited for a full batch, what
// became of its completions stands with the step that was next to learn.
func (r *Run) visit(ctx context.Context, number int, problem string) (v Visit, err error) {
	v.Step = number + 1
	record, err := r.Record(ctx, number)
	if err != nil {
		return v, err
	}
	before, err := r.Record(ctx, number-1)
	if err != nil {
		return v, err
	}
	if v.Before, err = r.state(ctx, before, problem); err != nil {
		return v, err
	}
	if v.After, err = r.state(ctx, record, problem); err != nil {
		return v, err
	}
	carried := 0 // rounds of steps before
	if before.Metrics.IsZero() && len(record.Rounds) >= len(before.Rounds) && number > r.steps[0].number {
		carried = len(before.Rounds)
	}
	final := record
	for final.Metrics.IsZero() {
		if _, ok := r.find(final.Step + 1); !ok {
			break
		}
		if final, err = r.Record(ctx, final.Step+1); err != nil {
			return v, err
		}
	}
	metrics, err := r.Metrics(ctx, final)
	if err != nil {
		return v, err
	}
	switch {
	case final.Metrics.IsZero():
		v.LeftOut = "no step had a full batch yet"
	case metrics[activities.MetricNaN] > 0:
		v.LeftOut = "the update was not finite"
	}
	all, err := r.Completions(ctx, final, problem)
	if err != nil {
		return v, err
	}
	// The rounds of a step that waited stand first in the next one, under group
	// numbers that go on.
	own := record.Rounds[carried:]
	v.Posed = posed(slices.DeleteFunc(all, func(c exchange.Completion) bool {
		return !slices.ContainsFunc(own, func(r activities.Round) bool { return r.Proposals.Hash == c.Proposals })
	}))
	for _, p := range v.Posed {
		if p.TokensKept > 0 && v.LeftOut == "" {
			v.Trained = final.Step + 1
		}
	}
	return v, nil
}

// state is what the curriculum knew of the problem after a step.
func (r *Run) state(ctx context.Context, record activities.StepRecord, problem string) (s State, err error) {
	t, err := r.load(ctx, record.State)
	if err != nil {
		return s, fmt.Errorf("curriculum state of step %d of run %s: %w", record.Step+1, r.ID, err)
	}
	defer t.Release()
	i := slices.Index(datasets.ProblemID.Get(t), problem)
	if i < 0 {
		return s, fmt.Errorf("curriculum state of step %d of run %s has no problem %q: %w", record.Step+1, r.ID, problem, datasets.ErrCorrupt)
	}
	return State{
		Visits: datasets.Visits.Get(t)[i], Attempts: datasets.Attempts.Get(t)[i], Successes: datasets.Successes.Get(t)[i],
		Bucket: datasets.Bucket.Get(t)[i], PassRate: datasets.PassRate.Get(t)[i], PosteriorAlpha: datasets.PosteriorAlpha.Get(t)[i],
		PosteriorBeta: datasets.PosteriorBeta.Get(t)[i], Stagnation: datasets.Stagnation.Get(t)[i],
		HintNeeded: datasets.HintNeeded.Get(t)[i], lastStep: datasets.LastStep.Get(t)[i],
	}, nil
}

// posed sorts completions by the form in which the problem was posed.
func posed(rows []exchange.Completion) []Posed {
	var out []Posed
	for _, c := range rows {
		prompt := c.Prompt + c.Prefill
		at := slices.IndexFunc(out, func(p Posed) bool {
			return p.Group == c.Group && p.Origin == c.Origin && p.HintLevel == c.HintLevel && p.Prompt == prompt
		})
		if at < 0 {
			at = len(out)
			out = append(out, Posed{Group: c.Group, Origin: c.Origin, HintLevel: c.HintLevel, Prompt: prompt, Reasons: map[string]int{}, TokenReasons: map[string]int{}})
		}
		p := &out[at]
		p.Completions = append(p.Completions, Try{
			Sample: c.Sample, Text: c.Text, Verdict: c.Verdict, Extracted: c.Extracted, Reward: c.Reward, Advantage: c.Advantage,
			Kept: c.Kept, Reason: c.Reason, Tokens: len(c.Tokens), TokensKept: c.TokensKept,
		})
		p.Tokens += len(c.Tokens)
		p.TokensKept += int(c.TokensKept)
		if !c.Kept {
			p.Reasons[c.Reason]++
			continue
		}
		p.Kept++
		for _, reason := range c.TokenReasons {
			if reason != 0 {
				p.TokenReasons[sampling.TokenReason(reason).String()]++
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Posed) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.HintLevel, b.HintLevel))
	})
	return out
}

// String is the state in a few words.
func (s State) String() string {
	if s.Visits == 0 {
		return s.Bucket
	}
	return fmt.Sprintf("%s (pass rate %.2f; posterior %.2f of Beta(%.3g, %.3g))", s.Bucket, s.PassRate,
		s.PosteriorAlpha/(s.PosteriorAlpha+s.PosteriorBeta), s.PosteriorAlpha, s.PosteriorBeta)
}
