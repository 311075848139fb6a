package prepare

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/gradus-rl/gradus/datasets"
)

// Deduplicate is the parameters of DeduplicateStage.
type Deduplicate struct {
	Near       bool    `json:"near"`        // near-duplicates, too
	Threshold  float64 `json:"threshold"`   // Jaccard's index from which on two problems are near-duplicates
	Shingle    int     `json:"shingle"`     // words of a shingle
	Hashes     int     `json:"hashes"`      // of a MinHash signature
	SameAnswer bool    `json:"same_answer"` // near-duplicates have the same answer: a text with other numbers is another problem
	Drop       bool    `json:"drop"`        // leave duplicates out; else the column near_duplicate_of names what they repeat
}

func deduplicateDefaults() Deduplicate {
	return Deduplicate{Near: true, Threshold: 0.8, Shingle: 3, Hashes: 128, SameAnswer: true, Drop: true}
}

// Reasons of a [Match] within a set.
const (
	ReasonExact = "exact"
	ReasonNear  = "near"
)

// DeduplicateStage leaves out problems that repeat another one of the set: with the
// same words (exact), or with nearly the same ones (near). Words are as [Normalise]
// and case leave them: upper case, spaces and punctuation make no difference,
// numbers and symbols do.
//
// Near-duplicates are found by MinHash (Broder 1997) with banding (Leskovec,
// Rajaraman, Ullman: Mining of Massive Datasets, §3.4). A text is its set of
// shingles, runs of so many words (all of them in a shorter text). Its signature has
// the least of
//
//	a_i·x + b_i mod 2^64      (a_i odd)
//
// over its shingles' hashes x, for each i up to hashes. Signatures are cut into
// bands of r values, with the largest r for which two texts at the threshold J share
// a band with a chance 1 − (1 − J^r)^⌊hashes/r⌋ of 99 % or more; with same_answer
// the answer is part of a band. Texts that share a band are compared in earnest:
//
//	J = |A ∩ B| / |A ∪ B| ≥ threshold
//
// Problems are gone through in the order of their ids, and one is left out where it
// repeats one that was kept, the one it is most like. So what is kept does not depend
// on the order of rows, no two of the kept ones are duplicates that were found, and
// every one left out has a match among them. One problem is compared with 4,096
// others at most; figure not_compared counts those beyond.
//
// Other figures: answers_differ, of exact duplicates whose answers are not the same
// text; duplicates kept under a flag by their reason.
var DeduplicateStage = Stage{
	Name: "deduplicate", Paper: "Broder 1997, On the resemblance and containment of documents", Version: 1,
	Defaults: deduplicateDefaults(),
	Bind:     datasets.Bind(deduplicateDefaults(), Deduplicate.run),
}

// Validate names the parameter that is out of range.
func (p Deduplicate) Validate() error {
	switch {
	case !(p.Threshold > 0 && p.Threshold <= 1):
		return fmt.Errorf("threshold is %v; it must be above 0 and at most 1", p.Threshold)
	case p.Shingle < 1 || p.Shingle > 100:
		return fmt.Errorf("shingle is %d; it must be from 1 to 100", p.Shingle)
	case p.Hashes < 16 || p.Hashes > 1024:
		return fmt.Errorf("hashes is %d; it must be from 16 to 1024", p.Hashes)
	}
	return nil
}

func (p Deduplicate) run(s *Set, _ datasets.Env) error {
	t := s.Problems
	ids, prompts, answers := datasets.ProblemID.Get(t), datasets.Prompt.Get(t), datasets.Answer.Get(t)
	for _, d := range p.duplicates(ids, prompts, answers, s.Figures) {
		s.Matches = append(s.Matches, Match{
			ID: ids[d.row], Prompt: prompts[d.row], Reason: d.reason, Other: ids[d.of], OtherPrompt: prompts[d.of], Similarity: d.jaccard, row: d.row,
		})
		if d.reason == ReasonExact && answers[d.row] != answers[d.of] {
			s.Figures["answers_differ"]++
		}
	}
	if !p.Drop {
		return s.flag(datasets.NearDuplicateOf)
	}
	return s.drop()
}

// duplicate is a row that repeats a kept one.
type duplicate struct {
	row, of int32
	reason  string
	jaccard float64
}

// maxCompared bounds the comparisons for one problem.
const maxCompared = 4096

// duplicates are the rows to leave out, ascending.
func (p Deduplicate) duplicates(ids, texts, answers []string, figures map[string]float64) []duplicate {
	n := len(ids)
	order := make([]int32, n)
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(ids[a], ids[b]) })
	bands := p.bandKeys(texts, answers)
	counts := make([]int32, len(bands)) // of buckets
	parallel(len(bands), func(lo, hi int) {
		for b := lo; b < hi; b++ {
			counts[b] = bucket(bands[b])
		}
	})
	kept := make([][][]int32, len(bands)) // by band and bucket
	for b := range kept {
		kept[b] = make([][]int32, counts[b])
	}
	var out []duplicate
	shingled := map[int32][]uint64{} // of kept rows that were compared
	seen := make([]int32, n)         // row + 1 that compared last
	for _, row := range order {
		best, compared := duplicate{row: row, of: -1}, 0
		var mine []uint64
	search:
		for b := range bands {
			at := bands[b][row]
			if at == 0 {
				continue // alone in its bucket
			}
			for _, other := range kept[b][at-1] {
				if seen[other] == row+1 {
					continue
				}
				seen[other] = row + 1
				if b == 0 {
					if sameWords(texts[row], texts[other]) {
						best = duplicate{row, other, ReasonExact, 1}
						break search
					}
					continue
				}
				if p.SameAnswer && answers[row] != answers[other] {
					continue
				}
				if compared++; compared > maxCompared {
					figures["not_compared"]++
					break search
				}
				if mine == nil {
					mine = p.shingles(nil, texts[row])
				}
				theirs, ok := shingled[other]
				if !ok {
					theirs = p.shingles(nil, texts[other])
					shingled[other] = theirs
				}
				j := Jaccard(mine, theirs)
				if j >= p.Threshold && (best.of < 0 || j > best.jaccard || j == best.jaccard && ids[other] < ids[best.of]) {
					best = duplicate{row, other, ReasonNear, j}
				}
			}
		}
		if best.of >= 0 {
			out = append(out, best)
			continue
		}
		for b := range bands {
			if at := bands[b][row]; at > 0 {
				kept[b][at-1] = append(kept[b][at-1], row)
			}
		}
	}
	slices.SortFunc(out, func(a, b duplicate) int { return cmp.Compare(a.row, b.row) })
	return out
}

