package sampling

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gradus-rl/gradus/datasets"
)

// oneToken is a batch of one completion of one token.
func oneToken(t testing.TB, advantage float64, c Curvature) *Batch {
	t.Helper()
	b, err := NewBatch([]int32{0, 1}, []float64{0}, []int32{1})
	if err != nil {
		t.Fatal(err)
	}
	b.Advantage[0], b.Curvature = advantage, &c
	return b
}

func TestCurvatureByHand(t *testing.T) {
	// A = 2, π = (0.8, 0.2), the second token sampled, ‖h‖² = 3, lr = 0.1:
	//
	//	v = (−0.8, 0.8), ‖v‖² = 1.28;  u = 2·3·v = (−4.8, 4.8), v·u = 7.68
	//	Σ π u = −2.88, Σ π u² = 23.04, uFu = 14.7456
	//	m_H = 0.1·2·7.68 + 0.005·2·(58.9824 − 14.7456) = 1.978368
	//	m_F = 0.005·58.9824 = 0.294912
	plain := Curvature{
		LearningRate: 0.1, K: 2, Probs: [][]float32{{0.8, 0.2}}, Chosen: [][]int32{{1}}, NormSquared: [][]float32{{3}},
		IDs: [][]int32{{0, 1}}, Width: 2, Hidden: [][]float32{{1, float32(math.Sqrt2)}},
	}
	notYet := plain
	notYet.Adam = &Moments{First: make([]float32, 4), Second: make([]float32, 4), Beta1: 0.9, Beta2: 0.95, Epsilon: 1e-8}
	// A = 1, π = (½, ½), the first sampled, h = 2, one update taken, β = (½, ¾):
	//
	//	v = (½, −½), g = (1, −1); moments of the loss (−1, 0) and (1, 1)
	//	(β₁ m + (1−β₁) g)/(1−β₁²) = (1, −½)/¾, √((1, 1)/(1−β₂²)) = √(16/7)
	//	G = (√(7/9), −½√(7/9)), u = 2·G, v·u = 1½·√(7/9) = √(7/4)
	//	Σ π u = ½·√(7/9), Σ π u² = 35/18, uFu = 35/18 − 7/36 = 7/4
	//	m_H = 0.1·√(7/4) + 0.005·(7/4 − 7/4),  m_F = 0.005·7/4
	//
	// The row of an id outside the support is not looked at.
	moments := Curvature{
		LearningRate: 0.1, K: 2, Probs: [][]float32{{0.5, 0.5}}, Chosen: [][]int32{{0}},
		IDs: [][]int32{{2, 0}}, Width: 1, Hidden: [][]float32{{2}},
		Adam: &Moments{First: []float32{0, 99, -1}, Second: []float32{1, 99, 1}, Beta1: 0.5, Beta2: 0.75, Step: 1},
	}
	for _, c := range []struct {
		name, params      string
		advantage         float64
		curvature         Curvature
		objective, policy float64
	}{
		{"sgd", `{"optimizer_model":"sgd"}`, 2, plain, 1.978368, 0.294912},
		{"sgd with moments at hand", `{"optimizer_model":"sgd"}`, 2, notYet, 1.978368, 0.294912},
		{"adam without moments", `{}`, 2, plain, 1.978368, 0.294912},
		{"adam before the first update", `{}`, 2, notYet, 1.978368, 0.294912},
		{"adam", `{}`, 1, moments, 0.1 * math.Sqrt(7./4), 0.005 * 7 / 4},
		{"no advantage", `{"optimizer_model":"sgd"}`, 0, plain, 0, 0},
	} {
		b := oneToken(t, c.advantage, c.curvature)
		apply(t, b, datasets.Env{}, "capo.mask", c.params)
		got, want := []float64{float64(b.ObjectiveShift[0][0]), float64(b.PolicyShift[0][0])}, []float64{c.objective, c.policy}
		if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-6, 1e-9)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// randomCurvature is of tokens over a vocabulary of 7.
func randomCurvature(rng *rand.Rand, lengths []int32, adam bool) *Curvature {
	const vocabulary, k, width = 7, 4, 3
	c := &Curvature{LearningRate: 0.1, K: k, Width: width}
	for _, n := range lengths {
		var ids, chosen []int32
		var probs, hidden, norms []float32
		for range n {
			rest := 1.0
			for _, id := range rng.Perm(vocabulary)[:k] {
				p := rest * rng.Float64()
				rest -= p
				ids, probs = append(ids, int32(id)), append(probs, float32(p))
			}
			norm := float32(0)
			for range width {
				h := float32(rng.NormFloat64())
				hidden = append(hidden, h)
				norm += h * h
			}
			chosen, norms = append(chosen, rng.Int32N(k)), append(norms, norm)
		}
		c.IDs, c.Probs, c.Chosen, c.Hidden, c.NormSquared = append(c.IDs, ids), append(c.Probs, probs), append(c.Chosen, chosen), append(c.Hidden, hidden), append(c.NormSquared, norms)
	}
	if adam {
		c.Adam = &Moments{Beta1: 0.9, Beta2: 0.95, Epsilon: 1e-8, Step: 12}
		for range vocabulary * width {
			c.Adam.First, c.Adam.Second = append(c.Adam.First, float32(rng.NormFloat64())), append(c.Adam.Second, float32(rng.ExpFloat64()))
		}
	}
	return c
}

// The formulas of CurvatureMask with g, G and F written out as matrices.
func shiftsInFull(c *Curvature, i, t int, a float64, adam bool) (objective, policy float64) {
	k, d := c.K, c.Width
	v := make([]float64, k)
	pi := make([]float64, k)
	for j := range k {
		pi[j] = float64(c.Probs[i][t*k+j])
		v[j] = -pi[j]
	}
	v[c.Chosen[i][t]]++
	u, inner := make([]float64, k), 0.0
	for j := range k {
		for f := range d {
			h := float64(c.Hidden[i][t*d+f])
			g := a * v[j] * h
			step := g
			if adam {
				m, at := c.Adam, int(c.IDs[i][t*k+j])*d+f
				first := (-m.Beta1*float64(m.First[at]) + (1-m.Beta1)*g) / (1 - math.Pow(m.Beta1, float64(m.Step+1)))
				second := (m.Beta2*float64(m.Second[at]) + (1-m.Beta2)*g*g) / (1 - math.Pow(m.Beta2, float64(m.Step+1)))
				step = first / (math.Sqrt(second) + m.Epsilon)
			}
			inner += g * step
			u[j] += step * h
		}
	}
	vu, uFu := 0.0, 0.0
	for j := range k {
		vu += v[j] * u[j]
		for l := range k {
			fisher := -pi[j] * pi[l]
			if j == l {
				fisher += pi[j]
			}
			uFu += u[j] * fisher * u[l]
		}
	}
	lr := c.LearningRate
	return lr*inner + 0.5*lr*lr*a*(vu*vu-uFu), 0.5 * lr * lr * vu * vu
}

func TestCurvatureAgreesWithMatrices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	lengths := []int32{5, 0, 3}
	for round := range 100 {
		adam := round%2 == 1
		b, err := NewBatch([]int32{0, 3}, make([]float64, 3), lengths)
		if err != nil {
			t.Fatal(err)
		}
		b.Curvature = randomCurvature(rng, lengths, adam)
		for i := range b.Advantage {
			b.Advantage[i] = rng.NormFloat64()
		}
		apply(t, b, datasets.Env{}, "capo.mask", []string{`{"optimizer_model":"sgd"}`, `{"optimizer_model":"adam"}`}[round%2])
		for i, n := range lengths {
			for j := range int(n) {
				objective, policy := shiftsInFull(b.Curvature, i, j, b.Advantage[i], adam)
				got, want := []float64{float64(b.ObjectiveShift[i][j]), float64(b.PolicyShift[i][j])}, []float64{objective, policy}
				if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-5, 1e-7)); d != "" {
					t.Fatalf("round %d: token %d of row %d: %s", round, j, i, d)
				}
			}
		}
	}
}

