package datasets

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow/memory"
)

// MaxRow is the longest line in bytes, its end aside, that an import accepts.
const MaxRow = 8 << 20

// ImportOptions say how to read a file of problems. The zero value takes the habit
// from the first row and stops at the first bad row.
type ImportOptions struct {
	SkipBad  bool   // keep the good rows and return the bad ones as rejects
	Habit    string // name of a [Habit]; "" = by the first row's keys
	Source   string // the source column of rows without their own; "" = the file's name without its ending
	Verifier string // the verifier column of rows without their own
}

// RowError says which line of an imported file is not as it must be. Line 0 is the
// file as a whole.
type RowError struct {
	File  string
	Line  int    // from 1, blank lines counted
	Field string // "" = the row as a whole
	Want  string // what was expected there
	Got   string // what is there
}

// Error is file:line: field: want …, got ….
func (e *RowError) Error() string {
	place := e.File
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	if e.Field != "" {
		place += fmt.Sprintf(": field %q", e.Field)
	}
	return fmt.Sprintf("%s: want %s, got %s", place, e.Want, e.Got)
}

// Reject is a bad row that an import with SkipBad left out.
type Reject struct {
	Err *RowError
	Row []byte // the line, cut after some KiB
}

// MarshalJSON writes the reject as one flat object.
func (r Reject) MarshalJSON() ([]byte, error) {
	return marshal(struct {
		Line  int    `json:"line"`
		Error string `json:"error"`
		Row   string `json:"row"`
	}{r.Err.Line, r.Err.Error(), strings.ToValidUTF8(string(r.Row), "\uFFFD")})
}

// WriteRejects writes one JSON object per line: line, error and the row's text.
func WriteRejects(w io.Writer, rejects []Reject) error {
	for _, r := range rejects {
		line, err := marshal(r)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		if err != nil {
			return fmt.Errorf("write rejects: %w", err)
		}
	}
	return nil
}

// problem is one imported row.
type problem struct {
	id, source, prompt, answer, solution, verifier string
	level                                          int32
	steps                                          []string
	hints                                          [len(hintColumns)][]string
	rewrites                                       [len(rewriteColumns)]string
}

// ImportJSONL reads problems, one JSON object per line, from r into a problems table.
// name is the file's name for messages and, by default, the rows' source. The keys of
// the first good row tell which [Habit] the file has. Rows without an id get
// <source>-<line>.
//
// A row is bad when it is not JSON, not UTF-8, longer than [MaxRow], lacks a field,
// has an empty one, or repeats an id. The first bad row ends the import with a
// [*RowError]; with SkipBad it becomes a [Reject] and the rest is read. A file without
// one good row is an error either way, which the rejects accompany. The columns of
// hints and rewrites are in the table when a row has something there. The file is read
// line by line: memory holds the good rows, the heads of the bad, and one line.
func ImportJSONL(ctx context.Context, mem memory.Allocator, r io.Reader, name string, o ImportOptions) (*Table, []Reject, error) {
	in := importer{file: name, options: o, ids: map[string]int{}}
	in.options.Source = cmp.Or(o.Source, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	if o.Habit != "" {
		h, err := lookupHabit(o.Habit)
		if err != nil {
			return nil, nil, fmt.Errorf("import %s: %w", name, err)
		}
		in.habit = &h
	}
	if err := in.read(ctx, r); err != nil {
		return nil, in.rejects, fmt.Errorf("import: %w", err)
	}
	t, err := in.table(mem)
	if err != nil {
		return nil, in.rejects, fmt.Errorf("import %s: %w", name, err)
	}
	return t, in.rejects, nil
}

type importer struct {
	file    string
	options ImportOptions
	habit   *Habit // nil until a row tells it
	ids     map[string]int
	rows    []problem
	rejects []Reject
}

func (in *importer) read(ctx context.Context, r io.Reader) error {
	lines := lineReader{r: bufio.NewReaderSize(r, 64<<10)}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", in.file, err)
		}
		line, size, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", in.file, lines.number, err)
		}
		if bad := in.add(line, size, lines.number); bad != nil {
			if !in.options.SkipBad {
				return bad
			}
			in.rejects = append(in.rejects, Reject{Err: bad, Row: bytes.Clone(line[:min(len(line), rejectHead)])})
		}
	}
	if len(in.rows) == 0 {
		got := "an empty file"
		if len(in.rejects) > 0 {
			got = fmt.Sprintf("%d bad ones, the first: %v", len(in.rejects), in.rejects[0].Err)
		}
		return &RowError{File: in.file, Want: "at least one good row", Got: got}
	}
	return nil
}

// rejectHead is how much of a bad row is kept.
const rejectHead = 4 << 10

