// Package storetest is the acceptance suite of [datasets.Store]: what every back end
// must do, whatever it keeps its objects in.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// Run runs the suite. open returns an empty store for each call.
func Run(t *testing.T, open func(t *testing.T) datasets.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, datasets.Store)
	}{
		{"put and get", putGet},
		{"absent", absent},
		{"empty object", empty},
		{"large object", large},
		{"ranges", ranges},
		{"put from", putFrom},
		{"put once", putOnce},
		{"put once race", putOnceRace},
		{"put race", putRace},
		{"list", list},
		{"many objects", many},
		{"delete", remove},
		{"keys", keys},
		{"bad keys", badKeys},
		{"owned bytes", owned},
		{"ended context", ended},
		{"address", address},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func want(t *testing.T, s datasets.Store, key string, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("get %q: %d bytes %.60q, want %d bytes %.60q", key, len(got), got, len(data), data)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails checks that err has the reason and names the key.
func fails(t *testing.T, err, reason error, key string) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Fatalf("error %v, want %v", err, reason)
	}
	if !strings.Contains(err.Error(), key) {
		t.Fatalf("error %v does not name %q", err, key)
	}
}

func putGet(t *testing.T, s datasets.Store) {
	for _, text := range []string{"one", "a longer second version", "three", "three"} {
		ok(t, s.Put(t.Context(), "folder/object", []byte(text)))
		want(t, s, "folder/object", []byte(text))
		o, err := s.Stat(t.Context(), "folder/object")
		ok(t, err)
		if o.Key != "folder/object" || o.Bytes != int64(len(text)) || time.Since(o.Modified).Abs() > time.Minute {
			t.Fatalf("stat: %+v, want %d bytes written just now", o, len(text))
		}
	}
}

func absent(t *testing.T, s datasets.Store) {
	ok(t, s.Put(t.Context(), "a/b/object", []byte("x")))
	for _, key := range []string{"none", "a/none", "a/b", "a/b/object2", "a/b/object/deeper"} {
		_, err := s.Get(t.Context(), key)
		fails(t, err, datasets.ErrNotFound, key)
		_, err = s.Stat(t.Context(), key)
		fails(t, err, datasets.ErrNotFound, key)
	}
}

func empty(t *testing.T, s datasets.Store) {
	ok(t, s.Put(t.Context(), "empty/nil", nil))
	ok(t, s.PutOnce(t.Context(), "empty/once", []byte{}))
	want(t, s, "empty/nil", nil)
	want(t, s, "empty/once", nil)
	fails(t, s.PutOnce(t.Context(), "empty/nil", []byte("late")), datasets.ErrExists, "empty/nil")
}

