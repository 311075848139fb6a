package simulate

import (
	"context"
	"flag"
	"testing"
)

var (
	schedules = flag.Int("schedules", 300, "schedules that TestSchedules runs")
	seed      = flag.Uint64("seed", 1, "of the first schedule")
)

// Whatever fails, an experiment ends with what a calm one ends with.
func TestSchedules(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := Run(ctx, *seed, *schedules, 1, func(d Divergence) {
		t.Errorf("%s\n%s\n%s", d.Schedule, d.Faults, d.Difference)
		cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d schedules, %d faults: %s", r.Schedules, r.Faults.Total(), r.Faults)
	for f, n := range r.Faults {
		if n == 0 && !t.Failed() && *schedules >= 300 {
			t.Errorf("no schedule has the fault %s", Fault(f))
		}
	}
}

// Schedules that once diverged: a rate that read a step count on which nothing
// depends, and a record that was written twice, the first time by who was given up.
func TestFoundSchedules(t *testing.T) {
	for _, seed := range []uint64{5305, 26909, 31198} {
		if _, err := Run(t.Context(), seed, 1, 1, func(d Divergence) {
			t.Errorf("%s\n%s\n%s", d.Schedule, d.Faults, d.Difference)
		}); err != nil {
			t.Error(err)
		}
	}
}
