//go:build !linux

package reward

import (
	"context"
	"fmt"
	"io"
	"time"
)

// start fails: the sandbox is made of what Linux offers.
func (s Sandbox) start(context.Context, string, string, string, time.Duration, io.Writer) error {
	return fmt.Errorf("%w: programs run on Linux only; use a service", errSandbox)
}
