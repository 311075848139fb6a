package datasets

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Habit is a way in which published files name and fill the columns of problems.
type Habit struct {
	Name   string
	Doc    string
	Keys   []string    // a row with all of these has the habit
	Fields [][2]string // columns read, in the order of reading, and the fields they fill
	read   func(row) (problem, error)
}

// Habits returns the habits that an import knows. A file has the first one whose
// keys its first row has. Rows of all habits may have id, level, source and verifier,
// hints written beforehand (knowledge_components_parts, planning_skeleton_parts and
// solution_breakdown_parts, each a list of texts that add up; Scaf-GRPO's columns), and
// rewrites of the prompt prepared beforehand (simplified and diversified). A prompt is
// text, or a chat: a list of objects with role and content, or such a list as JSON text.
func Habits() []Habit {
	return []Habit{
		{
			Name:   "verl",
			Doc:    "prompt and reward_model.ground_truth, with optional data_source and extra_info, as verl reads it",
			Keys:   []string{"prompt", "reward_model"},
			Fields: [][2]string{{"prompt", "prompt"}, {"reward_model.ground_truth", "answer"}, {"data_source", "source"}, {"extra_info.index", "problem"}},
			read:   readVerl("reward_model"),
		},
		{
			Name:   "skyrl",
			Doc:    "verl's columns with reward_spec in place of reward_model",
			Keys:   []string{"prompt", "reward_spec"},
			Fields: [][2]string{{"prompt", "prompt"}, {"reward_spec.ground_truth", "answer"}, {"data_source", "source"}, {"extra_info.index", "problem"}},
			read:   readVerl("reward_spec"),
		},
		{
			Name:   "plain",
			Doc:    "prompt and answer, with optional solution and steps; what WriteJSONL writes, and TRL's way",
			Keys:   []string{"prompt", "answer"},
			Fields: [][2]string{{"prompt", "prompt"}, {"answer", "answer"}, {"solution", "solution"}, {"steps", "steps"}},
			read:   readPlain,
		},
		{
			Name:   "roll",
			Doc:    "messages and ground_truth, with optional tag, as ROLL reads it",
			Keys:   []string{"messages", "ground_truth"},
			Fields: [][2]string{{"messages", "prompt"}, {"ground_truth", "answer"}, {"tag", "source"}},
			read:   readRoll("messages"),
		},
		{
			Name:   "roll-prompt",
			Doc:    "prompt and ground_truth, with optional tag, as ROLL and TRL read it",
			Keys:   []string{"prompt", "ground_truth"},
			Fields: [][2]string{{"prompt", "prompt"}, {"ground_truth", "answer"}, {"tag", "source"}},
			read:   readRoll("prompt"),
		},
		{
			Name:   "trl",
			Doc:    "prompt and solution, whose last \\boxed is the answer where it has one, as in TRL's mathematical sets",
			Keys:   []string{"prompt", "solution"},
			Fields: [][2]string{{"prompt", "prompt"}, {"solution", "answer"}, {"solution", "solution"}},
			read:   readBoxed("prompt"),
		},
		{
			Name:   "math",
			Doc:    "problem and answer, with optional solution and level (5 or \"Level 5\"), as in MATH-500 and AIME",
			Keys:   []string{"problem", "answer"},
			Fields: [][2]string{{"problem", "prompt"}, {"answer", "answer"}, {"solution", "solution"}},
			read:   readMath,
		},
		{
			Name:   "math-boxed",
			Doc:    "problem and solution, whose last \\boxed is the answer, as in MATH",
			Keys:   []string{"problem", "solution"},
			Fields: [][2]string{{"problem", "prompt"}, {"solution", "answer"}, {"solution", "solution"}},
			read:   readBoxed("problem"),
		},
		{
			Name:   "gsm8k",
			Doc:    "question and answer, the worked solution with \"#### gold answer\" as its last line, as in GSM8K",
			Keys:   []string{"question", "answer"},
			Fields: [][2]string{{"question", "prompt"}, {"answer", "answer"}, {"answer", "solution"}, {"answer", "steps"}},
			read:   readGSM8K,
		},
		{
			Name:   "svamp",
			Doc:    "Body, Question and Answer, as in SVAMP; its Equation is the solution",
			Keys:   []string{"Body", "Question", "Answer"},
			Fields: [][2]string{{"Body", "prompt"}, {"Question", "prompt"}, {"Answer", "answer"}, {"Equation", "solution"}},
			read:   readSVAMP,
		},
	}
}

