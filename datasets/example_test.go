package datasets_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// A stage's result is computed once; whoever asks again gets the recorded one.
func ExampleDo() {
	ctx, store, mem := context.Background(), datasets.NewMemory(), memory.DefaultAllocator
	lineage := datasets.Lineage{Stage: "score", Version: 1, Seed: 42}
	score := func(ctx context.Context) (datasets.Result, error) {
		table, err := datasets.NewTable(mem, datasets.KindScores, lineage,
			datasets.Reward.Of([]float64{1, 0}),
			datasets.Verdict.Of([]string{"correct", "no_answer"}),
			datasets.Extracted.Of([]string{"12", ""}))
		if err != nil {
			return datasets.Result{}, err
		}
		defer table.Release()
		ref, err := datasets.Save(ctx, store, table)
		return datasets.Result{Tables: map[string]datasets.Ref{"scores": ref}, Metrics: map[string]float64{"reward": .5}}, err
	}
	for range 2 {
		result, reused, err := datasets.Do(ctx, store, lineage, score)
		if err != nil {
			panic(err)
		}
		table, err := datasets.Load(ctx, store, mem, result.Tables["scores"])
		if err != nil {
			panic(err)
		}
		fmt.Println(datasets.Reward.Get(table), result.Metrics["reward"], "reused:", reused)
		table.Release()
	}
	// Output:
	// [1 0] 0.5 reused: false
	// [1 0] 0.5 reused: true
}

// GSM8K's worked solutions hold the gold answer behind ####.
func ExampleImportJSONL() {
	file := strings.NewReader(`{"question": "How much is 40*30?", "answer": "40*30 = <<40*30=1200>>1,200\n#### 1,200"}`)
	table, _, err := datasets.ImportJSONL(context.Background(), memory.DefaultAllocator, file, "sums.jsonl", datasets.ImportOptions{})
	if err != nil {
		panic(err)
	}
	defer table.Release()
	if err := datasets.WriteJSONL(os.Stdout, table, 1); err != nil {
		panic(err)
	}
	// Output:
	// {"problem":"sums-1","source":"sums","level":0,"prompt":"How much is 40*30?","answer":"1200","solution":"40*30 = <<40*30=1200>>1,200","steps":["40*30 = 1,200"],"verifier":""}
}
