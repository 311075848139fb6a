package curriculum

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

const clpo = "clpo.restructure"

// The policy is asked in turn 0 and its text is posed in turn 1.
func ExampleResponder_clpo() {
	r := &Response{Problems: sums(), NumGenerations: 8, Next: 2, Attempts: []Attempts{
		{Group: 0, Row: 0, Origin: OriginOriginal, Correct: []bool{false, false, false, false}}, // hard
		{Group: 1, Row: 1, Origin: OriginOriginal, Correct: []bool{true, true, true, true}},     // solved
	}}
	calls := []datasets.Call{{Stage: "clpo.restructure"}}
	if err := datasets.Run(Responders(), calls, r, datasets.Env{}); err != nil {
		fmt.Println(err)
	}
	for _, p := range r.Proposals {
		fmt.Println("group", p.Group, p.Origin, p.Purpose, "tries", p.Tries)
	}

	r.Turn, r.Next, r.Proposals = 1, 3, nil
	r.Texts = []Text{{Row: 0, Purpose: "simplify", Text: "Sure!\n```\n3+3+4=\n```"}}
	if err := datasets.Run(Responders(), calls, r, datasets.Env{}); err != nil {
		fmt.Println(err)
	}
	for _, p := range r.Proposals {
		fmt.Println("group", p.Group, p.Origin, p.Prompt, "tries", p.Tries)
	}
	// Output:
	// group 2 request simplify tries 1
	// group 3 simplified 3+3+4= tries 8
}

// rewritten is "row origin" of each proposal.
func rewritten(proposals []Proposal) []string {
	out := []string{}
	for _, p := range proposals {
		out = append(out, fmt.Sprint(p.Row, " ", p.Origin))
	}
	return out
}

// columns is a problem set of n problems with both rewrites prepared.
func columns(n int) *Problems {
	p := &Problems{Solution: make([]string, n), Steps: make([][]string, n)}
	for i := range n {
		p.Prompt, p.Answer = append(p.Prompt, fmt.Sprint("problem ", i)), append(p.Answer, "yes")
		p.Simplified, p.Diversified = append(p.Simplified, fmt.Sprint("simple ", i)), append(p.Diversified, fmt.Sprint("diverse ", i))
	}
	return p
}

// With ten tries Acc goes through all tenths: up to 0.3 is hard, up to 0.7 medium.
func TestCLPOBuckets(t *testing.T) {
	r := &Response{Problems: columns(11), NumGenerations: 10, Next: 50}
	for right := range 11 {
		r.Attempts = append(r.Attempts, group(int32(right), int32(right), right, 10))
	}
	simplified := []string{"0 simplified", "1 simplified", "2 simplified", "3 simplified"}
	diversified := []string{"4 diversified", "5 diversified", "6 diversified", "7 diversified"}
	for mode, want := range map[string][]string{"both": append(simplified[:4:4], diversified...), "hard_only": simplified, "medium_only": diversified} {
		r.Metrics = nil
		got := respond(t, clpo, `{"rewriter":"column","mode":"`+mode+`"}`, r, datasets.Env{})
		if d := cmp.Diff(want, rewritten(got)); d != "" {
			t.Errorf("%s: %s", mode, d)
		}
		for i, p := range got {
			prompt := r.Problems.Diversified[p.Row]
			if p.Origin == OriginSimplified {
				prompt = r.Problems.Simplified[p.Row]
			}
			if d := cmp.Diff(Proposal{Group: int32(50 + i), Row: p.Row, Prompt: prompt, Origin: p.Origin, Tries: 10}, p); d != "" {
				t.Errorf("%s: %s", mode, d)
			}
		}
		if r.Metrics["rewrite/requested"] != float64(len(want)) || r.Metrics["rewrite/accepted_simplified"]+r.Metrics["rewrite/accepted_diversified"] != float64(len(want)) {
			t.Errorf("%s: metrics %v", mode, r.Metrics)
		}
	}
	// With a gap between hard and medium, 0.3 itself is neither.
	got := respond(t, clpo, `{"rewriter":"column","tau_hard":0.2}`, r, datasets.Env{})
	if d := cmp.Diff(append(simplified[:3:3], diversified...), rewritten(got)); d != "" {
		t.Errorf("a gap: %s", d)
	}
	// All but one of ten is a rate of 0.9; with the thresholds at their ends all that is not wrong is medium.
	got = respond(t, clpo, `{"rewriter":"column","tau_hard":0,"tau_medium_low":0,"tau_medium_high":0.9}`, r, datasets.Env{})
	if len(got) != 10 || got[0].Origin != OriginSimplified || got[9].Origin != OriginDiversified {
		t.Errorf("wide thresholds: %v", rewritten(got))
	}
}

