package datasets

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// KindBlob is the [Ref] kind of bytes that are not a table.
const KindBlob = "blob"

// Ref is the content address of an object in a [Store]. It is small enough to pass
// through workflow history, and it never goes stale: the object under a hash is
// either these bytes or an [ErrCorrupt].
type Ref struct {
	Hash  string `json:"hash"`           // SHA-256 of the stored bytes, 64 lower-case hex digits
	Rows  int64  `json:"rows,omitempty"` // rows of a table, 0 for a blob
	Bytes int64  `json:"bytes"`          // size of the stored object
	Kind  string `json:"kind"`           // kind of table, as in "rollouts/1", or "blob" or another word without a slash
}

// IsZero reports whether r addresses nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String is the form that [ParseRef] reads: kind:rows:bytes:hash. The zero Ref is "".
func (r Ref) String() string {
	if r.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d:%s", r.Kind, r.Rows, r.Bytes, r.Hash)
}

// ParseRef reads the form that [Ref.String] writes. Anything else is an error that
// says which part is wrong.
func ParseRef(s string) (Ref, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 4 {
		return Ref{}, fmt.Errorf("ref %.100q: want kind:rows:bytes:hash", s)
	}
	rows, err := parseCount(parts[1])
	if err != nil {
		return Ref{}, fmt.Errorf("ref %.100q: rows: %w", s, err)
	}
	size, err := parseCount(parts[2])
	if err != nil {
		return Ref{}, fmt.Errorf("ref %.100q: bytes: %w", s, err)
	}
	r := Ref{Kind: parts[0], Rows: rows, Bytes: size, Hash: parts[3]}
	if err := r.check(); err != nil {
		return Ref{}, err
	}
	return r, nil
}

// parseCount reads a non-negative decimal in its only spelling, so that equal Refs
// have equal strings.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a count", s)
	}
	return n, nil
}

// check reports what makes r unusable as an address.
func (r Ref) check() error {
	switch raw, err := hex.DecodeString(r.Hash); {
	case err != nil || len(raw) != 32 || strings.ToLower(r.Hash) != r.Hash:
		return fmt.Errorf("ref: hash %.80q is not 64 lower-case hex digits", r.Hash)
	case r.Kind == "" || strings.Trim(r.Kind, "abcdefghijklmnopqrstuvwxyz0123456789_-/") != "":
		return fmt.Errorf("ref: kind %.80q is not a kind", r.Kind)
	case r.Rows < 0 || r.Bytes < 0:
		return fmt.Errorf("ref: negative size in %d rows, %d bytes", r.Rows, r.Bytes)
	}
	return nil
}

// object is the store key of the bytes that r addresses. Kinds of tables carry a
// version after a slash; other kinds are blobs.
func (r Ref) object() string {
	if strings.Contains(r.Kind, "/") {
		return "objects/" + r.Hash + ".arrow"
	}
	return "objects/" + r.Hash
}
