package datasets

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Habit is a way in which published files name and fill the columns of problems.
type Habit struct {
	Name string
	Doc  string
	Keys []string // a row with all of these has the habit
	read func(row) (problem, error)
}

// Habits returns the habits that [ImportJSONL] knows. A file has the first one whose
// keys its first row has. Rows of all habits may have id, level, source and verifier,
// hints written beforehand (knowledge_components_parts, planning_skeleton_parts and
// solution_breakdown_parts, each a list of texts that add up), and rewrites of the
// prompt prepared beforehand (simplified and diversified).
func Habits() []Habit {
	return []Habit{
		{
			Name: "plain",
			Doc:  "prompt and answer, with optional level, solution and steps; what WriteJSONL writes",
			Keys: []string{"prompt", "answer"},
			read: readPlain,
		},
		{
			Name: "math",
			Doc:  "problem and answer, with optional solution and level (5 or \"Level 5\"), as in MATH and AIME",
			Keys: []string{"problem", "answer"},
			read: readMath,
		},
		{
			Name: "gsm8k",
			Doc:  "question and answer, the worked solution with \"#### gold answer\" as its last line, as in GSM8K",
			Keys: []string{"question", "answer"},
			read: readGSM8K,
		},
		{
			Name: "svamp",
			Doc:  "Body, Question and Answer, as in SVAMP",
			Keys: []string{"Body", "Question", "Answer"},
			read: readSVAMP,
		},
	}
}

// Recognise tells the habit of a row with these keys.
func Recognise(keys []string) (Habit, error) {
	for _, h := range Habits() {
		if !slices.ContainsFunc(h.Keys, func(k string) bool { return !slices.Contains(keys, k) }) {
			return h, nil
		}
	}
	return Habit{}, fmt.Errorf("recognise: want the keys %s, got %s", habitKeys(), strings.Join(keys, ", "))
}

// habitKeys lists what Recognise looks for.
func habitKeys() string {
	var sets []string
	for _, h := range Habits() {
		sets = append(sets, strings.Join(h.Keys, " + "))
	}
	return strings.Join(sets, ", or ")
}

