package workflows

import (
	"testing"

	"github.com/gradus-rl/gradus/activities"
)

// However often a run is evaluated, its curve stays bounded, and goes from the
// first evaluation to the newest.
func TestCurve(t *testing.T) {
	e := &experiment{}
	for e.Step = range 10_000 {
		e.point(&activities.Evaluation{})
		c := e.Result.Curve
		if len(c) > maxCurve || c[0].Step != 0 || c[len(c)-1].Step != e.Step {
			t.Fatalf("after %d evaluations: %d points, from step %d to %d", e.Step+1, len(c), c[0].Step, c[len(c)-1].Step)
		}
	}
}
