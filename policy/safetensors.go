package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// maxHeader is the limit on the header of a safetensors file, in bytes, that
// the format's own library has.
const maxHeader = 100 << 20

// tensorHeader is the entry of one tensor in the header of a safetensors file.
type tensorHeader struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets []int  `json:"data_offsets"` // [begin, end) in the data after the header
}

// DType is what a file holds numbers as, named as PyTorch names it.
type DType string

// The values of DType that are written.
const (
	Float32  DType = "float32"
	BFloat16 DType = "bfloat16" // rounded to the nearest, ties to even
)

// width is the size of a number in bytes.
func (d DType) width() int {
	if d == BFloat16 {
		return 2
	}
	return 4
}

// EncodeSafetensors is EncodeSafetensorsAs with float32, which loses nothing.
func EncodeSafetensors(ts []Tensor, meta map[string]string) []byte {
	return EncodeSafetensorsAs(ts, meta, Float32)
}

// EncodeSafetensorsAs writes tensors, in the order given, as a safetensors file:
//
//	8 bytes   length n of the header, little-endian
//	n bytes   header: JSON, padded with spaces so that the data is 8-byte aligned
//	the rest  the tensors' data, little-endian
//
// meta becomes __metadata__ and may be nil. Equal tensors and meta give equal
// bytes. It panics if the data of a tensor does not fill its shape, or if two
// tensors have one name.
func EncodeSafetensorsAs(ts []Tensor, meta map[string]string, dtype DType) []byte {
	name := map[DType]string{Float32: "F32", BFloat16: "BF16"}[dtype]
	header := []byte("{")
	entry := func(key string, value any) {
		if len(header) > 1 {
			header = append(header, ',')
		}
		header = append(appendJSON(header, key), ':')
		header = appendJSON(header, value)
	}
	if len(meta) > 0 {
		entry("__metadata__", meta)
	}
	size, seen := 0, make(map[string]bool, len(ts))
	for _, t := range ts {
		if len(t.Data) != elements(t.Shape) || seen[t.Name] {
			panic(fmt.Sprintf("policy: safetensors: tensor %s: %d elements for shape %v, or a second tensor of that name",
				t.Name, len(t.Data), t.Shape))
		}
		seen[t.Name] = true
		end := size + dtype.width()*len(t.Data)
		// A scalar's shape is [] in the file, never null.
		entry(t.Name, tensorHeader{name, append([]int{}, t.Shape...), []int{size, end}})
		size = end
	}
	header = append(header, '}')
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}

	out := make([]byte, 0, 8+len(header)+size)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(header)))
	out = append(out, header...)
	for _, t := range ts {
		for _, x := range t.Data {
			bits := math.Float32bits(x)
			if dtype == BFloat16 { // the upper half of a float32
				out = binary.LittleEndian.AppendUint16(out, uint16((bits+0x7fff+bits>>16&1)>>16))
			} else {
				out = binary.LittleEndian.AppendUint32(out, bits)
			}
		}
	}
	return out
}

