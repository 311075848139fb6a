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

	mostFields   = 64 // columns, or entries of metadata
	mostChildren = 1  // a list has one child, which has none
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
	schemas := int(root.Offset(footerSchema))
	if schemas == 0 {
		return errors.New("damaged file: no schema")
	}
	schema := flatbuffers.Table{Bytes: footer, Pos: root.Indirect(root.Pos + flatbuffers.UOffsetT(schemas))}
	if err := checkVector(schema, schemaMetadata, mostFields, nil); err != nil {
		return err
	}
	return checkVector(schema, schemaFields, mostFields, func(field flatbuffers.Table) error {
		return checkField(field, mostChildren)
	})
}

func checkField(field flatbuffers.Table, children int) error {
	if err := checkVector(field, fieldMetadata, mostFields, nil); err != nil {
		return err
	}
	return checkVector(field, fieldChildren, children, func(child flatbuffers.Table) error {
		return checkField(child, 0)
	})
}

// checkVector checks the vector of tables in the slot of t: its length and each element.
func checkVector(t flatbuffers.Table, slot flatbuffers.VOffsetT, most int, each func(flatbuffers.Table) error) error {
	at := flatbuffers.UOffsetT(t.Offset(slot))
	if at == 0 {
		return nil
	}
	n := t.VectorLen(at)
	if n > most {
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
