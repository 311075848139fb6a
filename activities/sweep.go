package activities

import (
	"context"
	"encoding/json"

	"github.com/gradus-rl/gradus/recipes"
)

// Expand turns what a user gave a sweep into its runs, each of which is checked
// as an experiment checks it: what it refuses never starts.
func (a *Activities) Expand(ctx context.Context, given json.RawMessage) (recipes.Sweep, error) {
	var failed error // of the store
	s, err := recipes.ExpandSweep(given, func(raw []byte) (recipes.Plan, error) {
		opened, _, err := Resolve(ctx, a.Store, OpenInput{Given: raw})
		failed = err
		return opened.Plan, err
	})
	if err != nil && failed == nil {
		err = invalid{err}
	}
	return s, classify(ctx, err)
}