// Groups of one problem count together, once; tries under hints and tries at
// rewritten forms do not count.
func TestCLPOMergesGroups(t *testing.T) {
	hinted := group(2, 2, 0, 4)
	hinted.Hints, hinted.Correct = append(hinted.Hints, 3, 4, 5), append(hinted.Correct, true, true, true)
	rewrite := group(3, 3, 4, 4)
	rewrite.Origin = OriginDiversified
	r := &Response{Problems: columns(4), NumGenerations: 4, Attempts: []Attempts{
		group(0, 0, 0, 4), hinted, rewrite, group(4, 0, 4, 4), group(5, 0, 0, 0), group(6, 1, 0, 0),
	}}
	got := respond(t, clpo, `{"rewriter":"column"}`, r, datasets.Env{})
	if d := cmp.Diff([]string{"0 diversified", "2 simplified"}, rewritten(got)); d != "" {
		t.Error(d)
	}
}

// The order of the groups is that of the proposals and changes nothing else.
func TestCLPOPermutes(t *testing.T) {
	const n = 12
	rng := rand.New(rand.NewPCG(3, 4))
	var attempts []Attempts
	for i := range int32(n) {
		attempts = append(attempts, group(i, i, rng.IntN(9), 8))
	}
	count := func(attempts []Attempts) map[string]int {
		r := &Response{Problems: columns(n), NumGenerations: 8, Next: n, Attempts: attempts}
		seen := map[string]int{}
		for _, p := range respond(t, clpo, `{"rewriter":"column"}`, r, datasets.Env{}) {
			seen[fmt.Sprint(p.Row, p.Origin, p.Prompt)]++
		}
		return seen
	}
	want := count(attempts)
	for range 5 {
		rng.Shuffle(n, func(i, j int) { attempts[i], attempts[j] = attempts[j], attempts[i] })
		if d := cmp.Diff(want, count(attempts)); d != "" {
			t.Error(d)
		}
	}
}

