package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Client asks many endpoints, and remembers of each how it does. The zero value
// is ready; it serves any number of goroutines.
type Client struct {
	Key  string       // sent as bearer, "" = none
	HTTP *http.Client // nil = http.DefaultClient

	mu        sync.Mutex
	endpoints map[string]*endpoint
}

// Call is what a batch of requests has in common.
type Call struct {
	Endpoints   []string // base addresses, without /v1
	Chat        bool
	Concurrency int           // requests at once to each endpoint
	Timeout     time.Duration // of one request
	Tries       int           // of one request, or in a row of every endpoint, before all are given up
	Version     string        // of the weights that must answer
	// Refresh has the endpoint serve Version; it is called with no request of this
	// Client going on there.
	Refresh func(ctx context.Context, endpoint string) error
}

// Refused is the error of a request that no other try can mend.
type Refused struct {
	Endpoint string
	Status   int // of HTTP
	Message  string
}

// Error says who refused what.
func (e *Refused) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.Endpoint, e.Status, e.Message)
}

// NotThere reports whether a server refused a request as it has nothing at that address.
func NotThere(err error) bool {
	var refused *Refused
	return errors.As(err, &refused) && refused.Status == http.StatusNotFound
}

// endpoint is a server and how it does.
type endpoint struct {
	url string

	// weights is held for reading by requests, and to replace the weights.
	weights sync.RWMutex
	version string // known to be served; "" = not known
	tells   string // where it can be asked for its version; "" = nowhere

	mu      sync.Mutex
	fails   int       // in a row
	again   time.Time // when it may be tried again
	probing bool      // a request finds out whether it is well again
	stale   bool      // it answered with other weights than it was known to have
}

// later is an error after which a server asks for patience.
type later struct {
	error
	wait time.Duration
}

// stale is an answer of other weights than wanted.
var errStale = errors.New("the answer is of another version of the weights")

// Longest pauses between tries of a failing endpoint.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 30 * time.Second
	poll       = 20 * time.Millisecond // between looks at a failing endpoint
)

// Ask has every request answered, by whichever endpoint is free, and calls done
// with each answer, one at a time. An endpoint that fails is left out for a while,
// longer each time, and its requests go to the others; an answer of other weights
// than the version wanted is thrown away. A [Refused] or too many tries end it.
func (c *Client) Ask(ctx context.Context, call Call, requests []Request, done func(i int, r Response) error) error {
	type item struct{ index, tries int }
	work := make(chan item, len(requests)) // putting back never waits
	for i := range requests {
		work <- item{index: i}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	if c.hopeless(call) { // who asks again finds out at once, and holds no worker while it waits
		for _, url := range call.Endpoints {
			c.endpoint(url).retry()
		}
	}
	var mu sync.Mutex
	left := len(requests)
	over := make(chan struct{})
	if left == 0 {
		return nil
	}
	for _, url := range call.Endpoints {
		e := c.endpoint(url)
		for range min(call.Concurrency, len(requests)) {
			all.Go(func() {
				for e.enter(ctx, over) {
					var it item
					select {
					case it = <-work:
					case <-over:
						e.leave(nil)
						return
					case <-ctx.Done():
						e.leave(nil)
						return
					}
					r, err := c.one(ctx, e, call, requests[it.index])
					if err == nil {
						mu.Lock()
						if err = done(it.index, r); err == nil {
							if left--; left == 0 {
								close(over)
							}
						}
						mu.Unlock()
					}
					e.leave(err)
					var refused *Refused
					switch it.tries++; {
					case err == nil:
						continue
					case errors.As(err, &refused):
						cancel(err)
					case it.tries >= call.Tries, c.hopeless(call):
						cancel(fmt.Errorf("%d tries: %w", max(it.tries, call.Tries), err))
					default:
						work <- it
					}
				}
			})
		}
	}
	all.Wait()
	if left > 0 {
		return context.Cause(ctx)
	}
	return nil
}

// retry lets a failing endpoint be tried now.
func (e *endpoint) retry() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again = time.Time{}
}

// hopeless reports whether every endpoint has failed as often as may be.
func (c *Client) hopeless(call Call) bool {
	return !slices.ContainsFunc(call.Endpoints, func(url string) bool {
		e := c.endpoint(url)
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.fails < call.Tries
	})
}

func (c *Client) endpoint(url string) *endpoint {
	url = strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1")
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.endpoints[url]
	if e == nil {
		if c.endpoints == nil {
			c.endpoints = map[string]*endpoint{}
		}
		e = &endpoint{url: url}
		c.endpoints[url] = e
	}
	return e
}

// enter waits until the endpoint may be asked. One that fails is asked by one
// request at a time.
func (e *endpoint) enter(ctx context.Context, over <-chan struct{}) bool {
	for {
		e.mu.Lock()
		free := e.fails == 0
		if !free && !e.probing && time.Now().After(e.again) {
			e.probing, free = true, true
		}
		e.mu.Unlock()
		if free {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-over:
			return false
		case <-time.After(poll):
		}
	}
}

