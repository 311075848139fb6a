package curriculum

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Difficulty buckets by pass rate p: hard p ≤ Hard, medium p ≤ Medium,
// easy p < 1, solved p = 1. The split is that of CLPO (arXiv:2509.25004).
// Metrics, unlike State, count problems with p = 0 apart from the hard ones.
const (
	BucketUnseen   = "unseen"
	BucketAllWrong = "all_wrong" // of metrics only: the part of hard with p = 0
	BucketHard     = "hard"
	BucketMedium   = "medium"
	BucketEasy     = "easy"
	BucketSolved   = "solved"
)

// Assessment is the parameters of PassRate.
type Assessment struct {
	Hard   float64 `json:"hard"`   // CLPO's τ_hard, 0.3
	Medium float64 `json:"medium"` // CLPO's upper end of medium, 0.7
	Decay  float64 `json:"decay"`  // weight of the newest pass rate in the moving average, in (0, 1]; 0.3, ours
	Forget float64 `json:"forget"` // factor by which a visit shrinks the posterior's counts before it adds its own, in (0, 1]; 0.9, ours
}

// Validate names the parameter that is out of range.
func (p Assessment) Validate() error {
	if !(0 <= p.Hard && p.Hard <= p.Medium && p.Medium <= 1) {
		return fmt.Errorf("hard is %v and medium %v; they must satisfy 0 ≤ hard ≤ medium ≤ 1", p.Hard, p.Medium)
	}
	if !(p.Decay > 0 && p.Decay <= 1) {
		return fmt.Errorf("decay is %v; it must be in (0, 1]", p.Decay)
	}
	if !(p.Forget > 0 && p.Forget <= 1) {
		return fmt.Errorf("forget is %v; it must be in (0, 1]", p.Forget)
	}
	return nil
}

// bucket of a pass rate.
func (p Assessment) bucket(rate float64) string {
	switch {
	case rate <= p.Hard:
		return BucketHard
	case rate <= p.Medium:
		return BucketMedium
	case rate < 1:
		return BucketEasy
	}
	return BucketSolved
}

// PassRate assesses each problem by the share of its completions without a hint
// that were right in this step:
//
//	p = right / tries,    avg ← (1 − decay)·avg + decay·p
//	α ← 1 + forget·(α − 1) + right,    β ← 1 + forget·(β − 1) + wrong
//
// The average starts at the first p, the Beta posterior at the uniform prior
// α = β = 1; forgetting lets it follow a policy that changes, and bounds its
// counts by 1/(1 − forget) visits. Stagnation counts the visits in a row that
// neither solved the problem nor raised p above the visit's before; the first
// visit has none before it. Completions of one problem count as one visit,
// however many groups they came in.
//
// Completions under a hint say nothing of p. They tell the lowest level that
// was enough (Scaf-GRPO, arXiv:2510.19807, searches for it). A problem that a
// hint once solved graduates in the first later step that solves it without one.
//
// Metrics, as counts of problems: those posed in this step under
// difficulty/all_wrong (p = 0), hard (0 < p), medium, easy and solved, and those
// of the set that were never posed under difficulty/unseen; those tried with
// hints in this step under hints/tried, of which hints/solved, by the lowest
// level k that was enough hints/level_<k>; hints/graduated of this step and
// hints/graduated_total so far. stagnation/mean is over the problems posed.
var PassRate = Assessor{
	Name: "pass_rate", Paper: "CLPO, arXiv:2509.25004, §3.1 (buckets)", Version: 2,
	Reads: []string{"correct", "hint_level"}, Writes: []string{"assessments"},
	Defaults: assessDefaults,
	Bind:     datasets.Bind(assessDefaults, Assessment.assess),
}

var assessDefaults = Assessment{Hard: 0.3, Medium: 0.7, Decay: 0.3, Forget: 0.9}

