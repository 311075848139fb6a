package prepare

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/gradus-rl/gradus/datasets"
)

// Normalise is the parameters of NormaliseStage.
type Normalise struct {
	Form  string `json:"form"`  // Unicode normalisation form: nfc, nfkc or none
	Space bool   `json:"space"` // tidy up white space
}

// NormaliseStage gives prompts, answers, solutions, rewrites, steps and hints one
// spelling:
//
//   - Unicode form NFC (or NFKC, which also makes "ﬁ" two letters and "²" a 2);
//   - with space: lines end in \n; other Unicode spaces are a space; zero-width
//     characters and byte order marks go; no spaces at the end of lines, no empty
//     lines at the ends of the text, and no more than one within; runs of spaces
//     within a line are one, but its indentation stays. Steps and hint parts, which
//     are put together later, keep their spaces.
//
// A row whose prompt or answer is empty afterwards is dropped: empty. Figure:
// changed rows.
var NormaliseStage = Stage{
	Name: "normalise", Version: 1,
	Defaults: Normalise{Form: "nfc", Space: true},
	Bind:     datasets.Bind(Normalise{Form: "nfc", Space: true}, Normalise.run),
}

// Validate names the parameter that is out of range.
func (p Normalise) Validate() error { return oneOf("form", p.Form, "nfc", "nfkc", "none") }

func (p Normalise) run(s *Set, _ datasets.Env) error {
	t := s.Problems
	changed := make([]bool, t.Rows())
	var columns []datasets.Data
	for _, c := range []datasets.Column[string]{datasets.Prompt, datasets.Answer, datasets.Solution, datasets.Simplified, datasets.Diversified} {
		if !t.Has(c.Name) {
			continue
		}
		texts := c.Get(t)
		out := make([]string, len(texts))
		parallel(len(texts), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				if out[i] = p.text(texts[i]); p.Space {
					out[i] = tidy(out[i])
				}
				changed[i] = changed[i] || out[i] != texts[i]
			}
		})
		columns = append(columns, c.Of(out))
	}
	for _, c := range []datasets.ListColumn[string]{datasets.Steps, datasets.KnowledgeParts, datasets.PlanningParts, datasets.SolutionParts} {
		if !t.Has(c.Name) {
			continue
		}
		lists := c.Get(t)
		out := make([]string, len(lists.Values))
		for i := range lists.Len() {
			for k := lists.Offsets[i]; k < lists.Offsets[i+1]; k++ {
				out[k-lists.Offsets[0]] = p.text(lists.Values[k])
				changed[i] = changed[i] || out[k-lists.Offsets[0]] != lists.Values[k]
			}
		}
		offsets := make([]int32, len(lists.Offsets))
		for i, o := range lists.Offsets {
			offsets[i] = o - lists.Offsets[0]
		}
		columns = append(columns, c.Of(datasets.Lists[string]{Values: out[:offsets[len(offsets)-1]], Offsets: offsets}))
	}
	for _, c := range changed {
		if c {
			s.Figures["changed"]++
		}
	}
	if err := s.with(columns...); err != nil {
		return err
	}
	prompts, answers := datasets.Prompt.Get(s.Problems), datasets.Answer.Get(s.Problems)
	var rows []int32
	for i := range prompts {
		if prompts[i] == "" || answers[i] == "" {
			s.Dropped["empty"]++
			continue
		}
		rows = append(rows, int32(i))
	}
	if len(rows) == len(prompts) {
		return nil
	}
	return s.keep(rows)
}

// text is the text in the form, without its white space tidied up.
func (p Normalise) text(text string) string {
	switch p.Form {
	case "nfc":
		return norm.NFC.String(text)
	case "nfkc":
		return norm.NFKC.String(text)
	}
	return text
}

var oddSpace = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n\n", "\u200b", "", "\u2060", "", "\ufeff", "")

// tidy is a text with its white space as [NormaliseStage] has it.
func tidy(text string) string {
	var b strings.Builder
	empty := 0
	for line := range strings.SplitSeq(oddSpace.Replace(text), "\n") {
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		if line == "" {
			empty++
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n\n"[:1+min(1, empty)])
		}
		empty = 0
		body := strings.TrimLeftFunc(line, unicode.IsSpace)
		if b.Len() > 0 { // what is before the text is no indentation
			for _, r := range line[:len(line)-len(body)] {
				b.WriteRune(plain(r))
			}
		}
		space := false
		for _, r := range body {
			if unicode.IsSpace(r) {
				space = true
				continue
			}
			if space {
				b.WriteByte(' ')
				space = false
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

func plain(space rune) rune {
	if space == '\t' {
		return space
	}
	return ' '
}