// appendJSON appends v as JSON, without the escapes that are for HTML. v is
// made of strings and integers, which always encode.
func appendJSON(dst []byte, v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// DecodeSafetensors reads a safetensors file whose tensors are F32, F16 or
// BF16, all of which become float32 exactly. Tensors come in the order of
// their data. The file must be as the format demands: one header entry per
// name, and data that the tensors fill without gap, overlap or remainder. An
// error names the tensor.
func DecodeSafetensors(data []byte) ([]Tensor, map[string]string, error) {
	return readSafetensors(bytes.NewReader(data), int64(len(data)))
}

// readSafetensors is DecodeSafetensors of a file, of which no more than one
// tensor is held as it lies there.
func readSafetensors(r io.ReaderAt, size int64) ([]Tensor, map[string]string, error) {
	tensors, meta, err := decodeSafetensors(r, size)
	if err != nil {
		return nil, nil, fmt.Errorf("safetensors: %w", err)
	}
	return tensors, meta, nil
}

func decodeSafetensors(r io.ReaderAt, size int64) ([]Tensor, map[string]string, error) {
	if size < 8 {
		return nil, nil, fmt.Errorf("file of %d bytes, want at least the 8 of the header length", size)
	}
	var length [8]byte
	if err := readFull(r, length[:], 0); err != nil {
		return nil, nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	switch {
	case n > maxHeader:
		return nil, nil, fmt.Errorf("header of %d bytes, want at most %d: not a safetensors file", n, maxHeader)
	case n > uint64(size-8):
		return nil, nil, fmt.Errorf("header of %d bytes, but only %d follow: truncated file", n, size-8)
	}
	header := make([]byte, n)
	if err := readFull(r, header, 8); err != nil {
		return nil, nil, err
	}
	headers, meta, err := decodeHeader(header)
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	start := 8 + int64(n)
	body := int(size - start)

	slices.SortStableFunc(headers, func(a, b namedHeader) int {
		if a.begin != b.begin {
			return a.begin - b.begin
		}
		return a.end - b.end // empty tensors before the one that starts where they lie
	})
	tensors := make([]Tensor, 0, len(headers))
	next := 0
	for _, h := range headers {
		switch {
		case h.begin != next:
			return nil, nil, fmt.Errorf("tensor %s: data_offsets start at %d, want %d: data must be contiguous", h.name, h.begin, next)
		case h.end > body:
			return nil, nil, fmt.Errorf("tensor %s: data_offsets end at %d, but the file holds %d bytes of data: truncated file", h.name, h.end, body)
		}
		data := make([]byte, h.end-h.begin)
		if err := readFull(r, data, start+int64(h.begin)); err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", h.name, err)
		}
		tensors = append(tensors, Tensor{h.name, h.shape, h.convert(data)})
		next = h.end
	}
	if next != body {
		return nil, nil, fmt.Errorf("%d bytes after the last tensor, want none", body-next)
	}
	return tensors, meta, nil
}

// readFull fills data from a place of a file; its end is no error then.
func readFull(r io.ReaderAt, data []byte, at int64) error {
	if n, err := r.ReadAt(data, at); n < len(data) {
		return err
	}
	return nil
}

// namedHeader is a checked tensorHeader: end − begin is what its shape takes.
type namedHeader struct {
	name       string
	shape      []int
	begin, end int
	convert    func([]byte) []float32
}

// decodeHeader reads the JSON key by key, because a map would hide a name that
// occurs twice.
func decodeHeader(data []byte) ([]namedHeader, map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, nil, errors.New("not a JSON object: not a safetensors file")
	}
	var (
		headers []namedHeader
		meta    map[string]string
		seen    = map[string]bool{}
	)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		name := token.(string) // keys of an object are strings
		if seen[name] {
			return nil, nil, fmt.Errorf("tensor %s: listed twice", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := d.Decode(&meta); err != nil {
				return nil, nil, fmt.Errorf("__metadata__: %w", err)
			}
			continue
		}
		var h tensorHeader
		if err := d.Decode(&h); err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		checked, err := h.check(name)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		headers = append(headers, checked)
	}
	if token, err := d.Token(); err != nil || token != json.Delim('}') {
		return nil, nil, errors.New("the JSON object is not closed")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, errors.New("text after the JSON object")
	}
	return headers, meta, nil
}

func (h tensorHeader) check(name string) (namedHeader, error) {
	var width int
	var convert func([]byte) []float32
	switch h.DType {
	case "F32":
		width, convert = 4, floats32
	case "F16":
		width, convert = 2, floats16
	case "BF16":
		width, convert = 2, bfloats16
	default:
		return namedHeader{}, fmt.Errorf("dtype is %q, want F32, F16 or BF16", h.DType)
	}
	size := width
	for _, d := range h.Shape {
		if d < 0 || d > 0 && size > math.MaxInt/d {
			return namedHeader{}, fmt.Errorf("shape %v is no size in memory", h.Shape)
		}
		size *= d
	}
	if len(h.Offsets) != 2 || h.Offsets[0] < 0 || h.Offsets[1] < h.Offsets[0] {
		return namedHeader{}, fmt.Errorf("data_offsets are %v, want [begin, end]", h.Offsets)
	}
	if got := h.Offsets[1] - h.Offsets[0]; got != size {
		return namedHeader{}, fmt.Errorf("data_offsets span %d bytes, want %d for %s of shape %v", got, size, h.DType, h.Shape)
	}
	return namedHeader{name, h.Shape, h.Offsets[0], h.Offsets[1], convert}, nil
}

func floats32(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// bfloats16 widens bfloat16, which is the upper half of a float32.
func bfloats16(b []byte) []float32 {
	out := make([]float32, len(b)/2)
	for i := range out {
		out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
	}
	return out
}

// floats16 widens IEEE 754 binary16: sign 1 bit, exponent 5, fraction 10.
func floats16(b []byte) []float32 {
	out := make([]float32, len(b)/2)
	for i := range out {
		h := uint32(binary.LittleEndian.Uint16(b[2*i:]))
		sign, exponent, fraction := h>>15<<31, h>>10&0x1f, h&0x3ff
		switch exponent {
		case 0: // zero and subnormal numbers: fraction · 2⁻²⁴
			out[i] = math.Float32frombits(sign | math.Float32bits(float32(fraction)*0x1p-24))
		case 0x1f: // infinity and NaN
			out[i] = math.Float32frombits(sign | 0xff<<23 | fraction<<13)
		default: // the bias is 15 there and 127 here
			out[i] = math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
		}
	}
	return out
}
