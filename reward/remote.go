package reward

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Defaults of [Client].
const (
	DefaultConcurrency = 16
	DefaultRetries     = 4
	DefaultCache       = 10_000
	maxReply           = 1 << 20
)

// Client posts JSON to a service: with retries for what may pass (network, 408, 429, 5xx), waiting 100 ms doubled each
// time or as long as Retry-After says, with a bound on requests at once, and with the replies to the last requests
// kept, so that the same question is asked once. It is safe for concurrent use; keep one for the life of the process.
type Client struct {
	URL         string
	KeyEnv      string        // the environment variable with the API key, sent as a bearer token; "" = none
	Timeout     time.Duration // of one request; 0 = only that of the context
	Retries     int           // after the first request; 0 = DefaultRetries, negative = none
	Concurrency int           // 0 = DefaultConcurrency
	Cache       int           // replies kept; 0 = DefaultCache, negative = none
	HTTP        *http.Client  // nil = http.DefaultClient

	once  sync.Once
	slots chan struct{}
	mu    sync.Mutex
	kept  map[[sha256.Size]byte][]byte
	order [][sha256.Size]byte // of kept, oldest first
}

// post sends a request, and returns the reply of a status 2xx.
func (c *Client) post(ctx context.Context, request any) ([]byte, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	c.once.Do(func() {
		n := c.Concurrency
		if n <= 0 {
			n = DefaultConcurrency
		}
		c.slots, c.kept = make(chan struct{}, n), map[[sha256.Size]byte][]byte{}
	})
	key := sha256.Sum256(append([]byte(c.URL+"\n"), body...))
	c.mu.Lock()
	reply, known := c.kept[key]
	c.mu.Unlock()
	if known {
		return reply, nil
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	retries := c.Retries
	if retries == 0 {
		retries = DefaultRetries
	}
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		reply, again, err := c.attempt(ctx, body)
		if err == nil {
			c.keep(key, reply)
			return reply, nil
		}
		if again < 0 || retries <= 0 || ctx.Err() != nil {
			return nil, err
		}
		retries--
		timer := time.NewTimer(max(wait, again))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// attempt makes one attempt. It says after how long another may help, less than 0 when none will.
func (c *Client) attempt(ctx context.Context, body []byte) (reply []byte, again time.Duration, err error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, -1, err
	}
	request.Header.Set("Content-Type", "application/json")
	if c.KeyEnv != "" {
		key := os.Getenv(c.KeyEnv)
		if key == "" {
			return nil, -1, fmt.Errorf("%s: the environment variable %s with the API key is not set", c.URL, c.KeyEnv)
		}
		request.Header.Set("Authorization", "Bearer "+key)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	reply, err = io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	switch code := response.StatusCode; {
	case err != nil:
		return nil, 0, err
	case len(reply) > maxReply:
		return nil, -1, fmt.Errorf("%s: reply of more than %d bytes", c.URL, maxReply)
	case code/100 == 2:
		return reply, 0, nil
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return nil, time.Duration(max(seconds, 0)) * time.Second, fmt.Errorf("%s: status %d", c.URL, code)
	default:
		return nil, -1, fmt.Errorf("%s: status %d: %.200s", c.URL, code, reply)
	}
}

// keep stores a reply and drops the oldest beyond the bound.
func (c *Client) keep(key [sha256.Size]byte, reply []byte) {
	limit := c.Cache
	if limit == 0 {
		limit = DefaultCache
	}
	if limit < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.kept[key]; !known {
		c.order = append(c.order, key)
	}
	c.kept[key] = reply
	for len(c.order) > limit {
		delete(c.kept, c.order[0])
		c.order = c.order[1:]
	}
}

// Remote asks an HTTP service. It posts {"completion": …, "answer": …}, under other names if Fields gives them, and
// reads the reward from the first of the fields reward, score, correct of the reply (or from Result): a number, or a
// boolean. A field extracted, if there is one, is taken over. A reward of 1 or more is Correct.
type Remote struct {
	Client *Client
	Fields map[string]string // completion and answer to the service's names for them
	Result string            // the field of the reply with the reward; "" = as above
}

// Verify implements [Verifier].
func (r Remote) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	request := map[string]string{}
	for name, value := range map[string]string{"completion": completion, "answer": answer} {
		if other := r.Fields[name]; other != "" {
			name = other
		}
		request[name] = value
	}
	reply, err := r.Client.post(ctx, request)
	if err != nil {
		return failed(fmt.Errorf("remote: %w", err))
	}
	var fields map[string]any
	if err := json.Unmarshal(reply, &fields); err != nil {
		return failed(fmt.Errorf("remote: %s: reply: %w", r.Client.URL, err))
	}
	names := []string{"reward", "score", "correct"}
	if r.Result != "" {
		names = []string{r.Result}
	}
	for _, name := range names {
		var reward float64
		switch v := fields[name].(type) {
		case float64:
			reward = v
		case bool:
			reward = float64(b2i(v))
		default:
			continue
		}
		extracted, _ := fields["extracted"].(string)
		v := judge(reward >= 1, extracted)
		v.Reward = reward
		return v, nil
	}
	return failed(fmt.Errorf("remote: %s: reply without a number or boolean %s", r.Client.URL, strings.Join(names, ", ")))
}

// DefaultJudgePrompt asks for a verdict in one word.
const DefaultJudgePrompt = "Decide whether the final answer of a response is equivalent to the reference answer. Judge the final answer alone.\n\n" +
	"Reference answer:\n{answer}\n\nResponse:\n{completion}\n\nReply with one word: CORRECT or INCORRECT."

// Judge asks a language model that speaks the OpenAI protocol; Client.URL is the one of its chat/completions. The
// last CORRECT or INCORRECT of the reply, or a number between 0 and 1 where Score is set, is the verdict. A reply
// with neither is an error, not a wrong answer.
type Judge struct {
	Client *Client
	Model  string
	Prompt string // with {completion} and {answer}; "" = DefaultJudgePrompt
	Score  bool   // the model replies with a number
}

var (
	judgeWord   = regexp.MustCompile(`(?i)\b(in)?correct\b`)
	judgeNumber = regexp.MustCompile(`\b(0(\.\d+)?|1(\.0+)?)\b`)
)

// Verify implements [Verifier].
func (j Judge) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	prompt := j.Prompt
	if prompt == "" {
		prompt = DefaultJudgePrompt
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	reply, err := j.Client.post(ctx, struct {
		Model       string    `json:"model"`
		Messages    []message `json:"messages"`
		Temperature float64   `json:"temperature"`
		Seed        int       `json:"seed"`
	}{j.Model, []message{{"user", strings.NewReplacer("{completion}", completion, "{answer}", answer).Replace(prompt)}}, 0, 0})
	if err != nil {
		return failed(fmt.Errorf("judge: %w", err))
	}
	var response struct{ Choices []struct{ Message message } }
	if err := json.Unmarshal(reply, &response); err != nil {
		return failed(fmt.Errorf("judge: %s: reply: %w", j.Client.URL, err))
	}
	if len(response.Choices) == 0 {
		return failed(fmt.Errorf("judge: %s: reply without choices", j.Client.URL))
	}
	text := response.Choices[0].Message.Content
	if j.Score {
		numbers := judgeNumber.FindAllString(text, -1)
		if len(numbers) == 0 {
			return failed(fmt.Errorf("judge: no number between 0 and 1 in the reply %.80q", text))
		}
		reward, err := strconv.ParseFloat(numbers[len(numbers)-1], 64)
		if err != nil {
			return failed(fmt.Errorf("judge: %w", err))
		}
		v := judge(reward >= 1, "")
		v.Reward = reward
		return v, nil
	}
	words := judgeWord.FindAllString(text, -1)
	if len(words) == 0 {
		return failed(fmt.Errorf("judge: neither CORRECT nor INCORRECT in the reply %.80q", text))
	}
	return judge(strings.EqualFold(words[len(words)-1], "correct"), ""), nil
}

// SandboxService runs programs in a service that speaks the protocol of SandboxFusion: a POST to its run_code with
// code, language, stdin and run_timeout.
type SandboxService struct {
	Client   *Client
	Language string        // "" = python
	RunTime  time.Duration // of one run; 0 = DefaultRunTime
}

func (s *SandboxService) run(ctx context.Context, p program) (ran, error) {
	language, limit := s.Language, s.RunTime
	if language == "" {
		language = "python"
	}
	if limit <= 0 {
		limit = DefaultRunTime
	}
	reply, err := s.Client.post(ctx, struct {
		Code       string  `json:"code"`
		Language   string  `json:"language"`
		Stdin      string  `json:"stdin"`
		RunTimeout float64 `json:"run_timeout"`
	}{p.source, language, p.stdin, limit.Seconds()})
	if err != nil {
		return ran{}, err
	}
	var response struct {
		Status    string
		Message   string
		RunResult *struct {
			Status     string
			ReturnCode *int `json:"return_code"`
			Stdout     string
		} `json:"run_result"`
	}
	if err := json.Unmarshal(reply, &response); err != nil {
		return ran{}, fmt.Errorf("%s: reply: %w", s.Client.URL, err)
	}
	r := response.RunResult
	switch {
	case response.Status == "SandboxError":
		return ran{}, fmt.Errorf("%w: %s: %s", errSandbox, s.Client.URL, response.Message)
	case r != nil && r.Status == "TimeLimitExceeded":
		return ran{failed: "time_limit"}, nil
	case r == nil || r.ReturnCode == nil || *r.ReturnCode != 0:
		return ran{failed: "runtime_error"}, nil
	}
	return ran{stdout: r.Stdout}, nil
}
