package recipes

import (
	"errors"
	"strings"
	"testing"
)

func TestExpandSweep(t *testing.T) {
	s, err := ExpandSweep([]byte(`{"base":{"steps":9},"grid":{"learning_rate":[1e-4,5e-4],"recipe":["grpo","d3s"]},"list":[{"beta":0},{"beta":0.01}],"seeds":[1,2]}`), Resolve)
	if err != nil || s.Parallel != 2 || len(s.Settings) != 8 || len(s.Runs) != 16 {
		t.Fatalf("%v, %+v", err, s)
	}
	if want := "beta=0.01 learning_rate=5e-4 recipe=d3s"; s.Settings[7] != want {
		t.Errorf("last setting %q, want %q", s.Settings[7], want)
	}
	last := s.Runs[15]
	if last.Name != "8-beta=0.01-learning_rate=5e-4-recipe=d3s-seed=2" || last.Setting != 7 || last.Seed != 2 ||
		string(last.Given) != `{"beta":0.01,"learning_rate":5e-4,"recipe":"d3s","seed":2,"steps":9}` {
		t.Errorf("last run %+v", last)
	}
	one, err := ExpandSweep([]byte(`{"base":{"seed":5}}`), Resolve)
	if err != nil || len(one.Runs) != 1 || one.Runs[0].Name != "1-base-seed=5" {
		t.Errorf("%v, %+v", err, one)
	}
	if _, err := ExpandSweep([]byte(`{}`), func([]byte) (Plan, error) { return Plan{}, errors.New("down") }); err == nil || !strings.Contains(err.Error(), "down") {
		t.Errorf("got %v", err)
	}
	for in, want := range map[string]string{
		`7`:                        "sweep: want an object such as",
		`{"grids":{}}`:             `unknown field "grids"`,
		`{"parallel":0}`:           "parallel is 0; it must be from 1",
		`{"grid":{"beta":[]}}`:     "grid: beta has no values",
		`{"grid":{"betta":[1]}}`:   `betta=1: unknown option "betta"; did you mean beta?`,
		`{"grid":{"beta":[0,-1]}}`: "beta=-1: ",
		`{"grid":{"beta":[1,1]}}`:  "beta=1 is there twice",
		`{"grid":{"beta":[1]},"list":[{"beta":2}]}`: "beta stands in grid and in list",
		`{"seeds":[1,1]}`:                                 "seed 1 is there twice",
		`{"seeds":[1],"grid":{"seed":[1]}}`:               "seed stands in grid or list",
		`{"base":{"recipe":"gpro"}}`:                      `base: unknown recipe "gpro"`,
		`{"seeds":[` + strings.Repeat("1,", 1000) + `1]}`: "there may be 1000",
	} {
		if _, err := ExpandSweep([]byte(in), Resolve); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", in, err, want)
		}
	}
}
