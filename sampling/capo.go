package sampling

import (
	"errors"
	"fmt"
	"math"

	"github.com/gradus-rl/gradus/datasets"
)

// Curvature is what the score pass of the policy that is about to be updated
// tells of each token of the kept completions. Rows are those of the Batch; a
// dropped completion's are nil. Slices are flat: token t of row i has its
// support at [t·K, (t+1)·K) and its hidden state at [t·Width, (t+1)·Width).
type Curvature struct {
	LearningRate float64 // of the coming update, as scheduled

	K      int         // tokens of the support: the likeliest, and always the sampled one
	IDs    [][]int32   // support as token ids
	Probs  [][]float32 // their probabilities at the sampling temperature
	Chosen [][]int32   // place of the sampled token in the support

	NormSquared [][]float32 // ‖h‖² of each token: h is the input of the LM head over the temperature
	Width       int         // features of h
	Hidden      [][]float32 // h itself, wanted by the Adam model only; else nil
	Adam        *Moments    // optimizer moments of the LM head; nil before the first update
}

// Moments are AdamW's moments of the LM head [V, Width], row-major.
type Moments struct {
	First, Second         []float32
	Beta1, Beta2, Epsilon float64
	Step                  int64 // optimizer steps taken
}

// CAPO is the parameters of the curvature mask.
type CAPO struct {
	Hessian   float64 `json:"hessian"`   // bound of the predicted objective shift m_H. CAPO: 0.01, Dr.CAPO: 5e-4, ReinCAPO: 0.1
	Fisher    float64 `json:"fisher"`    // bound of the predicted policy shift m_F. CAPO: 1e-4, Dr.CAPO: 1e-3, ReinCAPO: 1e-5
	Symmetric bool    `json:"symmetric"` // |m_H| < hessian; else 0 ≤ m_H < hessian
	// Model of the optimizer's step: "adam", as published, or "sgd", which needs no
	// hidden states.
	Model string `json:"optimizer_model"`
	// Level is what is accepted or rejected as one: the "token", the "sequence" or
	// the "batch". The code has a pair of bounds per level: call the stage once for
	// each.
	Level string `json:"level"`
}

// Validate names the parameter that is out of range.
func (p CAPO) Validate() error {
	switch {
	case !(p.Hessian > 0 && p.Hessian <= math.MaxFloat64):
		return fmt.Errorf("hessian is %v; it must be finite and above 0", p.Hessian)
	case !(p.Fisher > 0 && p.Fisher <= math.MaxFloat64):
		return fmt.Errorf("fisher is %v; it must be finite and above 0", p.Fisher)
	case p.Model != "adam" && p.Model != "sgd":
		return fmt.Errorf("optimizer_model is %q; it must be adam or sgd", p.Model)
	case p.Level != "token" && p.Level != "sequence" && p.Level != "batch":
		return fmt.Errorf("level is %q; it must be token, sequence or batch", p.Level)
	}
	return nil
}

// CurvatureMask rejects the tokens that would move the policy or its objective
// too far in the update to come: CAPO, Curvature-Aware Policy Optimization
// (arXiv:2510.00819). It models the LM head alone. For a token with the sampled
// token a, probabilities π over a support of k tokens, the head's input h and
// the completion's advantage A,
//
//	v   = e_a − π                                    [k]
//	g   = A·v hᵀ                                     [k, d]  gradient of the objective
//	G   = the optimizer's step if it were fed g      [k, d]
//	u   = G h                                        [k]
//	uFu = Σ π u² − (Σ π u)²
//	m_H = lr·⟨g, G⟩ + ½ lr²·A·((v·u)² − uFu)         objective shift, ⟨g, G⟩ = A·v·u
//	m_F = ½ lr²·(v·u)²                               policy shift, about the token's KL
//
// and a token is learnt from iff |m_H| < hessian (or 0 ≤ m_H < hessian) and m_F
// < fisher. With optimizer_model "sgd" G = g, and with it u = A·‖h‖²·v, so that ‖h‖² will
// do. With "adam" and the moments m, s of the head's rows after t updates
//
//	G = m̂/(√ŝ + ε),  m̂ = (β₁ m + (1−β₁) g)/(1−β₁^(t+1)),  ŝ = (β₂ s + (1−β₂) g²)/(1−β₂^(t+1)) ,
//
// or G = g before the first update. What π lacks of 1 lies outside the support
// and is left out. The authors keep moments of their own, of
// the batch's mean gradient of each row; ours are those that the optimizer has.
// These are of the loss, which falls where the objective rises: m enters with
// its sign turned. Decoupled weight decay is no part of G.
//
// At level "sequence" it is the means of m_H and m_F over a completion's tokens
// that are held against the bounds, at "batch" those over all tokens; in both of
// the tokens that are trained on so far. (The code computes them from the mean
// gradient; the mean of the tokens' shifts is ours.) A completion of which no
// token is left stays kept. The shifts of every token of the kept completions
// are written beside the mask.
//
// Dr.CAPO goes with the advantage of Dr. GRPO, ReinCAPO with rein.advantage.
var CurvatureMask = Stage{
	Name: "capo.mask", Paper: "CAPO, arXiv:2510.00819", Version: 1,
	Reads: []string{Advantage, Kept, Features}, Writes: []string{TokenMask},
	Defaults: capoDefaults,
	Bind:     datasets.Bind(capoDefaults, CAPO.mask),
}