// sameWords reports whether texts have the same words.
func sameWords(a, b string) bool {
	ta, wa := words(nil, a)
	tb, wb := words(nil, b)
	if len(wa) != len(wb) {
		return false
	}
	for i := range wa {
		if wa[i].hash != wb[i].hash && ta[wa[i].lo:wa[i].hi] != tb[wb[i].lo:wb[i].hi] {
			return false
		}
	}
	return true
}

// rows is how many values of a signature a band has.
func (p Deduplicate) rows() int {
	best := 1
	for r := 2; r <= p.Hashes; r++ {
		if 1-math.Pow(1-math.Pow(p.Threshold, float64(r)), float64(p.Hashes/r)) >= 0.99 {
			best = r
		}
	}
	return best
}

// bandKeys are the keys of the rows' buckets: of all words, and band by band.
// An empty text has no bands.
func (p Deduplicate) bandKeys(texts, answers []string) [][]uint64 {
	r := p.rows()
	bands := 0
	if p.Near {
		bands = p.Hashes / r
	}
	keys := make([][]uint64, 1+bands)
	for b := range keys {
		keys[b] = make([]uint64, len(texts))
	}
	a, c := coefficients(p.Hashes)
	parallel(len(texts), func(lo, hi int) {
		signature := make([]uint64, p.Hashes)
		var ws []word
		var set []uint64
		for i := lo; i < hi; i++ {
			_, ws = words(ws[:0], texts[i])
			keys[0][i] = sequence(ws)
			if !p.Near {
				continue
			}
			if set = p.setOf(set[:0], ws); len(set) == 0 {
				continue
			}
			minHash(signature, set, a, c)
			tag := uint64(0)
			if p.SameAnswer {
				tag = datasets.Stream(0, "answer", answers[i])
			}
			for b := range bands {
				h := mix(tag + uint64(b))
				for _, v := range signature[b*r : (b+1)*r] {
					h = mix(h*prime64 ^ v)
				}
				keys[b+1][i] = max(h, 1) // 0 stands for none
			}
		}
	})
	return keys
}

// shingles is a text's set of shingles.
func (p Deduplicate) shingles(dst []uint64, text string) []uint64 {
	_, ws := words(nil, text)
	return p.setOf(dst, ws)
}

// setOf is the hashes of the shingles of words, each once, ascending.
func (p Deduplicate) setOf(dst []uint64, ws []word) []uint64 {
	if len(ws) == 0 {
		return dst
	}
	n := min(p.Shingle, len(ws))
	for i := range len(ws) - n + 1 {
		dst = append(dst, sequence(ws[i:i+n]))
	}
	slices.Sort(dst)
	return slices.Compact(dst)
}

// coefficients are those of n hash functions, always the same ones.
func coefficients(n int) (a, b []uint64) {
	a, b = make([]uint64, n), make([]uint64, n)
	for i := range n {
		a[i], b[i] = datasets.Stream(uint64(i), "minhash a")|1, datasets.Stream(uint64(i), "minhash b")
	}
	return a, b
}

// minHash fills a signature: the least value of each hash function over a set.
func minHash(signature, set, a, b []uint64) {
	for i := range signature {
		signature[i] = math.MaxUint64
	}
	a, b = a[:len(signature)], b[:len(signature)]
	for _, x := range set {
		for i, least := range signature {
			if v := x*a[i] + b[i]; v < least {
				signature[i] = v
			}
		}
	}
}

// Jaccard is |A ∩ B| / |A ∪ B| of sets given as ascending values without repeats; 0
// of two empty ones.
func Jaccard(a, b []uint64) float64 {
	both, i, k := 0, 0, 0
	for i < len(a) && k < len(b) {
		switch {
		case a[i] < b[k]:
			i++
		case a[i] > b[k]:
			k++
		default:
			both, i, k = both+1, i+1, k+1
		}
	}
	if len(a)+len(b) == 0 {
		return 0
	}
	return float64(both) / float64(len(a)+len(b)-both)
}

// bucket puts in place of each key the number, from 1, of those rows that share it,
// and 0 where a row is alone with its key or has none. It returns the highest number.
func bucket(keys []uint64) int32 {
	type entry struct {
		key uint64
		row int32
	}
	entries := make([]entry, 0, len(keys))
	for i, k := range keys {
		if k != 0 {
			entries = append(entries, entry{k, int32(i)})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	number := int32(0)
	for lo := 0; lo < len(entries); {
		hi := lo + 1
		for hi < len(entries) && entries[hi].key == entries[lo].key {
			hi++
		}
		at := uint64(0)
		if hi > lo+1 {
			number++
			at = uint64(number)
		}
		for _, e := range entries[lo:hi] {
			keys[e.row] = at
		}
		lo = hi
	}
	return number
}
