package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute/gobackend"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/sampling"
)

// dense differentiates the surrogate of one token by the LM head W:
//
//	J(W) = A·π_W(a)/π_old(a),   π_W = softmax(W·h)
//
// g is its gradient at the policy that drew a, slope and hessian are the first
// and second derivative of J along a step G, and fisher the square of the first
// derivative of log π_W(a).
type dense struct{ gradient, derivatives *Exec }

func newDense(t *testing.T) dense {
	t.Helper()
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Finalize)
	logprob := func(w, h, onehot *Node) *Node {
		z := Dot(w, h).Product()
		return ReduceAllSum(Mul(onehot, LogSoftmax(z)))
	}
	objective := func(w, h, onehot, advantage *Node) (j, logp *Node) {
		logp = logprob(w, h, onehot)
		return Mul(advantage, Exp(Sub(logp, StopGradient(logp)))), logp
	}
	var d dense
	if d.gradient, err = NewExec(backend, func(w, h, onehot, advantage *Node) (g, logp *Node) {
		j, logp := objective(w, h, onehot, advantage)
		return Gradient(j, w)[0], logp
	}); err != nil {
		t.Fatal(err)
	}
	if d.derivatives, err = NewExec(backend, func(w, h, onehot, advantage, step *Node) []*Node {
		j, logp := objective(w, h, onehot, advantage)
		along := func(y *Node) *Node { return ReduceAllSum(Mul(Gradient(y, w)[0], step)) }
		slope := along(j)
		return []*Node{slope, along(slope), Square(along(logp))}
	}); err != nil {
		t.Fatal(err)
	}
	return d
}

