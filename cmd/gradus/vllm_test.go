//go:build vllm

package main

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/worker"
)

// A run whose rollouts vLLM draws, which is killed in the midst of it and begins anew
// with its first weights: every completion is of the right ones, as the mismatch says.
// interop/README.md says how vLLM comes to a machine without a GPU.
//
//	GRADUS_VLLM=$(which vllm) go test -tags vllm ./cmd/gradus -run VLLM -v
func TestVLLM(t *testing.T) {
	vllm := cmp.Or(os.Getenv("GRADUS_VLLM"), "vllm")
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop(), Remote: activities.Remote{Refresh: activities.RefreshVLLM, Folder: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	heads := []string{"model.num_attention_heads=1", "model.num_key_value_heads=1"} // of 32, the least that vLLM has on a CPU
	base := runTest(t, c, "vllm-base", tiny(append(heads, "steps=0")...))
	state, err := policy.LoadState(t.Context(), store, base.Policy)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "policy")
	if err := policy.WriteDir(folder, state.ForInference()); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: free.Addr().String()}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	var server *exec.Cmd
	kill := func() {
		if server != nil {
			_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL)
			_ = server.Wait()
		}
	}
	lives := 0
	start := func() error {
		lives++
		log, err := os.Create(filepath.Join(t.ArtifactDir(), fmt.Sprintf("vllm-%d.log", lives)))
		if err != nil {
			return err
		}
		defer log.Close()
		server = exec.Command(vllm, "serve", folder, "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--served-model-name", "policy",
			"--dtype", "float32", "--enforce-eager", "--logprobs-mode", "processed_logprobs")
		server.Env = append(os.Environ(), "VLLM_SERVER_DEV_MODE=1", "VLLM_CPU_KVCACHE_SPACE=1", "HF_HUB_OFFLINE=1")
		server.Stdout, server.Stderr, server.SysProcAttr = log, log, &syscall.SysProcAttr{Setpgid: true}
		return server.Start()
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(time.Second) {
		r, err := http.Get(target.String() + "/health")
		if err == nil {
			r.Body.Close()
			break
		}
		if time.Since(begin) > 3*time.Minute {
			kill()
			t.Fatal("vLLM did not start; its log is an artifact of this test (-artifacts)")
		}
	}
	var asked atomic.Int32
	restarted := make(chan error, 1)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
		panic(http.ErrAbortHandler) // as the server itself would break off
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/completions" && asked.Add(1) == 40 { // of 32 in a step
			kill()
			restarted <- start()
		}
		proxy.ServeHTTP(w, r)
	}))
	defer func() { front.Close(); kill() }()
	r := runTest(t, c, "vllm", tiny(append(heads, "policy="+base.Policy.String(), "rollout.engine=openai", "rollout.model=policy", `rollout.endpoints=["`+front.URL+`"]`)...))
	if r.Steps != 3 || r.Completions != 3*8*4 || r.Trained == 0 {
		t.Errorf("result %+v", r)
	}
	select {
	case err := <-restarted:
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("vLLM was not killed in the midst")
	}
	steps := 0 // with something to learn from, whose mismatch is measured
	for i, step := range artifacts(t, store, "vllm", 3) {
		metrics := figures(t, store, step.Metrics)
		kl, measured := metrics["sampling/kl"]
		if rescored := metrics[activities.MetricRescored]; kl > 1e-7 || rescored != 0 {
			t.Errorf("step %d: kl %v, rescored %v; want 0", i, kl, rescored)
		}
		if measured {
			steps++
			t.Logf("step %d: kl %.2g", i, kl)
		}
	}
	if steps < 2 {
		t.Errorf("%d steps had something to learn from", steps)
	}
}
