package files

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// kind is what the values of a column are.
type kind uint8

const (
	kindNull kind = iota // nothing but null so far
	kindBool
	kindInt
	kindFloat
	kindText // strings, and other values as they are written
	kindList
	kindStruct
)

// column collects the values of a column, and is used again for the next batch.
type column struct {
	kind   kind
	name   string // dotted path, for messages
	quoted []byte // "name", as most files spell it
	rows   int
	nulls  int
	valid  []byte // bitmap; behind its end all are valid
	ints   []int64
	floats []float64
	bools  []byte // bitmap
	bytes  []byte
	ends   []int32 // of texts and lists, without the leading 0
	elem   *column
	fields []*column
	index  map[string]int
}

func (c *column) reset() {
	c.rows, c.nulls = 0, 0
	c.valid, c.ints, c.floats, c.bools, c.bytes, c.ends = c.valid[:0], c.ints[:0], c.floats[:0], c.bools[:0], c.bytes[:0], c.ends[:0]
	if c.elem != nil {
		c.elem.reset()
	}
	for _, f := range c.fields {
		f.reset()
	}
}

// ok counts a value that is there.
func (c *column) ok() {
	if c.nulls > 0 {
		c.mark(true)
	}
	c.rows++
}

// mark writes the bit of the value to come.
func (c *column) mark(valid bool) {
	for len(c.valid) <= c.rows/8 {
		c.valid = append(c.valid, 0xff)
	}
	if !valid {
		c.valid[c.rows/8] &^= 1 << (c.rows % 8)
	}
}

// null adds a null.
func (c *column) null() {
	c.mark(false)
	c.nulls++
	c.rows++
	switch c.kind {
	case kindBool:
		c.bool(false)
	case kindInt:
		c.ints = append(c.ints, 0)
	case kindFloat:
		c.floats = append(c.floats, 0)
	case kindText, kindNull:
		c.ends = append(c.ends, int32(len(c.bytes)))
	case kindList:
		c.ends = append(c.ends, int32(c.elem.rows))
	case kindStruct:
		for _, f := range c.fields {
			f.null()
		}
	}
}

// bool adds the bit of the row that was just counted.
func (c *column) bool(v bool) {
	at := c.rows - 1
	if at/8 == len(c.bools) {
		c.bools = append(c.bools, 0)
	}
	if v {
		c.bools[at/8] |= 1 << (at % 8)
	}
}

// arrow copies the column into an array.
func (c *column) arrow(mem memory.Allocator) arrow.ArrayData {
	buffers := []*memory.Buffer{nil}
	if c.nulls > 0 {
		buffers[0] = newBuffer(mem, c.valid)
	}
	var children []arrow.ArrayData
	switch c.kind {
	case kindBool:
		buffers = append(buffers, newBuffer(mem, c.bools))
	case kindInt:
		buffers = append(buffers, newBuffer(mem, arrow.Int64Traits.CastToBytes(c.ints)))
	case kindFloat:
		buffers = append(buffers, newBuffer(mem, arrow.Float64Traits.CastToBytes(c.floats)))
	case kindText, kindNull:
		buffers = append(buffers, newOffsets(mem, c.ends), newBuffer(mem, c.bytes))
	case kindList:
		buffers = append(buffers, newOffsets(mem, c.ends))
		children = append(children, c.elem.arrow(mem))
	case kindStruct:
		for _, f := range c.fields {
			children = append(children, f.arrow(mem))
		}
	}
	data := array.NewData(c.dataType(), c.rows, buffers, children, c.nulls, 0)
	for _, b := range buffers {
		if b != nil {
			b.Release()
		}
	}
	for _, d := range children {
		d.Release()
	}
	return data
}

func newBuffer(mem memory.Allocator, data []byte) *memory.Buffer {
	b := memory.NewResizableBuffer(mem)
	b.Resize(len(data))
	copy(b.Bytes(), data)
	return b
}

func newOffsets(mem memory.Allocator, ends []int32) *memory.Buffer {
	b := memory.NewResizableBuffer(mem)
	b.Resize(4 + 4*len(ends))
	offsets := arrow.Int32Traits.CastFromBytes(b.Bytes())
	offsets[0] = 0
	copy(offsets[1:], ends)
	return b
}

