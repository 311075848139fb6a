package stack

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func nothing(context.Context) error { return nil }

// sequence executes n activities, one after the other.
func sequence(ctx workflow.Context, n int) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	for range n {
		if err := workflow.ExecuteActivity(ctx, nothing).Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkActivity measures what the server and the SDK add to each activity of a workflow that runs them in sequence.
func BenchmarkActivity(b *testing.B) {
	s, err := Start(b.Context(), Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	c, err := client.Dial(client.Options{
		HostPort: s.Temporal, Namespace: s.Namespace,
		Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	w := worker.New(c, "bench", worker.Options{})
	w.RegisterWorkflow(sequence)
	w.RegisterActivity(nothing)
	if err := w.Start(); err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	run := func(n int) {
		r, err := c.ExecuteWorkflow(b.Context(), client.StartWorkflowOptions{TaskQueue: "bench"}, sequence, n)
		if err == nil {
			err = r.Get(b.Context(), nil)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	run(5)
	b.ResetTimer()
	run(b.N)
}

// BenchmarkStart measures a start and a stop on a new folder.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := Start(b.Context(), Options{UI: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
}
