// Command devstack is the local stack of Gradus in one process: a Temporal server on SQLite, the Temporal UI, and an S3 gateway
// on a folder. Everything listens on the loopback interface only and keeps its state under one folder, so that a second start
// on the same folder finds workflows and objects again.
//
// It is a module of its own because the Temporal server alone links some two hundred modules; the stack package of the main
// module builds, starts and stops it. The contract between the two:
//
//   - standard output carries one line, a JSON object, once every service answers; nothing else is ever written there;
//   - the state file (mode 0600) has the same fields and the credentials of the gateway, and is removed on a clean stop;
//   - end of file on standard input means that the parent is gone: the stack stops, as it does on SIGINT and SIGTERM;
//   - standard error carries one line that says what went wrong; what the services log goes to temporal.log in the folder.
//
// The exit status is 0 after a clean stop, 1 after a failure, 2 for wrong flags, 3 when the folder is in use by another stack
// and 4 when a port is taken.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Exit statuses, read by the stack package.
const (
	exitFailure    = 1
	exitUsage      = 2
	exitDirInUse   = 3
	exitPortsTaken = 4
)

// stopLimit bounds a stop, clean or not. It is shorter than what the parent waits before it kills.
const stopLimit = 25 * time.Second

// options are the command line.
type options struct {
	dir           string
	stateFile     string
	temporalPort  int
	uiPort        int
	s3Port        int
	standardPorts bool
	noUI          bool
}

func main() {
	// The services print to the terminal here and there. Both names are pointed at the log as soon as there is one;
	// the two handles kept here are the only way to the parent.
	stdout, stderr := os.Stdout, os.Stderr
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, stdout, stderr)
	switch {
	case err == nil:
		return
	case errors.Is(err, flag.ErrHelp):
		os.Exit(exitUsage)
	}
	fmt.Fprintln(stderr, "devstack:", err)
	switch {
	case errors.Is(err, errUsage):
		os.Exit(exitUsage)
	case errors.Is(err, errDirInUse):
		os.Exit(exitDirInUse)
	case errors.Is(err, errPortTaken):
		os.Exit(exitPortsTaken)
	}
	os.Exit(exitFailure)
}

var errUsage = errors.New("wrong usage")

// parse reads the command line.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("devstack", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.dir, "dir", "", "state folder; empty: a temporary one, removed at the end")
	flags.StringVar(&o.stateFile, "state-file", "", "where to write endpoints and credentials (default <dir>/stack.json)")
	flags.IntVar(&o.temporalPort, "temporal-port", 0, "port of the Temporal frontend; 0: a free one")
	flags.IntVar(&o.uiPort, "ui-port", 0, "port of the Temporal UI; 0: a free one")
	flags.IntVar(&o.s3Port, "s3-port", 0, "port of the S3 gateway; 0: a free one")
	flags.BoolVar(&o.standardPorts, "standard-ports", false, "where a port is 0, prefer 7233, 8233 and 9000 if they are free")
	flags.BoolVar(&o.noUI, "no-ui", false, "do not start the Temporal UI")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%w: unexpected argument %q", errUsage, flags.Arg(0))
	}
	for name, port := range map[string]int{"temporal-port": o.temporalPort, "ui-port": o.uiPort, "s3-port": o.s3Port} {
		if port < 0 || port > 65535 {
			return o, fmt.Errorf("%w: -%s %d is not a port (0 to 65535)", errUsage, name, port)
		}
	}
	return o, nil
}

// run starts the stack, announces it and serves until ctx ends, stdin is closed or a service fails.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	// A service that hangs, while it starts or stops, must not outlive the parent either.
	context.AfterFunc(ctx, func() {
		time.AfterFunc(stopLimit, func() {
			fmt.Fprintf(stderr, "devstack: not stopped after %s, giving up\n", stopLimit)
			os.Exit(exitFailure)
		})
	})

	folder, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.close()) }()
	if o.stateFile == "" {
		o.stateFile = folder.path("stack.json")
	} else if o.stateFile, err = filepath.Abs(o.stateFile); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	logFile, err := openLog(folder.path("temporal.log"))
	if err != nil {
		return err
	}
	os.Stdout, os.Stderr = logFile, logFile

	keys, err := loadCredentials(folder.path("credentials.json"))
	if err != nil {
		return err
	}
	ports, err := choosePorts(o)
	if err != nil {
		return err
	}

	gateway, err := startGateway(ctx, folder.dir, ports.s3, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gateway.stop()) }()
	server, err := startTemporal(ctx, folder.dir, ports, logFile.Name(), stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if !o.noUI {
		ui, err := startUI(ctx, ports)
		if err != nil {
			return err
		}
		defer ui.Stop()
	}

	s := newState(folder.dir, ports, !o.noUI)
	if err := s.withKeys(keys).write(o.stateFile); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeIfPresent(o.stateFile)) }()
	if err := json.NewEncoder(stdout).Encode(s); err != nil {
		return fmt.Errorf("announce: %w", err)
	}

	select {
	case <-ctx.Done():
		return nil
	case err := <-gateway.failed:
		return fmt.Errorf("object store: %w", err)
	}
}