func large(t *testing.T, s datasets.Store) {
	data := make([]byte, 32<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	ok(t, s.Put(t.Context(), "large/put", data))
	want(t, s, "large/put", data)
	ok(t, s.PutOnce(t.Context(), "large/once", data))
	fails(t, s.PutOnce(t.Context(), "large/once", data[1:]), datasets.ErrExists, "large/once")
	want(t, s, "large/once", data)
}

func ranges(t *testing.T, s datasets.Store) {
	ok(t, s.Put(t.Context(), "ranges", []byte("0123456789")))
	for _, c := range []struct {
		offset, n int64
		want      string
	}{{0, 10, "0123456789"}, {3, 4, "3456"}, {8, 5, "89"}, {10, 1, ""}, {99, 7, ""}, {4, 0, ""}} {
		got, err := s.GetRange(t.Context(), "ranges", c.offset, c.n)
		ok(t, err)
		if string(got) != c.want {
			t.Errorf("%d bytes from %d: %q, want %q", c.n, c.offset, got, c.want)
		}
	}
	for _, c := range [][2]int64{{-1, 2}, {0, -1}} {
		if _, err := s.GetRange(t.Context(), "ranges", c[0], c[1]); err == nil {
			t.Errorf("%d bytes from %d are no error", c[1], c[0])
		}
	}
	for _, n := range []int64{0, 5} {
		_, err := s.GetRange(t.Context(), "none", 0, n)
		fails(t, err, datasets.ErrNotFound, "none")
	}
}

// putFrom writes objects of less and of more than a part of an S3 upload.
func putFrom(t *testing.T, s datasets.Store) {
	data := make([]byte, 70<<20+3)
	rng := rand.NewChaCha8([32]byte{2})
	rng.Read(data)
	for _, n := range []int{len(data), 100, 0} { // each in place of the one before
		ok(t, s.PutFrom(t.Context(), "from", bytes.NewReader(data), int64(n)))
		want(t, s, "from", data[:n])
	}
	if err := s.PutFrom(t.Context(), "short", bytes.NewReader(data[:9]), 10); err == nil {
		t.Error("a reader that ends early is no error")
	}
	_, err := s.Get(t.Context(), "short")
	fails(t, err, datasets.ErrNotFound, "short")
}

func putOnce(t *testing.T, s datasets.Store) {
	ok(t, s.PutOnce(t.Context(), "once", []byte("first")))
	fails(t, s.PutOnce(t.Context(), "once", []byte("second")), datasets.ErrExists, "once")
	fails(t, s.PutOnce(t.Context(), "once", []byte("first")), datasets.ErrExists, "once")
	want(t, s, "once", []byte("first"))
	ok(t, s.Put(t.Context(), "once", []byte("third")))
	want(t, s, "once", []byte("third"))
	ok(t, s.Delete(t.Context(), "once"))
	ok(t, s.PutOnce(t.Context(), "once", []byte("fourth")))
	want(t, s, "once", []byte("fourth"))
}

func putOnceRace(t *testing.T, s datasets.Store) {
	const writers = 16
	for round := range 5 {
		key := fmt.Sprintf("race/%d/key.json", round)
		errs := make([]error, writers)
		concurrently(writers, func(i int) {
			errs[i] = s.PutOnce(t.Context(), key, fmt.Appendf(nil, "writer %d", i))
		})
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("writers %d and %d both won", winner, i)
			case err == nil:
				winner = i
			default:
				fails(t, err, datasets.ErrExists, key)
			}
		}
		if winner < 0 {
			t.Fatal("nobody won")
		}
		want(t, s, key, fmt.Appendf(nil, "writer %d", winner))
	}
}

// putRace checks that readers see whole objects while writers replace them.
func putRace(t *testing.T, s datasets.Store) {
	const size = 64 << 10
	ok(t, s.Put(t.Context(), "shared", bytes.Repeat([]byte{'0'}, size)))
	concurrently(4, func(i int) {
		for range 5 {
			if err := s.Put(t.Context(), "shared", bytes.Repeat([]byte{byte('0' + i)}, size)); err != nil {
				t.Error(err)
			}
			got, err := s.Get(t.Context(), "shared")
			if err != nil {
				t.Error(err)
			} else if len(got) != size || !bytes.Equal(got, bytes.Repeat(got[:1], size)) {
				t.Errorf("a mixed or cut object of %d bytes", len(got))
			}
		}
	})
}

