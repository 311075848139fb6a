package prepare

import (
	"fmt"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
)

// Decontaminate is the parameters of DecontaminateStage.
type Decontaminate struct {
	Against []string `json:"against"` // names or Refs of the held-out sets
	N       int      `json:"n"`       // words of an n-gram
	MinN    int      `json:"min_n"`   // words that a held-out text must have to be looked for within another
	Overlap float64  `json:"overlap"` // share of the held-out text's n-grams from which on a row is contaminated; 0 = one is enough
	Drop    bool     `json:"drop"`    // leave contaminated rows out; else the column contaminated_by names the held-out problem
}

func decontaminateDefaults() Decontaminate {
	return Decontaminate{Against: []string{}, N: 13, MinN: 8, Drop: true}
}

// ReasonContaminated is the reason of a [Match] with a held-out problem.
const ReasonContaminated = "contaminated"

// DecontaminateStage finds problems that share text with held-out ones, by n-grams
// of words (Brown et al. 2020, GPT-3, arXiv:2005.14165, appendix C: 13-grams, and
// at least 8 words). Words are those of [DeduplicateStage].
//
//   - A held-out prompt of n words or more: one of its n-grams stands in the prompt.
//   - A shorter one, of min_n words or more: all of it stands in the prompt.
//   - One that is shorter still, such as "2+2=": the prompt has the same words.
//
// The overlap is the share of the held-out prompt's different n-grams that the prompt
// has. For each held-out set a row is matched with the problem of the largest
// overlap, of equal ones with the first. What was written by hand is rarely the same
// for 13 words by chance; text made from templates is: raise overlap there.
//
// Figures: held-out problems compared with, those of them found again.
var DecontaminateStage = Stage{
	Name: "decontaminate", Paper: "Brown et al. 2020, arXiv:2005.14165, appendix C", Version: 1,
	Defaults: decontaminateDefaults(),
	Bind:     datasets.Bind(decontaminateDefaults(), Decontaminate.run),
}

// Validate names the parameter that is out of range.
func (p Decontaminate) Validate() error {
	switch {
	case len(p.Against) == 0:
		return fmt.Errorf("against is empty; it must name a held-out set")
	case p.N < 2 || p.N > 1000:
		return fmt.Errorf("n is %d; it must be from 2 to 1000", p.N)
	case p.MinN < 1 || p.MinN > p.N:
		return fmt.Errorf("min_n is %d; it must be from 1 to n", p.MinN)
	case !(p.Overlap >= 0 && p.Overlap <= 1):
		return fmt.Errorf("overlap is %v; it must be from 0 to 1", p.Overlap)
	}
	return nil
}

func (p Decontaminate) run(s *Set, _ datasets.Env) error {
	ids, prompts := datasets.ProblemID.Get(s.Problems), datasets.Prompt.Get(s.Problems)
	for _, h := range s.HeldOut {
		found := make([]overlap, len(prompts))
		x := p.index(h.Prompt)
		parallel(len(prompts), func(lo, hi int) {
			var ws []word
			for i := lo; i < hi; i++ {
				found[i], ws = x.best(ws[:0], prompts[i])
			}
		})
		again := map[int32]bool{}
		for i, o := range found {
			if o.of < 0 || o.share < p.Overlap {
				continue
			}
			again[o.of] = true
			s.Matches = append(s.Matches, Match{
				ID: ids[i], Prompt: prompts[i], Reason: ReasonContaminated, Set: h.Name, Other: h.ID[o.of], OtherPrompt: h.Prompt[o.of],
				Similarity: o.share, Shared: o.text, row: int32(i),
			})
		}
		s.Figures["held_out"] += float64(len(h.ID))
		s.Figures["held_out_found"] += float64(len(again))
	}
	slices.SortStableFunc(s.Matches, func(a, b Match) int { return int(a.row - b.row) })
	if !p.Drop {
		return s.flag(datasets.ContaminatedBy)
	}
	return s.drop()
}

// grams is the n-grams of a held-out set.
type grams struct {
	at      map[uint64][]int32 // problems that have an n-gram, by its hash, ascending
	whole   map[uint64]int32   // problems whose text is too short to look for, by the hash of all of it
	of      []int32            // different n-grams of each problem
	lengths []int              // of the n-grams, ascending
}

// index lists the n-grams of held-out texts.
func (p Decontaminate) index(texts []string) *grams {
	x := &grams{at: map[uint64][]int32{}, whole: map[uint64]int32{}, of: make([]int32, len(texts))}
	var lengths [1001]bool
	for i, text := range texts {
		_, ws := words(nil, text)
		n := min(p.N, len(ws))
		if n < p.MinN {
			if _, ok := x.whole[sequence(ws)]; !ok && n > 0 {
				x.whole[sequence(ws)] = int32(i)
			}
			continue
		}
		lengths[n] = true
		for k := range len(ws) - n + 1 {
			h := sequence(ws[k : k+n])
			if has := x.at[h]; len(has) == 0 || has[len(has)-1] != int32(i) {
				x.at[h] = append(has, int32(i))
				x.of[i]++
			}
		}
	}
	for n, has := range lengths {
		if has {
			x.lengths = append(x.lengths, n)
		}
	}
	return x
}

// overlap is the held-out problem that a text is most like.
type overlap struct {
	of    int32 // -1 = none
	share float64
	text  string // first n-gram that both have
}

// best is what a text shares most with. ws is memory to use, and is returned.
func (x *grams) best(ws []word, text string) (overlap, []word) {
	text, ws = words(ws, text)
	if of, ok := x.whole[sequence(ws)]; ok {
		return overlap{of, 1, text}, ws
	}
	var hits map[int32]int32 // n-grams by problem
	var first map[int32][2]int32
	var seen map[uint64]bool
	for _, n := range x.lengths {
		for k := range max(0, len(ws)-n+1) {
			h := sequence(ws[k : k+n])
			has, ok := x.at[h]
			if !ok || seen[h] {
				continue
			}
			if hits == nil {
				hits, first, seen = map[int32]int32{}, map[int32][2]int32{}, map[uint64]bool{}
			}
			seen[h] = true
			for _, of := range has {
				if hits[of]++; hits[of] == 1 {
					first[of] = [2]int32{ws[k].lo, ws[k+n-1].hi}
				}
			}
		}
	}
	best := overlap{of: -1}
	for of, n := range hits {
		share := float64(n) / float64(x.of[of])
		if best.of < 0 || share > best.share || share == best.share && of < best.of {
			best = overlap{of, share, text[first[of][0]:first[of][1]]}
		}
	}
	return best, ws
}
