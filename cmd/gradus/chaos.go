package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/gradus-rl/gradus/chaos"
)

// benchChaos runs experiments under fire. It fails where one ends otherwise than
// its calm twin, or where a planted secret is found; then its folder is kept.
func benchChaos(ctx context.Context, o chaos.Options, text bool, out, progress io.Writer) ([]figure, error) {
	for _, kind := range o.Only {
		if !slices.Contains(chaos.Kinds(), kind) {
			return nil, fmt.Errorf("--fault %q: want one of %v", kind, chaos.Kinds())
		}
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	if o.Dir, err = os.MkdirTemp("", "gradus-chaos-"); err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	o.Program, o.Progress = []string{program}, progress
	r, err := chaos.Bench(ctx, o)
	if err == nil && r.Divergences() > 0 {
		err = fmt.Errorf("chaos: %d experiments ended otherwise under fire", r.Divergences())
	}
	if err == nil && len(r.Leaks) > 0 {
		err = fmt.Errorf("chaos: secrets were found in %v", r.Leaks)
	}
	if text {
		fmt.Fprint(out, r)
	}
	if err != nil {
		err = fmt.Errorf("%w; state and logs are in %s", err, o.Dir)
	} else {
		err = os.RemoveAll(o.Dir)
	}
	if len(r.Pairs) == 0 {
		return nil, errors.Join(err, errors.New("chaos: no experiment was compared"))
	}
	// At one kill a minute 97 % of the time is to be effective; each fault more costs its share.
	lost := 0.03 * max(1, 60/o.Every.Seconds())
	return []figure{
		atLeast("chaos/faults", float64(r.Total()), "faults", 1),
		atMost("chaos/divergences", float64(r.Divergences()), "experiments", 0),
		atLeast("chaos/effective-time", r.EffectiveTime(), "of wall time", max(0, 1-lost)),
	}, err
}