func concurrently(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

func list(t *testing.T, s datasets.Store) {
	start := time.Now().Add(-time.Minute)
	sizes := map[string]int64{"a": 1, "ab/c": 2, "ab-c": 3, "ab/d/e": 4, "ab/d/f": 5, "b/0.json": 6, "b/10.json": 7, "b/9.json": 8}
	for key, size := range sizes {
		ok(t, s.Put(t.Context(), key, make([]byte, size)))
	}
	for _, c := range []struct {
		prefix string
		want   []string
	}{
		{"", []string{"a", "ab-c", "ab/c", "ab/d/e", "ab/d/f", "b/0.json", "b/10.json", "b/9.json"}},
		{"a", []string{"a", "ab-c", "ab/c", "ab/d/e", "ab/d/f"}},
		{"ab/", []string{"ab/c", "ab/d/e", "ab/d/f"}},
		{"ab/d", []string{"ab/d/e", "ab/d/f"}},
		{"ab/d/e", []string{"ab/d/e"}},
		{"b/1", []string{"b/10.json"}},
		{"ab/c/", nil},
		{"none/", nil},
		{"none", nil},
	} {
		objects, err := s.List(t.Context(), c.prefix)
		ok(t, err)
		var got []string
		for _, o := range objects {
			got = append(got, o.Key)
			if o.Bytes != sizes[o.Key] {
				t.Errorf("%q has %d bytes, want %d", o.Key, o.Bytes, sizes[o.Key])
			}
			if o.Modified.Before(start) || o.Modified.After(time.Now().Add(time.Minute)) {
				t.Errorf("%q was modified %v, want now", o.Key, o.Modified)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", c.prefix, diff)
		}
	}
}

// many lists more objects than an S3 service gives at once.
func many(t *testing.T, s datasets.Store) {
	const n = 1050
	concurrently(8, func(w int) {
		for i := w; i < n; i += 8 {
			if err := s.Put(t.Context(), fmt.Sprintf("many/%04d", i), []byte{byte(i)}); err != nil {
				t.Error(err)
			}
		}
	})
	objects, err := s.List(t.Context(), "many/")
	ok(t, err)
	if len(objects) != n {
		t.Fatalf("%d objects, want %d", len(objects), n)
	}
	for i, o := range objects {
		if o.Key != fmt.Sprintf("many/%04d", i) {
			t.Fatalf("object %d is %q", i, o.Key)
		}
	}
}

func remove(t *testing.T, s datasets.Store) {
	ok(t, s.Put(t.Context(), "d/one", []byte("1")))
	ok(t, s.Put(t.Context(), "d/two", []byte("2")))
	ok(t, s.Delete(t.Context(), "d/one"))
	_, err := s.Get(t.Context(), "d/one")
	fails(t, err, datasets.ErrNotFound, "d/one")
	want(t, s, "d/two", []byte("2"))
	ok(t, s.Delete(t.Context(), "d/one"))
	ok(t, s.Delete(t.Context(), "never/was/there"))
	ok(t, s.Delete(t.Context(), "d/two"))
	objects, err := s.List(t.Context(), "")
	ok(t, err)
	if len(objects) != 0 {
		t.Fatalf("%d objects left", len(objects))
	}
}

func keys(t *testing.T, s datasets.Store) {
	for _, key := range []string{
		"x", "keys/shared/grpo.advantage/0f.json", "a/b/c/d/e/f/g", "UPPER/lower", "with space/and+plus&amp",
		"percent%2Fslash", "naïve/日本", "tilde~(1)", "q?a=b#c", strings.Repeat("s", 200) + "/" + strings.Repeat("t", 200),
	} {
		ok(t, s.Put(t.Context(), key, []byte(key)))
		want(t, s, key, []byte(key))
		objects, err := s.List(t.Context(), key)
		ok(t, err)
		if len(objects) != 1 || objects[0].Key != key {
			t.Errorf("list %q: %v", key, objects)
		}
	}
}

func badKeys(t *testing.T, s datasets.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", ".hidden", "a/.put-1",
		"a\x00b", "a\nb", `a\b`, "a\xff", strings.Repeat("a/", 500) + "a", strings.Repeat("a", 241),
	} {
		_, err := s.Get(t.Context(), key)
		_, rangeErr := s.GetRange(t.Context(), key, 0, 1)
		for op, err := range map[string]error{
			"get":      err,
			"range":    rangeErr,
			"put from": s.PutFrom(t.Context(), key, strings.NewReader("x"), 1),
			"put":      s.Put(t.Context(), key, []byte("x")),
			"put once": s.PutOnce(t.Context(), key, []byte("x")),
			"delete":   s.Delete(t.Context(), key),
		} {
			if err == nil || errors.Is(err, datasets.ErrNotFound) {
				t.Errorf("%s %q: error %v, want it refused", op, key, err)
			}
		}
	}
	for _, prefix := range []string{"/", "..", "../", "a//", "a/../"} {
		if _, err := s.List(t.Context(), prefix); err == nil {
			t.Errorf("list %q: no error", prefix)
		}
	}
	objects, err := s.List(t.Context(), "")
	ok(t, err)
	if len(objects) != 0 {
		t.Errorf("%d objects were left", len(objects))
	}
}

// owned checks that neither side sees the other's later changes.
func owned(t *testing.T, s datasets.Store) {
	data := []byte("bytes")
	ok(t, s.Put(t.Context(), "owned", data))
	data[0] = 'X'
	got, err := s.Get(t.Context(), "owned")
	ok(t, err)
	got[1] = 'X'
	want(t, s, "owned", []byte("bytes"))
}

func ended(t *testing.T, s datasets.Store) {
	ok(t, s.Put(t.Context(), "kept", []byte("x")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "kept")
	_, listErr := s.List(ctx, "kept")
	for op, err := range map[string]error{
		"get":      getErr,
		"list":     listErr,
		"put":      s.Put(ctx, "kept", []byte("y")),
		"put once": s.PutOnce(ctx, "other", []byte("y")),
		"delete":   s.Delete(ctx, "kept"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want %v", op, err, context.Canceled)
		}
	}
	want(t, s, "kept", []byte("x"))
}

func address(t *testing.T, s datasets.Store) {
	if s.String() == "" {
		t.Error("no address")
	}
}
