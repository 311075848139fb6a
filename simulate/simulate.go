package simulate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Divergence is a schedule whose experiment did not end as a calm one does.
type Divergence struct {
	Schedule   Schedule
	Faults     Counts // that took place
	Difference string // the first there is
}

// Report is what a number of schedules came to.
type Report struct {
	Schedules   int     `json:"schedules"`
	Faults      Counts  `json:"-"`
	Divergences int     `json:"divergences"`
	Seconds     float64 `json:"seconds"` // wall time
}

// Run runs the schedules of n seeds from first on, parallel of them at a time, until
// ctx ends, and tells of those that diverge. An error is one of the simulation
// itself, or of a calm run that is wrong in itself.
func Run(ctx context.Context, first uint64, n, parallel int, tell func(Divergence)) (Report, error) {
	s, begin := NewSimulator(), time.Now()
	var mu sync.Mutex
	var r Report
	var failed error
	var next atomic.Int64
	var all sync.WaitGroup
	for range max(1, parallel) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				c, err := Draw(first + uint64(i))
				var difference string
				var counts Counts
				if err == nil {
					difference, counts, err = s.Run(c)
				}
				mu.Lock()
				if err != nil {
					if failed == nil {
						failed = err
					}
					next.Store(int64(n))
				}
				r.Schedules++
				for f, v := range counts {
					r.Faults[f] += v
				}
				if difference != "" {
					r.Divergences++
					tell(Divergence{c, counts, difference})
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r.Seconds = time.Since(begin).Seconds()
	return r, failed
}
