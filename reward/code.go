package reward

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Code runs the program of a completion against the tests that are the gold answer.
//
// The program is the last fenced block of the completion (```python … ```), or the whole text when it has none and
// looks like code. The tests are JSON:
//
//	{"tests": [{"stdin": "3 4\n", "stdout": "7\n"}], "asserts": ["assert add(3, 4) == 7"], "setup": "import math"}
//
// or lines of assert statements. Output is compared word by word. Assertions run behind the program, in one process,
// which must reach its end. The reward is 1 if all tests pass and 0 otherwise, or with Partial the share that pass;
// the part "passed" is that share. Verdict.Reason says what failed first: wrong_output, runtime_error, time_limit,
// output_limit.
//
// Programs run in processes of their own, see [Sandbox], or in a service when Service is set. Unlike the other
// verifiers the verdict depends on the machine: a program near its time limit may pass on a faster one.
type Code struct {
	Sandbox Sandbox
	Service *SandboxService // nil = run here
	Partial bool            // reward the share of tests that pass
}

// codeTests is a gold answer.
type codeTests struct {
	Setup   string `json:"setup"`
	Asserts []string
	Tests   []struct{ Stdin, Stdout string }
}

// program is one run of a program and what came of it.
type program struct {
	source, stdin string
}

type ran struct {
	stdout string
	failed string // "" or the reason
}

// Verify implements [Verifier].
func (c Code) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	tests, err := readTests(answer)
	if err != nil {
		return failed(goldError("code", answer, err.Error()))
	}
	source, ok := findProgram(completion)
	if !ok {
		return Verdict{Outcome: NoAnswer, Reason: "no_answer"}, nil
	}
	total, passed, reason := len(tests.Tests)+min(len(tests.Asserts), 1), 0, ""
	note := func(r string) {
		if r == "" {
			passed++
		} else if reason == "" {
			reason = r
		}
	}
	source = tests.Setup + "\n" + source + "\n"
	for _, t := range tests.Tests {
		got, err := c.run(ctx, program{source, t.Stdin})
		if err != nil {
			return failed(fmt.Errorf("code: %w", err))
		}
		if got.failed == "" && !sameWords(got.stdout, t.Stdout) {
			got.failed = "wrong_output"
		}
		note(got.failed)
		if got.failed != "" && !c.Partial {
			break
		}
	}
	if len(tests.Asserts) > 0 && (reason == "" || c.Partial) {
		// a last line, so that a program that leaves early does not pass
		end := fmt.Sprintf("%x", sha256.Sum256([]byte(answer+source)))
		got, err := c.run(ctx, program{source: source + strings.Join(tests.Asserts, "\n") + "\nprint('\\n" + end + "')\n"})
		if err != nil {
			return failed(fmt.Errorf("code: %w", err))
		}
		if got.failed == "" && !strings.HasSuffix(strings.TrimSpace(got.stdout), end) {
			got.failed = "wrong_output"
		}
		note(got.failed)
	}
	share := float64(passed) / float64(total)
	v := judge(passed == total, "")
	v.Reason, v.Parts = reason, []Part{{"passed", share}}
	if c.Partial {
		v.Reward = share
	}
	return v, nil
}

func (c Code) run(ctx context.Context, p program) (ran, error) {
	if c.Service != nil {
		return c.Service.run(ctx, p)
	}
	return c.Sandbox.run(ctx, p)
}

func sameWords(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return false
		}
	}
	return true
}

// readTests reads a gold answer of [Code].
func readTests(answer string) (codeTests, error) {
	var t codeTests
	if s := strings.TrimSpace(answer); strings.HasPrefix(s, "{") {
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(&t); err != nil {
			return t, fmt.Errorf("tests as JSON: %v", err)
		}
	} else if strings.HasPrefix(s, "assert") || strings.Contains(s, "\nassert") {
		t.Asserts = []string{s}
	}
	if len(t.Asserts)+len(t.Tests) == 0 {
		return t, errors.New("tests, as JSON or lines of assert")
	}
	return t, nil
}

// findProgram returns the program of a completion.
func findProgram(text string) (string, bool) {
	const fence = "```"
	var last string
	found := false
	for rest := text; ; {
		i := strings.Index(rest, fence)
		if i < 0 {
			break
		}
		rest = rest[i+len(fence):]
		end := strings.Index(rest, fence)
		if end < 0 {
			break
		}
		if nl := strings.IndexByte(rest[:end], '\n'); nl >= 0 {
			last, found = rest[nl+1:end], true
		}
		rest = rest[end+len(fence):]
	}
	if found {
		return last, strings.TrimSpace(last) != ""
	}
	if strings.Contains(text, fence) {
		return "", false
	}
	for _, sign := range [...]string{"def ", "import ", "print("} {
		if strings.Contains(text, sign) {
			return text, true
		}
	}
	return "", false
}

// Defaults of [Sandbox].
const (
	DefaultRunTime   = 5 * time.Second
	DefaultMemory    = 512 << 20
	DefaultOutput    = 64 << 10
	DefaultProcesses = 32
)

// Sandbox runs programs in processes without network, with bounds on time, memory, output, files and processes. It
// needs Linux with user namespaces; where the kernel does not grant them, running a program is an error unless
// Unconfined is set. A program sees the files of the machine that the user may read: give the worker a user, or a
// container, that can read no secrets. The environment holds nothing but PATH and HOME.
type Sandbox struct {
	Interpreter []string      // the command that runs a file; nil = python3 -I
	RunTime     time.Duration // of one run, wall clock and processor; 0 = DefaultRunTime
	Memory      int64         // address space in bytes; 0 = DefaultMemory
	Output      int           // bytes of output; 0 = DefaultOutput
	Processes   int           // processes and threads; 0 = DefaultProcesses
	Unconfined  bool          // also run where namespaces are refused, with the network open
}

// run writes the program to a folder of its own and runs it there.
func (s Sandbox) run(ctx context.Context, p program) (ran, error) {
	dir, err := os.MkdirTemp("", "gradus-code-")
	if err != nil {
		return ran{}, err
	}
	defer os.RemoveAll(dir)
	file := dir + "/program"
	if err := os.WriteFile(file, []byte(p.source), 0o644); err != nil {
		return ran{}, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return ran{}, err
	}
	limit := s.RunTime
	if limit <= 0 {
		limit = DefaultRunTime
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &boundedBuffer{left: DefaultOutput, full: cancel}
	if s.Output > 0 {
		out.left = s.Output
	}
	err = s.start(limited, dir, file, p.stdin, limit, out)
	switch {
	case ctx.Err() != nil:
		return ran{}, ctx.Err()
	case out.over:
		return ran{failed: "output_limit"}, nil
	case limited.Err() != nil:
		return ran{failed: "time_limit"}, nil
	case errors.Is(err, errSandbox):
		return ran{}, err
	case err != nil:
		return ran{failed: "runtime_error"}, nil
	}
	return ran{stdout: out.kept.String()}, nil
}

// errSandbox marks failures of the sandbox, as opposed to those of the program in it.
var errSandbox = errors.New("sandbox")

// boundedBuffer keeps what is written up to a bound, and ends the run beyond it.
type boundedBuffer struct {
	kept bytes.Buffer // not embedded: its ReadFrom would get round the bound
	left int
	over bool
	full func()
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.over = true
		b.full()
		return len(p), nil
	}
	return b.kept.Write(p)
}
