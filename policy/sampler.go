package policy

import (
	"fmt"
	"math"
	"strings"
)

// Sampling says how completions are drawn, under the keys of TRL's GRPOConfig.
type Sampling struct {
	Temperature         float64 `json:"temperature"`           // divides the logits; 0 is greedy
	TopP                float64 `json:"top_p"`                 // nucleus: keep the fewest tokens of at least this mass; 1 keeps all
	TopK                int     `json:"top_k"`                 // keep the k likeliest tokens; 0 keeps all
	MaxCompletionLength int     `json:"max_completion_length"` // tokens of a completion, its end token included
}

// DefaultSampling draws from the policy as it is, as TRL does by default:
// temperature 1, nothing truncated, up to 256 tokens.
func DefaultSampling() Sampling {
	return Sampling{Temperature: 1, TopP: 1, MaxCompletionLength: 256}
}

// Validate reports every setting out of range in one error, each with its key,
// its value and what was expected.
func (s Sampling) Validate() error {
	var r ranges
	r.within("temperature", s.Temperature, 0, 1000)
	r.want(s.TopP > 0 && s.TopP <= 1, "top_p is %v, want above 0 and at most 1", s.TopP)
	r.atLeast("top_k", s.TopK, 0)
	r.atLeast("max_completion_length", s.MaxCompletionLength, 1)
	return r.err("sampling")
}

// Scratch is memory that Choose reuses between calls. The zero value is ready;
// one Scratch must not serve two goroutines at a time.
type Scratch struct {
	weight []float64 // e^((logit − max)/T) by token
	heap   []int32   // tokens, likeliest first on top
}

// Choose draws one token from logits. With temperature T:
//
//	p_i = exp(z_i/T) / Σ_j exp(z_j/T)
//
// top_k keeps the k likeliest tokens; top_p then keeps, of what is left and
// renormalised, the shortest prefix in order of likelihood whose mass is at
// least top_p, as Hugging Face's logits processors do. At least one token is
// kept, and ties go to the lower id (Hugging Face keeps all that tie with the
// k-th; here top_k 1 is greedy without exception). T = 0 is greedy.
//
// The randomness is Philox at key stream and counter position and nothing
// else: the same row draws the same tokens in any batch, order or process.
//
// logprob is log p of the token and entropy −Σ p log p, both in nats, of the
// full distribution before truncation, at temperature T (T = 0: at 1).
//
// Logits may be −Inf (p = 0). If any is NaN or +Inf, all are −Inf, or there are
// none, there is no distribution: the token is −1, logprob and entropy NaN.
func (s Sampling) Choose(logits []float32, stream uint64, position int, scratch *Scratch) (token int32, logprob, entropy float32) {
	best, ok := argmax(logits)
	if !ok {
		return -1, float32(math.NaN()), float32(math.NaN())
	}
	temperature := s.Temperature
	if temperature == 0 {
		temperature = 1
	}

	// z_i ≤ 0 and the sum is at least 1: no overflow, and the log is finite.
	if cap(scratch.weight) < len(logits) {
		scratch.weight = make([]float64, len(logits))
		scratch.heap = make([]int32, len(logits))
	}
	weight := scratch.weight[:len(logits)]
	peak, sum, moment := float64(logits[best]), 0.0, 0.0
	for i, l := range logits {
		z := (float64(l) - peak) / temperature
		w := math.Exp(z)
		weight[i] = w
		sum += w
		if w > 0 { // 0·log 0 is 0
			moment += w * z
		}
	}
	logSum := math.Log(sum)
	entropy = float32(logSum - moment/sum)

	switch {
	case s.Temperature == 0:
		token = best
	case s.TopP < 1 || s.TopK > 0 && s.TopK < len(logits):
		token = s.truncated(weight, scratch.heap[:len(logits)], sum, stream, position)
	default:
		u, _ := uniform2(stream, uint64(position), 0)
		token = best // what is left when rounding carries u·sum past the last weight
		for i, mass := 0, u*sum; i < len(weight); i++ {
			if mass -= weight[i]; mass < 0 {
				token = int32(i)
				break
			}
		}
	}
	return token, float32((float64(logits[token])-peak)/temperature - logSum), entropy
}

// truncated draws from the tokens that top_k and top_p keep. Tokens leave a
// heap in order of likelihood until enough are kept, so the cost beyond O(n)
// grows with what is kept and not with the vocabulary.
func (s Sampling) truncated(weight []float64, heap []int32, sum float64, stream uint64, position int) int32 {
	n := len(heap)
	for i := range heap {
		heap[i] = int32(i)
	}
	for i := n/2 - 1; i >= 0; i-- {
		siftDown(heap, weight, i)
	}
	k := n
	if s.TopK > 0 && s.TopK < n {
		k = s.TopK
	}
	// The popped token goes to the end of the heap's memory: after m pops,
	// heap[n−m:] is what is kept, the likeliest last.
	kept, mass := 0, 0.0
	pop := func() {
		last := n - kept - 1
		heap[0], heap[last] = heap[last], heap[0]
		kept++
		mass += weight[heap[last]]
		siftDown(heap[:last], weight, 0)
	}
	if k == n {
		for kept == 0 || kept < n && mass < s.TopP*sum {
			pop()
		}
	} else {
		for kept < k {
			pop()
		}
		if s.TopP < 1 { // the nucleus of the k, whose mass is now known
			target := s.TopP * mass
			kept, mass = 0, 0
			for kept == 0 || kept < k && mass < target {
				mass += weight[heap[n-kept-1]]
				kept++
			}
		}
	}
	u, _ := uniform2(stream, uint64(position), 0)
	u *= mass
	for i := n - 1; i > n-kept; i-- {
		if u -= weight[heap[i]]; u < 0 {
			return heap[i]
		}
	}
	return heap[n-kept]
}

// siftDown restores the heap order below i: the heavier token on top, of equal
// ones the lower id.
func siftDown(heap []int32, weight []float64, i int) {
	above := func(a, b int32) bool {
		return weight[a] > weight[b] || weight[a] == weight[b] && a < b
	}
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if right := child + 1; right < len(heap) && above(heap[right], heap[child]) {
			child = right
		}
		if !above(heap[child], heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}

// argmax is the lowest index of the greatest logit; ok is false if the logits
// make no distribution.
func argmax(logits []float32) (best int32, ok bool) {
	peak := float32(math.Inf(-1))
	for i, l := range logits {
		if l != l {
			return -1, false
		}
		if l > peak {
			peak, best = l, int32(i)
		}
	}
	return best, !math.IsInf(float64(peak), 0)
}

// ranges collects settings that are out of range.
type ranges []string

func (r *ranges) want(ok bool, format string, args ...any) {
	if !ok {
		*r = append(*r, fmt.Sprintf(format, args...))
	}
}

// within wants a number from lo to hi, both allowed; NaN is not.
func (r *ranges) within(key string, value, lo, hi float64) {
	r.want(value >= lo && value <= hi, "%s is %v, want %v to %v", key, value, lo, hi)
}

func (r *ranges) atLeast(key string, value, lo int) {
	r.want(value >= lo, "%s is %d, want at least %d", key, value, lo)
}

// err is nil if everything was in range.
func (r ranges) err(what string) error {
	if len(r) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s", what, strings.Join(r, "; "))
}