func (p Assessment) assess(v *Visit, env datasets.Env) error {
	tallies, err := v.tally()
	if err != nil {
		return err
	}
	if v.Metrics == nil {
		v.Metrics = make(map[string]float64)
	}
	for _, name := range []string{
		"difficulty/" + BucketAllWrong, "difficulty/" + BucketHard, "difficulty/" + BucketMedium, "difficulty/" + BucketEasy, "difficulty/" + BucketSolved,
		"difficulty/" + BucketUnseen, "hints/tried", "hints/solved", "hints/graduated", "hints/graduated_total", "stagnation/mean",
	} {
		v.Metrics[name] = 0
	}
	posed, stagnation := 0, int64(0)
	for _, t := range tallies {
		if t.tries > 0 {
			p.visit(v, t, env)
			posed++
			stagnation += int64(v.State.Stagnation[t.row])
		}
		if t.hinted > 0 {
			v.hint(t, env)
		}
	}
	if posed > 0 {
		v.Metrics["stagnation/mean"] = float64(stagnation) / float64(posed)
	}
	for i, visits := range v.State.Visits {
		if visits == 0 {
			v.Metrics["difficulty/"+BucketUnseen]++
		}
		if v.State.GraduatedStep[i] >= 0 {
			v.Metrics["hints/graduated_total"]++
		}
	}
	return nil
}

// tally is what one step tells of a problem.
type tally struct {
	row          int32
	tries, right int64 // completions without a hint
	hinted       int64 // completions with one
	level        int32 // lowest level of a right one, 0 = none was
}

// tally counts the completions by problem, in the order in which problems first
// appear.
func (v *Visit) tally() ([]tally, error) {
	if len(v.Rows) != len(v.Correct) {
		return nil, fmt.Errorf("%d problem rows for %d verdicts", len(v.Rows), len(v.Correct))
	}
	if v.HintLevel != nil && len(v.HintLevel) != len(v.Correct) {
		return nil, fmt.Errorf("%d hint levels for %d verdicts", len(v.HintLevel), len(v.Correct))
	}
	var tallies []tally
	at := make(map[int32]int)
	for i, row := range v.Rows {
		if row < 0 || int(row) >= len(v.State.Visits) {
			return nil, fmt.Errorf("completion %d belongs to problem row %d of %d", i, row, len(v.State.Visits))
		}
		k, ok := at[row]
		if !ok {
			k = len(tallies)
			at[row], tallies = k, append(tallies, tally{row: row})
		}
		t, level := &tallies[k], int32(0)
		if v.HintLevel != nil {
			level = v.HintLevel[i]
		}
		switch {
		case level == 0 && v.Correct[i]:
			t.tries, t.right = t.tries+1, t.right+1
		case level == 0:
			t.tries++
		default:
			t.hinted++
			if v.Correct[i] && (t.level == 0 || level < t.level) {
				t.level = level
			}
		}
	}
	return tallies, nil
}

// visit updates what is known of a problem by its tries without a hint.
func (p Assessment) visit(v *Visit, t tally, env datasets.Env) {
	s, row := v.State, t.row
	rate := float64(t.right) / float64(t.tries)
	switch {
	case s.Visits[row] == 0:
		s.Average[row], s.Stagnation[row] = rate, 0
	case rate == 1 || rate > s.PassRate[row]:
		s.Stagnation[row] = 0
	default:
		s.Stagnation[row]++
	}
	s.Average[row] += p.Decay * (rate - s.Average[row])
	s.PosteriorAlpha[row] = 1 + p.Forget*(s.PosteriorAlpha[row]-1) + float64(t.right)
	s.PosteriorBeta[row] = 1 + p.Forget*(s.PosteriorBeta[row]-1) + float64(t.tries-t.right)
	s.Visits[row]++
	s.Attempts[row] += t.tries
	s.Successes[row] += t.right
	s.PassRate[row], s.LastStep[row], s.Bucket[row] = rate, int32(env.Step), p.bucket(rate)
	if t.right > 0 && s.HintedStep[row] >= 0 && int(s.HintedStep[row]) < env.Step && s.GraduatedStep[row] < 0 {
		s.GraduatedStep[row] = int32(env.Step)
		v.Metrics["hints/graduated"]++
	}
	bucket := s.Bucket[row]
	if rate == 0 {
		bucket = BucketAllWrong
	}
	v.Metrics["difficulty/"+bucket]++
}

// hint updates what is known of a problem by its tries under hints.
func (v *Visit) hint(t tally, env datasets.Env) {
	v.Metrics["hints/tried"]++
	v.State.HintNeeded[t.row] = t.level
	if t.level > 0 {
		v.State.HintedStep[t.row] = int32(env.Step)
		v.Metrics["hints/solved"]++
		v.Metrics[fmt.Sprintf("hints/level_%d", t.level)]++
	}
}
