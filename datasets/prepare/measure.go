package prepare

import (
	"fmt"
	"math"

	"github.com/gradus-rl/gradus/datasets"
)

// Tokens is the parameters of TokensStage: none.
type Tokens struct{}

// TokensStage counts the tokens of every prompt: the column tokens. A prompt that
// the policy's tokenizer cannot read is dropped: unreadable. Figures: tokens in all,
// and of the longest prompt.
var TokensStage = Stage{
	Name: "tokens", Version: 1,
	Defaults: Tokens{},
	Bind:     datasets.Bind(Tokens{}, Tokens.run),
}

func (p Tokens) run(s *Set, _ datasets.Env) error {
	prompts := datasets.Prompt.Get(s.Problems)
	counts := make([]int32, len(prompts))
	bad := make([]bool, len(prompts))
	parallel(len(prompts), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			n, err := s.Count(prompts[i])
			counts[i], bad[i] = int32(n), err != nil
		}
	})
	var rows []int32
	for i, n := range counts {
		if bad[i] {
			s.Dropped["unreadable"]++
			continue
		}
		rows = append(rows, int32(i))
		s.Figures["tokens"] += float64(n)
		s.Figures["longest"] = max(s.Figures["longest"], float64(n))
	}
	if err := s.with(datasets.PromptTokens.Of(counts)); err != nil {
		return err
	}
	return s.keep(rows)
}

// Measured is how a policy did on problems: a difficulty map.
type Measured struct {
	ID, Prompt          []string
	Attempts, Successes []int64
}

// Difficulty is the parameters of DifficultyStage: none, it is measured elsewhere.
type Difficulty struct{}

// DifficultyStage joins a difficulty map to the problems by id and prompt: the
// columns attempts, successes, pass_rate and its 95 % interval (Wilson), pass_rate_low
// and pass_rate_high. A problem that the map does not have, as its prompt did not fit
// the policy or is not the same, has no attempts, rate 0 and the interval [0, 1].
// Figures: measured and unmeasured rows, attempts, successes, the rows that were
// never solved, always, or sometimes.
var DifficultyStage = Stage{
	Name: "difficulty", Version: 1,
	Defaults: Difficulty{},
	Bind:     datasets.Bind(Difficulty{}, Difficulty.run),
}

func (p Difficulty) run(s *Set, _ datasets.Env) error {
	if s.Measured == nil {
		return fmt.Errorf("there is no difficulty map")
	}
	type problem struct{ id, prompt string }
	at := make(map[problem]int, len(s.Measured.ID))
	for i, id := range s.Measured.ID {
		at[problem{id, s.Measured.Prompt[i]}] = i
	}
	n := s.Problems.Rows()
	attempts, successes := make([]int64, n), make([]int64, n)
	prompts := datasets.Prompt.Get(s.Problems)
	for i, id := range datasets.ProblemID.Get(s.Problems) {
		k, ok := at[problem{id, prompts[i]}]
		if ok {
			attempts[i], successes[i] = s.Measured.Attempts[k], s.Measured.Successes[k]
		}
		switch {
		case attempts[i] == 0:
			s.Figures["unmeasured"]++
			continue
		case successes[i] == 0:
			s.Figures["never_solved"]++
		case successes[i] == attempts[i]:
			s.Figures["always_solved"]++
		default:
			s.Figures["sometimes_solved"]++
		}
		s.Figures["measured"]++
		s.Figures["attempts"] += float64(attempts[i])
		s.Figures["successes"] += float64(successes[i])
	}
	return s.with(Rates(attempts, successes)...)
}

// Rates are the columns of a difficulty map, from attempts and successes to the pass
// rate with its 95 % Wilson interval.
func Rates(attempts, successes []int64) []datasets.Data {
	rate, low, high := make([]float64, len(attempts)), make([]float64, len(attempts)), make([]float64, len(attempts))
	for i, n := range attempts {
		if n > 0 {
			rate[i] = float64(successes[i]) / float64(n)
		}
		low[i], high[i] = Wilson(successes[i], n)
	}
	return []datasets.Data{datasets.Attempts.Of(attempts), datasets.Successes.Of(successes), datasets.PassRate.Of(rate),
		datasets.PassRateLow.Of(low), datasets.PassRateHigh.Of(high)}
}

// z is the 97.5 % quantile of the normal distribution.
const z = 1.959963984540054

// Wilson is the 95 % score interval of a rate of k successes in n attempts (Wilson
// 1927), within [0, 1]:
//
//	(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n),   p = k/n
//
// It is [0, 1] of no attempts.
func Wilson(k, n int64) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	m := float64(n)
	p := float64(k) / m
	middle, half := p+z*z/(2*m), z*math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	low, high = (middle-half)/(1+z*z/m), (middle+half)/(1+z*z/m)
	if k == 0 { // exactly, which rounding may miss
		low = 0
	}
	if k == n {
		high = 1
	}
	return low, high
}
