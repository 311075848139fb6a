package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

var errPortTaken = errors.New("port taken")

// ports are where the services listen, all on the loopback interface. The last three are internal to Temporal.
type ports struct {
	frontend, ui, s3          int
	history, matching, worker int
}

// choosePorts settles all ports at once: the ones asked for, else the standard ones where preferred and free, else free ones.
// The sockets are given back before the services open them again, so another process can still win a port;
// the service then reports it and the start is repeated by the parent.
func choosePorts(o options) (p ports, err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	hold := func(l net.Listener) int {
		held = append(held, l)
		return l.Addr().(*net.TCPAddr).Port
	}
	for _, want := range []struct {
		port            *int
		name            string
		asked, standard int
	}{
		{&p.frontend, "Temporal", o.temporalPort, 7233},
		{&p.ui, "the Temporal UI", o.uiPort, 8233},
		{&p.s3, "the object store", o.s3Port, 9000},
		{port: &p.history}, {port: &p.matching}, {port: &p.worker},
	} {
		switch {
		case want.asked != 0:
			l, err := net.Listen("tcp4", loopback(want.asked))
			if err != nil {
				return p, fmt.Errorf("%w: port %d, asked for %s: %w", errPortTaken, want.asked, want.name, err)
			}
			*want.port = hold(l)
			continue
		case o.standardPorts && want.standard != 0:
			if l, err := net.Listen("tcp4", loopback(want.standard)); err == nil {
				*want.port = hold(l)
				continue
			}
		}
		l, err := net.Listen("tcp4", loopback(0))
		if err != nil {
			return p, fmt.Errorf("free port: %w", err)
		}
		*want.port = hold(l)
	}
	return p, nil
}

// loopback is the address of a port of this machine.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// awaitPort returns when something accepts connections on the port, or with what failed said first.
func awaitPort(ctx context.Context, port int, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if c, err := net.DialTimeout("tcp4", loopback(port), time.Second); err == nil {
			return c.Close()
		}
		select {
		case err := <-failed:
			return fmt.Errorf("port %d: %w", port, err)
		case <-ctx.Done():
			return fmt.Errorf("port %d: nothing answers: %w", port, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
