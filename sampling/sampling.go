// Package sampling decides what to learn from: which of a step's completions
// and tokens the policy update sees, and with what advantage. One file per
// paper; each stage is a pure function over the columns of a Batch.
package sampling

import (
	"fmt"

	"github.com/gradus-rl/gradus/datasets"
)

// Batch is the completions of one training step as columns, one row per
// completion, rows of one group side by side. Stages fill Advantage, Reason
// and TokenMask; the columns before them are given.
type Batch struct {
	Offsets []int32   // group g is the rows [Offsets[g], Offsets[g+1])
	Reward  []float64 // reward of each completion
	Tokens  []int32   // completion length in tokens

	Advantage []float64 // one per completion; every policy token of it shares it
	Reason    []string  // why a completion is not trained on; "" while it is kept
	TokenMask [][]bool  // tokens trained on; a nil row means all of them
}

// Columns of a Batch, as stages declare them.
const (
	Reward    = "reward"
	Advantage = "advantage"
	Kept      = "kept"
	TokenMask = "token_mask"
)

// Given are the columns that a Batch has before any stage ran.
var Given = []string{Reward, Kept}

// Stage is a stage over a Batch.
type Stage = datasets.Stage[*Batch]

// Stages is the table of all of them.
func Stages() []Stage {
	return []Stage{DynamicFilter, GRPOAdvantage}
}

// NewBatch returns a Batch in which every completion is kept, with no
// advantage yet. It errs unless offsets cut the rows into groups.
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
	return &Batch{
		Offsets: offsets, Reward: reward, Tokens: tokens,
		Advantage: make([]float64, n), Reason: make([]string, n), TokenMask: make([][]bool, n),
	}, nil
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

// KeptTokens is how many tokens of row i are trained on.
func (b *Batch) KeptTokens(i int) int {
	switch {
	case b.Reason[i] != "":
		return 0
	case b.TokenMask[i] == nil:
		return int(b.Tokens[i])
	}
	n := 0
	for _, keep := range b.TokenMask[i] {
		if keep {
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