// leave notes how it went. A server that is gone may come back with other weights.
func (e *endpoint) leave(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probing = false
	var wait *later
	switch {
	case err == nil:
		e.fails = 0
	case errors.Is(err, context.Canceled), errors.Is(err, errStale): // no fault of its
	case errors.As(err, &wait):
		e.fails, e.again = max(e.fails, 1), time.Now().Add(wait.wait)
	default:
		var gone *net.OpError
		e.stale = e.stale || errors.As(err, &gone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if e.fails > 0 && time.Now().Before(e.again) { // one of several that failed together
			return
		}
		e.fails++
		e.again = time.Now().Add(min(firstPause<<min(e.fails-1, 10), maxPause))
	}
}

// one asks one endpoint once, with the right weights.
func (c *Client) one(ctx context.Context, e *endpoint, call Call, q Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, call.Timeout)
	defer cancel()
	r, err := c.complete(ctx, e, call, q)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return r, fmt.Errorf("%s: no answer in %s", e.url, call.Timeout)
	}
	return r, err
}

func (c *Client) complete(ctx context.Context, e *endpoint, call Call, q Request) (r Response, err error) {
	if err := c.ready(ctx, e, call); err != nil {
		return r, err
	}
	defer e.weights.RUnlock()
	path := "/v1/completions"
	if call.Chat {
		path = "/v1/chat/completions"
	}
	if err := c.call(ctx, http.MethodPost, e.url+path, q, &r); err != nil {
		return r, err
	}
	version := ""
	switch {
	case r.Metadata != nil && r.Metadata.WeightVersion != "":
		version = r.Metadata.WeightVersion
	case e.tells != "":
		if version, _, err = c.version(ctx, e.url, e.tells); err != nil {
			return r, err
		}
	default:
		return r, nil // it cannot tell; this Client was the last to refresh it
	}
	if version != call.Version {
		e.setStale(true)
		return r, fmt.Errorf("%s: %w: %s, want %s", e.url, errStale, version, call.Version)
	}
	return r, nil
}

func (e *endpoint) setStale(stale bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stale = stale
}

// has reports whether the endpoint is known to have the version. Whoever asks
// holds its weights.
func (e *endpoint) has(version string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.version == version && !e.stale
}

// ready returns with the endpoint's weights held for reading, and right.
func (c *Client) ready(ctx context.Context, e *endpoint, call Call) error {
	for {
		e.weights.RLock()
		if e.has(call.Version) {
			return nil
		}
		e.weights.RUnlock()
		if err := c.refresh(ctx, e, call); err != nil {
			return err
		}
	}
}

// refresh has the endpoint serve the version, unless it does.
func (c *Client) refresh(ctx context.Context, e *endpoint, call Call) error {
	e.weights.Lock()
	defer e.weights.Unlock()
	if e.has(call.Version) { // somebody was quicker
		return nil
	}
	e.version = ""
	e.setStale(false)
	has, tells, err := c.version(ctx, e.url, tellers...)
	if err != nil {
		return err
	}
	if has != call.Version {
		if err := call.Refresh(ctx, e.url); err != nil {
			if NotThere(err) {
				return fmt.Errorf("the server cannot be given weights in this way: %w", err)
			}
			return fmt.Errorf("%s: refresh: %v", e.url, err) // a refusal, too: the weights may get there
		}
		if has, tells, err = c.version(ctx, e.url, tellers...); err != nil {
			return err
		}
	}
	switch has {
	case "", unversioned: // nobody tells it the versions of its weights
		tells = ""
	case call.Version:
	default:
		return fmt.Errorf("%s serves version %s after it was refreshed, want %s", e.url, has, call.Version)
	}
	e.version, e.tells = call.Version, tells
	return nil
}

// tellers are where servers tell the version of their weights: SGLang and gradus serve,
// older versions of SGLang, and vLLM.
var tellers = []string{"/model_info", "/get_model_info", "/weight_info"}

// unversioned is what SGLang and vLLM call weights that were given no version.
const unversioned = "default"

// version is that of the weights which a server says it has, and where it says so; ""
// if it cannot say.
func (c *Client) version(ctx context.Context, url string, paths ...string) (version, path string, err error) {
	for _, path := range paths {
		var info ModelInfo
		err := c.call(ctx, http.MethodGet, url+path, nil, &info)
		switch {
		case NotThere(err):
		case err != nil:
			return "", "", err
		case info.WeightVersion != "":
			return info.WeightVersion, path, nil
		}
	}
	return "", "", nil
}

// Post sends a JSON body, and reads a JSON answer into out unless it is nil.
func (c *Client) Post(ctx context.Context, url string, in, out any) error {
	return c.call(ctx, http.MethodPost, url, in, out)
}

func (c *Client) call(ctx context.Context, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	q, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if c.Key != "" {
		q.Header.Set("Authorization", "Bearer "+c.Key)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	r, err := client.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: read the answer: %w", url, err)
	}
	switch {
	case r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusServiceUnavailable && r.Header.Get("Retry-After") != "":
		wait := firstPause
		if s, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil {
			wait = min(time.Duration(s)*time.Second, maxPause)
		}
		return &later{fmt.Errorf("%s: status %d: %.200s", url, r.StatusCode, raw), wait}
	case r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != http.StatusRequestTimeout && r.StatusCode != http.StatusConflict:
		return &Refused{url, r.StatusCode, fmt.Sprintf("%.500s", bytes.TrimSpace(raw))}
	case r.StatusCode >= 300:
		return fmt.Errorf("%s: status %d: %.200s", url, r.StatusCode, raw)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: the answer is not the protocol's: %w", url, err)
	}
	return nil
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 256 << 20
