package datasets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Directory is a [Store] in a folder: one file per object, the key as its path. It
// may be shared by processes on one file system that has hard links. Files are
// written beside their place under a name that starts with a dot, synced, and
// renamed or linked, so that a crash leaves no half-written object.
type Directory struct{ root string }

var _ Store = (*Directory)(nil)

// NewDirectory opens the store in the folder at path and makes the folder if need be.
func NewDirectory(path string) (*Directory, error) {
	root, err := filepath.Abs(path)
	if err == nil {
		err = os.MkdirAll(root, 0o777)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, classifyFile(err))
	}
	return &Directory{root: root}, nil
}

func (d *Directory) file(key string) string { return filepath.Join(d.root, filepath.FromSlash(key)) }

// Get implements [Store].
func (d *Directory) Get(ctx context.Context, key string) ([]byte, error) {
	if err := guard(ctx, "get", key, checkKey); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(d.file(key))
	if errors.Is(err, syscall.EISDIR) {
		err = ErrNotFound
	}
	return data, opError("get", key, classifyFile(err))
}

// GetRange implements [Store].
func (d *Directory) GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error) {
	if err := errors.Join(guard(ctx, "get", key, checkKey), checkRange("get", key, offset, n)); err != nil {
		return nil, err
	}
	data, err := readRange(d.file(key), offset, n)
	if errors.Is(err, syscall.EISDIR) {
		err = ErrNotFound
	}
	return data, opError("get", key, classifyFile(err))
}

func readRange(file string, offset, n int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, max(0, min(n, info.Size()-offset)))
	read, err := f.ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:read], err
}

// PutFrom implements [Store].
func (d *Directory) PutFrom(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	return d.put(ctx, "put", key, io.NewSectionReader(r, 0, size), size, os.Rename)
}

// Put implements [Store].
func (d *Directory) Put(ctx context.Context, key string, data []byte) error {
	return d.put(ctx, "put", key, bytes.NewReader(data), int64(len(data)), os.Rename)
}

// PutOnce implements [Store] by link(2), which fails where a name is taken.
func (d *Directory) PutOnce(ctx context.Context, key string, data []byte) error {
	return d.put(ctx, "put once", key, bytes.NewReader(data), int64(len(data)), os.Link)
}

// put writes a temporary file in the key's folder and commits it under the key's name.
func (d *Directory) put(ctx context.Context, op, key string, r io.Reader, size int64, commit func(from, to string) error) error {
	if err := guard(ctx, op, key, checkKey); err != nil {
		return err
	}
	file := d.file(key)
	err := os.MkdirAll(filepath.Dir(file), 0o777)
	if err == nil {
		err = replace(file, r, size, commit)
	}
	return opError(op, key, classifyFile(err))
}

func replace(file string, r io.Reader, size int64, commit func(from, to string) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".put-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename there is nothing left to remove
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := commit(f.Name(), file); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(file))
}

// syncFolder makes a new name durable. Systems that cannot sync folders order
// names themselves.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// Stat implements [Store].
func (d *Directory) Stat(ctx context.Context, key string) (Object, error) {
	if err := guard(ctx, "stat", key, checkKey); err != nil {
		return Object{}, err
	}
	info, err := os.Stat(d.file(key))
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Object{}, opError("stat", key, classifyFile(err))
	}
	return Object{Key: key, Bytes: info.Size(), Modified: info.ModTime()}, nil
}

// List implements [Store].
func (d *Directory) List(ctx context.Context, prefix string) ([]Object, error) {
	if err := guard(ctx, "list", prefix, checkPrefix); err != nil {
		return nil, err
	}
	var found []Object
	folder := d.file(prefix[:strings.LastIndexByte(prefix, '/')+1])
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			return nil // deleted meanwhile, or nothing has this prefix
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case e.IsDir():
			return nil
		}
		relative, err := filepath.Rel(d.root, path)
		key := filepath.ToSlash(relative)
		if err != nil || !strings.HasPrefix(key, prefix) || checkKey(key) != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			found = append(found, Object{Key: key, Bytes: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	if err != nil {
		return nil, opError("list", prefix, classifyFile(err))
	}
	sortObjects(found)
	return found, nil
}

// Delete implements [Store]. Folders stay: another writer may be about to use them.
func (d *Directory) Delete(ctx context.Context, key string) error {
	if err := guard(ctx, "delete", key, checkKey); err != nil {
		return err
	}
	err := os.Remove(d.file(key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = nil
	}
	return opError("delete", key, classifyFile(err))
}

// String is the store's file URL.
func (d *Directory) String() string { return "file://" + filepath.ToSlash(d.root) }

// classifyFile adds the reason of [Store]'s list that an error of the file system means.
func classifyFile(err error) error {
	var reason error
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		reason = ErrNotFound
	case errors.Is(err, fs.ErrExist):
		reason = ErrExists
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		reason = ErrDenied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		reason = ErrNoSpace
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE):
		reason = ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", reason, err)
}
