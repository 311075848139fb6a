package reward

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

const addTests = `{"tests": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "-1 1\n", "stdout": "0"}]}`

func fenced(program string) string { return "Here it is:\n```python\n" + program + "\n```\nDone." }

func TestCode(t *testing.T) {
	code := Code{Sandbox: Sandbox{RunTime: 20 * time.Second, Unconfined: true}}
	for name, tt := range map[string]struct {
		completion, answer string
		want               Outcome
		reason             string
	}{
		"passes":         {fenced("a, b = map(int, input().split())\nprint(a + b)"), addTests, Correct, ""},
		"fails one":      {fenced("print(7)"), addTests, Wrong, "wrong_output"},
		"raises":         {fenced("raise SystemExit(1)"), addTests, Wrong, "runtime_error"},
		"does not parse": {fenced("def"), addTests, Wrong, "runtime_error"},
		"asserts":        {fenced("def add(a, b):\n    return a + b"), "assert add(3, 4) == 7\nassert add(0, 0) == 0", Correct, ""},
		"assert fails":   {fenced("def add(a, b):\n    return a - b"), "assert add(3, 4) == 7", Wrong, "runtime_error"},
		"leaves early":   {fenced("import os\nprint('ok', flush=True)\nos._exit(0)"), "assert False", Wrong, "wrong_output"},
		"setup":          {"def f(x):\n    return math.sqrt(x)", `{"setup": "import math", "asserts": ["assert f(4) == 2"]}`, Correct, ""},
		"floods":         {fenced("while True: print('x' * 1000)"), addTests, Wrong, "output_limit"},
		"large file":     {fenced("open('f', 'wb').write(b'x' * (1 << 26))"), addTests, Wrong, "runtime_error"},
		"much memory":    {fenced("x = bytearray(1 << 32)\nprint(7)"), addTests, Wrong, "runtime_error"},
		"no program":     {"I do not know.", addTests, NoAnswer, "no_answer"},
		"no tests":       {fenced("print(7)"), "seven", Error, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := code.Verify(t.Context(), tt.completion, tt.answer)
			if v.Outcome != tt.want || v.Reason != tt.reason || (err != nil) != (tt.want == Error) {
				t.Errorf("%+v, %v; want %s %s", v, err, tt.want, tt.reason)
			}
		})
	}
	code.Partial = true
	if v, err := code.Verify(t.Context(), fenced("print(7)"), addTests); err != nil || v.Reward != 0.5 || v.Outcome != Wrong {
		t.Errorf("half of the tests: %+v, %v", v, err)
	}
}

// A program that hangs is killed with what it started.
func TestCodeTimeLimit(t *testing.T) {
	code := Code{Sandbox: Sandbox{RunTime: 2 * time.Second, Unconfined: true}}
	v, err := code.Verify(t.Context(), fenced("import subprocess\nsubprocess.run(['sleep', '1000'])"), addTests)
	if err != nil || v.Reason != "time_limit" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Where the kernel grants namespaces, a program has no network, no other processes, and no swarm of its own.
func TestCodeConfined(t *testing.T) {
	if !confined() {
		if os.Getenv("CI") == "true" {
			t.Fatal("this machine grants no user namespaces, and in CI they must be there")
		}
		t.Skip("this machine grants no user namespaces")
	}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	code := Code{Sandbox: Sandbox{RunTime: 20 * time.Second, Processes: 8}}
	host, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	if v, err := code.Verify(t.Context(), fenced("import os\nopen('own', 'w').write('x')"), "assert os.listdir()"); err != nil || v.Outcome != Correct {
		t.Fatalf("what is allowed: %+v, %v", v, err)
	}
	for name, program := range map[string]string{
		"network":   fmt.Sprintf("import socket\nsocket.create_connection((%q, %s), 5)", host, port),
		"processes": "import os\nassert os.getpid() != 1\n",
		"swarm":     "import os, time\nfor _ in range(50):\n    if os.fork() == 0: time.sleep(1000)",
		"files":     "open('/etc/passwd', 'a')",
		"secrets":   "import os\nassert 'GRADUS_SECRET' in os.environ",
	} {
		t.Setenv("GRADUS_SECRET", "x")
		v, err := code.Verify(t.Context(), fenced(program), "assert True")
		if err != nil || v.Reason != "runtime_error" {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

func TestCodeService(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Code, Language, Stdin string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Language != "python" || r.URL.Path != "/run_code" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		var a, b int
		if _, err := fmt.Sscan(request.Stdin, &a, &b); err != nil {
			io.WriteString(w, `{"status": "Failed", "run_result": {"status": "Finished", "return_code": 1}}`)
			return
		}
		fmt.Fprintf(w, `{"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": "%d\n"}}`, a+b)
	}))
	defer service.Close()
	code, err := Open(`{"verifier": "code", "url": "` + service.URL + `/run_code"}`)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := code.Verify(t.Context(), fenced("whatever"), addTests); err != nil || v.Outcome != Correct {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := code.Verify(t.Context(), fenced("whatever"), "assert False"); err != nil || v.Reason != "runtime_error" {
		t.Errorf("%+v, %v", v, err)
	}
}