// shifted is a batch of completions whose tokens have ‖h‖² as given. With the
// sampled token alone in the support, at a probability of ½, an advantage of 1
// and a learning rate of 1,
//
//	v·u = ‖h‖²/4,  uFu = (v·u)²,  m_H = ‖h‖²/4,  m_F = ‖h‖⁴/32 .
func shifted(t testing.TB, norms ...[]float32) *Batch {
	t.Helper()
	c := &Curvature{LearningRate: 1, K: 1, NormSquared: norms}
	var lengths []int32
	for _, row := range norms {
		lengths = append(lengths, int32(len(row)))
		c.Probs = append(c.Probs, slices.Repeat([]float32{0.5}, len(row)))
		c.Chosen = append(c.Chosen, make([]int32, len(row)))
	}
	b, err := NewBatch([]int32{0, int32(len(norms))}, make([]float64, len(norms)), lengths)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Advantage {
		b.Advantage[i] = 1
	}
	b.Curvature = c
	return b
}

func TestCurvatureMaskLevels(t *testing.T) {
	const k, h, f, s, a = TokenKept, TokenHessian, TokenFisher, TokenSequence, TokenBatch
	// Objective shifts 0.25, 1, 0.025 and 0.5, policy shifts 0.031, 0.5, 0.0003 and
	// 0.125.
	norms := [][]float32{{1, 4, 0.1}, {2}, {}}
	for _, c := range []struct {
		name, params string
		want         [][]TokenReason
	}{
		{"all", `{"hessian":2,"fisher":1}`, [][]TokenReason{nil, nil, nil}},
		{"hessian", `{"hessian":0.4,"fisher":1}`, [][]TokenReason{{k, h, k}, {h}, nil}},
		{"fisher", `{"hessian":2,"fisher":0.1}`, [][]TokenReason{{k, f, k}, {f}, nil}},
		{"hessian before fisher", `{"hessian":0.6,"fisher":0.01}`, [][]TokenReason{{f, h, k}, {f}, nil}},
		{"none", `{"hessian":0.001,"fisher":1}`, [][]TokenReason{{h, h, h}, {h}, nil}},
		// Mean objective shifts 0.425 and 0.5, policy shifts 0.177 and 0.125.
		{"sequence", `{"level":"sequence","hessian":0.5,"fisher":1}`, [][]TokenReason{nil, {s}, nil}},
		{"sequences", `{"level":"sequence","hessian":0.4,"fisher":1}`, [][]TokenReason{{s, s, s}, {s}, nil}},
		{"sequence by fisher", `{"level":"sequence","hessian":2,"fisher":0.15}`, [][]TokenReason{{s, s, s}, nil, nil}},
		// Mean objective shift 0.444.
		{"batch", `{"level":"batch","hessian":0.44,"fisher":1}`, [][]TokenReason{{a, a, a}, {a}, nil}},
		{"whole batch", `{"level":"batch","hessian":0.5,"fisher":1}`, [][]TokenReason{nil, nil, nil}},
	} {
		b := shifted(t, norms...)
		apply(t, b, datasets.Env{}, "capo.mask", `{"optimizer_model":"sgd",`+c.params[1:])
		if d := cmp.Diff(c.want, b.TokenReason); d != "" {
			t.Errorf("%s: %s\nobjective shifts %v, policy shifts %v", c.name, d, b.ObjectiveShift, b.PolicyShift)
		}
		for i, reason := range b.Reason {
			if reason != "" {
				t.Errorf("%s: row %d is dropped as %s", c.name, i, reason)
			}
		}
	}
}

