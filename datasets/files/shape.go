package files

import (
	"encoding/json"

	"github.com/apache/arrow/go/v17/arrow"
)

// shape is what the values of a field have in common so far.
type shape struct {
	kind   kind
	elem   *shape
	fields []*shape // of objects, in the order of their first appearance
	names  []string
	index  map[string]int
}

// learn widens the shape by the rows of a chunk.
func (s *shape) learn(c chunk) error {
	n := len(c.data)
	p := parser{data: c.padded()}
	p.data = p.data[: n+pad : n+pad]
	for i := 0; i < n; {
		if i = p.space(i); i >= n {
			break
		}
		if p.data[i] == '\n' {
			i++
			continue
		}
		if p.data[i] != '{' {
			p.fail(i, "want one JSON object per line")
			return p.located(c)
		}
		if i = s.value(&p, i, 1); i < 0 {
			return p.located(c)
		}
		if i = p.space(i); i < n && p.data[i] != '\n' {
			p.fail(i, "want the end of the line")
			return p.located(c)
		}
	}
	return nil
}

// value widens the shape by the value at i.
func (s *shape) value(p *parser, i, depth int) int {
	if depth > maxDepth {
		return p.fail(i, "nested deeper than %d", maxDepth)
	}
	switch b := p.data[i]; b {
	case 'n':
		return p.skip(i, depth)
	case '"':
		s.widen(kindText)
		return p.skip(i, depth)
	case 't', 'f':
		s.widen(kindBool)
		return p.skip(i, depth)
	case '[', '{':
		list := b == '['
		if list {
			s.widen(kindList)
		} else {
			s.widen(kindStruct)
		}
		if s.kind == kindText {
			return p.skip(i, depth)
		}
		if s.elem == nil {
			s.elem = &shape{}
		}
		if i = p.space(i + 1); p.data[i] == b+2 {
			return i + 1
		}
		for {
			to := s.elem
			if !list {
				if p.data[i] != '"' {
					return p.fail(i, "want a field's name in quotes")
				}
				name, after := p.text(nil, i)
				if after < 0 {
					return after
				}
				if i = p.space(after); p.data[i] != ':' {
					return p.fail(i, "want : after the name %q", name)
				}
				i = p.space(i + 1)
				to = s.field(string(name))
			}
			if i = to.value(p, i, depth+1); i < 0 {
				return i
			}
			switch i = p.space(i); p.data[i] {
			case ',':
				i = p.space(i + 1)
			case b + 2:
				return i + 1
			default:
				return p.fail(i, "want , or %c", b+2)
			}
		}
	}
	after := p.skip(i, depth)
	if after >= 0 {
		if _, whole := p.int(i); whole >= 0 {
			s.widen(kindInt)
		} else if _, number := p.float(i); number >= 0 {
			s.widen(kindFloat)
		} else {
			s.widen(kindText) // beyond a float64: as it is written
		}
	}
	return after
}

func (s *shape) widen(k kind) {
	switch {
	case s.kind == kindNull, s.kind == kindInt && k == kindFloat:
		s.kind = k
	case s.kind != k && (s.kind != kindFloat || k != kindInt):
		s.kind = kindText
	}
}

func (s *shape) field(name string) *shape {
	if k, ok := s.index[name]; ok {
		return s.fields[k]
	}
	if s.index == nil {
		s.index = map[string]int{}
	}
	s.index[name] = len(s.fields)
	s.fields, s.names = append(s.fields, &shape{}), append(s.names, name)
	return s.fields[len(s.fields)-1]
}

// column makes an empty column of the shape. An object that never has a field becomes
// text: not all formats have structs without fields.
func (s *shape) column(path string) *column {
	c := &column{kind: s.kind, name: path}
	switch {
	case s.kind == kindList:
		c.elem = s.elem.column(path)
	case s.kind == kindStruct && len(s.fields) == 0:
		c.kind = kindText
	case s.kind == kindStruct:
		c.index = s.index
		for i, f := range s.fields {
			name := s.names[i]
			if path != "" {
				name = path + "." + name
			}
			inner := f.column(name)
			inner.quoted, _ = json.Marshal(s.names[i]) // a string always has a form
			c.fields = append(c.fields, inner)
		}
	}
	return c
}

func (s *shape) schema() *arrow.Schema { return arrow.NewSchema(s.column("").arrowFields(), nil) }
