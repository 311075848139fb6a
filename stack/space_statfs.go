//go:build linux || darwin || freebsd

package stack

import "syscall"

// space is how many bytes a user may still write on the disk of a folder.
func space(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return uint64(max(0, s.Bavail)) * uint64(s.Bsize), nil
}
