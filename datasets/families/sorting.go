package families

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// sorting asks for numbers in rising order:
//
//	sort(3,1,2)=  →  1,2,3
//
// Level k has k+2 numbers, below 10 to level 5 and below 100 above. They may repeat.
func sorting(rng *rand.Rand, level int) Problem {
	bound := 10
	if level > 5 {
		bound = 100
	}
	numbers := make([]int, level+2)
	for i := range numbers {
		numbers[i] = rng.IntN(bound)
	}
	prompt := "sort(" + join(numbers) + ")="
	slices.Sort(numbers)
	var steps []string
	for i, n := range numbers {
		step := fmt.Sprint(n)
		if i < len(numbers)-1 {
			step += ","
		}
		steps = append(steps, step)
	}
	return problem(prompt, join(numbers), steps)
}

// diversifySorting puts the numbers in another order.
func diversifySorting(p Problem) (string, bool) {
	numbers, ok := strings.CutPrefix(p.Prompt, "sort(")
	numbers, closed := strings.CutSuffix(numbers, ")=")
	list, other := reorder(numbers, p.Answer)
	return "sort(" + list + ")=", ok && closed && other
}