func (c *column) dataType() arrow.DataType {
	switch c.kind {
	case kindBool:
		return arrow.FixedWidthTypes.Boolean
	case kindInt:
		return arrow.PrimitiveTypes.Int64
	case kindFloat:
		return arrow.PrimitiveTypes.Float64
	case kindList:
		return arrow.ListOf(c.elem.dataType())
	case kindStruct:
		return arrow.StructOf(c.arrowFields()...)
	}
	return arrow.BinaryTypes.String
}

func (c *column) arrowFields() []arrow.Field {
	fields := make([]arrow.Field, len(c.fields))
	for i, f := range c.fields {
		fields[i] = arrow.Field{Name: f.base(), Type: f.dataType(), Nullable: true}
	}
	return fields
}

// base is the field's own name.
func (c *column) base() string {
	var s string
	_ = json.Unmarshal(c.quoted, &s) // it was marshalled from a string
	return s
}

// parser reads chunks of JSON lines into columns. Its methods take the position of what
// they read and return the position behind it, or below 0 after an error, which is then
// in err. They rely on pad zeros behind the data.
type parser struct {
	root   *column
	sample int
	data   []byte // padded
	err    error
	at     int // position of the error
	unit   []byte
}

// maxDepth is how deep values may be nested.
const maxDepth = 100

var errMisfit = errors.New("the first rows are otherwise")

// parse makes a batch of a chunk.
func (p *parser) parse(c chunk, schema *arrow.Schema, mem memory.Allocator) (arrow.Record, error) {
	p.data, p.err = c.padded(), nil
	p.root.reset()
	n := len(p.data)
	p.data = p.data[: n+pad : n+pad]
	for i := 0; i < n; {
		i = p.space(i)
		if i >= n {
			break
		}
		if p.data[i] == '\n' {
			i++
			continue
		}
		if p.data[i] != '{' {
			p.fail(i, "want one JSON object per line")
			return nil, p.located(c)
		}
		if i = p.object(p.root, i, 1); i < 0 {
			return nil, p.located(c)
		}
		if i = p.space(i); i < n && p.data[i] != '\n' {
			p.fail(i, "want the end of the line")
			return nil, p.located(c)
		}
	}
	columns := make([]arrow.Array, len(p.root.fields))
	for k, f := range p.root.fields {
		data := f.arrow(mem)
		columns[k] = array.MakeFromData(data)
		data.Release()
	}
	rec := array.NewRecord(schema, columns, int64(p.root.rows))
	for _, a := range columns {
		a.Release()
	}
	return rec, nil
}

func (p *parser) located(c chunk) error {
	start := bytes.LastIndexByte(c.data[:min(p.at, len(c.data))], '\n') + 1
	return fmt.Errorf("line %d, byte %d: %w", c.line+bytes.Count(c.data[:start], []byte("\n")), p.at-start+1, p.err)
}

func (p *parser) fail(at int, format string, args ...any) int {
	p.at, p.err = at, fmt.Errorf(format, args...)
	return -1
}

// misfit is the error of a value that is not of its column's type.
func (p *parser) misfit(c *column, i int) int {
	end := i
	for end < len(p.data)-pad && end < i+40 && p.data[end] != '\n' {
		end++
	}
	return p.fail(i, "field %q: %q where the first %d bytes of rows have %s: %w", c.name, p.data[i:end], p.sample, c.dataType(), errMisfit)
}

// space skips blanks, but no line's end.
func (p *parser) space(i int) int {
	for p.data[i] == ' ' || p.data[i] == '\t' || p.data[i] == '\r' {
		i++
	}
	return i
}

// object reads {…} at i into the fields of c.
func (p *parser) object(c *column, i, depth int) int {
	if depth > maxDepth {
		return p.fail(i, "nested deeper than %d", maxDepth)
	}
	c.ok()
	row, next, seen := c.rows, 0, 0
	i = p.space(i + 1)
	if p.data[i] == '}' {
		i++
	} else {
		for {
			k, after := p.key(c, i, next)
			if after < 0 {
				return after
			}
			f := c.fields[k]
			if f.rows == row {
				return p.fail(i, "field %q is there twice", f.name)
			}
			if i = p.value(f, after, depth); i < 0 {
				return i
			}
			seen++
			next = k + 1
			i = p.space(i)
			if p.data[i] == ',' {
				i = p.space(i + 1)
				continue
			}
			if p.data[i] == '}' {
				i++
				break
			}
			return p.fail(i, "want , or } after the value of %q", f.name)
		}
	}
	if seen < len(c.fields) {
		for _, f := range c.fields {
			if f.rows < row {
				f.null()
			}
		}
	}
	return i
}

