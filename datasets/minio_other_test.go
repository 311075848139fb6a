//go:build !linux

package datasets_test

import "os/exec"

// dieWithParent does nothing where there is no death signal: tests stop the server.
func dieWithParent(*exec.Cmd) {}