// The first term of m_H is never negative under sgd, the curvature term may be.
// With π = ¼ of the sampled token, A = −8 and ‖h‖² = 1: v·u = −4½, uFu = 6¾,
// m_H = 36 − 4·(20¼ − 6¾) = −18, m_F = 10⅛.
func TestCurvatureMaskSymmetry(t *testing.T) {
	b := shifted(t, []float32{1})
	b.Advantage[0], b.Curvature.Probs[0][0] = -8, 0.25
	for _, c := range []struct {
		params string
		want   TokenReason
	}{
		{`{"hessian":19,"fisher":11}`, TokenKept},
		{`{"hessian":18,"fisher":11}`, TokenHessian}, // the bound itself is out
		{`{"hessian":19,"fisher":11,"symmetric":false}`, TokenHessian},
	} {
		b.TokenReason[0] = []TokenReason{TokenKept}
		apply(t, b, datasets.Env{}, "capo.mask", `{"optimizer_model":"sgd",`+c.params[1:])
		if got := b.TokenReason[0][0]; got != c.want || b.ObjectiveShift[0][0] != -18 || b.PolicyShift[0][0] != 10.125 {
			t.Errorf("%s: %v with shifts %v and %v, want %v", c.params, got, b.ObjectiveShift, b.PolicyShift, c.want)
		}
	}
}