// A request names the problem and its answer; a text that is refused is counted by
// its reason; nothing is posed after turn 1.
func TestCLPOPolicy(t *testing.T) {
	p := &Problems{
		Prompt: []string{"Ann has 3 bags of 4 pears. How many pears?", "What is 7 more than 5?"}, Answer: []string{"12", "12"},
		Solution: make([]string, 2), Steps: make([][]string, 2),
	}
	r := &Response{Problems: p, NumGenerations: 4, Next: 9, Attempts: []Attempts{group(0, 0, 0, 4), group(1, 1, 2, 4)}}
	got := respond(t, clpo, "", r, datasets.Env{})
	if len(got) != 2 {
		t.Fatalf("%d requests", len(got))
	}
	for i, purpose := range []string{"simplify", "diversify"} {
		q := got[i]
		if !strings.Contains(q.Prompt, p.Prompt[i]) || !strings.Contains(q.Prompt, "Answer: 12") || !strings.Contains(q.Prompt, "400") {
			t.Errorf("request %d does not say what is asked: %s", i, q.Prompt)
		}
		q.Prompt = ""
		if d := cmp.Diff(Proposal{Group: int32(9 + i), Row: int32(i), Origin: OriginRequest, Purpose: purpose, Tries: 1}, q); d != "" {
			t.Error(d)
		}
	}
	if d := cmp.Diff(map[string]float64{"rewrite/requested": 2}, r.Metrics); d != "" {
		t.Error(d)
	}

	for _, c := range []struct{ text, prompt, reason string }{
		{"```\nThere are 3 bags. Each has 4 pears. How many pears are there?\n```", "There are 3 bags. Each has 4 pears. How many pears are there?", ""},
		{"First ```\na draft\n``` then ```text\n 3 bags, 4 pears each.\nHow many? \n```\nDone.", "3 bags, 4 pears each.\nHow many?", ""},
		{"```3 times 4?```", "3 times 4?", ""},
		{"```\n3 times 4, cut sho", "3 times 4, cut sho", ""},
		{"  3 times 4?\n", "3 times 4?", ""},
		{"```\n\n```", "", "empty"},
		{" \n", "", "empty"},
		{" Ann has 3 bags of 4 pears. How many pears? ", "", "unchanged"},
		{"```\n3 bags of 4 pears are 12 pears. How many pears?\n```", "", "reveals_answer"},
		{"3 times 4? " + strings.Repeat("Please. ", 50), "", "too_long"}, // 411 characters
	} {
		r := &Response{Problems: p, NumGenerations: 4, Next: 11, Turn: 1, Attempts: r.Attempts, Texts: []Text{{Row: 0, Purpose: "simplify", Text: c.text}}}
		got := respond(t, clpo, "", r, datasets.Env{})
		var want []Proposal
		metrics := map[string]float64{"rewrite/accepted_simplified": 0, "rewrite/accepted_diversified": 0}
		if c.reason == "" {
			want = []Proposal{{Group: 11, Row: 0, Prompt: c.prompt, Origin: OriginSimplified, Tries: 4}}
			metrics["rewrite/accepted_simplified"] = 1
		} else {
			metrics["rewrite/rejected_"+c.reason] = 1
		}
		if d := cmp.Diff(want, got) + cmp.Diff(metrics, r.Metrics); d != "" {
			t.Errorf("%q: %s", c.text, d)
		}
		r.Turn = 2
		if got := respond(t, clpo, "", r, datasets.Env{}); len(got) != 0 {
			t.Errorf("turn 2 proposes %v", got)
		}
	}

	r.Turn, r.Texts = 1, []Text{{Row: 1, Purpose: "poem", Text: "x"}}
	if err := datasets.Run(Responders(), []datasets.Call{{Stage: clpo}}, r, datasets.Env{}); err == nil || !strings.Contains(err.Error(), `"poem"`) {
		t.Errorf("a text of unknown purpose gives %v", err)
	}
}

// An answer that the original shows may stay; max_rewrite_tokens bounds the prompt,
// MaxPrompt the prompt with its prefill, both in the policy's tokens.
func TestCLPOGuards(t *testing.T) {
	words := func(s string) int { return len(strings.Fields(s)) }
	for _, c := range []struct {
		name, original, prompt, prefill, params string
		maxPrompt                               int
		want                                    string
	}{
		{"shown before", "Is it 12 or 13?", "12 or 13, which?", "", "", 0, ""},
		{"longest", "a b c", "d e f", "", `"max_rewrite_tokens":3,`, 0, ""},
		{"too many tokens", "a b c", "d e f", "", `"max_rewrite_tokens":2,`, 0, "too_long"},
		{"fits", "a b c", "d e", " f", "", 3, ""},
		{"does not fit", "a b c", "d e", " f", "", 2, "too_long"},
		{"prefill only", "a b c", "a b c", "d", "", 0, ""},
		{"nothing at all", "a b c", "a b c", "", "", 0, "unchanged"},
		{"answer in the work", "a b c", "a b c", "12;", "", 0, ""},
	} {
		r := &Response{
			Problems:       &Problems{Prompt: []string{c.original}, Answer: []string{"12"}, Solution: []string{""}, Steps: [][]string{nil}},
			NumGenerations: 1, MaxPrompt: c.maxPrompt, Count: words, Attempts: []Attempts{group(0, 0, 0, 1)},
			Rewrite: func(*Problems, int32, bool) (string, string, bool) { return c.prompt, c.prefill, true },
		}
		got := respond(t, clpo, `{`+c.params+`"rewriter":"procedural"}`, r, datasets.Env{})
		if (len(got) == 1) != (c.want == "") || c.want != "" && r.Metrics["rewrite/rejected_"+c.want] != 1 {
			t.Errorf("%s: %d proposals, metrics %v", c.name, len(got), r.Metrics)
		}
	}
	// A request that the policy cannot read is not made.
	r := &Response{Problems: sums(), NumGenerations: 1, MaxPrompt: 20, Attempts: []Attempts{group(0, 0, 0, 1)}}
	if got := respond(t, clpo, "", r, datasets.Env{}); len(got) != 0 || r.Metrics["rewrite/requested"] != 1 || r.Metrics["rewrite/rejected_too_long"] != 1 {
		t.Errorf("%d requests, metrics %v", len(got), r.Metrics)
	}
}

