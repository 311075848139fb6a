package datasets_test

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the child when the test dies without cleaning up.
func dieWithParent(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
