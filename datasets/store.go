package datasets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Store keeps objects under keys. All implementations pass one acceptance suite
// (package storetest), and all methods may be called concurrently.
//
// A key is a relative path of one or more segments joined by single slashes. A
// segment is not empty, does not start with a dot and holds no control character
// or backslash. One key must not be a folder of another ("a" beside "a/b"): file
// systems cannot hold both. Keys that break the first rule are refused by every
// method.
//
// Errors wrap [ErrNotFound], [ErrExists], [ErrDenied], [ErrUnavailable] or
// [ErrNoSpace] where one of them is the reason, and the context's error when it
// ended. They name the operation and the key and never hold a credential.
type Store interface {
	// Get returns the object under key, or ErrNotFound. The caller owns the bytes.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns n bytes of the object under key from offset on, fewer where
	// the object ends before; at or behind its end none. Neither may be negative.
	GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error)
	// Put writes the object under key, replacing what is there. It is atomic, a
	// reader sees the old bytes or the new, and idempotent. data is not retained.
	Put(ctx context.Context, key string, data []byte) error
	// PutFrom is Put of the size bytes that r has, without holding all of them in
	// memory; it may read parts of r several times and at once.
	PutFrom(ctx context.Context, key string, r io.ReaderAt, size int64) error
	// PutOnce is Put where nothing is there yet, else ErrExists: of any number of
	// concurrent calls for one key exactly one succeeds. A call whose answer is
	// lost on the network may be retried inside and report ErrExists for its own
	// write, so callers treat ErrExists as "it is there now".
	PutOnce(ctx context.Context, key string, data []byte) error
	// Stat describes the object under key, or ErrNotFound.
	Stat(ctx context.Context, key string) (Object, error)
	// List returns the objects whose key starts with prefix, sorted by key. The
	// prefix is a string prefix: it may end within a segment, or be empty.
	List(ctx context.Context, prefix string) ([]Object, error)
	// Delete removes the object under key. An absent key is no error.
	Delete(ctx context.Context, key string) error
	// String is the store's address, in the form [Open] reads, without secrets.
	String() string
}

// Object describes a stored object.
type Object struct {
	Key      string
	Bytes    int64
	Modified time.Time // when it was last written, by the store's clock
}

// The closed list of reasons for which a store fails.
var (
	ErrNotFound    = errors.New("not found")                          // no object under the key
	ErrExists      = errors.New("already exists")                     // PutOnce on a key that is taken
	ErrCorrupt     = errors.New("corrupt")                            // the bytes are not those that were written
	ErrDenied      = errors.New("access denied")                      // credentials or permissions refused
	ErrUnavailable = errors.New("store unavailable")                  // down, unreachable or overloaded
	ErrNoSpace     = errors.New("no space left in the store")         // disk or quota full
	errKey         = errors.New("not a key: want segments such as " + // a key outside the contract
		`"keys/shared/rollout/1a2b.json", none empty or starting with a dot`)
)

// checkKey refuses what is outside the contract of [Store].
func checkKey(key string) error {
	if len(key) > 900 || !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return errKey
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment[0] == '.' || len(segment) > 240 {
			return errKey
		}
	}
	return nil
}

// checkPrefix accepts what keys can start with.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkKey(strings.TrimSuffix(prefix, "/"))
}

// guard is the common entry of all operations: it refuses bad keys and ended contexts.
func guard(ctx context.Context, op, key string, check func(string) error) error {
	err := check(key)
	if err == nil {
		err = ctx.Err()
	}
	return opError(op, key, err)
}

// checkRange refuses a range that lies before the object.
func checkRange(op, key string, offset, n int64) error {
	if offset < 0 || n < 0 {
		return opError(op, key, fmt.Errorf("a range of %d bytes from %d", n, offset))
	}
	return nil
}

// opError names the operation and key of err; nil stays nil.
func opError(op, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %.200q: %w", op, key, err)
}