// key reads a key of c's object, which is probably that of field next, and returns the
// field's number and the position of its value.
func (p *parser) key(c *column, i, next int) (int, int) {
	k := -1
	if next < len(c.fields) && bytes.HasPrefix(p.data[i:], c.fields[next].quoted) {
		k, i = next, i+len(c.fields[next].quoted)
	} else {
		if p.data[i] != '"' {
			return 0, p.fail(i, "want a field's name in quotes")
		}
		name, after := p.text(p.unit[:0], i)
		if after < 0 {
			return 0, after
		}
		p.unit = name
		var ok bool
		if k, ok = c.index[string(name)]; !ok {
			return 0, p.fail(i, "field %q, which none of the first %d bytes of rows has: %w", name, p.sample, errMisfit)
		}
		i = after
	}
	if p.data[i] != ':' {
		if i = p.space(i); p.data[i] != ':' {
			return 0, p.fail(i, "want : after the name %q", c.fields[k].name)
		}
	}
	return k, p.space(i + 1)
}

// value reads any value at i into c.
func (p *parser) value(c *column, i, depth int) int {
	b := p.data[i]
	if b == 'n' {
		if after := p.word(i, "null"); after >= 0 {
			c.null()
			return after
		}
		return -1
	}
	switch c.kind {
	case kindText, kindNull:
		if b == '"' {
			text, after := p.text(c.bytes, i)
			if after < 0 {
				return after
			}
			c.bytes = text
			i = after
		} else {
			after := p.skip(i, depth)
			if after < 0 {
				return after
			}
			c.bytes = append(c.bytes, p.data[i:after]...)
			i = after
		}
		c.ok()
		c.ends = append(c.ends, int32(len(c.bytes)))
		return i
	case kindInt:
		v, after := p.int(i)
		if after < 0 {
			return p.odd(c, i, depth)
		}
		c.ok()
		c.ints = append(c.ints, v)
		return after
	case kindFloat:
		v, after := p.float(i)
		if after < 0 {
			return p.odd(c, i, depth)
		}
		c.ok()
		c.floats = append(c.floats, v)
		return after
	case kindBool:
		word := "false"
		if b == 't' {
			word = "true"
		} else if b != 'f' {
			return p.odd(c, i, depth)
		}
		if i = p.word(i, word); i >= 0 {
			c.ok()
			c.bool(b == 't')
		}
		return i
	case kindList:
		if b != '[' {
			return p.odd(c, i, depth)
		}
		return p.list(c, i, depth+1)
	}
	if b != '{' {
		return p.odd(c, i, depth)
	}
	return p.object(c, i, depth+1)
}

// odd is the error of what stands at i and is no value of c: of another type, or none.
func (p *parser) odd(c *column, i, depth int) int {
	if p.skip(i, depth) < 0 {
		return -1
	}
	return p.misfit(c, i)
}

// list reads […] at i.
func (p *parser) list(c *column, i, depth int) int {
	if depth > maxDepth {
		return p.fail(i, "nested deeper than %d", maxDepth)
	}
	if i = p.space(i + 1); p.data[i] == ']' {
		i++
	} else {
		for {
			// Numbers go without the detour of value.
			after := -1
			if e := c.elem; e.nulls == 0 {
				switch e.kind {
				case kindInt:
					var v int64
					if v, after = p.int(i); after >= 0 {
						e.ints = append(e.ints, v)
						e.rows++
					}
				case kindFloat:
					var v float64
					if v, after = p.float(i); after >= 0 {
						e.floats = append(e.floats, v)
						e.rows++
					}
				}
			}
			if after < 0 {
				if after = p.value(c.elem, i, depth); after < 0 {
					return after
				}
			}
			if i = after; p.data[i] == ',' {
				if i++; p.data[i] <= ' ' {
					i = p.space(i)
				}
				continue
			}
			i = p.space(i)
			if p.data[i] == ',' {
				i = p.space(i + 1)
				continue
			}
			if p.data[i] == ']' {
				i++
				break
			}
			return p.fail(i, "want , or ] in a list")
		}
	}
	c.ok()
	c.ends = append(c.ends, int32(c.elem.rows))
	return i
}

