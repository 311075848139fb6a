package curriculum

import (
	"embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"unicode/utf8"
)

// check makes sure that what a responding stage indexes by row is there.
func (r *Response) check() error {
	p := r.Problems
	if p == nil {
		return errors.New("the problem set is missing")
	}
	if r.NumGenerations < 1 {
		return fmt.Errorf("num_generations is %d; it must be at least 1", r.NumGenerations)
	}
	n := len(p.Prompt)
	for _, c := range []struct {
		name     string
		rows     int
		optional bool
	}{
		{"answer", len(p.Answer), false}, {"solution", len(p.Solution), false}, {"steps", len(p.Steps), false},
		{"knowledge_components_parts", len(p.Knowledge), true}, {"planning_skeleton_parts", len(p.Planning), true},
		{"solution_breakdown_parts", len(p.Breakdown), true}, {"simplified", len(p.Simplified), true}, {"diversified", len(p.Diversified), true},
	} {
		if c.rows != n && !(c.optional && c.rows == 0) {
			return fmt.Errorf("column %s has %d rows for %d prompts", c.name, c.rows, n)
		}
	}
	for _, a := range r.Attempts {
		if a.Row < 0 || int(a.Row) >= n {
			return fmt.Errorf("group %d belongs to problem row %d of %d", a.Group, a.Row, n)
		}
		if len(a.Hints) != len(a.Correct) && a.Hints != nil {
			return fmt.Errorf("group %d has %d hint levels for %d verdicts", a.Group, len(a.Hints), len(a.Correct))
		}
	}
	for _, t := range r.Texts {
		if t.Row < 0 || int(t.Row) >= n {
			return fmt.Errorf("a text belongs to problem row %d of %d", t.Row, n)
		}
	}
	return nil
}

// add adds n to a metric; 0 makes sure that it is there.
func (r *Response) add(metric string, n int) {
	if r.Metrics == nil {
		r.Metrics = make(map[string]float64)
	}
	r.Metrics[metric] += float64(n)
}

// size is the length of a text in tokens.
func (r *Response) size(text string) int {
	if r.Count == nil {
		return utf8.RuneCountInString(text)
	}
	return r.Count(text)
}

// fits reports whether the policy can read a prompt with its prefill.
func (r *Response) fits(prompt, prefill string) bool {
	return r.MaxPrompt == 0 || r.size(prompt+prefill) <= r.MaxPrompt
}

// outcome is how a problem as it stands went in one step.
type outcome struct {
	row          int32
	tries, right int
}

// originals merges the groups of each problem as it stands, without the tries
// under hints, in the order in which problems first appear.
func originals(attempts []Attempts) []outcome {
	var all []outcome
	at := make(map[int32]int)
	for _, a := range attempts {
		if a.Origin != OriginOriginal {
			continue
		}
		for i, correct := range a.Correct {
			if a.Hints != nil && a.Hints[i] != 0 {
				continue
			}
			k, ok := at[a.Row]
			if !ok {
				k = len(all)
				at[a.Row], all = k, append(all, outcome{row: a.Row})
			}
			all[k].tries++
			if correct {
				all[k].right++
			}
		}
	}
	return all
}

// opening is the beginning of the worked solution: the first n steps of the
// problem in a row. Steps that join to the solution are joined as they are,
// others are lines.
func (p *Problems) opening(row int32, n int) string {
	steps := p.Steps[row]
	if strings.Join(steps, "") == p.Solution[row] {
		return strings.Join(steps[:n], "")
	}
	return strings.Join(steps[:n], "\n") + "\n"
}

// thousands matches a number with commas between its thousands.
var thousands = regexp.MustCompile(`\b\d{1,3}(,\d{3})+\b`)

// mentions reports whether text has the answer as a number or word of its own:
// 5 is in "5 pears" and "x=5", not in "15", "5.5" or "1,500". Case, commas between
// thousands and zeros at the beginning make no difference.
func mentions(text, answer string) bool {
	text, answer = plain(text), plain(strings.TrimSpace(answer))
	zeros := ""
	if n := leadingZeros.FindString(answer); n != "" {
		answer, zeros = answer[len(n)-1:], "0*"
	}
	if answer == "" || !strings.Contains(text, answer) {
		return false
	}
	before, after := "", ""
	if startsWord.MatchString(answer) {
		before = `(?:^|[^\pL\pN.]|(?:^|\PN)\.)`
	}
	if endsWord.MatchString(answer) {
		after = `(?:$|[^\pL\pN.]|\.(?:$|\PN))`
	}
	whole, err := regexp.Compile(before + zeros + regexp.QuoteMeta(answer) + after)
	return err != nil || whole.MatchString(text) // an error: the answer is not UTF-8
}

var (
	leadingZeros = regexp.MustCompile(`^0*\d`)
	// Answers at whose ends a word or number could go on.
	startsWord = regexp.MustCompile(`^[-\pL\pN]`)
	endsWord   = regexp.MustCompile(`[\pL\pN]$`)
)

// plain is text in lower case, with numbers without commas.
func plain(text string) string {
	return strings.ToLower(thousands.ReplaceAllStringFunc(text, func(n string) string { return strings.ReplaceAll(n, ",", "") }))
}

//go:embed templates/*.tmpl
var templateFiles embed.FS

var templates = template.Must(template.ParseFS(templateFiles, "templates/*.tmpl"))

// render fills in a template.
func render(name string, data any) (string, error) {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
