package policy

// Sampling says how completions are drawn.
type Sampling struct {
	Temperature         float64 `json:"temperature"`           // logits are divided by it; 0 is greedy
	TopP                float64 `json:"top_p"`                 // nucleus: keep the fewest tokens of at least this mass; 1 keeps all
	TopK                int     `json:"top_k"`                 // keep the k likeliest tokens; 0 keeps all
	MaxCompletionLength int     `json:"max_completion_length"` // tokens, the end token included
}
