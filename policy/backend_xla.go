//go:build xla

package policy

import (
	"github.com/gomlx/compute"
	_ "github.com/gomlx/go-xla/compute/xla" // registers "xla"
)

func openXLA(options string) (compute.Backend, error) {
	if options == "" {
		options = "cpu"
	}
	return compute.NewWithConfig("xla:" + options)
}
