package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A file of tensors that would be too large is cut: NAME.safetensors becomes
// NAME-00001-of-00003.safetensors and so on, and NAME.safetensors.index.json says
// which tensor lies where. So does Hugging Face.

// indexSuffix is what follows the name of a file that was cut.
const indexSuffix = ".index.json"

// shardIndex is the index of a file that was cut.
type shardIndex struct {
	Metadata struct {
		TotalSize int64 `json:"total_size"` // bytes of all tensors
	} `json:"metadata"`
	WeightMap map[string]string `json:"weight_map"` // file by tensor
}

// shards are the files of tensors: one, or several and their index.
func (f Format) shards(name string, tensors []Tensor, meta map[string]string) []file {
	var index shardIndex
	index.WeightMap = map[string]string{}
	var parts [][]Tensor
	room := int64(0)
	for _, t := range tensors {
		size := int64(f.DType.width()) * int64(len(t.Data))
		if len(parts) == 0 || size > room {
			parts, room = append(parts, nil), f.ShardBytes
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], t)
		room -= size
		index.Metadata.TotalSize += size
	}
	if len(parts) <= 1 {
		return []file{{name, func() []byte { return EncodeSafetensorsAs(tensors, meta, f.DType) }}}
	}
	var files []file
	for i, part := range parts {
		shard := fmt.Sprintf("%s-%05d-of-%05d.safetensors", strings.TrimSuffix(name, ".safetensors"), i+1, len(parts))
		for _, t := range part {
			index.WeightMap[t.Name] = shard
		}
		files = append(files, file{shard, func() []byte { return EncodeSafetensorsAs(part, meta, f.DType) }})
	}
	return append(files, file{name + indexSuffix, func() []byte { return append(appendJSON(nil, index), '\n') }})
}

// readTensors reads the tensors of a file, cut or not, and its metadata, which
// all parts share. An error names the file.
func readTensors(open open, name string) ([]Tensor, map[string]string, error) {
	one := func(name string) (tensors []Tensor, meta map[string]string, err error) {
		f, err := open(name)
		if err == nil {
			tensors, meta, err = readSafetensors(f, f.Size())
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		return tensors, meta, nil
	}
	tensors, meta, missing := one(name)
	if !errors.Is(missing, fs.ErrNotExist) {
		return tensors, meta, missing
	}
	data, err := open.all(name + indexSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, missing
	}
	var index shardIndex
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err == nil && len(index.WeightMap) == 0 {
		err = errors.New("weight_map is empty")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name+indexSuffix, err)
	}
	count := 0
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(index.WeightMap))) {
		if shard != filepath.Base(shard) {
			return nil, nil, fmt.Errorf("%s: weight_map names %q, want a file of the folder", name+indexSuffix, shard)
		}
		part, m, err := one(shard)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range part {
			if index.WeightMap[t.Name] != shard {
				return nil, nil, fmt.Errorf("%s: tensor %s: the index has it in %q", shard, t.Name, index.WeightMap[t.Name])
			}
		}
		tensors, meta, count = append(tensors, part...), m, count+len(part)
	}
	if count != len(index.WeightMap) {
		return nil, nil, fmt.Errorf("%s: %d tensors in weight_map, but %d in the files", name+indexSuffix, len(index.WeightMap), count)
	}
	return tensors, meta, nil
}

// source is a file of a checkpoint that is being read.
type source interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// open opens a file of a checkpoint; an error that wraps fs.ErrNotExist if it has
// none of that name.
type open func(name string) (source, error)

// all is the bytes of a small file.
func (o open) all(name string) ([]byte, error) {
	f, err := o(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	return data, errors.Join(bare(err), f.Close())
}

// memory is a file whose bytes are there.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// disk is a file of a folder.
type disk struct{ *os.File }

func (d disk) Size() int64 {
	info, err := d.Stat()
	if err != nil {
		return 0 // reading it fails too, and says why
	}
	return info.Size()
}

// bare is an error without the path, which its caller names.
func bare(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
