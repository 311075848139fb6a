package datasets_test

import (
	"fmt"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// One column read alone is that column of the table, in one batch or several, small
// and large; damage is an error or another value, and never a panic.
func TestLoadColumn(t *testing.T) {
	for _, n := range []int{1, 500, 60000} {
		mem := checked(t)
		store := datasets.NewMemory()
		w := datasets.NewWriter(mem, false)
		var want []*datasets.Table
		for batch := range 2 {
			var texts []string
			var lists [][]string
			for i := range n {
				texts = append(texts, fmt.Sprintf("%d %x", batch, i*2654435761))
				lists = append(lists, texts[max(0, i-i%3):i])
			}
			empty := make([]string, n)
			table, err := datasets.NewTable(mem, datasets.KindProblems, datasets.Lineage{Stage: "s"}, datasets.ProblemID.Of(texts), datasets.Source.Of(empty), datasets.Level.Of(make([]int32, n)),
				datasets.Prompt.Of(texts), datasets.Answer.Of(texts), datasets.Solution.Of(empty), datasets.Steps.OfSlices(lists), datasets.Verifier.Of(empty))
			noError(t, err)
			noError(t, w.Write(table))
			want = append(want, table)
		}
		ref, err := w.Save(t.Context(), store)
		noError(t, err)
		noError(t, w.Close())
		for _, c := range []datasets.AnyColumn{datasets.ProblemID, datasets.Level, datasets.Solution, datasets.Steps, datasets.Verifier} {
			got, err := datasets.LoadColumn(t.Context(), store, mem, ref, c)
			noError(t, err)
			for i, table := range want {
				at := table.Record().Schema().FieldIndices(c.String())[0]
				if !array.Equal(table.Record().Column(at), got.Chunk(i)) {
					t.Errorf("%d rows, column %s, batch %d differs", n, c, i)
				}
			}
			got.Release()
		}
		for _, c := range []datasets.AnyColumn{datasets.Reward, datasets.Column[int32]{Name: "problem"}} {
			if _, err := datasets.LoadColumn(t.Context(), store, mem, ref, c); err == nil {
				t.Errorf("column %s is no error", c)
			}
		}
		for _, table := range want {
			table.Release()
		}
		if n > 1 { // a file of heads and footer
			continue
		}
		key := "objects/" + ref.Hash + ".arrow"
		data, err := store.Get(t.Context(), key)
		noError(t, err)
		for i := range data {
			data[i] ^= 0xff
			noError(t, store.Put(t.Context(), key, data))
			if got, err := datasets.LoadColumn(t.Context(), store, memory.DefaultAllocator, ref, datasets.Steps); err == nil {
				got.Release()
			}
			data[i] ^= 0xff
		}
	}
}
