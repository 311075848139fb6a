package sampling

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/gradus-rl/gradus/datasets"
)

// Reasons of hint replacement.
const (
	ReasonReplaced     = "replaced_by_hint" // a failed completion that made room for a hinted one
	ReasonHintFailed   = "hint_failed"      // a hinted completion that is wrong all the same
	ReasonHintUnneeded = "hint_unneeded"    // a lower level sufficed, or none was needed
)

// ScafGRPO is the parameters of hint replacement.
type ScafGRPO struct {
	// NumReplaced is how many failed completions of a group may be replaced, each
	// by a hinted one of its own: those of the lowest levels that succeeded. The
	// paper and its code: 1. The code's option 2 ("6+1+1") takes one hinted
	// completion twice, under the hinted and under the original prompt; a row is
	// learnt once here, so 2 takes the two lowest levels instead (ours).
	NumReplaced int `json:"num_replaced"`
	// Replace chooses the failed completion: the "first" of the group (the code)
	// or a "random" one (the paper).
	Replace string `json:"replace"`
	// HintPrompt tells under which prompt the hinted completion is learnt: with
	// "kept" the one that produced it, on-policy; with "replaced" the group's
	// prompt without hint, off-policy. The code's replace_hint_prompt, false.
	HintPrompt string `json:"hint_prompt"`
	// HintLevel says which success is taken: that of the "lowest" level, or, to
	// see what the rule is worth, of the "highest".
	HintLevel string `json:"hint_level"`
}

// Validate names the parameter that is out of range.
func (p ScafGRPO) Validate() error {
	switch {
	case p.NumReplaced < 1:
		return fmt.Errorf("num_replaced is %d; it must be at least 1", p.NumReplaced)
	case p.Replace != "first" && p.Replace != "random":
		return fmt.Errorf("replace is %q; it must be first or random", p.Replace)
	case p.HintLevel != "lowest" && p.HintLevel != "highest":
		return fmt.Errorf("hint_level is %q; it must be lowest or highest", p.HintLevel)
	case p.HintPrompt != "kept" && p.HintPrompt != "replaced":
		return fmt.Errorf("hint_prompt is %q; it must be kept or replaced", p.HintPrompt)
	}
	return nil
}

// HintReplacement puts a hinted success in the place of a failure, in the groups
// that failed altogether: Scaf-GRPO (Zhang et al. 2025, arXiv:2510.19807, phase
// 2). The hinted completions of a group stand in its row range with origin
// "hinted". For a group whose own completions o_1 … o_G are all wrong,
//
//	l* = min{ l : the completion under hint level l is right },   o_j ← o_l*
//
// so that G rows remain, one of them right; of equal levels the first row is
// taken. Where no level works, or a completion of the group's own is right, the
// group stays as it is. Every other hinted completion is dropped with its
// reason, as are the ones replaced. Rows that were dropped before take no part.
var HintReplacement = Stage{
	Name: "scaf-grpo.replace", Paper: "Scaf-GRPO, arXiv:2510.19807, phase 2", Version: 1,
	Reads: []string{Reward, Kept}, Writes: []string{Kept},
	Defaults: scafDefaults,
	Bind:     datasets.Bind(scafDefaults, ScafGRPO.replace),
}

var scafDefaults = ScafGRPO{NumReplaced: 1, Replace: "first", HintPrompt: "kept", HintLevel: "lowest"}

func (p ScafGRPO) replace(b *Batch, env datasets.Env) error {
	var failed, rescues []int // rows of the group
	var chosen []bool
	for g := range b.Groups() {
		lo, hi := b.Group(g)
		failed, rescues = failed[:0], rescues[:0]
		solved := false
		for i := lo; i < hi; i++ {
			switch {
			case b.Reason[i] != "":
			case b.Origin[i] != OriginHinted && b.Correct[i]:
				solved = true
			case b.Origin[i] != OriginHinted:
				failed = append(failed, i)
			case b.Correct[i]:
				rescues = append(rescues, i)
			}
		}
		if solved {
			b.dropHinted(lo, hi, ReasonHintUnneeded)
			continue
		}
		slices.SortStableFunc(rescues, func(i, j int) int {
			if p.HintLevel == "highest" {
				i, j = j, i
			}
			return cmp.Compare(b.HintLevel[i], b.HintLevel[j])
		})
		n := min(p.NumReplaced, len(rescues), len(failed))
		for _, i := range rescues[n:] {
			b.Drop(i, ReasonHintUnneeded)
		}
		if p.HintPrompt == "replaced" && n > 0 {
			if b.OriginalPrompt == nil {
				b.OriginalPrompt = make([]bool, len(b.Reward))
			}
			for _, i := range rescues[:n] {
				b.OriginalPrompt[i] = true
			}
		}
		chosen = slices.Grow(chosen[:0], len(failed))[:len(failed)]
		if p.Replace == "random" && n > 0 {
			// A stream of the group's own: what befalls it does not hang on the others.
			choose(chosen, n, env.RNG("scaf-grpo.replace/"+strconv.Itoa(g)))
		} else {
			for j := range chosen {
				chosen[j] = j < n
			}
		}
		for j, i := range failed {
			if chosen[j] {
				b.Drop(i, ReasonReplaced)
			}
		}
		for i := lo; i < hi; i++ {
			if b.Origin[i] == OriginHinted && !b.Correct[i] {
				b.Drop(i, ReasonHintFailed)
			}
		}
	}
	return nil
}

// dropHinted drops the hinted rows in [lo, hi).
func (b *Batch) dropHinted(lo, hi int, reason string) {
	for i := lo; i < hi; i++ {
		if b.Origin[i] == OriginHinted {
			b.Drop(i, reason)
		}
	}
}
