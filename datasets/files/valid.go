package files

import (
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
)

// valid refuses a column whose values cannot all be read: Arrow's reader takes the
// offsets and indices of a file as they are.
func valid(d arrow.ArrayData) error {
	v := validity{d, d.Offset() + d.Len()}
	t := d.DataType()
	if x, ok := t.(arrow.ExtensionType); ok {
		t = x.StorageType()
	}
	if d.Len() < 0 || d.Offset() < 0 {
		return fmt.Errorf("damaged file: %d rows of %s", d.Len(), t)
	}
	if len(d.Buffers()) > 0 && d.Buffers()[0] != nil && d.NullN() != 0 && v.size(0) < (v.end+7)/8 {
		return fmt.Errorf("damaged file: nulls of %s are not there", t)
	}
	switch t := t.(type) {
	case *arrow.NullType:
		return nil
	case *arrow.StringType, *arrow.BinaryType:
		return v.offsets(4, v.size(2))
	case *arrow.LargeStringType, *arrow.LargeBinaryType:
		return v.offsets(8, v.size(2))
	case *arrow.StringViewType, *arrow.BinaryViewType:
		return v.views()
	case *arrow.ListType, *arrow.MapType:
		return v.children(v.offsets(4, d.Children()[0].Len()), 0)
	case *arrow.LargeListType:
		return v.children(v.offsets(8, d.Children()[0].Len()), 0)
	case *arrow.FixedSizeListType:
		return v.children(nil, v.end*int(t.Len()))
	case *arrow.StructType:
		return v.children(nil, v.end)
	case *arrow.DictionaryType:
		return v.dictionary(t.IndexType.(arrow.FixedWidthDataType).BitWidth() / 8)
	case arrow.FixedWidthDataType:
		if have := v.size(1); have < (v.end*t.BitWidth()+7)/8 {
			return fmt.Errorf("damaged file: %d bytes for %d rows of %s", have, d.Len(), t)
		}
		return nil
	}
	return fmt.Errorf("a column of %s is not read", t)
}

// validity checks one array, whose rows end at end.
type validity struct {
	arrow.ArrayData
	end int
}

func (v validity) size(i int) int { return len(v.bytes(i)) }

func (v validity) bytes(i int) []byte {
	if i < len(v.Buffers()) && v.Buffers()[i] != nil {
		return v.Buffers()[i].Bytes()
	}
	return nil
}

func (v validity) null(i int) bool {
	return v.Buffers()[0] != nil && v.NullN() != 0 && bitutil.BitIsNotSet(v.bytes(0), i)
}

// offsets of some bytes each must grow, and stay within most.
func (v validity) offsets(width, most int) error {
	b := v.bytes(1)
	if v.Len() == 0 {
		return nil
	}
	if len(b) < width*(v.end+1) {
		return fmt.Errorf("damaged file: %d bytes of offsets for %d rows of %s", len(b), v.Len(), v.DataType())
	}
	last := int64(0)
	for i := v.Offset(); i <= v.end; i++ {
		at := int64(0)
		if width == 4 {
			at = int64(int32(binary.LittleEndian.Uint32(b[4*i:])))
		} else {
			at = int64(binary.LittleEndian.Uint64(b[8*i:]))
		}
		if at < last || at > int64(most) {
			return fmt.Errorf("damaged file: offset %d of %s behind %d, of %d", at, v.DataType(), last, most)
		}
		last = at
	}
	return nil
}

// views are 16 bytes each: the length, and the text itself or where it is.
func (v validity) views() error {
	b := v.bytes(1)
	if len(b) < 16*v.end {
		return fmt.Errorf("damaged file: %d bytes for %d rows of %s", len(b), v.Len(), v.DataType())
	}
	for i := v.Offset(); i < v.end; i++ {
		w := b[16*i : 16*i+16]
		n, buffer, at := int(int32(binary.LittleEndian.Uint32(w))), int(int32(binary.LittleEndian.Uint32(w[8:]))), int(int32(binary.LittleEndian.Uint32(w[12:])))
		if v.null(i) || n >= 0 && n <= 12 {
			continue
		}
		if n < 0 || buffer < 0 || at < 0 || at+n > v.size(2+buffer) {
			return fmt.Errorf("damaged file: a text of %d bytes at %d of buffer %d", n, at, buffer)
		}
	}
	return nil
}

// dictionary checks indices of some bytes each.
func (v validity) dictionary(width int) error {
	b := v.bytes(1)
	if len(b) < width*v.end {
		return fmt.Errorf("damaged file: %d bytes for %d rows of %s", len(b), v.Len(), v.DataType())
	}
	most := uint64(v.Dictionary().Len())
	for i := v.Offset(); i < v.end; i++ {
		wide := make([]byte, 8)
		copy(wide, b[width*i:width*(i+1)])
		if at := binary.LittleEndian.Uint64(wide); at >= most && !v.null(i) { // a negative one is beyond it, too
			return fmt.Errorf("damaged file: word %d of %d", at, most)
		}
	}
	return valid(v.Dictionary())
}

// children must be valid and have that many rows.
func (v validity) children(err error, rows int) error {
	for _, c := range v.Children() {
		if err == nil && c.Len() < rows {
			err = fmt.Errorf("damaged file: %d rows in %s, want %d", c.Len(), v.DataType(), rows)
		}
		if err == nil {
			err = valid(c)
		}
	}
	return err
}