// call runs a program and reads its results.
func call(t *testing.T, e *Exec, inputs ...any) [][]float64 {
	t.Helper()
	out, err := e.Call(inputs...)
	if err != nil {
		t.Fatal(err)
	}
	values := make([][]float64, len(out))
	for i := range out {
		if values[i], err = tensors.CopyFlatData[float64](out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return values
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// The shifts that CAPO predicts from the score pass in closed form must be the
// derivatives of the surrogate objective by the LM head, dense and by automatic
// differentiation, along the step that the optimizer takes.
func TestCAPOShiftsAreDerivatives(t *testing.T) {
	ctx := context.Background()
	const temperature = 0.8
	c := policy.Config{VocabSize: 11, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 4,
		MaxPositionEmbeddings: 32, RMSNormEps: 1e-6, RopeTheta: 1000}
	backend, err := policy.OpenBackend("go")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var rows []policy.Row
	var samples []policy.Sample
	for i := range 3 {
		row := policy.Row{Prompt: []int32{int32(i), 4}}
		var advantages []float32
		for range 2 + i {
			row.Completion = append(row.Completion, int32(rng.IntN(c.VocabSize)))
			advantages = append(advantages, float32(rng.NormFloat64()))
		}
		rows = append(rows, row)
		samples = append(samples, policy.Sample{Prompt: row.Prompt, Completion: row.Completion, Advantages: advantages})
	}
	trainer, err := policy.NewTrainer(backend, &policy.State{Config: c, Weights: policy.NewWeights(c, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	l := policy.DefaultLearning()
	l.LearningRate, l.Temperature, l.NumIterations, l.MaxGradNorm = 1e-2, temperature, 3, 0
	if _, err := trainer.Update(ctx, samples, l); err != nil {
		t.Fatal(err)
	}
	state, err := trainer.State()
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.NewEngine(backend, c)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if err := engine.Load(state.Weights); err != nil {
		t.Fatal(err)
	}
	inspected, err := engine.Inspect(ctx, rows, temperature, policy.InspectOptions{TopK: c.VocabSize, Hidden: true})
	if err != nil {
		t.Fatal(err)
	}

	features := curvature(inspected, state, l)
	head := state.Weights[len(state.Weights)-1].Data
	matrix := func(x []float64) *tensors.Tensor {
		return tensors.FromFlatDataAndDimensions(x, c.VocabSize, c.HiddenSize)
	}
	w, d := matrix(widen(head)), newDense(t)
	// adam is the optimizer's own step up an objective of gradient g: from
	// weights 0, at rate 1, down its negative.
	adam := func(g []float64) []float64 {
		one := func(data []float32) policy.Weights { return policy.Weights{{Name: "lm_head.weight", Data: data}} }
		s := policy.State{Weights: one(make([]float32, len(g))),
			Moments1: one(slices.Clone(features.Adam.First)), Moments2: one(slices.Clone(features.Adam.Second)), Step: state.Step + 1}
		down := make([]float32, len(g))
		for i := range g {
			down[i] = float32(-g[i])
		}
		if err := policy.AdamW(&s, one(down), 1, 1, l); err != nil {
			t.Fatal(err)
		}
		return widen(s.Weights[0].Data)
	}
	for name, step := range map[string]func(g []float64) []float64{
		"sgd":  func(g []float64) []float64 { return g },
		"adam": adam,
	} {
		for _, rate := range []float64{0.01, 1, 10} {
			advantage := []float64{1.5, -0.7, 2.1}
			features.LearningRate = rate
			objective, shift := predicted(t, name, advantage, features)
			for i, r := range rows {
				for n, a := range r.Completion {
					onehot := make([]float64, c.VocabSize)
					onehot[a] = 1
					h := widen(inspected[i].Hidden[n*c.HiddenSize:][:c.HiddenSize])
					first := call(t, d.gradient, w, h, onehot, advantage[i])
					if logp := first[1][0]; math.Abs(logp-float64(inspected[i].LogProbs[n])) > 1e-5 {
						t.Fatalf("log-prob %v of W·h, want %v", logp, inspected[i].LogProbs[n])
					}
					out := call(t, d.derivatives, w, h, onehot, advantage[i], matrix(step(first[0])))
					slope, hessian, fisher := out[0][0], out[1][0], out[2][0]
					near(t, fmt.Sprintf("%s at %v, row %d, token %d: objective shift", name, rate, i, n), objective[i][n],
						rate*slope+rate*rate/2*hessian, rate*math.Abs(slope)+rate*rate/2*math.Abs(hessian))
					near(t, fmt.Sprintf("%s at %v, row %d, token %d: policy shift", name, rate, i, n), shift[i][n],
						rate*rate/2*fisher, rate*rate/2*fisher)
				}
			}
		}
	}
}

// near fails unless got is want to 1e-4 of scale.
func near(t *testing.T, what string, got float32, want, scale float64) {
	t.Helper()
	if !(math.Abs(float64(got)-want) <= 1e-4*scale) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// predicted are the shifts that the stage writes for rows of one group.
func predicted(t *testing.T, model string, advantage []float64, c *sampling.Curvature) (objective, shift [][]float32) {
	t.Helper()
	tokens := make([]int32, len(advantage))
	for i := range tokens {
		tokens[i] = int32(len(c.Chosen[i]))
	}
	b, err := sampling.NewBatch([]int32{0, int32(len(advantage))}, make([]float64, len(advantage)), tokens)
	if err != nil {
		t.Fatal(err)
	}
	b.Advantage, b.Curvature = advantage, c
	calls := []datasets.Call{{Stage: sampling.CurvatureMask.Name, Params: json.RawMessage(fmt.Sprintf(`{"optimizer_model":%q}`, model))}}
	if err := datasets.Run([]sampling.Stage{sampling.CurvatureMask}, calls, b, datasets.Env{}); err != nil {
		t.Fatal(err)
	}
	return b.ObjectiveShift, b.PolicyShift
}

// curvature is what the engine computed as the stage reads it.
func curvature(rows []policy.Inspected, s *policy.State, l policy.Learning) *sampling.Curvature {
	first, second := s.HeadMoments()
	c := &sampling.Curvature{K: s.Config.VocabSize, Width: s.Config.HiddenSize,
		Adam: &sampling.Moments{First: first, Second: second, Beta1: l.AdamBeta1, Beta2: l.AdamBeta2, Epsilon: l.AdamEpsilon, Step: s.Step}}
	for _, r := range rows {
		c.IDs, c.Probs, c.Chosen = append(c.IDs, r.IDs), append(c.Probs, r.Probs), append(c.Chosen, r.Chosen)
		c.NormSquared, c.Hidden = append(c.NormSquared, r.NormSquared), append(c.Hidden, r.Hidden)
	}
	return c
}
