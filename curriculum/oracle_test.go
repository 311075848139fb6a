package curriculum

import (
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

// Of two levels, one solved and one open, the open one is posed; where nothing
// is known both are.
func TestOracle(t *testing.T) {
	levels := make([]int32, 100)
	for i := range levels {
		levels[i] = int32(i % 2)
	}
	share := func(known map[int32]float64) (open int) {
		p := &Pose{Problems: len(levels), Levels: levels, State: NewState(len(levels)), Groups: 40, Known: known}
		if err := datasets.Run(Proposers(), []datasets.Call{{Stage: "oracle", Params: []byte(`{"explore":0}`)}}, p, datasets.Env{Seed: 1}); err != nil {
			t.Fatal(err)
		}
		if len(p.Rows) != 40 || p.Posed != 40 {
			t.Fatalf("%d groups, cursor %d; want 40", len(p.Rows), p.Posed)
		}
		for _, r := range p.Rows {
			open += int(levels[r])
		}
		return open
	}
	if got := share(map[int32]float64{0: 1, 1: 0.5}); got != 40 {
		t.Errorf("%d of 40 groups are of the open level, want all", got)
	}
	if got := share(nil); got < 10 || got > 30 {
		t.Errorf("%d of 40 groups are of one of two unknown levels", got)
	}
	bad := &Pose{Problems: 2, State: NewState(2), Groups: 1}
	if err := datasets.Run(Proposers(), []datasets.Call{{Stage: "oracle"}}, bad, datasets.Env{}); err == nil {
		t.Error("a set without levels is accepted")
	}
}
