package datasets

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestClassifyFile(t *testing.T) {
	reasons := []error{ErrNotFound, ErrExists, ErrDenied, ErrNoSpace, ErrUnavailable}
	for number, want := range map[syscall.Errno]error{
		syscall.ENOENT: ErrNotFound, syscall.ENOTDIR: ErrNotFound, syscall.EEXIST: ErrExists, syscall.EACCES: ErrDenied,
		syscall.EROFS: ErrDenied, syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrNoSpace, syscall.EIO: ErrUnavailable, syscall.EMFILE: nil,
	} {
		err := classifyFile(&os.PathError{Op: "write", Path: "p", Err: number})
		for _, reason := range reasons {
			if errors.Is(err, reason) != (reason == want) {
				t.Errorf("%v: %v, want %v", number, err, want)
			}
		}
		if !errors.Is(err, number) {
			t.Errorf("%v lost its cause: %v", number, err)
		}
	}
	if err := classifyFile(nil); err != nil {
		t.Errorf("nil: %v", err)
	}
}
