package datasets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
)

// LoadColumn reads one column of the table that r addresses, a chunk per batch, and of
// the object's bytes little else: the footer, each batch's head, and the column's
// buffers. What is read is checked for its form only, since the checksum is that of
// the whole object; [Load] verifies that. The caller releases the result.
func LoadColumn(ctx context.Context, s Store, mem memory.Allocator, r Ref, column AnyColumn) (*arrow.Chunked, error) {
	c, err := loadColumn(ctx, s, mem, r, column)
	if err != nil {
		return nil, fmt.Errorf("load column %q of %s: %w", column, r.object(), err)
	}
	return c, nil
}

func loadColumn(ctx context.Context, s Store, mem memory.Allocator, r Ref, column AnyColumn) (_ *arrow.Chunked, err error) {
	var chunks []arrow.Array
	defer func() {
		if p := recover(); p != nil { // offsets that leave the file
			err = fmt.Errorf("damaged file: %v", p)
		}
		for _, c := range chunks {
			c.Release()
		}
	}()
	if err := r.check(); err != nil {
		return nil, err
	}
	f, err := newFileReader(r.Bytes, func(at, n int64) ([]byte, error) {
		data, err := s.GetRange(ctx, r.object(), at, n)
		if err == nil && int64(len(data)) != n {
			err = fmt.Errorf("damaged file: it ends before byte %d", at+n)
		}
		return data, err
	})
	if err != nil {
		return nil, err
	}
	at := f.schema.FieldIndices(column.String())
	if len(at) != 1 || !arrow.TypeEqual(f.schema.Field(at[0]).Type, column.dataType()) {
		return nil, fmt.Errorf("no such column of %s in %s", column.dataType(), f.schema)
	}
	for i := range f.blocks {
		b, err := f.batch(i)
		if err != nil {
			return nil, err
		}
		a, err := f.column(mem, *b, at[0])
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, a)
		if err := checkArray(a, column.dataType()); err != nil {
			return nil, err
		}
	}
	return arrow.NewChunked(column.dataType(), chunks), nil
}

// parts are how many nodes and buffers a column of this type has in a batch.
func parts(t arrow.DataType) (nodes, buffers int) {
	switch t := t.(type) {
	case *arrow.StringType:
		return 1, 3
	case *arrow.ListType:
		n, b := parts(t.Elem())
		return 1 + n, 2 + b
	}
	return 1, 2
}

const (
	codecNone = -1
	codecLZ4  = 0
)

// columnBatch walks the nodes and buffers of one column in a batch.
type columnBatch struct {
	table         flatbuffers.Table
	nodes, bufs   flatbuffers.UOffsetT // vectors
	nodesN, bufsN int
	node, buffer  int // the next ones
	codec         int // codecNone, codecLZ4 or Zstd
	read          func(from, n int64) ([]byte, error)
}

func newColumnBatch(head []byte) (*columnBatch, error) {
	message := head[8:] // behind the continuation and the length
	if binary.LittleEndian.Uint32(head) != 0xffffffff {
		message = head[4:]
	}
	m := flatbuffers.Table{Bytes: message, Pos: flatbuffers.GetUOffsetT(message)}
	slot := flatbuffers.UOffsetT(m.Offset(messageHeader))
	if slot == 0 {
		return nil, errors.New("damaged file: a batch without a header")
	}
	b := &columnBatch{codec: codecNone}
	m.Union(&b.table, slot)
	nodes, buffers := flatbuffers.UOffsetT(b.table.Offset(batchNodes)), flatbuffers.UOffsetT(b.table.Offset(batchBuffers))
	if nodes == 0 || buffers == 0 {
		return nil, errors.New("damaged file: a batch without columns")
	}
	b.nodes, b.nodesN = b.table.Vector(nodes), b.table.VectorLen(nodes)
	b.bufs, b.bufsN = b.table.Vector(buffers), b.table.VectorLen(buffers)
	if slot := flatbuffers.UOffsetT(b.table.Offset(batchCodec)); slot != 0 {
		c := flatbuffers.Table{Bytes: b.table.Bytes, Pos: b.table.Indirect(b.table.Pos + slot)}
		b.codec = int(c.GetInt8Slot(codecKind, 0))
	}
	return b, nil
}

// array reads the next column, of type t.
func (b *columnBatch) array(mem memory.Allocator, t arrow.DataType) (arrow.ArrayData, error) {
	if b.node >= b.nodesN {
		return nil, errors.New("damaged file: a batch with too few columns")
	}
	rows := int(b.table.GetInt64(b.nodes + flatbuffers.UOffsetT(16*b.node)))
	nulls := int(b.table.GetInt64(b.nodes + flatbuffers.UOffsetT(16*b.node) + 8))
	b.node++
	_, n := parts(t)
	if list, ok := t.(*arrow.ListType); ok {
		_, inner := parts(list.Elem())
		n -= inner
	}
	buffers := make([]*memory.Buffer, n)
	defer func() {
		for _, x := range buffers {
			if x != nil {
				x.Release()
			}
		}
	}()
	for i := range buffers {
		x, err := b.next(mem)
		if err != nil {
			return nil, err
		}
		buffers[i] = x
	}
	if buffers[0] != nil && buffers[0].Len() == 0 {
		buffers[0] = nil
	}
	var children []arrow.ArrayData
	if list, ok := t.(*arrow.ListType); ok {
		child, err := b.array(mem, list.Elem())
		if err != nil {
			return nil, err
		}
		defer child.Release()
		children = append(children, child)
	}
	if rows < 0 || nulls != 0 {
		return nil, fmt.Errorf("%d rows, %d nulls, want none", rows, nulls)
	}
	if _, fixed := t.(arrow.FixedWidthDataType); !fixed && rows > 0 && buffers[1].Len() < 4*(rows+1) {
		return nil, fmt.Errorf("damaged file: %d bytes of offsets for %d rows", buffers[1].Len(), rows)
	}
	return array.NewData(t, rows, buffers, children, nulls, 0), nil
}

// next reads and decompresses the next buffer. What is not compressed is not copied.
func (b *columnBatch) next(mem memory.Allocator) (*memory.Buffer, error) {
	if b.buffer >= b.bufsN {
		return nil, errors.New("damaged file: a batch with too few buffers")
	}
	at := b.bufs + flatbuffers.UOffsetT(16*b.buffer)
	b.buffer++
	from, n := b.table.GetInt64(at), b.table.GetInt64(at+8)
	if n == 0 {
		return memory.NewBufferBytes(nil), nil
	}
	data, err := b.read(from, n)
	if err != nil {
		return nil, err
	}
	plain, size := data, len(data)
	if b.codec != codecNone {
		if plain, size, err = packed(data); err != nil {
			return nil, err
		}
	}
	if plain != nil && uintptr(unsafe.Pointer(unsafe.SliceData(plain)))%8 == 0 {
		return memory.NewBufferBytes(plain), nil
	}
	out := memory.NewResizableBuffer(mem)
	out.Resize(size)
	if plain != nil {
		copy(out.Bytes(), plain)
	} else if err := unpack(out.Bytes(), data, b.codec); err != nil {
		out.Release()
		return nil, err
	}
	return out, nil
}