func lookupHabit(name string) (Habit, error) {
	var names []string
	for _, h := range Habits() {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Habit{}, fmt.Errorf("habit %.80q is not known: want one of %s", name, strings.Join(names, ", "))
}

func readPlain(r row) (p problem, err error) {
	if p.prompt, err = r.text("prompt"); err != nil {
		return p, err
	}
	if p.answer, err = r.text("answer"); err != nil {
		return p, err
	}
	if p.solution, err = r.optional("solution"); err != nil {
		return p, err
	}
	p.steps, err = r.list("steps")
	return p, err
}

func readMath(r row) (p problem, err error) {
	if p.prompt, err = r.text("problem"); err != nil {
		return p, err
	}
	if p.answer, err = r.text("answer"); err != nil {
		return p, err
	}
	p.solution, err = r.optional("solution")
	return p, err
}

// calculator matches GSM8K's notes of a calculation, as in 48/2 = <<48/2=24>>24.
var calculator = regexp.MustCompile(`<<[^<>]*>>`)

// readGSM8K splits the answer at its last ####: before it is the solution, whose lines
// without the calculator's notes are the steps; after it is the gold answer, in which
// commas separate thousands.
func readGSM8K(r row) (p problem, err error) {
	if p.prompt, err = r.text("question"); err != nil {
		return p, err
	}
	text, err := r.text("answer")
	if err != nil {
		return p, err
	}
	const want = `a solution that ends with "#### gold answer"`
	at := strings.LastIndex(text, "####")
	if at < 0 {
		return p, &fieldError{"answer", want, "no ####"}
	}
	p.solution = strings.TrimSpace(text[:at])
	p.answer = strings.ReplaceAll(strings.TrimSpace(text[at+len("####"):]), ",", "")
	if p.answer == "" {
		return p, &fieldError{"answer", want, "nothing after ####"}
	}
	for line := range strings.Lines(p.solution) {
		if step := strings.TrimSpace(calculator.ReplaceAllString(line, "")); step != "" {
			p.steps = append(p.steps, step)
		}
	}
	return p, nil
}

// readSVAMP joins the story and the question; some stories lack their full stop.
func readSVAMP(r row) (p problem, err error) {
	body, err := r.text("Body")
	if err != nil {
		return p, err
	}
	question, err := r.text("Question")
	if err != nil {
		return p, err
	}
	body = strings.TrimSpace(body)
	if !strings.ContainsAny(body[len(body)-1:], ".,!?;:") {
		body += "."
	}
	p.prompt = body + " " + strings.TrimSpace(question)
	p.answer, err = r.text("Answer")
	return p, err
}

// fieldError is what is wrong with one field of a row.
type fieldError struct{ field, want, got string }

func (e *fieldError) Error() string {
	return fmt.Sprintf("field %q: want %s, got %s", e.field, e.want, e.got)
}

// keys returns the row's keys, sorted.
func (r row) keys() []string { return slices.Sorted(maps.Keys(r)) }

// common reads what all habits may have.
func (r row) common(p *problem) (err error) {
	if key := r.idKey(); key != "" {
		if p.id, err = r.text(key); err != nil {
			return err
		}
	}
	if p.source, err = r.optional("source"); err != nil {
		return err
	}
	if p.verifier, err = r.optional("verifier"); err != nil {
		return err
	}
	if p.level, err = r.level(); err != nil {
		return err
	}
	for i, c := range hintColumns {
		if p.hints[i], err = r.list(c.Name); err != nil {
			return err
		}
	}
	for i, c := range rewriteColumns {
		if p.rewrites[i], err = r.optional(c.Name); err != nil {
			return err
		}
	}
	return nil
}

// Columns that a problem set may lack, and that come from keys of the same name.
var (
	hintColumns    = [...]ListColumn[string]{KnowledgeParts, PlanningParts, SolutionParts}
	rewriteColumns = [...]Column[string]{Simplified, Diversified}
)

// idKey is the key under which the row has its id, or "". The plain habit's own
// export names it as the column is named.
func (r row) idKey() string {
	keys := []string{"id", "ID", "unique_id"}
	if _, plain := r["prompt"]; plain {
		keys = append(keys, "problem")
	}
	for _, key := range keys {
		if _, ok := r[key]; ok {
			return key
		}
	}
	return ""
}

// text reads a field that must hold text or a number. Numbers are written as
// integers where they are ("27.0" is "27").
func (r row) text(key string) (string, error) {
	raw, ok := r[key]
	if !ok {
		return "", &fieldError{key, "text or a number", "no such field"}
	}
	var v any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return "", &fieldError{key, "text or a number", err.Error()}
	}
	switch v := v.(type) {
	case string:
		if strings.TrimSpace(v) == "" {
			return "", &fieldError{key, "text or a number", "an empty text"}
		}
		return v, nil
	case json.Number:
		return plainNumber(v.String()), nil
	}
	return "", &fieldError{key, "text or a number", abbreviate(raw)}
}

// optional is text for a field that may be absent, null or empty.
func (r row) optional(key string) (string, error) {
	if raw, ok := r[key]; !ok || string(raw) == "null" || string(raw) == `""` {
		return "", nil
	}
	return r.text(key)
}

// list reads an optional list of texts.
func (r row) list(key string) ([]string, error) {
	raw, ok := r[key]
	if !ok {
		return nil, nil
	}
	var v []string
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, &fieldError{key, "a list of texts", abbreviate(raw)}
	}
	return v, nil
}

// level reads an optional difficulty: 5, 5.0, "5" or "Level 5"; "Level ?" is unknown.
func (r row) level() (int32, error) {
	s, err := r.optional("level")
	if err != nil || s == "" {
		return 0, err
	}
	digits := strings.TrimSpace(strings.TrimPrefix(s, "Level "))
	if digits == "?" {
		return 0, nil
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 0 {
		return 0, &fieldError{"level", fmt.Sprintf("a whole number from 0 to %d", math.MaxInt32), strconv.Quote(s)}
	}
	return int32(n), nil
}

// plainNumber drops the fraction of a JSON number that is an integer.
func plainNumber(s string) string {
	if whole, fraction, ok := strings.Cut(s, "."); ok && strings.Trim(fraction, "0") == "" {
		return whole
	}
	return s
}

// abbreviate shows the start of a JSON value.
func abbreviate(raw json.RawMessage) string {
	const most = 60
	if len(raw) <= most {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:most]), "") + " …"
}