// word reads null, true or false.
func (p *parser) word(i int, word string) int {
	if string(p.data[i:i+len(word)]) != word {
		return p.fail(i, "want a value")
	}
	return i + len(word)
}

// skip reads any value and forgets it.
func (p *parser) skip(i, depth int) int {
	if depth > maxDepth {
		return p.fail(i, "nested deeper than %d", maxDepth)
	}
	switch b := p.data[i]; b {
	case '"':
		text, after := p.text(p.unit[:0], i)
		if after >= 0 {
			p.unit = text
		}
		return after
	case 'n':
		return p.word(i, "null")
	case 't':
		return p.word(i, "true")
	case 'f':
		return p.word(i, "false")
	case '[', '{':
		end := b + 2 // ] and } in ASCII
		if i = p.space(i + 1); p.data[i] == end {
			return i + 1
		}
		for {
			if b == '{' {
				if p.data[i] != '"' {
					return p.fail(i, "want a field's name in quotes")
				}
				if i = p.skip(i, depth); i < 0 {
					return i
				}
				if i = p.space(i); p.data[i] != ':' {
					return p.fail(i, "want : after a name")
				}
				i = p.space(i + 1)
			}
			if i = p.skip(i, depth+1); i < 0 {
				return i
			}
			switch i = p.space(i); p.data[i] {
			case ',':
				i = p.space(i + 1)
			case end:
				return i + 1
			default:
				return p.fail(i, "want , or %c", end)
			}
		}
	}
	if after := p.number(i); after >= 0 {
		return after
	}
	return p.fail(i, "want a value")
}

