package datasets_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/storetest"
)

// fetches counts what a store is asked for.
type fetches struct {
	datasets.Store
	mu   sync.Mutex
	keys []string
}

func (f *fetches) Get(ctx context.Context, key string) ([]byte, error) {
	f.mu.Lock()
	f.keys = append(f.keys, key)
	f.mu.Unlock()
	return f.Store.Get(ctx, key)
}

func newCache(t *testing.T, s datasets.Store, folder string, size int64) *datasets.Cache {
	t.Helper()
	c, err := datasets.NewCache(s, folder, size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCacheIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) datasets.Store { return newCache(t, datasets.NewMemory(), t.TempDir(), 1<<20) })
}

// What was read once comes from the folder, by whichever process; what is damaged
// there is had anew; what only the store says is what counts.
func TestCache(t *testing.T) {
	s, folder := &fetches{Store: datasets.NewMemory()}, t.TempDir()
	ref, err := datasets.SaveBlob(t.Context(), s, []byte("weights"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(c *datasets.Cache) {
		t.Helper()
		if data, err := datasets.LoadBlob(t.Context(), c, ref); err != nil || string(data) != "weights" {
			t.Fatalf("read %q, %v", data, err)
		}
	}
	first, second := newCache(t, s, folder, 1<<20), newCache(t, s, folder, 1<<20)
	read(first)
	read(first)
	read(second)
	if disk, store := first.Hits(); len(s.keys) != 1 || disk != 1 || store != 1 {
		t.Errorf("the store was asked for %v; %d from the folder, %d from the store", s.keys, disk, store)
	}
	file := filepath.Join(folder, "objects", ref.Hash)
	if err := os.WriteFile(file, []byte("weightz"), 0o600); err != nil {
		t.Fatal(err)
	}
	read(second)
	read(first)
	if len(s.keys) != 2 {
		t.Errorf("with a damaged file the store was asked for %v", s.keys)
	}
	// Corrupt in the store itself: said so, and not kept.
	other, err := datasets.SaveBlob(t.Context(), s, []byte("other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "objects/"+other.Hash, []byte("othel")); err != nil {
		t.Fatal(err)
	}
	if _, err := datasets.LoadBlob(t.Context(), first, other); !errors.Is(err, datasets.ErrCorrupt) {
		t.Errorf("got %v, want it to be corrupt", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "objects", other.Hash)); !errors.Is(err, os.ErrNotExist) {
		t.Error("corrupt bytes were kept")
	}
}

// The folder stays within its bound, whoever writes to it, and loses what was not
// read for the longest time.
func TestCacheEvicts(t *testing.T) {
	s, folder := datasets.NewMemory(), t.TempDir()
	var refs []datasets.Ref
	for i := range 8 {
		ref, err := datasets.SaveBlob(t.Context(), s, fmt.Appendf(make([]byte, 100), "%03d", i))
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	kept := func() (names []string) {
		files, err := os.ReadDir(filepath.Join(folder, "objects"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, f.Name())
		}
		return names
	}
	load := func(c *datasets.Cache, i int) {
		t.Helper()
		if _, err := datasets.LoadBlob(t.Context(), c, refs[i]); err != nil {
			t.Fatal(err)
		}
	}
	c := newCache(t, s, folder, 350)
	for i := range 3 {
		load(c, i)
		old := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(folder, "objects", refs[i].Hash), old, old); err != nil {
			t.Fatal(err)
		}
	}
	load(c, 0)
	load(c, 3)
	want := []string{refs[0].Hash, refs[2].Hash, refs[3].Hash}
	slices.Sort(want)
	if got := kept(); !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	var all sync.WaitGroup
	for range 4 {
		c := newCache(t, s, folder, 350)
		all.Go(func() {
			for i := range 200 {
				if _, err := datasets.LoadBlob(t.Context(), c, refs[i*7%8]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	load(newCache(t, s, folder, 350), 0)
	load(newCache(t, s, folder, 350), 1)
	if got := kept(); len(got) > 3 {
		t.Errorf("%d objects kept, 3 fit", len(got))
	}
}