// Means are over the tokens that are still trained on, rows that are out have no
// shifts, and what an earlier stage dropped keeps its reason.
func TestCurvatureMaskAfterOthers(t *testing.T) {
	b := shifted(t, []float32{1, 4}, []float32{4})
	b.DropToken(0, 1, TokenLowKey)
	b.Drop(1, "before")
	b.Curvature.Probs[1], b.Curvature.Chosen[1], b.Curvature.NormSquared[1] = nil, nil, nil
	apply(t, b, datasets.Env{}, "capo.mask", `{"optimizer_model":"sgd","level":"sequence","hessian":0.3,"fisher":1}`)
	if d := cmp.Diff([][]TokenReason{{TokenKept, TokenLowKey}, nil}, b.TokenReason); d != "" {
		t.Error(d)
	}
	if len(b.ObjectiveShift[0]) != 2 || len(b.PolicyShift[0]) != 2 || b.ObjectiveShift[1] != nil || b.PolicyShift[1] != nil {
		t.Errorf("shifts %v and %v", b.ObjectiveShift, b.PolicyShift)
	}
	apply(t, b, datasets.Env{}, "capo.mask", `{"optimizer_model":"sgd","hessian":0.01,"fisher":1}`)
	if d := cmp.Diff([][]TokenReason{{TokenHessian, TokenLowKey}, nil}, b.TokenReason); d != "" {
		t.Error(d)
	}
	if n := b.KeptTokens(0); n != 0 || b.Reason[0] != "" {
		t.Errorf("the row keeps %d tokens, reason %q", n, b.Reason[0])
	}
}

func TestCurvatureMaskRefuses(t *testing.T) {
	lengths := []int32{2, 1}
	for _, c := range []struct {
		want  string
		adam  bool
		spoil func(b *Batch)
	}{
		{"the batch has no curvature", false, func(b *Batch) { b.Curvature = nil }},
		{"the learning rate is NaN", false, func(b *Batch) { b.Curvature.LearningRate = math.NaN() }},
		{"the support has 0 tokens", false, func(b *Batch) { b.Curvature.K = 0 }},
		{"completion 1 has 3 probabilities; it must have 4", false, func(b *Batch) { b.Curvature.Probs[1] = b.Curvature.Probs[1][:3] }},
		{"completion 1 has 0 probabilities", false, func(b *Batch) { b.Curvature.Probs = b.Curvature.Probs[:1] }},
		{"completion 0 has 1 sampled places; it must have 2", false, func(b *Batch) { b.Curvature.Chosen[0] = b.Curvature.Chosen[0][:1] }},
		{"completion 0 has 0 squared norms", false, func(b *Batch) { b.Curvature.NormSquared = nil }},
		{"token 1 of completion 0 is at place 4", false, func(b *Batch) { b.Curvature.Chosen[0][1] = 4 }},
		{"token 0 of completion 0 is at place -1", false, func(b *Batch) { b.Curvature.Chosen[0][0] = -1 }},
		{"completion 0 has 0 token ids", true, func(b *Batch) { b.Curvature.IDs = nil }},
		{"completion 0 has 0 features; it must have 6", true, func(b *Batch) { b.Curvature.Hidden = nil }},
		{"completion 1 has token id 7; it must be in [0, 7)", true, func(b *Batch) { b.Curvature.IDs[1][0] = 7 }},
		{"21 first and 20 second moments", true, func(b *Batch) { b.Curvature.Adam.Second = b.Curvature.Adam.Second[:20] }},
	} {
		b, err := NewBatch([]int32{0, 2}, make([]float64, 2), lengths)
		if err != nil {
			t.Fatal(err)
		}
		b.Curvature = randomCurvature(rand.New(rand.NewPCG(1, 2)), lengths, c.adam)
		apply(t, b, datasets.Env{}, "capo.mask", `{}`) // as it is, it fits
		c.spoil(b)
		if err := try(b, datasets.Env{}, "capo.mask", `{}`); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one that says %s", err, c.want)
		}
	}
}
