// Package sampling decides what to learn from: which of a step's completions
// and tokens the policy update sees, and with what advantage. One file per
// paper; each stage is a pure function over the columns of a Batch.
package sampling

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Batch is the completions of one training step as columns, one row per
// completion, rows of one group side by side. Stages fill Reward (anew),
// Advantage, Reason, TokenReason, KLScale and OriginalPrompt; the other columns
// are given.
type Batch struct {
	Offsets   []int32     // group g is the rows [Offsets[g], Offsets[g+1])
	Reward    []float64   // reward of each completion
	Correct   []bool      // whether the verifier found it right
	Tokens    []int32     // completion length in tokens
	Origin    []string    // how its problem was posed, see Origin*
	HintLevel []int32     // level of the hint it was written under, 0 = none
	Entropy   [][]float32 // nats per token, over the full vocabulary
	MaxTokens int         // max_completion_length

	Advantage      []float64       // one per completion; every policy token of it shares it
	Reason         []string        // why a completion is not trained on; "" while it is kept
	TokenReason    [][]TokenReason // why a token is not trained on; a nil row means all of them are
	KLScale        []float64       // factor of beta for the completion; nil means 1 for all
	OriginalPrompt []bool          // learnt under the group's prompt without hint; nil means none is

	// Curvature is what the policy's score pass tells of the completions kept so
	// far; nil before it. Predicted shifts are filled where it is there.
	Curvature      *Curvature
	ObjectiveShift [][]float32 // CAPO's m_H per token
	PolicyShift    [][]float32 // CAPO's m_F per token
}

// Origins of completions: how their problem was posed.
const (
	OriginOriginal    = "original"
	OriginSimplified  = "simplified"
	OriginDiversified = "diversified"
	OriginHinted      = "hinted"
)

// TokenReason says why a token is not trained on; tables hold its number.
type TokenReason uint8

// The reasons.
const (
	TokenKept     TokenReason = iota
	TokenLowKey               // below the top share of |A|·H (D³S)
	TokenHessian              // predicted objective shift out of bounds (CAPO)
	TokenFisher               // predicted policy shift out of bounds (CAPO)
	TokenSequence             // its completion is out of bounds as a whole (CAPO)
	TokenBatch                // the batch is out of bounds as a whole (CAPO)
)

var tokenReasons = [...]string{"kept", "low_key", "hessian", "fisher", "sequence", "batch"}

// String is the reason's name in metrics.
func (r TokenReason) String() string { return tokenReasons[r] }

// Columns of a Batch, as stages declare them.
const (
	Reward    = "reward"
	Advantage = "advantage"
	Kept      = "kept"
	TokenMask = "token_mask"
	Entropy   = "entropy"
	KLScale   = "kl_scale"
	Features  = "curvature"
)

// Given are the columns that a Batch has before any stage ran. Masking stages,
// which run after the policy's score pass, are given Features as well.
var Given = []string{Reward, Kept, Entropy}

// Stage is a stage over a Batch.
type Stage = datasets.Stage[*Batch]

// Stages is the table of all of them, in an order in which they go together.
func Stages() []Stage {
	return []Stage{
		HintReplacement, OverlongPenalty, DynamicFilter, MixedBatch,
		GRPOAdvantage, ReinAdvantage, KLScaling,
		SampleSelection, TokenSelection, CurvatureMask,
	}
}

// NewBatch returns a Batch of kept completions with no advantage yet. The caller
// sets the other given columns; Correct is a reward above 0 until then. It errs
// unless offsets cut the rows into groups.
func NewBatch(offsets []int32, reward []float64, tokens []int32) (*Batch, error) {
	n := len(reward)
	if len(tokens) != n || len(offsets) == 0 || offsets[0] != 0 || int(offsets[len(offsets)-1]) != n {
		return nil, fmt.Errorf("batch: %d rewards, %d lengths and offsets ending at %v do not fit", n, len(tokens), offsets[max(0, len(offsets)-1):])
	}
	for g := range len(offsets) - 1 {
		if offsets[g] > offsets[g+1] {
			return nil, fmt.Errorf("batch: group %d ends before it begins", g)
		}
	}
	b := &Batch{
		Offsets: offsets, Reward: reward, Tokens: tokens, Correct: make([]bool, n), Origin: make([]string, n), HintLevel: make([]int32, n),
		Entropy: make([][]float32, n), Advantage: make([]float64, n), Reason: make([]string, n), TokenReason: make([][]TokenReason, n),
	}
	for i, r := range reward {
		b.Correct[i], b.Origin[i] = r > 0, OriginOriginal
		b.MaxTokens = max(b.MaxTokens, int(tokens[i]))
	}
	return b, nil
}

// Groups is the number of groups.
func (b *Batch) Groups() int { return len(b.Offsets) - 1 }

// Group is the row range of group g.
func (b *Batch) Group(g int) (lo, hi int) { return int(b.Offsets[g]), int(b.Offsets[g+1]) }

// Drop marks row i as not trained on. The first reason stands.
func (b *Batch) Drop(i int, reason string) {
	if b.Reason[i] == "" {
		b.Reason[i] = reason
	}
}

// DropToken marks token t of row i as not trained on. The first reason stands.
func (b *Batch) DropToken(i, t int, reason TokenReason) {
	if b.TokenReason[i] == nil {
		b.TokenReason[i] = make([]TokenReason, b.Tokens[i])
	}
	if b.TokenReason[i][t] == TokenKept {
		b.TokenReason[i][t] = reason
	}
}

// KeptTokens is how many tokens of row i are trained on.
func (b *Batch) KeptTokens(i int) int {
	switch {
	case b.Reason[i] != "":
		return 0
	case b.TokenReason[i] == nil:
		return int(b.Tokens[i])
	}
	n := 0
	for _, r := range b.TokenReason[i] {
		if r == TokenKept {
			n++
		}
	}
	return n
}

// Flat reports whether all rewards are equal. It compares the smallest with
// the largest: a standard deviation of zero is a question of rounding.
func Flat(reward []float64) bool {
	for _, r := range reward {
		if r != reward[0] {
			return false
		}
	}
	return true
}
