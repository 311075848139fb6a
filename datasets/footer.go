package datasets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow/ipc"
	flatbuffers "github.com/google/flatbuffers/go"
)

// Arrow's reader makes slices of the lengths that the file's footer states before it
// looks at their content, and a damaged length would end the process. checkFooter
// therefore walks the footer first and refuses more than any table of ours has.
//
// The slots are those of Arrow's File.fbs and Schema.fbs, in the vtable's bytes.
const (
	footerSchema = 6

	schemaFields   = 6
	schemaMetadata = 8

	fieldChildren = 14
	fieldMetadata = 16

	mostFields = 64 // columns, or entries of metadata
	mostDepth  = 1  // a list has one child, which has none
)

// checkFooter panics, too, where offsets leave the file.
func checkFooter(data []byte) error {
	const tail = 4 // the footer's size stands before the final magic
	end := len(data) - len(ipc.Magic) - tail
	if end < 0 || !bytes.HasSuffix(data, ipc.Magic) {
		return errors.New("not an Arrow file")
	}
	size := int(binary.LittleEndian.Uint32(data[end:]))
	if size > end {
		return fmt.Errorf("damaged file: a footer of %d bytes in %d", size, len(data))
	}
	footer := data[end-size : end]
	root := flatbuffers.Table{Bytes: footer, Pos: flatbuffers.GetUOffsetT(footer)}
	return checkSchema(root, footerSchema, mostFields, mostDepth)
}

// CheckSchema refuses a damaged schema of someone else's Arrow file: that in the slot
// of a footer or a message. It panics where offsets leave the bytes.
func CheckSchema(holder flatbuffers.Table, slot flatbuffers.VOffsetT) error {
	return checkSchema(holder, slot, 1<<16, 100)
}

func checkSchema(holder flatbuffers.Table, slot flatbuffers.VOffsetT, most, depth int) error {
	at := flatbuffers.UOffsetT(holder.Offset(slot))
	if at == 0 {
		return errors.New("damaged file: no schema")
	}
	schema := flatbuffers.Table{Bytes: holder.Bytes, Pos: holder.Indirect(holder.Pos + at)}
	if err := checkVector(schema, schemaMetadata, most, nil); err != nil {
		return err
	}
	return checkVector(schema, schemaFields, most, func(field flatbuffers.Table) error {
		return checkField(field, most, depth)
	})
}

func checkField(field flatbuffers.Table, most, depth int) error {
	if err := checkVector(field, fieldMetadata, most, nil); err != nil {
		return err
	}
	if depth == 0 {
		most = 0
	}
	return checkVector(field, fieldChildren, most, func(child flatbuffers.Table) error {
		return checkField(child, most, depth-1)
	})
}

// checkVector checks the vector of tables in the slot of t: its length and each element.
func checkVector(t flatbuffers.Table, slot flatbuffers.VOffsetT, most int, each func(flatbuffers.Table) error) error {
	at := flatbuffers.UOffsetT(t.Offset(slot))
	if at == 0 {
		return nil
	}
	n := t.VectorLen(at)
	if most = min(most, len(t.Bytes)/4); n > most {
		return fmt.Errorf("damaged file: its schema has %d parts where at most %d make sense", n, most)
	}
	for i := range n {
		if each == nil {
			break
		}
		element := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(t.Vector(at) + flatbuffers.UOffsetT(4*i))}
		if err := each(element); err != nil {
			return err
		}
	}
	return nil
}
