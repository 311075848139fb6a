package curriculum

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

func pose(t testing.TB, problems, groups int, posed int64, seed uint64) []int32 {
	t.Helper()
	p := &Pose{Problems: problems, State: NewState(problems), Groups: groups, Posed: posed}
	if err := datasets.Run(Proposers(), []datasets.Call{{Stage: "uniform"}}, p, datasets.Env{Seed: seed}); err != nil {
		t.Fatal(err)
	}
	return p.Rows
}

// Every epoch poses every problem once, in another order, and a run that
// resumes at any cursor goes on with the same problems.
func TestUniform(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 1000} {
		all := pose(t, n, 3*n, 0, 5)
		for e := range 3 {
			epoch := slices.Clone(all[e*n : (e+1)*n])
			slices.Sort(epoch)
			for i, r := range epoch {
				if int(r) != i {
					t.Fatalf("n %d, epoch %d: problem %d is missing", n, e, i)
				}
			}
		}
		if n >= 64 && cmp.Equal(all[:n], all[n:2*n]) {
			t.Errorf("n %d: two epochs have the same order", n)
		}
		for _, cut := range []int{1, n / 2, n, 2*n + 1} {
			if cut < 3*n {
				if d := cmp.Diff(all[cut:], pose(t, n, 3*n-cut, int64(cut), 5)); d != "" {
					t.Fatalf("n %d: resumed at %d: %s", n, cut, d)
				}
			}
		}
	}
	if cmp.Equal(pose(t, 100, 100, 0, 1), pose(t, 100, 100, 0, 2)) {
		t.Error("the seed makes no difference")
	}
	err := datasets.Run(Proposers(), []datasets.Call{{Stage: "uniform"}}, &Pose{Groups: 1}, datasets.Env{})
	if err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty problem set gives %v", err)
	}
}

// The first place of an epoch falls on every problem equally often: χ² with 9
// degrees of freedom stays below its 0.9999 quantile, 33.7.
func TestUniformIsUniform(t *testing.T) {
	const n, tries = 10, 5000
	count := make([]float64, n)
	for seed := range uint64(tries) {
		count[pose(t, n, 1, 0, seed)[0]]++
	}
	chi := 0.0
	for _, c := range count {
		chi += (c - tries/n) * (c - tries/n) / (tries / n)
	}
	if chi > 33.7 {
		t.Errorf("χ² = %.1f: %v", chi, count)
	}
}

// Every stage says where it is from, and its defaults are parameters it accepts.
func TestStages(t *testing.T) {
	names := map[string]bool{}
	checkStages(t, names, Proposers())
	checkStages(t, names, Assessors())
	checkStages(t, names, Responders())
}

func checkStages[F any](t *testing.T, names map[string]bool, table []datasets.Stage[F]) {
	for _, s := range table {
		if s.Name == "" || s.Paper == "" || s.Version < 1 || len(s.Reads) == 0 || len(s.Writes) == 0 || names[s.Name] {
			t.Errorf("stage %q lacks something or is there twice: %+v", s.Name, s)
		}
		names[s.Name] = true
		params, err := json.Marshal(s.Defaults)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Bind(params); err != nil {
			t.Errorf("%s does not accept its defaults %s: %v", s.Name, params, err)
		}
		if _, err := s.Bind(json.RawMessage(`{"no_such_parameter":1}`)); err == nil || !strings.Contains(err.Error(), "no_such_parameter") {
			t.Errorf("%s: an unknown parameter gives %v", s.Name, err)
		}
	}
}

// Every parameter out of range is refused by name.
func TestParameters(t *testing.T) {
	for _, c := range []struct{ stage, params, want string }{
		{"pass_rate", `{"hard":0.9}`, "hard is 0.9 and medium 0.7"},
		{"pass_rate", `{"medium":2}`, "medium 2"},
		{"pass_rate", `{"decay":0}`, "decay is 0; it must be in (0, 1]"},
		{"pass_rate", `{"forget":1.5}`, "forget is 1.5; it must be in (0, 1]"},
		{"revisit", `{"revisit_after":-1}`, "revisit_after is -1; it must be at least 0"},
		{"learnable", `{"explore":-0.1}`, "explore is -0.1; it must be in [0, 1]"},
		{"clpo.restructure", `{"mode":"easy_only"}`, `mode is "easy_only"`},
		{"clpo.restructure", `{"tau_hard":2}`, "tau_hard is 2; it must be in [0, 1]"},
		{"clpo.restructure", `{"tau_medium_low":0.8}`, "tau_medium_low is 0.8 and tau_medium_high 0.7"},
		{"clpo.restructure", `{"rewriter":"teacher"}`, `rewriter is "teacher"`},
		{"clpo.restructure", `{"max_rewrite_tokens":0}`, "max_rewrite_tokens is 0"},
		{"scaf-grpo.scaffold", `{"exemption":1.1}`, "exemption is 1.1; it must be in [0, 1]"},
		{"scaf-grpo.scaffold", `{"search":"binary"}`, `search is "binary"`},
		{"scaf-grpo.scaffold", `{"tiers":[]}`, "tiers is empty"},
		{"scaf-grpo.scaffold", `{"tiers":["solution","magic"]}`, `tiers[1] is "magic"`},
		{"scaf-grpo.scaffold", `{"tiers":["solution","solution"]}`, `tiers[1] is "solution", which is named before`},
		{"scaf-grpo.scaffold", `{"parts":0}`, "parts is 0"},
		{"scaf-grpo.scaffold", `{"source":"teacher"}`, `source is "teacher"`},
		{"scaf-grpo.scaffold", `{"source":"procedural","tiers":["planning"]}`, "with source procedural it must have solution"},
	} {
		err := bindAny(c.stage, c.params)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want %q", c.stage, c.params, err, c.want)
		}
	}
}

func bindAny(name, params string) error {
	if s, err := datasets.FindStage(Proposers(), name); err == nil {
		_, err = s.Bind(json.RawMessage(params))
		return err
	}
	if s, err := datasets.FindStage(Assessors(), name); err == nil {
		_, err = s.Bind(json.RawMessage(params))
		return err
	}
	s, err := datasets.FindStage(Responders(), name)
	if err == nil {
		_, err = s.Bind(json.RawMessage(params))
	}
	return err
}
