package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// startByUI starts an experiment by the request that the form "Start Workflow"
// of the Temporal UI 2.55 sends.
func startByUI(t *testing.T, id string, input []byte) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	send := func(method, path, body, token string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, local.UI+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-CSRF-TOKEN", token)
		response, err := browser.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s, %v\n%s", method, path, response.Status, err, answer)
		}
		return string(answer)
	}
	send(http.MethodGet, "/", "", "")
	address, err := url.Parse(local.UI)
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	for _, c := range jar.Cookies(address) {
		if c.Name == "_csrf" {
			token = c.Value
		}
	}
	payload, err := json.Marshal(input) // bytes in JSON are Base64, as in the UI
	if err != nil {
		t.Fatal(err)
	}
	answer := send(http.MethodPost, "/api/v1/namespaces/default/workflows/"+id, fmt.Sprintf(`{"workflowId":%q,"taskQueue":{"name":%q},"workflowType":{"name":"Experiment"},`+
		`"input":{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":%s}]},"userMetadata":{},"searchAttributes":null}`, id, workflows.QueueCPU, payload), token)
	if !strings.Contains(answer, `"started": true`) {
		t.Fatal(answer)
	}
}

// What the UI starts runs as what the command line starts, and what it gives
// wrong is refused with a message that the run's page shows.
func TestTemporalUI(t *testing.T) {
	c, store := connectTest(t)
	w, err := worker.Start(c, store, worker.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	given, err := planInput("grpo", tiny("steps=1"))
	if err != nil {
		t.Fatal(err)
	}
	input, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	startByUI(t, "by-ui", input)
	var out bytes.Buffer
	r, err := follow(ctx, &connection{client: c}, "by-ui", &out)
	if err != nil || r.Steps != 1 || r.Trained == 0 {
		t.Errorf("%v, %+v\n%s", err, r, out.String())
	}

	startByUI(t, "by-ui-fork", []byte(`{"fork":{"run":"by-ui","step":0},"steps":2}`))
	if r, err = follow(ctx, &connection{client: c}, "by-ui-fork", &out); err != nil || r.Steps != 2 || r.Fork == nil {
		t.Errorf("%v, %+v\n%s", err, r, out.String())
	}

	startByUI(t, "by-ui-wrong", []byte(`{"recipe":"gpro"}`))
	var app *temporal.ApplicationError
	if err := c.GetWorkflow(ctx, "by-ui-wrong", "").Get(ctx, nil); !errors.As(err, &app) || !strings.Contains(app.Message(), `unknown recipe "gpro"`) {
		t.Errorf("got %v, want a refusal that names the recipe", err)
	}
}
