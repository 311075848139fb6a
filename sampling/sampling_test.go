package sampling

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

// run applies stages, by name and JSON parameters, to groups of rewards.
func run(t testing.TB, offsets []int32, reward []float64, stages ...string) *Batch {
	t.Helper()
	b := newBatch(t, offsets, reward)
	apply(t, b, datasets.Env{}, stages...)
	return b
}

// newBatch is a batch of completions of three tokens.
func newBatch(t testing.TB, offsets []int32, reward []float64) *Batch {
	t.Helper()
	b, err := NewBatch(offsets, reward, slices.Repeat([]int32{3}, len(reward)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// apply runs stages, by name and JSON parameters, over a batch.
func apply(t testing.TB, b *Batch, env datasets.Env, stages ...string) {
	t.Helper()
	if err := try(b, env, stages...); err != nil {
		t.Fatal(err)
	}
}

func try(b *Batch, env datasets.Env, stages ...string) error {
	var calls []datasets.Call
	for i := 0; i < len(stages); i += 2 {
		calls = append(calls, datasets.Call{Stage: stages[i], Params: json.RawMessage(stages[i+1])})
	}
	return datasets.Run(Stages(), calls, b, env)
}

func ExampleStage() {
	b, _ := NewBatch([]int32{0, 2, 4}, []float64{1, 0, 1, 1}, []int32{5, 5, 5, 5})
	calls := []datasets.Call{{Stage: "dapo.filter"}, {Stage: "grpo.advantage"}}
	if err := datasets.Run(Stages(), calls, b, datasets.Env{}); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%.3f %q\n", b.Advantage, b.Reason)
	// Output: [1.000 -1.000 0.000 0.000] ["" "" "group_all_right" "group_all_right"]
}

func TestStagesAreComplete(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9-]+\.[a-z_]+$`)
	columns := append([]string{Advantage, TokenMask, KLScale, Features}, Given...)
	var seen []string
	for _, s := range Stages() {
		if !name.MatchString(s.Name) || slices.Contains(seen, s.Name) {
			t.Errorf("stage %q is not named method.what, or twice", s.Name)
		}
		seen = append(seen, s.Name)
		if s.Paper == "" || s.Version < 1 || len(s.Reads) == 0 || len(s.Writes) == 0 {
			t.Errorf("%s has paper %q, version %d, reads %q and writes %q", s.Name, s.Paper, s.Version, s.Reads, s.Writes)
		}
		for _, c := range slices.Concat(s.Reads, s.Writes) {
			if !slices.Contains(columns, c) {
				t.Errorf("%s has column %q, which a batch has not", s.Name, c)
			}
		}
		defaults, err := json.Marshal(s.Defaults)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		for _, params := range []string{"", string(defaults)} {
			if _, err := s.Bind(json.RawMessage(params)); err != nil {
				t.Errorf("%s does not bind %q: %v", s.Name, params, err)
			}
		}
		if _, err := s.Bind(json.RawMessage(`{"no_such_parameter":1}`)); err == nil {
			t.Errorf("%s accepts a parameter that it has not", s.Name)
		}
	}
}

func TestParametersOutOfRange(t *testing.T) {
	for _, c := range []struct{ stage, params, want string }{
		{"grpo.advantage", `{"scale_rewards":"row"}`, `scale_rewards is "row"`},
		{"grpo.advantage", `{"advantage_epsilon":1}`, "advantage_epsilon is 1"},
		{"dapo.filter", `{"metric":"score"}`, `metric is "score"`},
		{"dapo.overlong", `{"overlong_cache":-1}`, "overlong_cache is -1"},
		{"dapo.overlong", `{"overlong_penalty":-0.5}`, "overlong_penalty is -0.5"},
		{"scaf-grpo.replace", `{"num_replaced":0}`, "num_replaced is 0"},
		{"scaf-grpo.replace", `{"replace":"last"}`, `replace is "last"`},
		{"scaf-grpo.replace", `{"hint_prompt":"both"}`, `hint_prompt is "both"`},
		{"clpo.kl_scale", `{"tau_hard":2}`, "tau_hard is 2"},
		{"clpo.kl_scale", `{"hard_scale":-1}`, "hard_scale is -1"},
		{"clpo.kl_scale", `{"other_scale":-1}`, "other_scale is -1"},
		{"clpo.mix", `{"max_groups":-1}`, "max_groups is -1"},
		{"d3s.samples", `{"intra_initial":0}`, "intra_initial is 0"},
		{"d3s.samples", `{"intra_final":1.5}`, "intra_final is 1.5"},
		{"d3s.samples", `{"samples_initial":-1}`, "samples_initial is -1"},
		{"d3s.samples", `{"samples_final":0}`, "samples_final is 0"},
		{"d3s.tokens", `{"tokens_initial":0}`, "tokens_initial is 0"},
		{"d3s.tokens", `{"tokens_final":2}`, "tokens_final is 2"},
		{"capo.mask", `{"hessian":0}`, "hessian is 0"},
		{"capo.mask", `{"fisher":-1}`, "fisher is -1"},
		{"capo.mask", `{"optimizer_model":"lion"}`, `optimizer_model is "lion"`},
		{"capo.mask", `{"level":"word"}`, `level is "word"`},
	} {
		s, err := datasets.FindStage(Stages(), c.stage)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Bind(json.RawMessage(c.params)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "must be") {
			t.Errorf("%s %s: error %v does not say that %s", c.stage, c.params, err, c.want)
		}
	}
}

func TestNewBatchRefuses(t *testing.T) {
	for _, offsets := range [][]int32{nil, {0}, {1, 2}, {0, 3}, {0, 2, 1, 2}} {
		if _, err := NewBatch(offsets, []float64{1, 0}, []int32{1, 1}); err == nil {
			t.Errorf("offsets %v are accepted for 2 rows", offsets)
		}
	}
}

// randomBatch is one of the shapes a step can have: groups of every origin, some
// with hinted rows, completions without tokens, with entropies and curvature.
func randomBatch(t testing.TB, rng *rand.Rand) *Batch {
	t.Helper()
	const k = 3
	offsets, reward, tokens := []int32{0}, []float64(nil), []int32(nil)
	var origin []string
	var levels []int32
	for range 1 + rng.IntN(8) {
		o := []string{OriginOriginal, OriginSimplified, OriginDiversified}[rng.IntN(3)]
		passRate := []float64{0, 0.3, 0.6, 1}[rng.IntN(4)]
		add := func(o string, level int32, passRate float64) {
			origin, levels = append(origin, o), append(levels, level)
			reward, tokens = append(reward, float64(toInt(rng.Float64() < passRate))), append(tokens, int32(rng.IntN(12)))
		}
		for range rng.IntN(9) {
			add(o, 0, passRate)
		}
		for range rng.IntN(2) * rng.IntN(5) {
			add(OriginHinted, 1+rng.Int32N(4), 0.5)
		}
		offsets = append(offsets, int32(len(reward)))
	}
	b, err := NewBatch(offsets, reward, tokens)
	if err != nil {
		t.Fatal(err)
	}
	b.Origin, b.HintLevel, b.MaxTokens = origin, levels, 12
	b.Curvature = &Curvature{LearningRate: 0.05, K: k}
	for i, n := range tokens {
		b.Entropy[i] = make([]float32, n)
		probs, chosen, norms := make([]float32, 0, int(n)*k), make([]int32, n), make([]float32, n)
		for t := range n {
			b.Entropy[i][t] = float32(rng.IntN(4)) / 4
			p := rng.Float32()
			probs = append(probs, p, (1-p)/2, (1-p)/2)
			chosen[t], norms[t] = rng.Int32N(k), 4*rng.Float32()
		}
		b.Curvature.Probs, b.Curvature.Chosen, b.Curvature.NormSquared = append(b.Curvature.Probs, probs), append(b.Curvature.Chosen, chosen), append(b.Curvature.NormSquared, norms)
	}
	return b
}

// every stage with parameters under which it has something to do.
var pipeline = []string{
	"scaf-grpo.replace", `{"replace":"random","hint_prompt":"replaced"}`,
	"dapo.overlong", `{}`,
	"dapo.filter", `{"metric":"acc"}`,
	"clpo.mix", `{"max_groups":5}`,
	"rein.advantage", `{}`,
	"grpo.advantage", `{}`,
	"clpo.kl_scale", `{}`,
	"d3s.samples", `{}`,
	"d3s.tokens", `{"tokens_initial":0.6}`,
	"capo.mask", `{"optimizer_model":"sgd","hessian":0.08,"fisher":0.003}`,
	"capo.mask", `{"optimizer_model":"sgd","level":"sequence","hessian":0.03,"fisher":0.001}`,
	"capo.mask", `{"optimizer_model":"sgd","level":"batch","hessian":0.006,"fisher":0.001}`,
}

// Every completion and every token is trained on or has one reason why not; what
// a stage has dropped stays dropped for that reason; and a step taken twice
// gives the same bytes.
func TestPipelineAddsUp(t *testing.T) {
	for _, s := range Stages() {
		if !slices.Contains(pipeline, s.Name) {
			t.Errorf("%s is not in the pipeline", s.Name)
		}
	}
	stageOf := map[string]string{
		ReasonReplaced: "scaf-grpo.replace", ReasonHintFailed: "scaf-grpo.replace", ReasonHintUnneeded: "scaf-grpo.replace",
		ReasonAllWrong: "dapo.filter", ReasonAllRight: "dapo.filter", ReasonOverBatch: "clpo.mix",
		ReasonLowVarianceGroup: "d3s.samples", ReasonLowVarianceBatch: "d3s.samples",
	}
	rowReasons, tokenReasons := map[string]int{}, map[TokenReason]int{}
	for seed := range uint64(100) {
		env := datasets.Env{Seed: seed, Step: int(seed % 3), Steps: 3}
		b := randomBatch(t, rand.New(rand.NewPCG(seed, 1)))
		given := slices.Clone(b.Reward)
		caller := b.Reward
		for i := 0; i < len(pipeline); i += 2 {
			before, tokensBefore := slices.Clone(b.Reason), make([][]TokenReason, len(b.Reason))
			for r, row := range b.TokenReason {
				tokensBefore[r] = slices.Clone(row)
			}
			apply(t, b, env, pipeline[i:i+2]...)
			for r, reason := range before {
				if now := b.Reason[r]; reason != "" && now != reason || reason == "" && now != "" && stageOf[now] != pipeline[i] {
					t.Fatalf("seed %d: %s turns the reason of row %d from %q to %q", seed, pipeline[i], r, reason, now)
				}
				for j, reason := range tokensBefore[r] {
					if reason != TokenKept && b.TokenReason[r][j] != reason {
						t.Fatalf("seed %d: %s turns the reason of token %d of row %d from %v to %v", seed, pipeline[i], j, r, reason, b.TokenReason[r][j])
					}
				}
			}
		}
		if !slices.Equal(caller, given) {
			t.Fatalf("seed %d: the caller's rewards were written over", seed)
		}

		tokens, kept := 0, 0
		counts := map[string]int{}
		for i, reason := range b.Reason {
			counts[reason]++
			rowReasons[reason]++
			tokens += int(b.Tokens[i])
			if reason != "" {
				if n := b.KeptTokens(i); n != 0 {
					t.Fatalf("seed %d: row %d, dropped as %s, keeps %d tokens", seed, i, reason, n)
				}
				kept += int(b.Tokens[i]) // of a dropped row: accounted for by its reason
				continue
			}
			n := 0
			for _, r := range b.TokenReason[i] {
				tokenReasons[r]++
				n += toInt(r != TokenKept)
			}
			if b.TokenReason[i] != nil && len(b.TokenReason[i]) != int(b.Tokens[i]) || b.KeptTokens(i)+n != int(b.Tokens[i]) {
				t.Fatalf("seed %d: row %d of %d tokens keeps %d and drops %d", seed, i, b.Tokens[i], b.KeptTokens(i), n)
			}
			kept += b.KeptTokens(i) + n
			if b.OriginalPrompt != nil && b.OriginalPrompt[i] != (b.Origin[i] == OriginHinted) {
				t.Fatalf("seed %d: row %d of origin %s has original prompt %v", seed, i, b.Origin[i], b.OriginalPrompt[i])
			}
		}
		rows := 0
		for _, n := range counts {
			rows += n
		}
		if rows != len(given) || kept != tokens {
			t.Fatalf("seed %d: %d of %d rows and %d of %d tokens are accounted for", seed, rows, len(given), kept, tokens)
		}

		again := randomBatch(t, rand.New(rand.NewPCG(seed, 1)))
		apply(t, again, env, pipeline...)
		if d := cmp.Diff(b, again, cmp.Comparer(func(x, y float64) bool { return math.Float64bits(x) == math.Float64bits(y) }),
			cmp.Comparer(func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })); d != "" {
			t.Fatalf("seed %d: taken twice: %s", seed, d)
		}
	}
	for reason := range stageOf {
		if rowReasons[reason] == 0 {
			t.Errorf("no completion was dropped as %s", reason)
		}
	}
	for r := range tokenReasons {
		if r.String() == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
	for r := TokenKept; r <= TokenBatch; r++ {
		if tokenReasons[r] == 0 {
			t.Errorf("no token is %v", r)
		}
	}
}
