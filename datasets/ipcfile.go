package datasets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
)

// Arrow's library compresses all buffers of a batch alike and reads them one after the
// other. The batches here are written and read by ourselves, each buffer as pack chooses,
// on all processors; the schema and the footer around them are the library's.

// The slots of Arrow's File.fbs, Message.fbs and Schema.fbs, in the vtable's bytes.
const (
	footerBatches = 10
	messageHeader = 8
	batchNodes    = 6
	batchBuffers  = 8
	batchCodec    = 10
	codecKind     = 4
)

// block says where in a file a batch is: its head, and its body behind that.
type block struct{ at, head, body int64 }

// fileBlocks are the batches that the footer at the end of a file lists, and the
// place of that list.
func fileBlocks(footer []byte) (blocks []block, list []byte) {
	root := flatbuffers.Table{Bytes: footer, Pos: flatbuffers.GetUOffsetT(footer)}
	slot := flatbuffers.UOffsetT(root.Offset(footerBatches))
	if slot == 0 {
		return nil, nil
	}
	n := root.VectorLen(slot)
	list = footer[root.Vector(slot):][:24*n]
	for at := range slices.Chunk(list, 24) {
		blocks = append(blocks, block{int64(binary.LittleEndian.Uint64(at)), int64(int32(binary.LittleEndian.Uint32(at[8:]))), int64(binary.LittleEndian.Uint64(at[16:]))})
	}
	return blocks, list
}

// footerOf is the footer at the end of the file that tail ends.
func footerOf(tail []byte) []byte {
	end := len(tail) - len(ipc.Magic) - 4
	return tail[end-int(binary.LittleEndian.Uint32(tail[end:])) : end]
}

// fileWriter writes an Arrow IPC file.
type fileWriter struct {
	w      io.Writer
	schema *arrow.Schema
	form   []byte // the file of one batch without rows
	at     int64
	blocks []block
}