var capoDefaults = CAPO{Hessian: 0.01, Fisher: 1e-4, Symmetric: true, Model: "adam", Level: "token"}

func (p CAPO) mask(b *Batch, _ datasets.Env) error {
	if err := b.predictShifts(p.Model == "adam"); err != nil {
		return err
	}
	switch p.Level {
	case "token":
		p.maskTokens(b)
	case "sequence":
		for i := range b.Reason {
			p.maskRows(b, i, i+1, TokenSequence)
		}
	case "batch":
		p.maskRows(b, 0, len(b.Reason), TokenBatch)
	}
	return nil
}

// accepts tells of each shift whether it is within bounds; NaN is not.
func (p CAPO) accepts(objective, policy float64) (hessian, fisher bool) {
	if p.Symmetric {
		hessian = math.Abs(objective) < p.Hessian
	} else {
		hessian = objective >= 0 && objective < p.Hessian
	}
	return hessian, policy < p.Fisher
}

func (p CAPO) maskTokens(b *Batch) {
	for i, shifts := range b.ObjectiveShift {
		for t, objective := range shifts {
			hessian, fisher := p.accepts(float64(objective), float64(b.PolicyShift[i][t]))
			switch {
			case !hessian:
				b.DropToken(i, t, TokenHessian)
			case !fisher:
				b.DropToken(i, t, TokenFisher)
			}
		}
	}
}

// maskRows drops all tokens of the rows [lo, hi) unless their mean shifts are
// within bounds.
func (p CAPO) maskRows(b *Batch, lo, hi int, reason TokenReason) {
	var objective, policy float64
	n := 0
	for i := lo; i < hi; i++ {
		for t, shift := range b.ObjectiveShift[i] {
			if b.TokenReason[i] == nil || b.TokenReason[i][t] == TokenKept {
				objective += float64(shift)
				policy += float64(b.PolicyShift[i][t])
				n++
			}
		}
	}
	if n == 0 {
		return
	}
	if hessian, fisher := p.accepts(objective/float64(n), policy/float64(n)); hessian && fisher {
		return
	}
	for i := lo; i < hi; i++ {
		for t := range b.ObjectiveShift[i] {
			b.DropToken(i, t, reason)
		}
	}
}

// predictShifts fills ObjectiveShift and PolicyShift for the kept rows.
func (b *Batch) predictShifts(adam bool) error {
	c := b.Curvature
	if c == nil {
		return errors.New("the batch has no curvature: the policy must score the kept completions first")
	}
	adam = adam && c.Adam != nil && c.Adam.Step > 0
	if err := c.validate(b, adam); err != nil {
		return err
	}
	b.ObjectiveShift, b.PolicyShift = make([][]float32, len(b.Reason)), make([][]float32, len(b.Reason))
	u := make([]float64, c.K)
	for i, reason := range b.Reason {
		if reason != "" {
			continue
		}
		n, a, lr := int(b.Tokens[i]), b.Advantage[i], c.LearningRate
		both := make([]float32, 2*n)
		objective, policy := both[:n:n], both[n:]
		for t := range n {
			var vu, uFu float64
			if adam {
				vu, uFu = c.adamStep(u, i, t, a)
			} else {
				vu, uFu = c.sgdStep(i, t, a)
			}
			square := float64(vu * vu)
			objective[t] = float32(float64(lr*a*vu) + float64(0.5*lr*lr*a*(square-uFu)))
			policy[t] = float32(0.5 * lr * lr * square)
		}
		b.ObjectiveShift[i], b.PolicyShift[i] = objective, policy
	}
	return nil
}

// sgdStep is v·u and uFu of token t of row i where u = A·‖h‖²·v. With sums over
// the support but for the sampled token a,
//
//	‖v‖² = (1−π_a)² + Σ π²,  Σ π v² = π_a (1−π_a)² + Σ π³,  Σ π v = π_a (1−π_a) − Σ π² .
func (c *Curvature) sgdStep(i, t int, a float64) (vu, uFu float64) {
	probs, chosen := c.Probs[i][t*c.K:(t+1)*c.K], int(c.Chosen[i][t])
	lo2, lo3 := powerSums(probs[:chosen])
	hi2, hi3 := powerSums(probs[chosen+1:])
	p := float64(probs[chosen])
	far := float64((1 - p) * (1 - p))
	scale := float64(a * float64(c.NormSquared[i][t]))
	mean := float64(p*(1-p)) - (lo2 + hi2)
	square := float64(p*far) + (lo3 + hi3)
	return scale * (far + (lo2 + hi2)), scale * scale * (square - float64(mean*mean))
}

