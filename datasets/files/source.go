package files

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/gradus-rl/gradus/datasets"
)

// File is one file to read.
type File struct {
	Name   string // path, or s3://bucket/key
	Format Format
	Size   int64 // bytes as stored
	open   func() (input, error)
}

// input is an open file: read anywhere.
type input interface {
	io.ReaderAt
	io.Closer
}

// List finds the files at path: a file, a folder with all below it, or
// s3://bucket/prefix?endpoint=…&region=… with credentials from the environment, as
// datasets.Open has them. In a folder or under a prefix only names with a known end
// count, and those that start with a dot or an underscore do not. A single file of
// another name is known by its first bytes, where they tell.
func List(ctx context.Context, path string) ([]File, error) {
	var list []File
	var err error
	if strings.HasPrefix(path, "s3://") {
		list, err = listS3(ctx, path)
	} else {
		list, err = listLocal(path)
	}
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no file whose name ends in %s", path, strings.Join(knownEndings(), ", "))
	}
	slices.SortFunc(list, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func listLocal(path string) (list []File, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	local := func(path string, size int64) File {
		return File{Name: path, Format: formatOf(path), Size: size, open: func() (input, error) { return os.Open(path) }}
	}
	if !info.IsDir() {
		f := local(path, info.Size())
		if f.Format == "" {
			f.Format, err = f.sniff()
		}
		return []File{f}, err
	}
	err = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != path && strings.ContainsAny(e.Name()[:1], "._") {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.IsDir() || formatOf(name) == "" {
			return nil
		}
		info, err := os.Stat(name) // follows a link, as shared data folders have them
		if err == nil && info.Mode().IsRegular() {
			list = append(list, local(name, info.Size()))
		}
		return err
	})
	return list, err
}

func listS3(ctx context.Context, path string) (list []File, err error) {
	store, prefix, err := datasets.OpenSource(ctx, path)
	if err != nil {
		return nil, err
	}
	objects, err := store.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	bucket, _, _ := strings.Cut(strings.TrimPrefix(path, "s3://"), "/")
	bucket, _, _ = strings.Cut(bucket, "?")
	for _, o := range objects {
		exact := o.Key == prefix
		below := prefix == "" || exact || strings.HasPrefix(o.Key, strings.TrimSuffix(prefix, "/")+"/")
		hidden := slices.ContainsFunc(strings.Split(strings.TrimPrefix(o.Key, prefix), "/"), func(s string) bool { return strings.HasPrefix(s, "_") })
		f := File{Name: "s3://" + bucket + "/" + o.Key, Format: formatOf(o.Key), Size: o.Bytes, open: func() (input, error) {
			return &object{ctx: ctx, store: store, key: o.Key, size: o.Bytes}, nil
		}}
		if exact {
			if f.Format == "" {
				f.Format, err = f.sniff()
			}
			return []File{f}, err
		}
		if below && !hidden && f.Format != "" {
			list = append(list, f)
		}
	}
	return list, nil
}

// object reads an object of a store by ranges, ahead of whoever reads in order.
type object struct {
	ctx   context.Context
	store datasets.Store
	key   string
	size  int64

	at   int64 // of held
	held []byte
}

// ahead is how much is had at once.
const ahead = 8 << 20

// ReadAt implements io.ReaderAt; not for several readers at once.
func (o *object) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		at := offset + int64(n)
		if at >= o.size {
			return n, io.EOF
		}
		if at < o.at || at >= o.at+int64(len(o.held)) {
			if o.held, err = o.store.GetRange(o.ctx, o.key, at, min(ahead, o.size-at)); err != nil {
				return n, err
			}
			if o.at = at; len(o.held) == 0 {
				return n, io.ErrUnexpectedEOF
			}
		}
		n += copy(p[n:], o.held[at-o.at:])
	}
	return n, nil
}

func (*object) Close() error { return nil }

// formatOf is the format that a name tells, or "".
func formatOf(name string) Format {
	name = strings.ToLower(name)
	for _, packed := range []string{".gz", ".gzip", ".zst", ".zstd"} {
		name = strings.TrimSuffix(name, packed)
	}
	return endings[filepath.Ext(name)]
}

// Stem is the file's name without folders and endings.
func (f File) Stem() string {
	name := f.Name[strings.LastIndexAny(f.Name, `/\`)+1:]
	for {
		end := filepath.Ext(name)
		if lower := strings.ToLower(end); endings[lower] == "" && !slices.Contains([]string{".gz", ".gzip", ".zst", ".zstd"}, lower) || end == name {
			return name
		}
		name = strings.TrimSuffix(name, end)
	}
}

// sniff tells the format by the first bytes.
func (f File) sniff() (Format, error) {
	r, err := f.Stream()
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.Name, err)
	}
	defer r.Close()
	head := make([]byte, 64)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("%s: %w", f.Name, err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("PAR1")):
		return Parquet, nil
	case bytes.HasPrefix(head, []byte("ARROW1")), bytes.HasPrefix(head, []byte("\xff\xff\xff\xff")):
		return Arrow, nil
	case bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(head, bom), " \t\r\n"), []byte("{")):
		return JSONL, nil
	}
	return "", fmt.Errorf("%s: neither its name nor its first bytes tell the format: want a name that ends in %s, with .gz or .zst behind it if need be", f.Name, strings.Join(knownEndings(), ", "))
}

var bom = []byte("\xEF\xBB\xBF")

// Stream is the file's content from its start, decompressed where it is compressed.
func (f File) Stream() (io.ReadCloser, error) {
	in, err := f.open()
	if err != nil {
		return nil, err
	}
	r, err := decompress(io.NewSectionReader(in, 0, f.Size))
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &stream{r, in}, nil
}

// stream closes the file behind a decompressed stream.
type stream struct {
	io.ReadCloser
	in io.Closer
}

func (s *stream) Close() error { return errors.Join(s.ReadCloser.Close(), s.in.Close()) }

// decompress looks at the first bytes, as names may not tell.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// seekable is the file's decompressed content to be read anywhere: the file itself, or
// a temporary one where it is compressed.
func (f File) seekable() (*io.SectionReader, io.Closer, error) {
	in, err := f.open()
	if err != nil {
		return nil, nil, err
	}
	whole := io.NewSectionReader(in, 0, f.Size)
	head := make([]byte, 4)
	if _, err := io.ReadFull(whole, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, errors.Join(err, in.Close())
	}
	whole = io.NewSectionReader(in, 0, f.Size)
	packed := bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd})
	if !packed {
		return whole, in, nil
	}
	defer in.Close()
	r, err := decompress(whole)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	t, err := os.CreateTemp("", "gradus-*")
	if err != nil {
		return nil, nil, err
	}
	spool := temporary{t}
	n, err := io.Copy(t, r)
	if err != nil {
		return nil, nil, errors.Join(err, spool.Close())
	}
	return io.NewSectionReader(t, 0, n), spool, nil
}

// temporary is a file that goes when it is closed.
type temporary struct{ *os.File }

func (t temporary) Close() error { return errors.Join(t.File.Close(), os.Remove(t.Name())) }
