package activities

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/datasets"
)

// Work that stops getting on is given up and left behind; when too many hang, the
// process is told. What gets on slowly is left alone.
func TestGuardGivesUpWhatStalls(t *testing.T) { synctest.Test(t, guardGivesUp) }

// guardGivesUp is on a clock of its own, on which a busy machine stalls nothing.
func guardGivesUp(t *testing.T) {
	hung := make(chan error, 10)
	a := &Activities{Log: zerolog.Nop(), Stall: 20 * time.Millisecond, Hung: func(err error) { hung <- err }}
	release := make(chan struct{})
	stuck := func(ctx context.Context) (datasets.Result, error) {
		<-release
		return datasets.Result{}, ctx.Err()
	}
	for i := range maxStalled {
		if len(hung) > 0 {
			t.Errorf("told after %d", i)
		}
		if _, err := a.guard(t.Context(), "update", stuck); !errors.Is(err, errStalled) {
			t.Errorf("a stage that hangs: %v", err)
		}
	}
	if err := <-hung; !strings.Contains(err.Error(), "update") {
		t.Errorf("told %v, want the stage", err)
	}
	close(release)
	for a.stalled.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
	r, err := a.guard(t.Context(), "rollout", func(ctx context.Context) (datasets.Result, error) {
		for range 20 {
			time.Sleep(5 * time.Millisecond)
			datasets.Progress(ctx)
		}
		return datasets.Result{Run: "done"}, ctx.Err()
	})
	if err != nil || r.Run != "done" {
		t.Errorf("a slow stage: %v, %v", r, err)
	}
}

func TestGuardCatchesPanics(t *testing.T) {
	a := &Activities{Log: zerolog.Nop()}
	_, err := a.guard(t.Context(), "select", func(context.Context) (datasets.Result, error) { panic("oh") })
	if !errors.Is(err, errPanic) || !strings.Contains(err.Error(), "oh") {
		t.Errorf("got %v", err)
	}
}
