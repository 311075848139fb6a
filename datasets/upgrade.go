package datasets

import (
	"fmt"
	"slices"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// predecessor is a kind as it was, and how its tables are read as the kind that
// came after it.
type predecessor struct {
	Kind
	next string                // name of the kind that came after
	add  func(t *Table) []Data // what that kind has besides the columns of the same names
}

// predecessors are all earlier versions of kinds, each beside the next one.
var predecessors = sync.OnceValue(func() []predecessor {
	mask := ListColumn[bool]{"token_mask"}
	return []predecessor{
		{
			Kind: Kind{Name: "proposals/1", Columns: []AnyColumn{Group, ProblemID, ProblemIndex, Level, Prompt, Answer, Verifier, Origin, Parent, HintLevel, NumGenerations}},
			next: "proposals/2",
			add: func(t *Table) []Data { // every group was tried once, under its whole prompt
				n := t.Rows()
				return []Data{FirstSample.Of(make([]int32, n)), Prefill.Of(make([]string, n)), Purpose.Of(make([]string, n))}
			},
		},
		{
			Kind: Kind{Name: "assessments/1", Columns: []AnyColumn{ProblemID, Level, Visits, Attempts, Successes, PassRate, PassRateAverage, LastStep, Bucket}},
			next: "assessments/2",
			add: func(t *Table) []Data { // the posterior of all tries alike; nothing was tried under hints
				n := t.Rows()
				alpha, beta := make([]float64, n), make([]float64, n)
				attempts, successes := Attempts.Get(t), Successes.Get(t)
				for i := range n {
					alpha[i], beta[i] = float64(1+successes[i]), float64(1+attempts[i]-successes[i])
				}
				never := slices.Repeat([]int32{-1}, n)
				return []Data{PosteriorAlpha.Of(alpha), PosteriorBeta.Of(beta), Stagnation.Of(make([]int32, n)), HintNeeded.Of(make([]int32, n)), HintedStep.Of(never), GraduatedStep.Of(never)}
			},
		},
		{
			Kind: Kind{Name: "selections/1", Columns: []AnyColumn{Group, Sample, ProblemID, Origin, Parent, HintLevel, PolicyVersion, Reward, Advantage, Kept, Reason, TokensKept, mask}, Optional: names(mask)},
			next: "selections/2",
			add: func(t *Table) []Data { // a mask without reasons: 1, the first there is
				if !t.Has(mask.Name) {
					return nil
				}
				trained := mask.Get(t)
				reasons := Lists[int32]{Values: make([]int32, len(trained.Values)), Offsets: trained.Offsets}
				for i, yes := range trained.Values {
					if !yes {
						reasons.Values[i] = 1
					}
				}
				return []Data{TokenReasons.Of(reasons)}
			},
		},
	}
})

// newest is the newest version of a kind of that name, or the name.
func newest(kind string) string {
	for _, p := range predecessors() {
		if p.Name == kind {
			return newest(p.next)
		}
	}
	return kind
}

// readable is the declaration of a kind that tables on disk may have, an earlier
// version too.
func readable(kind string) (Kind, error) {
	for _, p := range predecessors() {
		if p.Name == kind {
			return p.Kind, nil
		}
	}
	return LookupKind(kind)
}

// upgrade is t, or its rows as the newest version of its kind, in place of t.
func upgrade(mem memory.Allocator, t *Table) (*Table, error) {
	for _, p := range predecessors() {
		if p.Name == t.Kind() {
			defer t.Release()
			next, err := p.upgrade(mem, t)
			if err != nil {
				return nil, fmt.Errorf("read %s as %s: %w", p.Name, p.next, err)
			}
			return upgrade(mem, next)
		}
	}
	return t, nil
}

func (p predecessor) upgrade(mem memory.Allocator, t *Table) (*Table, error) {
	k, err := readable(p.next)
	if err != nil {
		return nil, err
	}
	added := p.add(t)
	arrays := map[string]arrow.Array{}
	b := builder{rows: t.Rows()}
	defer b.release()
	for _, d := range added {
		a, err := d.build(mem)
		if err != nil {
			return nil, err
		}
		arrays[d.name], b.arrays = a, append(b.arrays, a)
	}
	var all []arrow.Array
	for _, c := range k.Columns {
		a, ok := arrays[c.String()]
		if i := t.index(c.String()); !ok && i >= 0 {
			a, ok = t.record.Column(i), true
		}
		if ok {
			b.columns, all = append(b.columns, c), append(all, a)
		}
	}
	lineage, _ := t.record.Schema().Metadata().GetValue(metaLineage)
	whole := builder{columns: b.columns, arrays: all, rows: b.rows}
	return whole.table(p.next, []byte(lineage)), nil
}
