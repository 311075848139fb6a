package datasets

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/zeebo/xxh3"
)

// MaxRow is the longest line in bytes, its end aside, that an import accepts.
const MaxRow = 8 << 20

// ImportOptions say how to read files of problems. The zero value takes the habit
// from the first row and stops at the first bad row.
type ImportOptions struct {
	SkipBad  bool               // keep the good rows and leave out the bad ones as rejects
	Habit    string             // name of a [Habit]; "" = by the first row's keys
	Source   string             // the source column of rows without their own; "" = the file's name without its ending
	Verifier string             // the verifier column of rows without their own
	Map      map[string]string  // columns by the fields of a problem that they fill, over the habit's; see [ImportFields]
	Limit    int                // rows to read at most; 0 = all
	Reject   func(Reject) error // is given the rejects of an [Importer], in order; nil = they are only counted
}

// ImportFields are the names of a problem's fields that [ImportOptions].Map may fill.
// Columns within objects are reached by dots, as in reward_model.ground_truth.
func ImportFields() []string {
	fields := []string{"id", "prompt", "answer", "solution", "steps", "level", "source", "verifier"}
	for _, c := range hintColumns {
		fields = append(fields, c.Name)
	}
	for _, c := range rewriteColumns {
		fields = append(fields, c.Name)
	}
	return fields
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

// ImportJSONL reads problems, one JSON object per line, from r into a problems table
// in memory, and returns the rejects, too; [Importer] has the rules. name is the file's
// name for messages and, by default, the rows' source.
func ImportJSONL(ctx context.Context, mem memory.Allocator, r io.Reader, name string, o ImportOptions) (*Table, []Reject, error) {
	var rejects []Reject
	o.Reject = func(r Reject) error { rejects = append(rejects, r); return nil }
	in, err := NewImporter(mem, name, o)
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	in.whole = true
	if err := in.Lines(ctx, r, name); err != nil {
		return nil, rejects, err
	}
	if err := in.some(); err != nil {
		return nil, rejects, fmt.Errorf("import: %w", err)
	}
	t, err := in.table()
	if err != nil {
		return nil, rejects, fmt.Errorf("import %s: %w", name, err)
	}
	return t, rejects, nil
}

// Importer reads the rows of files into one problems table of any size, in little
// memory: rows go batch by batch into a [Writer], and of every id stays a hash of 96
// bits. The keys of the first good row tell which [Habit] the files have. Rows without
// an id get <source>-<number>, where the number counts the lines or rows of all files.
//
// A row is bad when it is not JSON, not UTF-8, longer than [MaxRow], lacks a field, has
// an empty one, or repeats an id. The first bad row ends the import with a [*RowError];
// with SkipBad it becomes a [Reject] and the rest is read. An import without one good
// row is an error either way. The columns of hints and rewrites are in the table when a
// row has something there.
type Importer struct {
	name    string // of the file or folder
	mem     memory.Allocator
	options ImportOptions
	whole   bool // keep all rows; else batches go to the writer
	file    string
	before  int // lines or rows of the files before this one
	at      int // of this file, the last one
	starts  []start
	habit   *Habit // nil until a row tells it
	columns []string
	ids     map[idHash]uint32 // numbers over all files
	rows    []problem
	size    int // bytes of their text
	good    int
	bad     int
	reject  *RowError // the first
	writer  *Writer
}

// start is where a file begins in the count of all rows.
type start struct {
	file   string
	before int
}

type idHash [12]byte

func hashID(id string) (h idHash) {
	sum := xxh3.HashString128(id)
	binary.LittleEndian.PutUint64(h[:], sum.Lo)
	binary.LittleEndian.PutUint32(h[8:], uint32(sum.Hi))
	return h
}

// A batch ends at either bound.
const (
	importRows  = 16 << 10
	importBytes = 8 << 20
)

// NewImporter returns an importer for the file or folder of that name; its end is, by
// default, the source of the rows. An unknown habit or field is an error.
func NewImporter(mem memory.Allocator, name string, o ImportOptions) (*Importer, error) {
	in := &Importer{name: name, mem: mem, options: o, ids: map[idHash]uint32{}, writer: NewWriter(mem, true)}
	in.options.Source = cmp.Or(o.Source, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	for _, field := range slices.Sorted(maps.Keys(o.Map)) {
		if !slices.Contains(ImportFields(), field) {
			return nil, fmt.Errorf("import %s: field %.80q of the map is not known: want one of %s", name, field, strings.Join(ImportFields(), ", "))
		}
	}
	if o.Habit != "" {
		h, err := lookupHabit(o.Habit)
		if err != nil {
			return nil, fmt.Errorf("import %s: %w", name, err)
		}
		in.habit = &h
	}
	return in, nil
}

// Full reports whether the limit of rows is reached.
func (in *Importer) Full() bool { return in.options.Limit > 0 && in.good+in.bad >= in.options.Limit }

// begin goes on to the next file, where it is another one.
func (in *Importer) begin(file string) {
	if file != in.file {
		in.before, in.at, in.file = in.before+in.at, 0, file
		in.starts = append(in.starts, start{file, in.before})
	}
}

// Lines reads one JSON object per line from r.
func (in *Importer) Lines(ctx context.Context, r io.Reader, file string) error {
	in.begin(file)
	lines := lineReader{r: bufio.NewReaderSize(r, 64<<10)}
	for !in.Full() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("import: %s: %w", file, err)
		}
		line, size, err := lines.next()
		if err == io.EOF {
			break
		}
		in.at = lines.number
		if err != nil {
			return fmt.Errorf("import: %s:%d: %w", file, lines.number, err)
		}
		if err := in.keep(in.line(line, size), line); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	return nil
}

// Record reads the rows of a batch, whose first one has the number first in the file.
func (in *Importer) Record(ctx context.Context, rec arrow.Record, file string, first int64) error {
	in.begin(file)
	index := map[string]int{}
	for k, f := range rec.Schema().Fields() {
		index[f.Name] = k
	}
	for i := range int(rec.NumRows()) {
		if in.Full() {
			break
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("import: %s: %w", file, err)
		}
		in.at = int(first) + i
		r := row{arrowRow{rec, index, i}, in.options.Map}
		bad := in.add(r)
		var text []byte
		if bad != nil {
			text, _ = marshal(rowObject(r)) // for the rejects
		}
		if err := in.keep(bad, text); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	return nil
}

// rowObject is a row as one value.
func rowObject(r row) map[string]any {
	object := map[string]any{}
	for _, k := range r.source.keys() {
		object[k], _ = r.source.field(k)
	}
	return object
}

// keep counts a row, hands on what is full, and decides what a bad one means.
func (in *Importer) keep(bad *RowError, text []byte) error {
	switch {
	case bad != nil && !in.options.SkipBad:
		return bad
	case bad != nil:
		in.bad++
		if in.reject == nil {
			in.reject = bad
		}
		if in.options.Reject != nil {
			return in.options.Reject(Reject{Err: bad, Row: bytes.Clone(text[:min(len(text), rejectHead)])})
		}
	case !in.whole && in.options.Limit == 0 && (len(in.rows) >= importRows || in.size >= importBytes):
		return in.flush()
	}
	return nil
}

// flush makes a batch of the rows that wait.
func (in *Importer) flush() error {
	t, err := in.table()
	if err != nil {
		return fmt.Errorf("%s: %w", in.file, err)
	}
	defer t.Release()
	clear(in.rows) // drop the texts
	in.rows, in.size = in.rows[:0], 0
	return in.writer.Write(t)
}

// some is the error of an import without one good row.
func (in *Importer) some() error {
	if in.good > 0 {
		return nil
	}
	got := "an empty file"
	if in.bad > 0 {
		got = fmt.Sprintf("%d bad ones, the first: %v", in.bad, in.reject)
	}
	return &RowError{File: in.name, Want: "at least one good row", Got: got}
}

// Counts are the good and the bad rows so far.
func (in *Importer) Counts() (good, bad int) { return in.good, in.bad }

// Save stores the problems as one table.
func (in *Importer) Save(ctx context.Context, s Store) (Ref, error) {
	err := in.some()
	if err == nil && len(in.rows) > 0 {
		err = in.flush()
	}
	if err != nil {
		return Ref{}, fmt.Errorf("import: %w", err)
	}
	return in.writer.Save(ctx, s)
}

// Close gives back memory and temporary files.
func (in *Importer) Close() error { return in.writer.Close() }

// rejectHead is how much of a bad row is kept.
const rejectHead = 4 << 10

// line reads one line of the given full size; it returns what is wrong with it.
func (in *Importer) line(line []byte, size int) *RowError {
	if size > MaxRow {
		return in.wrong("", fmt.Sprintf("a row of at most %d bytes", MaxRow), fmt.Sprintf("%d bytes", size))
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil
	}
	if at := invalidUTF8(line); at >= 0 {
		return in.wrong("", "UTF-8", fmt.Sprintf("byte 0x%02x at position %d", line[at], at+1))
	}
	r, err := parseRow(line)
	if err != nil {
		return in.wrong("", "one JSON object per line", err.Error())
	}
	return in.add(row{r, in.options.Map})
}

func (in *Importer) wrong(field, want, got string) *RowError {
	return &RowError{File: in.file, Line: in.at, Field: field, Want: want, Got: got}
}

// add takes one row; it returns what is wrong with it.
func (in *Importer) add(r row) *RowError {
	if in.columns == nil {
		if err := in.meet(r); err != nil {
			return err
		}
	}
	p, err := in.habit.read(r)
	if err == nil {
		err = r.common(&p)
	}
	var fault *fieldError
	if errors.As(err, &fault) {
		field := cmp.Or(in.options.Map[fault.field], fault.field)
		return in.wrong(field, fault.want, fault.got)
	}
	for _, text := range []string{p.id, p.source, p.prompt, p.answer, p.solution, p.verifier} {
		if !utf8.ValidString(text) { // as files of other formats may hold it
			return in.wrong("", "UTF-8", fmt.Sprintf("%.60q", text))
		}
		in.size += len(text)
	}
	p.source = cmp.Or(p.source, in.options.Source)
	p.verifier = cmp.Or(p.verifier, in.options.Verifier)
	number := in.before + in.at
	p.id = cmp.Or(p.id, fmt.Sprintf("%s-%d", in.options.Source, number))
	h := hashID(p.id)
	if first, taken := in.ids[h]; taken {
		return in.wrong(cmp.Or(r.idKey(), "id"), "an id of its own", fmt.Sprintf("%.100q, which %s has too", p.id, in.place(int(first))))
	}
	in.ids[h] = uint32(number)
	in.rows = append(in.rows, p)
	in.good++
	return nil
}

// place names the row of that number over all files.
func (in *Importer) place(number int) string {
	i := len(in.starts) - 1
	for in.starts[i].before >= number {
		i--
	}
	if s := in.starts[i]; s.file != in.file {
		return fmt.Sprintf("%s:%d", s.file, number-s.before)
	}
	return fmt.Sprintf("line %d", number-in.starts[i].before)
}

// meet learns from the first row what the columns are.
func (in *Importer) meet(r row) *RowError {
	for _, field := range slices.Sorted(maps.Keys(in.options.Map)) {
		if _, ok := r.path(in.options.Map[field]); !ok {
			return in.wrong("", fmt.Sprintf("a column %q, which is to fill %s", in.options.Map[field], field), strings.Join(r.source.keys(), ", "))
		}
	}
	if in.habit == nil {
		h, err := lookupHabit("plain") // what a map makes of any file
		if len(in.options.Map) == 0 || !h.has(r.keys()) {
			h, err = Recognise(r.keys())
		}
		if err != nil {
			return in.wrong("", "the keys "+habitKeys(), strings.Join(r.keys(), ", "))
		}
		in.habit = &h
	}
	in.columns = r.source.keys()
	return nil
}

// Preview is what an import makes of the first rows.
type Preview struct {
	Habit   string            `json:"habit"`
	Columns []ColumnUse       `json:"columns"`
	Good    int               `json:"good"`
	Bad     int               `json:"bad"`
	Example map[string]string `json:"example"` // fields of the first good row
}

// ColumnUse is where a column of the file goes.
type ColumnUse struct {
	Column string `json:"column"`
	Field  string `json:"field,omitempty"` // "" = it is not read
}

// Preview describes the rows read so far, for an import with a limit.
func (in *Importer) Preview() (Preview, error) {
	if err := in.some(); err != nil {
		return Preview{}, fmt.Errorf("import: %w", err)
	}
	p := Preview{Habit: in.habit.Name, Good: in.good, Bad: in.bad, Example: map[string]string{}}
	used := map[string]bool{}
	use := func(column, field string) {
		first, _, _ := strings.Cut(column, ".")
		if used[column+" "+field] || !slices.Contains(in.columns, column) && !slices.Contains(in.columns, first) {
			return
		}
		p.Columns = append(p.Columns, ColumnUse{column, field})
		used[column+" "+field], used[column], used[first] = true, true, true
	}
	for _, field := range slices.Sorted(maps.Keys(in.options.Map)) {
		use(in.options.Map[field], field)
	}
	for _, f := range in.habit.Fields {
		if in.options.Map[f[1]] == "" && !used[f[0]] || len(in.options.Map) == 0 {
			use(f[0], f[1])
		}
	}
	for _, column := range append([]string{"unique_id", "ID"}, ImportFields()...) {
		if field := map[string]string{"unique_id": "id", "ID": "id"}[column]; !used[column] && in.options.Map[cmp.Or(field, column)] == "" && (field != "" || !slices.Contains([]string{"prompt", "answer", "solution", "steps"}, column)) {
			use(column, cmp.Or(field, column))
		}
	}
	for _, c := range in.columns {
		if !used[c] {
			p.Columns = append(p.Columns, ColumnUse{Column: c})
		}
	}
	first := in.rows[0]
	for field, v := range map[string]string{
		"id": first.id, "source": first.source, "prompt": first.prompt, "answer": first.answer, "solution": first.solution, "verifier": first.verifier, "steps": strings.Join(first.steps, " | "),
	} {
		if v != "" {
			p.Example[field] = v
		}
	}
	if first.level > 0 {
		p.Example["level"] = strconv.Itoa(int(first.level))
	}
	for i, c := range hintColumns {
		if len(first.hints[i]) > 0 {
			p.Example[c.Name] = strings.Join(first.hints[i], " | ")
		}
	}
	for i, c := range rewriteColumns {
		if first.rewrites[i] != "" {
			p.Example[c.Name] = first.rewrites[i]
		}
	}
	return p, nil
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

// table is the rows that wait, with all columns where it is one batch of several.
func (in *Importer) table() (*Table, error) {
	settings := map[string]any{"file": filepath.Base(in.name), "habit": in.habit.Name, "source": in.options.Source, "verifier": in.options.Verifier}
	if len(in.options.Map) > 0 {
		settings["map"] = in.options.Map
	}
	params, err := Canonical(settings)
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
		if !in.whole || slices.ContainsFunc(in.rows, func(p problem) bool { return len(p.hints[i]) > 0 }) {
			columns = append(columns, lists(c, func(p *problem) []string { return p.hints[i] }))
		}
	}
	for i, c := range rewriteColumns {
		if !in.whole || slices.ContainsFunc(in.rows, func(p problem) bool { return p.rewrites[i] != "" }) {
			columns = append(columns, column(c, func(p *problem) string { return p.rewrites[i] }))
		}
	}
	return NewTable(in.mem, KindProblems, Lineage{Stage: "import", Version: 1, Params: params}, columns...)
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
