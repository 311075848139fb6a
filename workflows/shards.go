package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
)

// shard is one piece of a rollout: an activity or, where the first is overdue,
// two for the same result, of which the first answer counts.
type shard struct {
	tries []try
	done  bool
	out   activities.Output
	ended time.Duration // since the rollout began
	took  time.Duration // to the answer that counts: its own work, and the wait before it was issued
}

// try is one activity of a shard.
type try struct {
	future workflow.Future
	cancel workflow.CancelFunc
	issued time.Duration // since the rollout began
}

// minOverdue is what a shard may take at least before it is issued again.
const minOverdue = 2 * time.Second

// shards has the shards of a rollout drawn, one activity each. With speculate, a
// shard that is overdue is issued a second time: both compute the same key, so
// which of them answers makes no difference to the result.
func (e *experiment) shards(ctx workflow.Context, in activities.RolloutInput) ([]shard, error) {
	begin, factor := workflow.Now(ctx), e.plan().Speculate
	all := make([]shard, in.Shards)
	start := func(i int) try {
		in := in
		in.Shard = i
		c, cancel := workflow.WithCancel(ctx)
		return try{workflow.ExecuteActivity(e.on(c, QueueRollout), acts.Rollout, in), cancel, workflow.Now(ctx).Sub(begin)}
	}
	for i := range all {
		all[i].tries = append(all[i].tries, start(i))
	}
	alarmed, quiet := workflow.WithCancel(ctx)
	defer quiet()
	var alarm workflow.Future
	for left := len(all); left > 0; {
		if err := workflow.Await(ctx, func() bool {
			return alarm != nil && alarm.IsReady() || slices.ContainsFunc(all, func(s shard) bool { return !s.done && s.ready() != nil })
		}); err != nil {
			return nil, err
		}
		if alarm != nil && alarm.IsReady() {
			alarm = nil
		}
		now := workflow.Now(ctx).Sub(begin)
		for i := range all {
			s := &all[i]
			first := s.ready()
			if s.done || first == nil {
				continue
			}
			if err := e.await(ctx, first.future, func() workflow.Future { return start(i).future }, &s.out); err != nil {
				return nil, err
			}
			left--
			s.done, s.ended, s.took = true, now, first.issued+seconds(s.out.Seconds)
			for _, t := range s.tries {
				t.cancel() // of those that have no answer yet
			}
		}
		if factor == 0 || left == 0 || 2*left > len(all) {
			continue
		}
		next, ok := time.Duration(0), false
		for i, due := range deadlines(all, factor) {
			switch s := &all[i]; {
			case s.done || len(s.tries) > 1:
			case due <= now:
				s.tries = append(s.tries, start(i))
				e.Result.Reissued++
			case !ok || due < next:
				next, ok = due, true
			}
		}
		if ok && alarm == nil {
			alarm = workflow.NewTimer(alarmed, next-now)
		}
	}
	return all, nil
}

// ready is the first try that has an answer, nil where none has.
func (s *shard) ready() *try {
	for i := range s.tries {
		if s.tries[i].future.IsReady() {
			return &s.tries[i]
		}
	}
	return nil
}

// deadlines is, for each shard that is not done, when it will have run for factor
// times the median of all, of which those that are not done are the longest. When
// one began nobody tells; at the latest it was when one began that was issued after
// it, or, if it has begun at all, when the last one ended and left a worker free.
func deadlines(all []shard, factor float64) []time.Duration {
	var took []time.Duration
	began := time.Duration(0)
	for _, s := range all {
		if s.done {
			took, began = append(took, seconds(s.out.Seconds)), max(began, s.ended)
		}
	}
	slices.Sort(took)
	limit := max(minOverdue, time.Duration(factor*float64(took[(len(all)-1)/2])))
	due := make([]time.Duration, len(all))
	for i := len(all) - 1; i >= 0; i-- {
		if s := all[i]; s.done {
			began = min(began, s.ended-seconds(s.out.Seconds))
		}
		due[i] = began + limit
	}
	return due
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
