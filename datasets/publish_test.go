package datasets_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

func TestPublish(t *testing.T) {
	ctx, s := t.Context(), datasets.NewMemory()
	first, err := datasets.SaveBlob(ctx, s, []byte("first"))
	noError(t, err)
	second, err := datasets.SaveBlob(ctx, s, []byte("second"))
	noError(t, err)
	resolve := func(name string) datasets.Ref {
		t.Helper()
		r, err := datasets.Resolve(ctx, s, name)
		noError(t, err)
		return r
	}
	noError(t, datasets.Publish(ctx, s, "sums", first))
	noError(t, datasets.Publish(ctx, s, "sums", first))
	equal(t, "current", first, resolve("sums"))
	noError(t, datasets.Publish(ctx, s, "sums", second))
	equal(t, "current", second, resolve("sums"))
	equal(t, "version 1", first, resolve("sums@1"))
	equal(t, "version 2", second, resolve("sums@2"))
	noError(t, datasets.Publish(ctx, s, "sums", first)) // back again
	equal(t, "current", first, resolve("sums"))
	equal(t, "by Ref", second, resolve(second.String()))

	noError(t, datasets.Publish(ctx, s, "gsm8k_train", second))
	noError(t, datasets.Publish(ctx, s, "sums-2", second)) // a name that starts like another
	all, err := datasets.Published(ctx, s)
	noError(t, err)
	var got []string
	for _, n := range all {
		got = append(got, fmt.Sprint(n.Name, "@", n.Version, " ", n.Ref == second, n.Modified.IsZero()))
	}
	equal(t, "published", []string{"gsm8k_train@1 true false", "sums@3 false false", "sums-2@1 true false"}, got)

	for _, name := range []string{"", "a/b", "a:b", "../x", ".x", "a@1", "with space"} {
		if err := datasets.Publish(ctx, s, name, first); err == nil {
			t.Errorf("publish %q: no error", name)
		}
	}
	if err := datasets.Publish(ctx, s, "gone", datasets.Ref{Hash: someHash, Kind: datasets.KindProblems}); !errors.Is(err, datasets.ErrNotFound) {
		t.Errorf("publish what is not stored: %v", err)
	}
	for _, name := range []string{"nobody", "sums@4"} {
		if _, err := datasets.Resolve(ctx, s, name); !errors.Is(err, datasets.ErrNotFound) {
			t.Errorf("resolve %q: %v", name, err)
		}
	}
	for _, name := range []string{"", "sums@", "sums@0", "sums@x", "a/b", "x:y"} {
		if _, err := datasets.Resolve(ctx, s, name); err == nil || errors.Is(err, datasets.ErrNotFound) {
			t.Errorf("resolve %q: %v", name, err)
		}
	}
	noError(t, s.Put(ctx, "problems/sums/000004.json", []byte(`{"hash":1}`)))
	if _, err := datasets.Resolve(ctx, s, "sums"); !errors.Is(err, datasets.ErrCorrupt) {
		t.Errorf("corrupt: %v", err)
	}
}

// Each of several publishers at once gets a version.
func TestPublishRace(t *testing.T) {
	s, ctx := datasets.NewMemory(), context.Background()
	var all sync.WaitGroup
	const n = 8
	for i := range n {
		r, err := datasets.SaveBlob(ctx, s, []byte{byte(i)})
		noError(t, err)
		all.Go(func() {
			if err := datasets.Publish(ctx, s, "set", r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	published, err := datasets.Published(ctx, s)
	noError(t, err)
	equal(t, "versions", n, published[0].Version)
}
