// Package reward judges answers: is what a policy wrote right?
//
// A [Verifier] compares one completion with the gold answer of its problem. [Scorer] runs many of them side by
// side and keeps a verifier that fails, panics or hangs from costing more than the one answer it was given.
//
// These verifiers are built in, found by [ByName]:
//
//   - exact: the completion is the answer, apart from white space at its ends
//   - numeric: the number the completion ends with equals the answer, see [Numeric]
//   - math: the completion's answer means the same as the gold answer, see [Math]
//   - countdown: the completion reaches a target with given numbers, see [Countdown]
//   - code: the completion's program passes the tests that are the gold answer, see [Code]
//
// Those that need settings are made by hand, or by [Open]: [Remote] and [Judge] ask a service, and [Composite] adds
// weighted parts up.
//
// All but code and the remote ones are pure: they neither log nor read anything outside their arguments.
package reward

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Outcome says how an answer was judged.
type Outcome string

// The outcomes. Only Correct carries a reward above zero in the built-in verifiers.
const (
	Correct  Outcome = "correct"   // the answer is right
	Wrong    Outcome = "wrong"     // there is an answer and it is not right
	NoAnswer Outcome = "no_answer" // the completion holds nothing that could be an answer
	Timeout  Outcome = "timeout"   // the verifier took longer than it may
	Error    Outcome = "error"     // the verifier could not judge: malformed gold answer, panic, failure
)

// Verdict is the judgement on one completion.
type Verdict struct {
	Reward    float64 // 1 for a right answer and 0 for any other in the built-in verifiers
	Outcome   Outcome
	Extracted string // the answer as understood, in a canonical form where there is one; "" when there is none
	Reason    string // why an answer was not judged by its meaning, such as too_long or unparsable; "" when it was
	Parts     []Part // of a [Composite]: what the reward is made of
}

// Part is one named term of a reward, before its weight.
type Part struct {
	Name  string
	Value float64
}

// Verifier judges one completion against the gold answer of its problem.
//
// Verify must be safe for concurrent use, must depend on its arguments alone, and returns soon after ctx ends. An
// error means that no judgement was possible; one that wraps [ErrGold] blames the problem and not the completion.
type Verifier interface {
	Verify(ctx context.Context, completion, answer string) (Verdict, error)
}

// ErrGold reports a gold answer that the verifier cannot read.
var ErrGold = errors.New("malformed gold answer")

// ByName returns the built-in verifier of that name, or an error that lists the names there are. A name that starts
// with { is a verifier with its settings, see [Open].
func ByName(name string) (Verifier, error) {
	if strings.HasPrefix(name, "{") {
		return Open(name)
	}
	switch name {
	case "code":
		return Code{}, nil
	case "countdown":
		return Countdown{}, nil
	case "exact":
		return Exact{}, nil
	case "math":
		return Math{}, nil
	case "numeric":
		return Numeric{}, nil
	}
	return nil, fmt.Errorf("unknown verifier %q, expected one of %s", name, strings.Join(Names(), ", "))
}

// Names returns the names that [ByName] knows, sorted.
func Names() []string { return []string{"code", "countdown", "exact", "math", "numeric"} }

// maxExtracted bounds Verdict.Extracted in bytes, so that a rambling completion is not stored twice.
const maxExtracted = 256

// judge turns a comparison into a verdict.
func judge(right bool, extracted string) Verdict {
	if len(extracted) > maxExtracted {
		extracted = strings.ToValidUTF8(extracted[:maxExtracted], "")
	}
	if right {
		return Verdict{Reward: 1, Outcome: Correct, Extracted: extracted}
	}
	return Verdict{Outcome: Wrong, Extracted: extracted}
}

// goldError names a gold answer that cannot be read. It quotes no more than its beginning.
func goldError(verifier, answer, expected string) error {
	if len(answer) > 64 {
		answer = strings.ToValidUTF8(answer[:64], "") + "…"
	}
	return fmt.Errorf("%s: %w %q, expected %s", verifier, ErrGold, answer, expected)
}

// failed is the verdict that goes with an error.
func failed(err error) (Verdict, error) { return Verdict{Outcome: Error}, err }