// powerSums are Σ p² and Σ p³, each as the sum of two sums that need not wait
// for one another: of the even and of the odd places.
func powerSums(probs []float32) (squares, cubes float64) {
	var s0, s1, c0, c1 float64
	for ; len(probs) >= 2; probs = probs[2:] {
		p, q := float64(probs[0]), float64(probs[1])
		pp, qq := float64(p*p), float64(q*q)
		s0 += pp
		s1 += qq
		c0 += float64(pp * p)
		c1 += float64(qq * q)
	}
	for _, v := range probs {
		p := float64(v)
		pp := float64(p * p)
		s0 += pp
		c0 += float64(pp * p)
	}
	return s0 + s1, c0 + c1
}

// adamStep is v·u and uFu of token t of row i where u is that of AdamW. u is
// room for the support.
func (c *Curvature) adamStep(u []float64, i, t int, a float64) (vu, uFu float64) {
	m := c.Adam
	step := float64(m.Step + 1)
	unbias1, unbias2 := 1-math.Pow(m.Beta1, step), 1-math.Pow(m.Beta2, step)
	ids, probs, chosen := c.IDs[i][t*c.K:(t+1)*c.K], c.Probs[i][t*c.K:(t+1)*c.K], int(c.Chosen[i][t])
	hidden := c.Hidden[i][t*c.Width : (t+1)*c.Width]
	var mean, square float64 // of u over π
	for j, id := range ids {
		v := -float64(probs[j])
		if j == chosen {
			v++
		}
		first, second := m.First[int(id)*c.Width:][:c.Width], m.Second[int(id)*c.Width:][:c.Width]
		sum := 0.0
		for d, h := range hidden {
			g := float64(a*v) * float64(h)
			up := float64((1-m.Beta1)*g) - float64(m.Beta1*float64(first[d]))
			down := float64((1-m.Beta2)*float64(g*g)) + float64(m.Beta2*float64(second[d]))
			sum += float64(up / unbias1 / (math.Sqrt(down/unbias2) + m.Epsilon) * float64(h))
		}
		u[j] = sum
		pu := float64(float64(probs[j]) * sum)
		mean += pu
		square += float64(pu * sum)
	}
	return u[chosen] - mean, square - float64(mean*mean)
}

// validate names what does not fit the kept rows of the batch, of the columns
// that the model of the step needs.
func (c *Curvature) validate(b *Batch, adam bool) error {
	if !(c.LearningRate >= 0 && c.LearningRate <= math.MaxFloat64) {
		return fmt.Errorf("curvature: the learning rate is %v; it must be finite and at least 0", c.LearningRate)
	}
	if c.K < 1 {
		return fmt.Errorf("curvature: the support has %d tokens; it must have at least 1", c.K)
	}
	vocabulary := math.MaxInt
	if adam {
		if c.Width < 1 || len(c.Adam.First)%c.Width != 0 || len(c.Adam.Second) != len(c.Adam.First) {
			return fmt.Errorf("curvature: %d first and %d second moments; they must be rows of %d", len(c.Adam.First), len(c.Adam.Second), c.Width)
		}
		vocabulary = len(c.Adam.First) / c.Width
	}
	for i, reason := range b.Reason {
		if reason != "" {
			continue
		}
		n := int(b.Tokens[i])
		for _, column := range []struct {
			name       string
			have, want int
			needed     bool
		}{
			{"probabilities", length(c.Probs, i), n * c.K, true},
			{"sampled places", length(c.Chosen, i), n, true},
			{"squared norms", length(c.NormSquared, i), n, !adam},
			{"token ids", length(c.IDs, i), n * c.K, adam},
			{"features", length(c.Hidden, i), n * c.Width, adam},
		} {
			if column.needed && column.have != column.want {
				return fmt.Errorf("curvature: completion %d has %d %s; it must have %d", i, column.have, column.name, column.want)
			}
		}
		for t, place := range c.Chosen[i] {
			if place < 0 || int(place) >= c.K {
				return fmt.Errorf("curvature: token %d of completion %d is at place %d of the support; it must be in [0, %d)", t, i, place, c.K)
			}
		}
		if !adam {
			continue
		}
		for _, id := range c.IDs[i] {
			if id < 0 || int(id) >= vocabulary {
				return fmt.Errorf("curvature: completion %d has token id %d; it must be in [0, %d)", i, id, vocabulary)
			}
		}
	}
	return nil
}

// length of row i; 0 if there is none.
func length[T any](column [][]T, i int) int {
	if i >= len(column) {
		return 0
	}
	return len(column[i])
}
