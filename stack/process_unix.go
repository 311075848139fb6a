//go:build unix

package stack

import (
	"errors"
	"syscall"
)

// ownGroup makes a child the leader of a new process group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// alive says whether a process exists, this user's or not.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