// number is the position behind the JSON number at i, or -1.
func (p *parser) number(i int) int {
	d := p.data
	if d[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for d[i]-'0' < 10 {
			i++
		}
		return i > from
	}
	if zero := d[i] == '0'; zero {
		i++
	} else if !digits() {
		return -1
	}
	if d[i] == '.' {
		if i++; !digits() {
			return -1
		}
	}
	if d[i]|0x20 == 'e' {
		if i++; d[i] == '+' || d[i] == '-' {
			i++
		}
		if !digits() {
			return -1
		}
	}
	if d[i]-'0' < 10 { // a leading zero
		return -1
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// eight reads up to eight decimal digits at the start of w's bytes: their value and
// their number.
func eight(w uint64) (uint64, int) {
	odd := (w&0xf0f0f0f0f0f0f0f0 ^ 0x3030303030303030) | ((w+0x0606060606060606)&0xf0f0f0f0f0f0f0f0 ^ 0x3030303030303030)
	n := bits.TrailingZeros64(odd) / 8
	if n == 0 {
		return 0, 0
	}
	w <<= 64 - 8*uint(n)
	w = (w & 0x0f0f0f0f0f0f0f0f) * 2561 >> 8
	w = (w & 0x00ff00ff00ff00ff) * 6553601 >> 16
	return (w & 0x0000ffff0000ffff) * 42949672960001 >> 32, n
}

// int reads a whole number; the position is below 0, without an error, where there is
// none or not one of 64 bits.
func (p *parser) int(i int) (int64, int) {
	d := p.data
	start := i
	negative := d[i] == '-'
	if negative {
		i++
	}
	v, n := eight(binary.LittleEndian.Uint64(d[i:]))
	if n == 0 || d[i] == '0' && n > 1 {
		return 0, -1
	}
	if i += n; n == 8 && d[i]-'0' < 10 {
		i = p.number(start)
		if i < 0 || d[i-1]-'0' > 9 {
			return 0, -1
		}
		v, err := strconv.ParseInt(text(d[start:i]), 10, 64)
		if err != nil {
			return 0, -1
		}
		return v, i
	}
	if d[i] == '.' || d[i]|0x20 == 'e' {
		return 0, -1
	}
	if negative {
		return -int64(v), i
	}
	return int64(v), i
}

// text sees bytes as a string for a call that keeps none of it.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// powers of ten that a float64 holds exactly.
var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

var whole = [...]uint64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8}

// float reads a number; the position is below 0, without an error, where there is none
// or one beyond a float64. A number of digits below 2^53 and a power of ten up to 22 are both exact, so
// one division rounds once (Clinger 1990); others go to strconv.
func (p *parser) float(i int) (float64, int) {
	d := p.data
	start := i
	negative := d[i] == '-'
	if negative {
		i++
	}
	m, n := eight(binary.LittleEndian.Uint64(d[i:]))
	if n == 0 || n == 8 || d[i] == '0' && n > 1 {
		return p.slowFloat(start)
	}
	i += n
	scale := 0
	if d[i] == '.' {
		i++
		f, k := eight(binary.LittleEndian.Uint64(d[i:]))
		if k == 0 {
			return 0, -1
		}
		m = m*whole[k] + f
		i += k
		scale = k
		if k == 8 {
			f, k := eight(binary.LittleEndian.Uint64(d[i:]))
			m = m*whole[k] + f // n+16 digits at most, of which 15 count as seven of n are there; the bound is checked
			i += k
			scale += k
			if k == 8 && d[i]-'0' < 10 || n+scale > 19 {
				return p.slowFloat(start)
			}
		}
	}
	if d[i]|0x20 == 'e' {
		i++
		minus := d[i] == '-'
		if minus || d[i] == '+' {
			i++
		}
		e, k := eight(binary.LittleEndian.Uint64(d[i:]))
		if k == 0 {
			return 0, -1
		}
		if k > 4 {
			return p.slowFloat(start)
		}
		i += k
		if minus {
			scale += int(e)
		} else {
			scale -= int(e)
		}
	}
	if m >= 1<<53 || scale < -22 || scale > 22 {
		return p.slowFloat(start)
	}
	v := float64(m)
	if scale >= 0 {
		v /= powers[scale]
	} else {
		v *= powers[-scale]
	}
	if negative {
		v = -v
	}
	return v, i
}

func (p *parser) slowFloat(start int) (float64, int) {
	i := p.number(start)
	if i < 0 {
		return 0, -1
	}
	v, err := strconv.ParseFloat(text(p.data[start:i]), 64)
	if err != nil {
		return 0, -1
	}
	return v, i
}

// text appends the string in quotes at i to dst.
func (p *parser) text(dst []byte, i int) ([]byte, int) {
	d := p.data
	i++
	from, begin, any := i, len(dst), uint64(0)
	for {
		w := binary.LittleEndian.Uint64(d[i:])
		q, s := w^ones*'"', w^ones*'\\'
		stop := ((q-ones)&^q | (s-ones)&^s | (w-ones*0x20)&^w) & highs
		if stop == 0 {
			any |= w
			i += 8
			continue
		}
		n := bits.TrailingZeros64(stop) / 8
		any |= w & (1<<(8*uint(n)) - 1)
		i += n
		if d[i] == '"' {
			dst = append(dst, d[from:i]...)
			break
		}
		if d[i] != '\\' {
			if i >= len(d)-pad {
				return nil, p.fail(i, "a text without end")
			}
			return nil, p.fail(i, "a control character 0x%02x in a text", d[i])
		}
		dst = append(dst, d[from:i]...)
		i++
		if c := escapes[d[i]]; c != 0 {
			dst = append(dst, c)
			i++
		} else {
			r, after := p.unicode(i)
			if after < 0 {
				return nil, after
			}
			dst = utf8.AppendRune(dst, r)
			i = after
		}
		from = i
	}
	if any&highs != 0 && !utf8.Valid(dst[begin:]) {
		return nil, p.fail(i, "a text that is not UTF-8")
	}
	return dst, i + 1
}

// escapes are what stands behind a backslash, and what it means.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unicode reads u and four hexadecimal digits at i, and the second half of a pair behind it. A half alone is
// U+FFFD, as encoding/json has it.
func (p *parser) unicode(i int) (rune, int) {
	half := func(i int) rune {
		if p.data[i] != 'u' {
			return -1
		}
		v, err := strconv.ParseUint(text(p.data[i+1:i+5]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(v)
	}
	r := half(i)
	if r < 0 {
		return 0, p.fail(i, "a backslash with %q behind it in a text", p.data[i])
	}
	i += 5
	if !utf16.IsSurrogate(r) {
		return r, i
	}
	if p.data[i] == '\\' {
		if pair := utf16.DecodeRune(r, half(i+1)); pair != utf8.RuneError {
			return pair, i + 6
		}
	}
	return utf8.RuneError, i
}
