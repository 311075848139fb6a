package datasets

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Cache is a [Store] before another one: it keeps the objects that are named by
// their content in a folder, up to a bound, and drops what was not read for the
// longest time. Processes may share the folder. What does not have its hash is
// had anew from the store, and a folder that fails only makes reading slower.
type Cache struct {
	Store
	disk         *Directory
	size         int64
	hits, misses atomic.Int64
}

// NewCache returns a cache over s of at most size bytes in a folder, which is
// made if need be.
func NewCache(s Store, folder string, size int64) (*Cache, error) {
	if size <= 0 {
		return nil, fmt.Errorf("cache %s: size is %d bytes, want more than 0", folder, size)
	}
	disk, err := NewDirectory(folder)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{Store: s, disk: disk, size: size}
	// What writers that were killed left half-way.
	left, _ := filepath.Glob(disk.file("objects/.put-*")) // the pattern is well-formed
	for _, file := range left {
		if info, err := os.Stat(file); err == nil && time.Since(info.ModTime()) > fresh {
			_ = os.Remove(file) // the next start tries again
		}
	}
	return c, nil
}

// Get implements [Store].
func (c *Cache) Get(ctx context.Context, key string) ([]byte, error) {
	name, addressed := strings.CutPrefix(key, "objects/")
	if !addressed {
		return c.Store.Get(ctx, key)
	}
	address, _, _ := strings.Cut(name, ".")
	if data, err := c.disk.Get(ctx, key); err == nil {
		if hash(data) == address {
			c.hits.Add(1)
			now := time.Now()
			_ = os.Chtimes(c.disk.file(key), now, now) // else it only looks unused
			return data, nil
		}
		_ = c.disk.Delete(ctx, key) // it is written over in any case
	}
	data, err := c.Store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	c.misses.Add(1)
	if int64(len(data)) <= c.size && hash(data) == address && c.disk.Put(ctx, key, data) == nil {
		c.evict(ctx)
	}
	return data, nil
}

// evict removes what was not used for the longest time until the rest fits.
func (c *Cache) evict(ctx context.Context) {
	kept, err := c.disk.List(ctx, "objects/")
	if err != nil {
		return // the next one tries again
	}
	total := int64(0)
	for _, o := range kept {
		total += o.Bytes
	}
	slices.SortFunc(kept, func(a, b Object) int { return a.Modified.Compare(b.Modified) })
	for _, o := range kept {
		if total <= c.size {
			return
		}
		if c.disk.Delete(ctx, o.Key) == nil {
			total -= o.Bytes
		}
	}
}

// Hits are how many objects came from the folder, and how many from the store.
func (c *Cache) Hits() (disk, store int64) { return c.hits.Load(), c.misses.Load() }
