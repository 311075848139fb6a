package curriculum

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Difficulty buckets by pass rate p: hard p ≤ Hard, medium p ≤ Medium,
// easy p < 1, solved p = 1. The split is that of CLPO (arXiv:2509.25004).
const (
	BucketUnseen = "unseen"
	BucketHard   = "hard"
	BucketMedium = "medium"
	BucketEasy   = "easy"
	BucketSolved = "solved"
)

// Assessment is the parameters of PassRate.
type Assessment struct {
	Hard   float64 `json:"hard"`   // CLPO's τ_hard, 0.3
	Medium float64 `json:"medium"` // CLPO's upper end of medium, 0.7
	Decay  float64 `json:"decay"`  // weight of the newest pass rate in the moving average, in (0, 1]
}

// Validate names the parameter that is out of range.
func (p Assessment) Validate() error {
	if !(0 <= p.Hard && p.Hard <= p.Medium && p.Medium <= 1) {
		return fmt.Errorf("hard is %v and medium %v; they must satisfy 0 ≤ hard ≤ medium ≤ 1", p.Hard, p.Medium)
	}
	if !(p.Decay > 0 && p.Decay <= 1) {
		return fmt.Errorf("decay is %v; it must be in (0, 1]", p.Decay)
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

// PassRate assesses each problem by the share of its completions that were
// right in this step:
//
//	p = right / tries,    avg ← (1 − decay)·avg + decay·p
//
// The average starts at the first p. Completions of one problem count as one
// visit, however many groups they came in.
var PassRate = Assessor{
	Name: "pass_rate", Paper: "CLPO, arXiv:2509.25004, §3.1 (buckets)", Version: 1,
	Reads: []string{"correct"}, Writes: []string{"assessments"},
	Defaults: assessDefaults,
	Bind:     datasets.Bind(assessDefaults, Assessment.assess),
}

var assessDefaults = Assessment{Hard: 0.3, Medium: 0.7, Decay: 0.3}

func (p Assessment) assess(v *Visit, env datasets.Env) error {
	if len(v.Rows) != len(v.Correct) {
		return fmt.Errorf("%d problem rows for %d verdicts", len(v.Rows), len(v.Correct))
	}
	s := v.State
	type tally struct{ tries, right int64 }
	seen := make(map[int32]tally)
	var order []int32
	for i, row := range v.Rows {
		if row < 0 || int(row) >= len(s.Visits) {
			return fmt.Errorf("completion %d belongs to problem row %d of %d", i, row, len(s.Visits))
		}
		t, ok := seen[row]
		if !ok {
			order = append(order, row)
		}
		t.tries++
		if v.Correct[i] {
			t.right++
		}
		seen[row] = t
	}
	for _, row := range order {
		t := seen[row]
		rate := float64(t.right) / float64(t.tries)
		if s.Visits[row] == 0 {
			s.Average[row] = rate
		} else {
			s.Average[row] += p.Decay * (rate - s.Average[row])
		}
		s.Visits[row]++
		s.Attempts[row] += t.tries
		s.Successes[row] += t.right
		s.PassRate[row], s.LastStep[row], s.Bucket[row] = rate, int32(env.Step), p.bucket(rate)
	}
	return nil
}
