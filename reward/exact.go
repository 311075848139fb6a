package reward

import (
	"context"
	"strings"
)

// Exact accepts a completion that equals the gold answer, byte for byte, once white space at both ends of either is
// trimmed. An empty completion is no answer; an empty gold answer is malformed.
type Exact struct{}

// Verify implements [Verifier].
func (Exact) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	gold := strings.TrimSpace(answer)
	if gold == "" {
		return failed(goldError("exact", answer, "text"))
	}
	got := strings.TrimSpace(completion)
	if got == "" {
		return Verdict{Outcome: NoAnswer}, nil
	}
	return judge(got == gold, got), nil
}