// empty is the file of n batches without rows as Arrow's library writes it.
func empty(schema *arrow.Schema, n int) ([]byte, error) {
	var out buffer
	w, err := ipc.NewFileWriter(&out, ipc.WithSchema(schema))
	if err != nil {
		return nil, err
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	rec := b.NewRecord()
	defer rec.Release()
	for range n {
		if err := w.Write(rec); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return out.Bytes(), err
}

// buffer is a bytes.Buffer that can tell its position, which is all the seeking
// that Arrow's file writer does.
type buffer struct{ bytes.Buffer }

func (b *buffer) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekCurrent {
		return 0, errors.New("buffer: seek beyond telling the position")
	}
	return int64(b.Len()), nil
}

func newFileWriter(w io.Writer, schema *arrow.Schema) (*fileWriter, error) {
	form, err := empty(schema, 1)
	if err != nil {
		return nil, err
	}
	blocks, _ := fileBlocks(footerOf(form))
	f := &fileWriter{w: w, schema: schema, form: form}
	return f, f.put(form[:blocks[0].at])
}

func (f *fileWriter) put(data []byte) error {
	n, err := f.w.Write(data)
	f.at += int64(n)
	return err
}

// write adds a batch.
func (f *fileWriter) write(rec arrow.Record) error {
	var nodes []int64
	var parts [][]byte
	for _, c := range rec.Columns() {
		var err error
		if nodes, parts, err = flatten(nodes, parts, c.Data()); err != nil {
			return err
		}
	}
	packed := make([][]byte, len(parts))
	size := 0
	order := make([]int, len(parts)) // the largest first, so that no processor is left with one
	for i, p := range parts {
		order[i] = i
		size += len(p)
	}
	slices.SortFunc(order, func(a, b int) int { return len(parts[b]) - len(parts[a]) })
	if err := each(len(parts), size, func(i int) error {
		packed[order[i]] = pack(parts[order[i]])
		return nil
	}); err != nil {
		return err
	}
	head, body := batchHead(rec.NumRows(), nodes, packed)
	f.blocks = append(f.blocks, block{f.at, int64(len(head)), body})
	if g, ok := f.w.(interface{ Grow(n int) }); ok {
		g.Grow(len(head) + int(body) + 8<<10) // and a footer
	}
	err := f.put(head)
	for _, p := range packed {
		if err == nil {
			err = f.put(p)
		}
		if gap := -len(p) & 7; err == nil && gap > 0 {
			err = f.put(make([]byte, gap))
		}
	}
	return err
}

// close ends the file.
func (f *fileWriter) close() error {
	form := f.form
	if n := len(f.blocks); n != 1 {
		var err error
		if form, err = empty(f.schema, n); err != nil {
			return err
		}
	}
	footer := footerOf(form)
	_, list := fileBlocks(footer)
	for i, b := range f.blocks {
		binary.LittleEndian.PutUint64(list[24*i:], uint64(b.at))
		binary.LittleEndian.PutUint32(list[24*i+8:], uint32(b.head))
		binary.LittleEndian.PutUint64(list[24*i+16:], uint64(b.body))
	}
	end := len(form) - len(footer) - len(ipc.Magic) - 4
	return f.put(form[end-8:]) // with the mark of the stream's end
}

// each calls do for the numbers below n, on several processors where the work is on
// many bytes, and joins the errors. A panic becomes one here.
func each(n, size int, do func(i int) error) error {
	workers := min(runtime.GOMAXPROCS(0), n)
	if size < 1<<18 {
		workers = 1
	}
	var next atomic.Int64
	var wait sync.WaitGroup
	errs := make([]error, n)
	for range workers {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = func() (err error) {
					defer func() {
						if p := recover(); p != nil {
							err = fmt.Errorf("damaged file: %v", p)
						}
					}()
					return do(i)
				}()
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// flatten appends the nodes' lengths and the buffers of a column without nulls, as a
// file has them: from the column's first row on, with offsets from zero on.
func flatten(nodes []int64, parts [][]byte, d arrow.ArrayData) ([]int64, [][]byte, error) {
	n, from := d.Len(), d.Offset()
	if d.NullN() != 0 {
		return nil, nil, fmt.Errorf("%d nulls, want none", d.NullN())
	}
	nodes, parts = append(nodes, int64(n)), append(parts, nil)
	values := func(i int) []byte {
		if b := d.Buffers()[i]; b != nil {
			return b.Bytes()
		}
		return nil
	}
	if t, ok := d.DataType().(arrow.FixedWidthDataType); ok {
		if t.ID() != arrow.BOOL {
			w := t.BitWidth() / 8
			return nodes, append(parts, values(1)[from*w:(from+n)*w]), nil
		}
		packed := make([]byte, (n+7)/8)
		bitutil.CopyBitmap(values(1), from, n, packed, 0)
		return nodes, append(parts, packed), nil
	}
	offsets := []int32{0}
	if n > 0 {
		offsets = arrow.Int32Traits.CastFromBytes(values(1))[from : from+n+1]
	}
	first, last := int(offsets[0]), int(offsets[n])
	if first != 0 {
		offsets = slices.Clone(offsets)
		for i := range offsets {
			offsets[i] -= int32(first)
		}
	}
	parts = append(parts, arrow.Int32Traits.CastToBytes(offsets))
	if _, ok := d.DataType().(*arrow.ListType); !ok {
		return nodes, append(parts, values(2)[first:last]), nil
	}
	child := array.NewSliceData(d.Children()[0], int64(first), int64(last))
	defer child.Release()
	return flatten(nodes, parts, child)
}

// batchHead is the head of a batch, and the bytes of the body that belongs behind it.
func batchHead(rows int64, nodes []int64, packed [][]byte) (head []byte, body int64) {
	const (
		versionV5   = 4
		recordBatch = 3
		zstdCodec   = 1
		nodeSize    = 16
		alignment   = 8
	)
	at := make([]int64, len(packed))
	for i, p := range packed {
		at[i] = body
		body += int64(len(p)+7) &^ 7
	}
	b := flatbuffers.NewBuilder(1024)
	b.StartVector(nodeSize, len(packed), alignment)
	for i, p := range slices.Backward(packed) {
		b.Prep(alignment, nodeSize)
		b.PrependInt64(int64(len(p)))
		b.PrependInt64(at[i])
	}
	buffers := b.EndVector(len(packed))
	b.StartVector(nodeSize, len(nodes), alignment)
	for _, n := range slices.Backward(nodes) {
		b.Prep(alignment, nodeSize)
		b.PrependInt64(0) // nulls
		b.PrependInt64(n)
	}
	lengths := b.EndVector(len(nodes))
	b.StartObject(2)
	b.PrependInt8Slot(0, zstdCodec, 0)
	codec := b.EndObject()
	b.StartObject(4)
	b.PrependInt64Slot(0, rows, 0)
	b.PrependUOffsetTSlot(1, lengths, 0)
	b.PrependUOffsetTSlot(2, buffers, 0)
	b.PrependUOffsetTSlot(3, codec, 0)
	batch := b.EndObject()
	b.StartObject(4)
	b.PrependInt64Slot(3, body, 0)
	b.PrependUOffsetTSlot(2, batch, 0)
	b.PrependInt16Slot(0, versionV5, 0)
	b.PrependByteSlot(1, recordBatch, 0)
	b.Finish(b.EndObject())
	message := b.FinishedBytes()
	size := (len(message) + 7) &^ 7
	head = make([]byte, 8+size)
	binary.LittleEndian.PutUint32(head, 0xffffffff) // the mark of a message
	binary.LittleEndian.PutUint32(head[4:], uint32(size))
	copy(head[8:], message)
	return head, body
}

// fileReader reads an Arrow IPC file. Its methods may panic over a damaged one.
type fileReader struct {
	schema *arrow.Schema
	blocks []block
	size   int64
	read   func(at, n int64) ([]byte, error) // exactly n bytes, or an error
}

// newFileReader reads the footer of a file of that size.
func newFileReader(size int64, read func(at, n int64) ([]byte, error)) (*fileReader, error) {
	const guess = 8 << 10 // what most footers fit in
	tail, err := read(max(0, size-guess), min(guess, size))
	if err != nil {
		return nil, err
	}
	if len(tail) < 10 {
		return nil, errors.New("not an Arrow file")
	}
	need := int64(binary.LittleEndian.Uint32(tail[len(tail)-10:])) + 10
	if need > size {
		return nil, errors.New("damaged file: its footer is longer than it")
	}
	if need > int64(len(tail)) {
		if tail, err = read(size-need, need); err != nil {
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
	f := &fileReader{schema: schema, size: size}
	f.blocks, _ = fileBlocks(footerOf(tail))
	f.read = func(at, n int64) ([]byte, error) {
		if at < 0 || n < 0 || at > size || n > size-at {
			return nil, fmt.Errorf("damaged file: a part of %d bytes at %d of %d", n, at, size)
		}
		return read(at, n)
	}
	return f, nil
}

// footerFields reads the schema with Arrow's own reader, which needs a file around it.
func footerFields(tail []byte) (*arrow.Schema, error) {
	r, err := ipc.NewFileReader(bytes.NewReader(append(append(append([]byte{}, ipc.Magic...), 0, 0), tail...)), ipc.WithEnsureNativeEndian(false))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if s := r.Schema(); s.IsNativeEndian() {
		return s, nil
	}
	return nil, errors.New("numbers of the other byte order")
}

// batch reads where batch i has its columns.
func (f *fileReader) batch(i int) (*columnBatch, error) {
	b := f.blocks[i]
	if b.head < 8 {
		return nil, fmt.Errorf("damaged file: the head of batch %d is %d bytes", i, b.head)
	}
	data, err := f.read(b.at, b.head)
	if err != nil {
		return nil, err
	}
	c, err := newColumnBatch(data)
	if err != nil {
		return nil, err
	}
	c.read = func(from, n int64) ([]byte, error) { return f.read(b.at+b.head+from, n) }
	return c, nil
}

// column reads column k of a batch.
func (f *fileReader) column(mem memory.Allocator, b columnBatch, k int) (arrow.Array, error) {
	for i := range k {
		n, m := parts(f.schema.Field(i).Type)
		b.node, b.buffer = b.node+n, b.buffer+m
	}
	d, err := b.array(mem, f.schema.Field(k).Type)
	if err != nil {
		return nil, err
	}
	defer d.Release()
	return array.MakeFromData(d), nil
}

// record reads batch i.
func (f *fileReader) record(mem memory.Allocator, i int) (arrow.Record, error) {
	b, err := f.batch(i)
	if err != nil {
		return nil, err
	}
	columns := make([]arrow.Array, f.schema.NumFields())
	defer func() {
		for _, c := range columns {
			if c != nil {
				c.Release()
			}
		}
	}()
	rows := b.table.GetInt64Slot(4, 0)
	err = each(len(columns), int(f.blocks[i].body), func(k int) (err error) {
		columns[k], err = f.column(mem, *b, k)
		if err == nil && int64(columns[k].Len()) != rows {
			err = fmt.Errorf("damaged file: %d rows of column %d, want %d", columns[k].Len(), k, rows)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return array.NewRecord(f.schema, columns, rows), nil
}
