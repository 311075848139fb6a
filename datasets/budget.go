package datasets

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow/memory"
)

// budget is an allocator for reading data that may be damaged: it panics rather
// than go beyond its limit, and until it is settled it can give back all that its
// user left behind.
type budget struct {
	memory.Allocator
	mu   sync.Mutex
	left int              // bytes
	live map[*byte][]byte // allocations by first byte; nil once settled
}

func newBudget(mem memory.Allocator, limit int) *budget {
	return &budget{Allocator: mem, left: limit, live: map[*byte][]byte{}}
}

// Allocate implements memory.Allocator.
func (b *budget) Allocate(size int) []byte {
	b.charge(size, 0)
	return b.track(b.Allocator.Allocate(size))
}

// Reallocate implements memory.Allocator.
func (b *budget) Reallocate(size int, old []byte) []byte {
	b.charge(size, len(old))
	b.forget(old)
	return b.track(b.Allocator.Reallocate(size, old))
}

// Free implements memory.Allocator.
func (b *budget) Free(data []byte) {
	b.forget(data)
	b.Allocator.Free(data)
}

// settle ends the tracking; with free it first gives back what is live.
func (b *budget) settle(free bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if free {
		for _, data := range b.live {
			b.Allocator.Free(data)
		}
	}
	b.live = nil
}

// charge pays for size bytes that replace old ones.
func (b *budget) charge(size, old int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live == nil {
		return
	}
	if size < 0 || size-old > b.left {
		panic(fmt.Sprintf("it asks for %d bytes of memory where %d are left to it", size, b.left))
	}
	b.left -= size - old
}

func (b *budget) track(data []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live != nil {
		b.live[unsafe.SliceData(data)] = data
	}
	return data
}

func (b *budget) forget(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, unsafe.SliceData(data))
}
