package main

import (
	"context"
	"fmt"

	"github.com/temporalio/ui-server/v2/server"
	"github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
)

// startUI starts the Temporal UI and returns when it answers.
func startUI(ctx context.Context, p ports) (*server.Server, error) {
	ui := server.NewServer(server_options.WithConfigProvider(&config.Config{
		TemporalGRPCAddress: loopback(p.frontend),
		Host:                "127.0.0.1",
		Port:                p.ui,
		EnableUI:            true,
		DefaultNamespace:    namespace,
		DisableNewsFetch:    true,
		HideLogs:            true,
		CORS:                config.CORS{CookieInsecure: true}, // plain HTTP on the loopback interface
	}))
	failed := make(chan error, 1)
	go func() {
		if err := ui.Start(); err != nil {
			failed <- err
		}
	}()
	if err := awaitPort(ctx, p.ui, failed); err != nil {
		return nil, fmt.Errorf("temporal UI: %w", err)
	}
	return ui, nil
}
