package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/stack"
	"github.com/gradus-rl/gradus/worker"
)

// target is which Temporal server and store a command works on.
type target struct {
	dir, temporal, namespace, store, output string
}

func defaultDir() string {
	if d := os.Getenv("GRADUS_DIR"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".gradus"
	}
	return filepath.Join(home, ".gradus")
}

// connection is a client of the server and the store, and the local stack
// where this command started or found one.
type connection struct {
	client client.Client
	store  datasets.Store
	stack  *stack.Stack
	ui     string
	owned  bool
}

func (c *connection) Close() error {
	c.client.Close()
	return c.stop()
}

// checkSpace fails where the disk of the local stack is full; of servers of the
// user's own it knows nothing.
func (c *connection) checkSpace() error {
	if c.stack == nil {
		return nil
	}
	return c.stack.CheckSpace()
}

// run is a command's body over a connection; with start, the local stack is
// started for the while where none runs.
func (t *target) run(start bool, do func(context.Context, *connection, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		log, file, err := t.fileLog()
		if err != nil {
			return err
		}
		defer file.Close()
		c, err := t.connect(cmd.Context(), start, cmd.ErrOrStderr(), log)
		if err != nil {
			return err
		}
		return errors.Join(do(cmd.Context(), c, cmd, args), c.Close())
	}
}

func (t *target) checkOutput() error {
	if t.output != "text" && t.output != "json" {
		return fmt.Errorf("--output is %q; it must be text or json", t.output)
	}
	return nil
}

// connect reaches the user's own servers if named, else the local stack; with
// start, it starts that one where none runs.
func (t *target) connect(ctx context.Context, start bool, progress io.Writer, log zerolog.Logger) (*connection, error) {
	if err := t.checkOutput(); err != nil {
		return nil, err
	}
	c := &connection{}
	address, namespace := t.temporal, t.namespace
	var err error
	if t.temporal != "" || t.store != "" {
		if t.temporal == "" || t.store == "" {
			return nil, errors.New("--temporal and --store belong together: give both, or neither for the local stack")
		}
		if c.store, err = datasets.Open(ctx, t.store); err != nil {
			return nil, err
		}
	} else {
		c.stack, err = stack.Attach(t.dir)
		if errors.Is(err, stack.ErrNotRunning) && start {
			c.stack, err = stack.Start(ctx, stack.Options{Dir: t.dir, UI: true, FixedPorts: true, Progress: progress})
			c.owned = err == nil
		}
		if errors.Is(err, stack.ErrNotRunning) {
			return nil, fmt.Errorf("%w; start one by `gradus dev`, or name servers of your own by --temporal and --store", err)
		}
		if err != nil {
			return nil, err
		}
		address, namespace, c.ui = c.stack.Temporal, c.stack.Namespace, c.stack.UI
		if c.store, err = c.stack.OpenStore(ctx); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	if c.client, err = client.DialContext(ctx, client.Options{HostPort: address, Namespace: namespace, Logger: worker.Logger(log)}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to temporal at %s: %w", address, err), c.stop())
	}
	return c, nil
}

func (c *connection) stop() error {
	if c.owned {
		return c.stack.Stop()
	}
	return nil
}

// fileLog is a log in the state folder, for commands whose terminal shows
// something else.
func (t *target) fileLog() (zerolog.Logger, io.WriteCloser, error) {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return zerolog.Nop(), nil, fmt.Errorf("state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(t.dir, "worker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return zerolog.Nop(), nil, fmt.Errorf("log: %w", err)
	}
	return zerolog.New(f).With().Timestamp().Logger().Level(zerolog.DebugLevel), f, nil
}
