package curriculum

import (
	"strings"
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

// respond runs a responding stage once and returns its proposals.
func respond(t testing.TB, stage, params string, r *Response, env datasets.Env) []Proposal {
	t.Helper()
	r.Proposals = nil
	if err := datasets.Run(Responders(), []datasets.Call{{Stage: stage, Params: []byte(params)}}, r, env); err != nil {
		t.Fatal(err)
	}
	return r.Proposals
}

// group is a group of the original problem in a row with so many right completions.
func group(number, row int32, right, tries int) Attempts {
	a := Attempts{Group: number, Row: row, Origin: OriginOriginal, Hints: make([]int32, tries), Correct: make([]bool, tries)}
	for i := range right {
		a.Correct[tries-1-i] = true
	}
	return a
}

// sums is a small problem set: chains of additions with their running results.
func sums() *Problems {
	return &Problems{
		ID: []string{"a", "b", "c", "d"}, Prompt: []string{"1+2+3+4=", "5+6+7=", "2+2=", "9+1+1+1+1="},
		Answer: []string{"10", "18", "4", "13"}, Solution: []string{"3;6;10", "11;18", "4", "10;11;12;13"},
		Steps: [][]string{{"3;", "6;", "10"}, {"11;", "18"}, {"4"}, {"10;", "11;", "12;", "13"}},
	}
}

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		text, answer string
		want         bool
	}{
		{"5 pears", "5", true},
		{"x=5", "5", true},
		{"It is 5.", "5", true},
		{"15 pears", "5", false},
		{"5.5 pears", "5", false},
		{"0.5 pears", "5", false},
		{"v5", "5", false},
		{"1,500 pears", "500", false},
		{"1,500 pears", "1500", true},
		{"1500 pears", "1,500", true},
		{"3,5,7", "5", true},
		{"agent 007", "7", true},
		{"7 agents", "007", true},
		{"70 agents", "007", false},
		{"0 agents", "0", true},
		{"100 agents", "0", false},
		{"0.5 agents", "0.5", true},
		{"10.5 agents", "0.5", false},
		{"4-5", "-5", false},
		{"x=-5", "-5", true},
		{"So she flew to Paris!", "paris", true},
		{"The Parisian", "Paris", false},
		{`so $\frac{5}{6}$`, `\frac{5}{6}`, true},
		{"f(x).", "(x)", true},
		{"anything", "", false},
		{"anything", " ", false},
		{"a\xffb", "\xff", true},
	} {
		if got := mentions(c.text, c.answer); got != c.want {
			t.Errorf("mentions(%q, %q) = %v", c.text, c.answer, got)
		}
	}
}

// Steps are put together as the solution has them, or as lines.
func TestOpening(t *testing.T) {
	p := sums()
	if got := p.opening(0, 2); got != "3;6;" {
		t.Errorf("steps that are the solution: %q", got)
	}
	p.Steps[1] = []string{"5 and 6 are 11.", "11 and 7 are 18."}
	if got := p.opening(1, 1); got != "5 and 6 are 11.\n" {
		t.Errorf("steps in words: %q", got)
	}
}

// What does not fit together is refused by name and never panics.
func TestRespondRefuses(t *testing.T) {
	for _, c := range []struct {
		want string
		set  func(*Response)
	}{
		{"problem set is missing", func(r *Response) { r.Problems = nil }},
		{"num_generations is 0", func(r *Response) { r.NumGenerations = 0 }},
		{"column steps has 3 rows for 4 prompts", func(r *Response) { r.Problems.Steps = r.Problems.Steps[:3] }},
		{"column answer has 0 rows", func(r *Response) { r.Problems.Answer = nil }},
		{"column simplified has 1 rows", func(r *Response) { r.Problems.Simplified = []string{"x"} }},
		{"column knowledge_components_parts has 2 rows", func(r *Response) { r.Problems.Knowledge = make([][]string, 2) }},
		{"group 7 belongs to problem row 4 of 4", func(r *Response) { r.Attempts = []Attempts{group(7, 4, 0, 2)} }},
		{"group 7 has 1 hint levels for 2 verdicts", func(r *Response) {
			r.Attempts = []Attempts{group(7, 0, 0, 2)}
			r.Attempts[0].Hints = []int32{0}
		}},
		{"a text belongs to problem row -1 of 4", func(r *Response) { r.Texts = []Text{{Row: -1}} }},
	} {
		for _, s := range Responders() {
			r := &Response{Problems: sums(), NumGenerations: 2}
			c.set(r)
			err := datasets.Run(Responders(), []datasets.Call{{Stage: s.Name}}, r, datasets.Env{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", s.Name, err, c.want)
			}
		}
	}
}

// Templates are text for the policy: all fields are filled in, and nothing is left.
func TestTemplates(t *testing.T) {
	for _, name := range []string{"clpo_simplify.tmpl", "clpo_diversify.tmpl"} {
		text, err := render(name, struct {
			Problem, Answer string
			MaxTokens       int
		}{"<what?> & {{why}}", "forty-two", 123})
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"<what?> & {{why}}", "forty-two", "123", "```"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q", name, part)
			}
		}
		if strings.HasSuffix(text, "\n") || strings.Contains(text, "<no value>") {
			t.Errorf("%s gives %q", name, text)
		}
	}
}