// The procedure comes first; where it has nothing, half of the worked steps are
// given, never all; one step cannot be halved, and steps diversify nothing.
func TestCLPOProcedural(t *testing.T) {
	r := &Response{Problems: sums(), NumGenerations: 2, Next: 5, Attempts: []Attempts{group(0, 0, 0, 2), group(1, 1, 0, 2), group(2, 2, 0, 2), group(3, 3, 1, 2)}}
	r.Rewrite = func(p *Problems, row int32, simplify bool) (string, string, bool) {
		if !simplify || row != 0 {
			return "", "", false
		}
		return "3+3+4=", "", true
	}
	want := []Proposal{
		{Group: 5, Row: 0, Prompt: "3+3+4=", Origin: OriginSimplified, Tries: 2},
		{Group: 6, Row: 1, Prompt: "5+6+7=", Prefill: "11;", Origin: OriginSimplified, Tries: 2},
	}
	if d := cmp.Diff(want, respond(t, clpo, `{"rewriter":"procedural"}`, r, datasets.Env{})); d != "" {
		t.Error(d)
	}
	metrics := map[string]float64{"rewrite/requested": 4, "rewrite/accepted_simplified": 2, "rewrite/accepted_diversified": 0, "rewrite/rejected_none": 2}
	if d := cmp.Diff(metrics, r.Metrics); d != "" {
		t.Error(d)
	}
	// Without a procedure and without columns there is nothing but the steps.
	r.Rewrite, r.Metrics = nil, nil
	if got := respond(t, clpo, `{"rewriter":"procedural"}`, r, datasets.Env{}); len(got) != 2 || got[0].Prefill != "3;" {
		t.Errorf("without a procedure: %+v", got)
	}
	if got := respond(t, clpo, `{"rewriter":"column"}`, r, datasets.Env{}); len(got) != 0 {
		t.Errorf("without columns: %+v", got)
	}
}

// By hand: problems 0, 1 and 2 are wrong throughout; the simplified forms of 0
// have both kinds of tries, those of 1 only right ones, and 2 has none.
func TestRescueRate(t *testing.T) {
	simplified := func(number, row int32, right, tries int) Attempts {
		a := group(number, row, right, tries)
		a.Origin = OriginSimplified
		return a
	}
	diversified := simplified(9, 2, 1, 2)
	diversified.Origin = OriginDiversified
	rescued, wrong := RescueRate([]Attempts{
		group(0, 0, 0, 4), group(1, 1, 0, 4), group(2, 2, 0, 4), group(3, 3, 1, 4),
		simplified(4, 0, 3, 4), simplified(5, 1, 4, 4), simplified(6, 3, 1, 4), diversified,
	})
	if rescued != 1 || wrong != 3 {
		t.Errorf("%d of %d rescued, want 1 of 3", rescued, wrong)
	}
}
