package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/serve"
	"github.com/gradus-rl/gradus/stack"
)

// serveKey is the environment variable of the key that gradus serve asks for.
const serveKey = "GRADUS_SERVE_KEY"

func serveCommand(t *target) *cobra.Command {
	var listen, backend, name string
	var rows int
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "serve REF|FOLDER",
		Short: "Serve a policy by the OpenAI protocol until Ctrl-C",
		Long: `Serve a policy, a Ref of the store or a Hugging Face folder, behind /v1/completions and
/v1/chat/completions. With ` + serveKey + ` set, clients give it as their API key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			b, err := policy.OpenBackend(backend)
			if err != nil {
				return err
			}
			store, err := t.openStore(ctx)
			if info, dir := os.Stat(args[0]); err != nil && (dir != nil || !info.IsDir()) { // a folder needs none
				return err
			}
			server, err := serve.New(ctx, args[0], serve.Options{Backend: b, Store: store, Name: name, Rows: rows, Key: os.Getenv(serveKey)})
			if err != nil {
				return err
			}
			defer server.Close()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s as %q at http://%s/v1\n", args[0], name, l.Addr())
			return answer(ctx, &http.Server{Handler: server.Handler(), ReadHeaderTimeout: 10 * time.Second}, l, grace)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8000", "address, host:port; port 0 takes a free one")
	f.StringVar(&backend, "backend", "go", "what computes: go, onnx or xla")
	f.StringVar(&name, "name", "policy", "the model's name in requests")
	f.IntVar(&rows, "batch", 256, "completions generated together at most")
	f.DurationVar(&grace, "grace", 10*time.Second, "how long requests may finish when the server ends")
	return cmd
}

// openStore opens the store that is named, or that of the local stack where one runs.
func (t *target) openStore(ctx context.Context) (datasets.Store, error) {
	if t.store != "" {
		return datasets.Open(ctx, t.store)
	}
	local, err := stack.Attach(t.dir)
	if err != nil {
		return nil, err
	}
	return local.OpenStore(ctx)
}

// answer serves until ctx ends, and then lets requests finish for a while.
func answer(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := s.Shutdown(late)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close() // what did not finish in time is cut off
	}
	<-failed
	return err
}
