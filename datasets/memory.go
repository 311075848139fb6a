package datasets

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sort"
	"strings"
	"sync"
	"time"
)

// Memory is a [Store] in this process's memory, for tests and small experiments.
type Memory struct {
	mu      sync.RWMutex
	objects map[string]memoryObject
}

type memoryObject struct {
	data     []byte
	modified time.Time
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string]memoryObject{}} }

var _ Store = (*Memory)(nil)

// Get implements [Store].
func (m *Memory) Get(ctx context.Context, key string) ([]byte, error) {
	if err := guard(ctx, "get", key, checkKey); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	if !ok {
		return nil, opError("get", key, ErrNotFound)
	}
	return bytes.Clone(o.data), nil
}

// GetRange implements [Store].
func (m *Memory) GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error) {
	if err := errors.Join(guard(ctx, "get", key, checkKey), checkRange("get", key, offset, n)); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	if !ok {
		return nil, opError("get", key, ErrNotFound)
	}
	offset = min(offset, int64(len(o.data)))
	return bytes.Clone(o.data[offset : offset+min(n, int64(len(o.data))-offset)]), nil
}

// PutFrom implements [Store]; this one holds its objects in memory anyhow.
func (m *Memory) PutFrom(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	data, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err == nil && int64(len(data)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return opError("put", key, err)
	}
	return m.Put(ctx, key, data)
}

// Put implements [Store].
func (m *Memory) Put(ctx context.Context, key string, data []byte) error {
	return m.put(ctx, "put", key, data, false)
}

// PutOnce implements [Store].
func (m *Memory) PutOnce(ctx context.Context, key string, data []byte) error {
	return m.put(ctx, "put once", key, data, true)
}

func (m *Memory) put(ctx context.Context, op, key string, data []byte, once bool) error {
	if err := guard(ctx, op, key, checkKey); err != nil {
		return err
	}
	o := memoryObject{data: append([]byte{}, data...), modified: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok && once {
		return opError(op, key, ErrExists)
	}
	m.objects[key] = o
	return nil
}

// Stat implements [Store].
func (m *Memory) Stat(ctx context.Context, key string) (Object, error) {
	if err := guard(ctx, "stat", key, checkKey); err != nil {
		return Object{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	if !ok {
		return Object{}, opError("stat", key, ErrNotFound)
	}
	return Object{Key: key, Bytes: int64(len(o.data)), Modified: o.modified}, nil
}

// List implements [Store].
func (m *Memory) List(ctx context.Context, prefix string) ([]Object, error) {
	if err := guard(ctx, "list", prefix, checkPrefix); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []Object
	for key, o := range m.objects {
		if strings.HasPrefix(key, prefix) {
			found = append(found, Object{Key: key, Bytes: int64(len(o.data)), Modified: o.modified})
		}
	}
	sortObjects(found)
	return found, nil
}

// Delete implements [Store].
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := guard(ctx, "delete", key, checkKey); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

// String is "mem:".
func (m *Memory) String() string { return "mem:" }

func sortObjects(objects []Object) {
	sort.Slice(objects, func(i, j int) bool { return objects[i].Key < objects[j].Key })
}
