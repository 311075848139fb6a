package datasets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
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

// The slots of Arrow's File.fbs, Message.fbs and Schema.fbs, in the vtable's bytes.
const (
	footerBatches = 10
	messageHeader = 8
	batchNodes    = 6
	batchBuffers  = 8
	batchCodec    = 10
	codecKind     = 4
)

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
	const guess = 8 << 10 // what most footers fit in
	tail, err := s.GetRange(ctx, r.object(), max(0, r.Bytes-guess), min(guess, r.Bytes))
	if err != nil {
		return nil, err
	}
	if len(tail) < 10 {
		return nil, errors.New("not an Arrow file")
	}
	size := int64(binary.LittleEndian.Uint32(tail[len(tail)-10:])) + 10
	if size > r.Bytes {
		return nil, errors.New("damaged file: its footer is longer than it")
	}
	if size > int64(len(tail)) {
		if tail, err = s.GetRange(ctx, r.object(), r.Bytes-size, size); err != nil {
			return nil, err
		}
	}
	if err := checkFooter(tail); err != nil {
		return nil, err
	}
	schema, err := footerFields(tail)
	if err != nil {
		return nil, err
	}
	at := schema.FieldIndices(column.String())
	if len(at) != 1 || !arrow.TypeEqual(schema.Field(at[0]).Type, column.dataType()) {
		return nil, fmt.Errorf("no such column of %s in %s", column.dataType(), schema)
	}
	nodes, buffers := 0, 0
	for _, f := range schema.Fields()[:at[0]] {
		n, b := parts(f.Type)
		nodes, buffers = nodes+n, buffers+b
	}
	footer := tail[int64(len(tail))-size : len(tail)-10]
	root := flatbuffers.Table{Bytes: footer, Pos: flatbuffers.GetUOffsetT(footer)}
	slot := flatbuffers.UOffsetT(root.Offset(footerBatches))
	for i := range root.VectorLen(slot) {
		block := root.Vector(slot) + flatbuffers.UOffsetT(24*i)
		offset, head := root.GetInt64(block), int64(root.GetInt32(block+8))
		if head < 8 || offset < 0 || offset+head > r.Bytes {
			return nil, fmt.Errorf("damaged file: the head of batch %d is %d bytes at %d", i, head, offset)
		}
		data, err := s.GetRange(ctx, r.object(), offset, head)
		if err != nil {
			return nil, err
		}
		b, err := newColumnBatch(data, nodes, buffers)
		if err != nil {
			return nil, err
		}
		b.read = func(from, n int64) ([]byte, error) {
			if from < 0 || n < 0 || offset+head+from+n > r.Bytes {
				return nil, fmt.Errorf("damaged file: a buffer of %d bytes at %d", n, from)
			}
			return s.GetRange(ctx, r.object(), offset+head+from, n)
		}
		d, err := b.array(mem, column.dataType())
		if err != nil {
			return nil, err
		}
		a := array.MakeFromData(d)
		d.Release()
		chunks = append(chunks, a)
		if err := checkArray(a, column.dataType()); err != nil {
			return nil, err
		}
	}
	return arrow.NewChunked(column.dataType(), chunks), nil
}

// footerFields reads the schema with Arrow's own reader, which needs a file around it.
func footerFields(tail []byte) (*arrow.Schema, error) {
	r, err := ipc.NewFileReader(bytes.NewReader(append(append(append([]byte{}, ipc.Magic...), 0, 0), tail...)))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Schema(), nil
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

// columnBatch walks the nodes and buffers of one column in a batch.
type columnBatch struct {
	table         flatbuffers.Table
	nodes, bufs   flatbuffers.UOffsetT // vectors
	nodesN, bufsN int
	node, buffer  int // the next ones
	codec         int // -1 = none, 0 = LZ4, 1 = Zstd
	read          func(from, n int64) ([]byte, error)
}

func newColumnBatch(head []byte, node, buffer int) (*columnBatch, error) {
	message := head[8:] // behind the continuation and the length
	if binary.LittleEndian.Uint32(head) != 0xffffffff {
		message = head[4:]
	}
	m := flatbuffers.Table{Bytes: message, Pos: flatbuffers.GetUOffsetT(message)}
	slot := flatbuffers.UOffsetT(m.Offset(messageHeader))
	if slot == 0 {
		return nil, errors.New("damaged file: a batch without a header")
	}
	b := &columnBatch{node: node, buffer: buffer, codec: -1}
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
		data, err := b.next()
		if err != nil {
			return nil, err
		}
		if i > 0 || len(data) > 0 {
			buffers[i] = memory.NewResizableBuffer(mem)
			buffers[i].Resize(len(data))
			copy(buffers[i].Bytes(), data)
		}
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

// next reads and decompresses the next buffer.
func (b *columnBatch) next() ([]byte, error) {
	if b.buffer >= b.bufsN {
		return nil, errors.New("damaged file: a batch with too few buffers")
	}
	at := b.bufs + flatbuffers.UOffsetT(16*b.buffer)
	b.buffer++
	from, n := b.table.GetInt64(at), b.table.GetInt64(at+8)
	if n == 0 {
		return nil, nil
	}
	data, err := b.read(from, n)
	if err != nil || b.codec < 0 {
		return data, err
	}
	if int64(len(data)) != n || n < 8 {
		return nil, fmt.Errorf("damaged file: a compressed buffer of %d bytes", len(data))
	}
	size := int64(binary.LittleEndian.Uint64(data))
	if data = data[8:]; size == -1 {
		return data, nil
	}
	if size < 0 || size > MaxDecoded || size > mostRatio*(n+1) {
		return nil, fmt.Errorf("damaged file: %d bytes that become %d", n, size)
	}
	var r io.Reader = lz4.NewReader(bytes.NewReader(data))
	if b.codec == 1 {
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	}
	out := make([]byte, size)
	_, err = io.ReadFull(r, out)
	return out, err
}