// add reads one line of the given full size; it returns what is wrong with it.
func (in *importer) add(line []byte, size, number int) *RowError {
	bad := func(field, want, format string, args ...any) *RowError {
		return &RowError{File: in.file, Line: number, Field: field, Want: want, Got: fmt.Sprintf(format, args...)}
	}
	if size > MaxRow {
		return bad("", fmt.Sprintf("a row of at most %d bytes", MaxRow), "%d bytes", size)
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil
	}
	if at := invalidUTF8(line); at >= 0 {
		return bad("", "UTF-8", "byte 0x%02x at position %d", line[at], at+1)
	}
	row, err := parseRow(line)
	if err != nil {
		return bad("", "one JSON object per line", "%v", err)
	}
	if in.habit == nil {
		h, err := Recognise(row.keys())
		if err != nil {
			return bad("", "the keys "+habitKeys(), "%s", strings.Join(row.keys(), ", "))
		}
		in.habit = &h
	}
	p, err := in.habit.read(row)
	if err == nil {
		err = row.common(&p)
	}
	var fault *fieldError
	if errors.As(err, &fault) {
		return bad(fault.field, fault.want, "%s", fault.got)
	}
	p.source = cmp.Or(p.source, in.options.Source)
	p.verifier = cmp.Or(p.verifier, in.options.Verifier)
	p.id = cmp.Or(p.id, fmt.Sprintf("%s-%d", in.options.Source, number))
	if first, taken := in.ids[p.id]; taken {
		return bad(row.idKey(), "an id of its own", "%.100q, which line %d has too", p.id, first)
	}
	in.ids[p.id] = number
	in.rows = append(in.rows, p)
	return nil
}

// invalidUTF8 is the position of the first byte that is not UTF-8, or -1.
func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func (in *importer) table(mem memory.Allocator) (*Table, error) {
	params, err := Canonical(map[string]any{"file": filepath.Base(in.file), "habit": in.habit.Name, "source": in.options.Source, "verifier": in.options.Verifier})
	if err != nil {
		return nil, err
	}
	column := func(c Column[string], get func(*problem) string) Data {
		v := make([]string, len(in.rows))
		for i := range in.rows {
			v[i] = get(&in.rows[i])
		}
		return c.Of(v)
	}
	lists := func(c ListColumn[string], get func(*problem) []string) Data {
		v := make([][]string, len(in.rows))
		for i := range in.rows {
			v[i] = get(&in.rows[i])
		}
		return c.OfSlices(v)
	}
	levels := make([]int32, len(in.rows))
	for i, p := range in.rows {
		levels[i] = p.level
	}
	columns := []Data{
		column(ProblemID, func(p *problem) string { return p.id }),
		column(Source, func(p *problem) string { return p.source }),
		Level.Of(levels),
		column(Prompt, func(p *problem) string { return p.prompt }),
		column(Answer, func(p *problem) string { return p.answer }),
		column(Solution, func(p *problem) string { return p.solution }),
		lists(Steps, func(p *problem) []string { return p.steps }),
		column(Verifier, func(p *problem) string { return p.verifier }),
	}
	for i, c := range hintColumns {
		if slices.ContainsFunc(in.rows, func(p problem) bool { return len(p.hints[i]) > 0 }) {
			columns = append(columns, lists(c, func(p *problem) []string { return p.hints[i] }))
		}
	}
	for i, c := range rewriteColumns {
		if slices.ContainsFunc(in.rows, func(p problem) bool { return p.rewrites[i] != "" }) {
			columns = append(columns, column(c, func(p *problem) string { return p.rewrites[i] }))
		}
	}
	return NewTable(mem, KindProblems, Lineage{Stage: "import", Version: 1, Params: params}, columns...)
}

// lineReader cuts a stream into lines without ever holding more than MaxRow of one.
type lineReader struct {
	r      *bufio.Reader
	line   []byte
	number int // of the line last returned
}

// next returns the next line and its size without the end. Of a line longer than
// MaxRow it returns the first part. The bytes are valid until
// the next call.
func (l *lineReader) next() (line []byte, size int, err error) {
	l.line = l.line[:0]
	l.number++
	for {
		part, err := l.r.ReadSlice('\n')
		size += len(bytes.TrimSuffix(part, []byte("\n")))
		if room := MaxRow - len(l.line); room > 0 {
			l.line = append(l.line, part[:min(room, len(part))]...)
		}
		switch {
		case err == nil, err == io.EOF && size > 0:
			if l.number == 1 {
				l.line = bytes.TrimPrefix(l.line, []byte("\xEF\xBB\xBF"))
			}
			return l.line, size, nil
		case err != bufio.ErrBufferFull:
			return nil, 0, err
		}
	}
}

// row is one JSON object of a file.
type row map[string]json.RawMessage

func parseRow(line []byte) (row, error) {
	var r row
	if line[0] != '{' {
		return nil, fmt.Errorf("%.40q", line)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%w at byte %d", err, syntax.Offset)
		}
		return nil, err
	}
	return r, nil
}
