package files

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// csvRows is how many rows of a CSV file make a batch.
const csvRows = 8192

type csvReader struct {
	r       *csv.Reader
	in      io.Closer
	options Options
	schema  *arrow.Schema
	head    [][]string // rows read for the schema
	lines   []int      // their lines
}

// openCSV reads a file with a header. A column's type is the narrowest of whole
// numbers, numbers, booleans and text that its values in the sample have; an empty
// value is null but in text.
func openCSV(ctx context.Context, f File, o Options) (Reader, error) {
	if o.Sample < 0 {
		o.Sample = int(^uint(0) >> 1)
	}
	in, err := f.Stream()
	if err != nil {
		return nil, err
	}
	b := bufio.NewReader(in)
	if start, err := b.Peek(len(bom)); err == nil && string(start) == string(bom) {
		_, _ = b.Discard(len(bom)) // it was peeked
	}
	c := &csvReader{r: csv.NewReader(b), in: in, options: o}
	if name := strings.ToLower(f.Name); strings.Contains(name, ".tsv") {
		c.r.Comma = '\t'
	}
	if err := c.infer(); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return c, nil
}

// infer reads the header and the sample.
func (c *csvReader) infer() error {
	names, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("an empty file, want a header")
	}
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, name := range names {
		switch {
		case name == "":
			return fmt.Errorf("header: column %d has no name", i+1)
		case seen[name]:
			return fmt.Errorf("header: column %q is there twice", name)
		}
		seen[name] = true
	}
	fits := make([]int, len(names)) // index into csvTypes
	some := make([]bool, len(names))
	for size := 0; size < c.options.Sample; {
		row, err := c.r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		line, _ := c.r.FieldPos(0)
		c.head, c.lines = append(c.head, row), append(c.lines, line)
		for i, v := range row {
			size += len(v) + 1
			if v == "" {
				continue
			}
			some[i] = true
			for fits[i] < len(csvTypes)-1 && csvTypes[fits[i]].check(v) != nil {
				fits[i]++
			}
		}
	}
	fields := make([]arrow.Field, len(names))
	for i, name := range names {
		if c.options.Text || !some[i] {
			fits[i] = len(csvTypes) - 1
		}
		fields[i] = arrow.Field{Name: name, Type: csvTypes[fits[i]].typ, Nullable: true}
	}
	c.schema = arrow.NewSchema(fields, nil)
	return nil
}

// csvTypes are the types of columns, the narrowest first; all take text. A number that
// is written unlike Go would write it, as 007, is text.
var csvTypes = []struct {
	typ   arrow.DataType
	check func(string) error
}{
	{arrow.PrimitiveTypes.Int64, func(s string) error {
		if n, err := strconv.ParseInt(s, 10, 64); err != nil || strconv.FormatInt(n, 10) != s {
			return strconv.ErrSyntax
		}
		return nil
	}},
	{arrow.PrimitiveTypes.Float64, func(s string) error { _, err := parseCSVFloat(s); return err }},
	{arrow.FixedWidthTypes.Boolean, func(s string) error { _, err := parseCSVBool(s); return err }},
	{arrow.BinaryTypes.String, func(string) error { return nil }},
}

func parseCSVFloat(s string) (float64, error) {
	digits := strings.TrimPrefix(s, "-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] != '.' && digits[1] != 'e' || strings.ContainsAny(s, "xXpP_+iI") && !strings.Contains(s, "e+") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

func parseCSVBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, strconv.ErrSyntax
}

func (c *csvReader) Schema() *arrow.Schema  { return c.schema }
func (c *csvReader) Place() (string, int64) { return "", 0 }
func (c *csvReader) Close() error           { return c.in.Close() }

func (c *csvReader) Next() (arrow.Record, error) {
	b := array.NewRecordBuilder(c.options.Mem, c.schema)
	defer b.Release()
	rows := 0
	for ; rows < csvRows; rows++ {
		row, line, err := c.row()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for i, v := range row {
			if err := appendCSV(b.Field(i), v); err != nil {
				return nil, fmt.Errorf("line %d: column %q: %.60q is no %s, which the file's first %d bytes have there: read more of it for the schema, or all columns as text", line, c.schema.Field(i).Name, v, c.schema.Field(i).Type, c.options.Sample)
			}
		}
	}
	if rows == 0 {
		return nil, io.EOF
	}
	return b.NewRecord(), nil
}

// row is the next row, of the sample or of the file, and its line.
func (c *csvReader) row() ([]string, int, error) {
	if len(c.head) > 0 {
		row, line := c.head[0], c.lines[0]
		c.head, c.lines = c.head[1:], c.lines[1:]
		return row, line, nil
	}
	row, err := c.r.Read()
	if err != nil {
		return nil, 0, err
	}
	line, _ := c.r.FieldPos(0)
	return row, line, nil
}

func appendCSV(b array.Builder, v string) error {
	text, isText := b.(*array.StringBuilder)
	switch {
	case isText && !utf8.ValidString(v):
		return errors.New("not UTF-8")
	case isText:
		text.Append(v)
		return nil
	case v == "":
		b.AppendNull()
		return nil
	}
	switch b := b.(type) {
	case *array.Int64Builder:
		n, err := strconv.ParseInt(v, 10, 64)
		b.Append(n)
		return err
	case *array.Float64Builder:
		x, err := parseCSVFloat(v)
		b.Append(x)
		return err
	case *array.BooleanBuilder:
		x, err := parseCSVBool(v)
		b.Append(x)
		return err
	}
	return fmt.Errorf("a column of %s", b.Type())
}
