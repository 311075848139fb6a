package prepare

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Bench deduplicates so many generated problems on all cores, and returns how many it
// gets through in a second. A tenth of them repeat another one with a word
// changed. A result counts where no more than a percent of these is missed.
func Bench(rows int) (perSecond float64, err error) {
	ids, texts, answers, repeats := benchProblems(rows)
	begin := time.Now()
	found := deduplicateDefaults().duplicates(ids, texts, answers, map[string]float64{})
	seconds := time.Since(begin).Seconds()
	if len(found) < repeats*99/100 || len(found) > repeats {
		return 0, fmt.Errorf("%d duplicates found of %d", len(found), repeats)
	}
	return float64(rows) / seconds, nil
}

// benchProblems are problems of some 50 words of a skewed vocabulary.
func benchProblems(n int) (ids, texts, answers []string, repeats int) {
	rng := rand.New(rand.NewPCG(1, 2))
	vocabulary := make([]string, 30_000)
	for i := range vocabulary {
		vocabulary[i] = fmt.Sprintf("w%x", i)
	}
	word := func() string {
		x := rng.Float64()
		return vocabulary[int(x*x*x*float64(len(vocabulary)))]
	}
	ids, texts, answers = make([]string, n), make([]string, n), make([]string, n)
	var originals []int
	for i := range n {
		ids[i], answers[i] = fmt.Sprintf("p%08d", i), fmt.Sprint(rng.IntN(1000))
		var words []string
		if i > 0 && rng.IntN(10) == 0 {
			of := originals[rng.IntN(len(originals))]
			words, answers[i] = strings.Fields(texts[of]), answers[of]
			words[rng.IntN(len(words))] = word()
			repeats++
		} else {
			originals = append(originals, i)
			for range 40 + rng.IntN(20) {
				words = append(words, word())
			}
		}
		texts[i] = strings.Join(words, " ")
	}
	return ids, texts, answers, repeats
}