// Recognise tells the habit of a row with these keys.
func Recognise(keys []string) (Habit, error) {
	for _, h := range Habits() {
		if h.has(keys) {
			return h, nil
		}
	}
	return Habit{}, fmt.Errorf("recognise: want the keys %s, got %s", habitKeys(), strings.Join(keys, ", "))
}

// has reports whether a row with these keys has the habit.
func (h Habit) has(keys []string) bool {
	return !slices.ContainsFunc(h.Keys, func(k string) bool { return !slices.Contains(keys, k) })
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
	if p.prompt, err = r.prompt("prompt"); err != nil {
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

// readVerl reads verl's columns, whose gold answer is in the object of that key.
func readVerl(key string) func(row) (problem, error) {
	return func(r row) (p problem, err error) {
		if p.prompt, err = r.prompt("prompt"); err != nil {
			return p, err
		}
		if p.answer, err = r.text(key + ".ground_truth"); err != nil {
			return p, err
		}
		if p.source, err = r.optional("data_source"); err != nil {
			return p, err
		}
		// A number within the split of a source.
		index, err := r.optional("extra_info.index")
		if err != nil || index == "" {
			return p, err
		}
		split, err := r.optional("extra_info.split")
		for _, part := range []string{p.source, split, index} {
			if part != "" {
				p.id += "/" + part
			}
		}
		p.id = p.id[1:]
		return p, err
	}
}

// readRoll reads ROLL's columns, whose prompt is in the field of that key.
func readRoll(key string) func(row) (problem, error) {
	return func(r row) (p problem, err error) {
		if p.prompt, err = r.prompt(key); err != nil {
			return p, err
		}
		if p.answer, err = r.text("ground_truth"); err != nil {
			return p, err
		}
		p.source, err = r.optional("tag")
		return p, err
	}
}

// readBoxed reads a prompt under that key and the answer from the solution: its last
// \boxed, or for TRL's prompts all of a solution without one.
func readBoxed(key string) func(row) (problem, error) {
	return func(r row) (p problem, err error) {
		if p.prompt, err = r.prompt(key); err != nil {
			return p, err
		}
		if p.solution, err = r.text("solution"); err != nil {
			return p, err
		}
		answer, ok := boxed(p.solution)
		switch {
		case ok:
			p.answer = answer
		case key == "prompt":
			p.answer, p.solution = p.solution, ""
		default:
			return p, &fieldError{"solution", `a solution with \boxed{gold answer}`, "no answer in a \\boxed"}
		}
		return p, nil
	}
}

// boxed is what the last \boxed{…} of a text holds, braces in balance.
func boxed(s string) (string, bool) {
	const open = `\boxed{`
	at := strings.LastIndex(s, open)
	if at < 0 {
		return "", false
	}
	s = s[at+len(open):]
	depth := 1
	for i := range len(s) {
		switch {
		case s[i] == '{' && (i == 0 || s[i-1] != '\\'):
			depth++
		case s[i] == '}' && (i == 0 || s[i-1] != '\\'):
			if depth--; depth == 0 {
				s = strings.TrimSpace(s[:i])
				return s, s != ""
			}
		}
	}
	return "", false
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

// wholeNumber is a number as SVAMP's equations have it.
var wholeNumber = regexp.MustCompile(`\b(\d+)\.0\b`)

// readSVAMP joins the story and the question; some stories lack their full stop. The
// equation "( 290.0 / 2.0 )" is the solution "290 / 2 = 145".
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
	if p.answer, err = r.text("Answer"); err != nil {
		return p, err
	}
	equation, err := r.optional("Equation")
	if err != nil || equation == "" {
		return p, err
	}
	equation = wholeNumber.ReplaceAllString(equation, "$1")
	equation = strings.NewReplacer("( ", "(", " )", ")").Replace(equation)
	p.solution = unbracketed(equation) + " = " + p.answer
	return p, nil
}

// unbracketed is a formula without the brackets around the whole of it.
func unbracketed(s string) string {
	depth := 0
	for i, c := range s {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 && i < len(s)-1 { // the first bracket, if any, ends before the formula does
			return s
		}
	}
	return strings.TrimSuffix(strings.TrimPrefix(s, "("), ")")
}

// fieldError is what is wrong with one field of a row.
type fieldError struct{ field, want, got string }

func (e *fieldError) Error() string {
	return fmt.Sprintf("field %q: want %s, got %s", e.field, e.want, e.got)
}

// common reads what all habits may have.
func (r row) common(p *problem) (err error) {
	if key := r.idKey(); key != "" {
		if p.id, err = r.text(key); err != nil {
			return err
		}
	}
	source, err := r.optional("source")
	if err != nil {
		return err
	}
	p.source = cmp.Or(source, p.source)
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
	if _, plain := r.field("prompt"); plain {
		keys = append(keys, "problem")
	}
	for _, key := range keys {
		if v, ok := r.field(key); ok && (v != nil || !r.nulls()) {
			return key
		}
	}
	return ""
}

// text reads a field that must hold text or a number. Numbers are written as
// integers where they are ("27.0" is "27").
func (r row) text(key string) (string, error) {
	const want = "text or a number"
	v, ok := r.field(key)
	if !ok {
		return "", &fieldError{key, want, "no such field"}
	}
	switch v := v.(type) {
	case string:
		if strings.TrimSpace(v) == "" {
			return "", &fieldError{key, want, "an empty text"}
		}
		return v, nil
	case json.Number:
		return plainNumber(v.String()), nil
	}
	return "", &fieldError{key, want, abbreviate(v)}
}

// prompt reads a field that must hold text, a number or a chat.
func (r row) prompt(key string) (string, error) {
	v, _ := r.field(key)
	list, isList := v.([]any)
	if s, ok := v.(string); ok && strings.HasPrefix(strings.TrimSpace(s), "[") && strings.Contains(s, `"role"`) {
		isList = json.Unmarshal([]byte(s), &list) == nil
	}
	if !isList || len(list) == 0 {
		return r.text(key)
	}
	var said []string
	for _, m := range list {
		message, ok := m.(map[string]any)
		if !ok {
			return r.text(key)
		}
		role, _ := message["role"].(string)
		content, ok := contentOf(message["content"])
		if role != "system" && role != "user" && role != "developer" || !ok {
			return "", &fieldError{key, "a chat of texts by system and user", abbreviate(m)}
		}
		if strings.TrimSpace(content) != "" {
			said = append(said, content)
		}
	}
	if len(said) == 0 {
		return "", &fieldError{key, "a chat of texts by system and user", "no text"}
	}
	return strings.Join(said, "\n\n"), nil
}

// contentOf is a message's text, which may come in parts.
func contentOf(v any) (string, bool) {
	if s, ok := v.(string); ok {
		return s, true
	}
	parts, ok := v.([]any)
	var all strings.Builder
	for _, p := range parts {
		part, _ := p.(map[string]any)
		s, isText := part["text"].(string)
		ok = ok && isText
		all.WriteString(s)
	}
	return all.String(), ok
}

// optional is text for a field that may be absent, null or empty.
func (r row) optional(key string) (string, error) {
	if v, ok := r.field(key); !ok || v == nil || v == "" {
		return "", nil
	}
	return r.text(key)
}

// list reads an optional list of texts.
func (r row) list(key string) ([]string, error) {
	v, ok := r.field(key)
	if !ok || v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, e := range list {
		s, isText := e.(string)
		ok = ok && (isText || e == nil)
		out[i] = s
	}
	if !ok {
		return nil, &fieldError{key, "a list of texts", abbreviate(v)}
	}
	return out, nil
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

// abbreviate shows the start of a value as JSON.
func abbreviate(v any) string {
	const most = 60
	raw, err := marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if len(raw) <= most {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:most]), "") + " …"
}
