package reward

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// Countdown accepts an arithmetic expression that reaches a target with given numbers, in any of the many ways there
// may be. The gold answer carries both, as "target:number,number,…", for instance "24:3,4,6,8".
//
// The expression may hold the given numbers, each at most as often as it is given, the operators + - * / (also
// × ÷ − and \times, \div), and parentheses. Its value is computed in exact rationals. It is looked for in the last
// <answer>…</answer>, else in the last \boxed{…}, else behind the last ####, else it is what the last line that is not
// blank holds behind its last ';'. "= 24" may follow; a right side that is not the target is wrong.
//
// Verdict.Extracted is the expression without its spaces. A completion without a digit is no answer.
type Countdown struct{}

// Bounds on an expression, in bytes and in nested parentheses, and on the count of given numbers.
const (
	maxExpression = 512
	maxDepth      = 64
	maxNumbers    = 32
)

// Verify implements [Verifier].
func (Countdown) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	target, numbers, ok := parseCountdown(answer)
	if !ok {
		return failed(goldError("countdown", answer, "target:number,number,…"))
	}
	text := operators.Replace(expressionOf(completion))
	if !strings.ContainsAny(text, "0123456789") {
		return Verdict{Outcome: NoAnswer}, nil
	}
	if len(text) > maxExpression {
		return judge(false, text), nil
	}
	left, right, stated := strings.Cut(text, "=")
	if stated && right != strconv.FormatInt(target, 10) {
		return judge(false, text), nil
	}
	value, used, err := evaluate(left)
	if err != nil {
		return judge(false, left), nil
	}
	return judge(value.Cmp(new(big.Rat).SetInt64(target)) == 0 && covers(numbers, used), left), nil
}

// operators drops spaces and mark-up, and writes every operator in ASCII.
var operators = strings.NewReplacer(
	" ", "", "\t", "", "\r", "", "$", "", "`", "", "**", "", `\(`, "", `\)`, "", `\left`, "", `\right`, "",
	"×", "*", `\times`, "*", `\cdot`, "*", "·", "*", "÷", "/", `\div`, "/", "\u2212", "-",
)

// parseCountdown reads a gold answer.
func parseCountdown(answer string) (target int64, numbers []int64, ok bool) {
	head, list, ok := strings.Cut(answer, ":")
	if !ok {
		return 0, nil, false
	}
	target, err := strconv.ParseInt(strings.TrimSpace(head), 10, 64)
	if err != nil {
		return 0, nil, false
	}
	for field := range strings.SplitSeq(list, ",") {
		v, err := strconv.ParseInt(strings.TrimSpace(field), 10, 32)
		if err != nil || v < 0 || len(numbers) == maxNumbers {
			return 0, nil, false
		}
		numbers = append(numbers, v)
	}
	return target, numbers, true
}

// expressionOf returns the stretch of text that states the expression.
func expressionOf(text string) string {
	if _, after, ok := cutLast(text, "<answer>"); ok {
		inside, _, _ := strings.Cut(after, "</answer>")
		return strings.TrimSpace(inside)
	}
	if b, ok := boxedGroup(text); ok {
		return b.content
	}
	if line, ok := afterHashes(text); ok {
		return line
	}
	text = strings.TrimRight(text, " \t\r\n.")
	return text[strings.LastIndexAny(text, ";\n")+1:]
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// covers reports whether each of used is among numbers, no more often than there.
func covers(numbers, used []int64) bool {
	left := make(map[int64]int, len(numbers))
	for _, v := range numbers {
		left[v]++
	}
	for _, v := range used {
		if left[v]--; left[v] < 0 {
			return false
		}
	}
	return true
}

// evaluate returns the value of an expression without spaces and the numbers in it, from left to right.
func evaluate(expression string) (*big.Rat, []int64, error) {
	p := expressionParser{rest: expression}
	v, err := p.sum(0)
	if err == nil && p.rest != "" {
		err = fmt.Errorf("unexpected %q", p.rest[:1])
	}
	return v, p.numbers, err
}

// expressionParser descends recursively through
//
//	sum     = product { ("+" | "-") product }
//	product = factor { ("*" | "/") factor }
//	factor  = number | "(" sum ")" | "-" factor
type expressionParser struct {
	rest    string
	numbers []int64
}

// take consumes the next byte if it is one of set, and returns it, else 0.
func (p *expressionParser) take(set string) byte {
	if p.rest == "" || strings.IndexByte(set, p.rest[0]) < 0 {
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

func (p *expressionParser) sum(depth int) (*big.Rat, error) {
	v, err := p.product(depth)
	for err == nil {
		operator := p.take("+-")
		if operator == 0 {
			return v, nil
		}
		var w *big.Rat
		if w, err = p.product(depth); err != nil {
			break
		}
		if operator == '+' {
			v.Add(v, w)
		} else {
			v.Sub(v, w)
		}
	}
	return nil, err
}

func (p *expressionParser) product(depth int) (*big.Rat, error) {
	v, err := p.factor(depth)
	for err == nil {
		operator := p.take("*/")
		if operator == 0 {
			return v, nil
		}
		var w *big.Rat
		if w, err = p.factor(depth); err != nil {
			break
		}
		switch {
		case operator == '*':
			v.Mul(v, w)
		case w.Sign() == 0:
			err = errors.New("division by zero")
		default:
			v.Quo(v, w)
		}
	}
	return nil, err
}

func (p *expressionParser) factor(depth int) (*big.Rat, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	if p.take("-") != 0 {
		v, err := p.factor(depth + 1)
		if err != nil {
			return nil, err
		}
		return v.Neg(v), nil
	}
	if p.take("(") != 0 {
		v, err := p.sum(depth + 1)
		if err == nil && p.take(")") == 0 {
			err = errors.New("parenthesis not closed")
		}
		return v, err
	}
	n := countDigits(p.rest)
	v, err := strconv.ParseInt(p.rest[:n], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("expected a number: %w", err)
	}
	p.rest = p.rest[n:]
	p.numbers = append(p.numbers, v)
	return new(big.Rat).SetInt64(v), nil
}
