package recipes

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func ExampleContinue() {
	p, err := Resolve([]byte(`{"recipe":"grpo","steps":100}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fork, err := Continue(p, json.RawMessage(`{"seed":7,"steps":120}`), 40)
	fmt.Println(fork.Seed, fork.Steps, p.Seed, err)
	_, err = Continue(p, nil, 100)
	fmt.Println(err)
	// Output:
	// 7 120 0 <nil>
	// steps is 100, and 100 are done: there is nothing to go on with; give more steps, or an earlier step to go on from
}

// A plan that is given whole, with one change, is that change; the plan that it
// is made from stays as it is.
func TestContinueWholePlan(t *testing.T) {
	for _, r := range All() {
		p, err := Resolve(fmt.Appendf(nil, `{"recipe":%q,"steps":9}`, r.Name))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		same, err := Continue(p, raw, 3)
		if d := cmp.Diff(p, same); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", r.Name, err, d)
		}
		changed := strings.Replace(string(raw), `"levels":[1,`, `"levels":[9,`, 1)
		if _, err := Continue(p, []byte(changed), 3); err == nil || !strings.Contains(err.Error(), "levels cannot change") {
			t.Errorf("%s: got %v", r.Name, err)
		}
		if slices.Contains(p.Levels, 9) {
			t.Errorf("%s: a refused change is in the plan that it was made to", r.Name)
		}
	}
}

func TestScheduled(t *testing.T) {
	for in, want := range map[string]string{
		`{"recipe":"grpo"}`:                                  "",
		`{"recipe":"clpo"}`:                                  "",
		`{"recipe":"capo"}`:                                  "",
		`{"recipe":"d3s"}`:                                   "d3s.samples d3s.tokens",
		`{"recipe":"scaf-grpo"}`:                             "scaf-grpo.scaffold",
		`{"recipe":"grpo","lr_scheduler_type":"cosine"}`:     "lr_scheduler_type cosine",
		`{"recipe":"gradus","lr_scheduler_type":"constant"}`: "scaf-grpo.scaffold d3s.samples d3s.tokens",
	} {
		p, err := Resolve([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.Scheduled(), " "); got != want || (p.Horizon() == 0) != (want == "") {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
