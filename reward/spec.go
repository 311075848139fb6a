package reward

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// spec is a verifier with its settings, as JSON. Which of them it takes depends on its name.
type spec struct {
	Verifier string `json:"verifier"`

	// math
	Places   []Place `json:"places,omitempty"`
	Decimals int     `json:"decimals,omitempty"`

	// code
	Interpreter []string `json:"interpreter,omitempty"`
	MemoryMB    int64    `json:"memory_mb,omitempty"`
	Partial     bool     `json:"partial,omitempty"`
	Unconfined  bool     `json:"unconfined,omitempty"`

	// remote, judge, code with a service
	URL         string            `json:"url,omitempty"`
	KeyEnv      string            `json:"key_env,omitempty"`
	Seconds     float64           `json:"seconds,omitempty"` // of one request; of code: of one run
	Retries     int               `json:"retries,omitempty"`
	Concurrency int               `json:"concurrency,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"`
	Result      string            `json:"result,omitempty"`
	Model       string            `json:"model,omitempty"`
	Prompt      string            `json:"prompt,omitempty"`
	Score       bool              `json:"score,omitempty"`
	Language    string            `json:"language,omitempty"`

	// composite
	Terms []term `json:"terms,omitempty"`
}

// term is one term of a composite: a verifier or a shape, with its weight.
type term struct {
	Name     string        `json:"name"`
	Weight   *float64      `json:"weight,omitempty"`
	Verify   any           `json:"verify,omitempty"` // a name, or a spec
	Format   string        `json:"format,omitempty"`
	Count    string        `json:"count,omitempty"`
	Length   *Length       `json:"length,omitempty"`
	Cosine   *CosineLength `json:"cosine,omitempty"`
	Overlong *Overlong     `json:"overlong,omitempty"`
}

// opened holds the verifiers that were made from settings, so that all answers share their caches and bounds.
var opened sync.Map

// Open returns the verifier that a JSON object describes, the same one for the same text:
//
//	{"verifier": "math", "places": ["boxed"], "decimals": 4}
//	{"verifier": "code", "interpreter": ["python3"], "seconds": 2, "memory_mb": 256, "partial": true}
//	{"verifier": "code", "url": "http://sandbox:8080/run_code"}
//	{"verifier": "remote", "url": "http://verify:8000/score", "fields": {"completion": "prediction", "answer": "gold"}}
//	{"verifier": "judge", "url": "https://api.example.com/v1/chat/completions", "model": "m", "key_env": "JUDGE_API_KEY"}
//	{"verifier": "composite", "terms": [
//	  {"name": "correct", "verify": "math"},
//	  {"name": "format", "weight": 0.1, "format": "(?s)<think>.*</think>"},
//	  {"name": "tools", "weight": -0.05, "count": "<tool_call>"},
//	  {"name": "overlong", "weight": 0.5, "overlong": {"max": 16000, "buffer": 2000}}]}
//
// Unknown fields, and fields that the verifier does not take, are errors.
func Open(text string) (Verifier, error) {
	if v, ok := opened.Load(text); ok {
		return v.(Verifier), nil
	}
	v, err := parseSpec(text)
	if err != nil {
		return nil, fmt.Errorf("verifier %.120s: %w", text, err)
	}
	kept, _ := opened.LoadOrStore(text, v)
	return kept.(Verifier), nil
}

// takes are the fields of a spec that each verifier takes.
var takes = map[string][]string{
	"math":      {"places", "decimals"},
	"code":      {"interpreter", "memory_mb", "partial", "unconfined", "seconds", "url", "key_env", "retries", "concurrency", "language"},
	"remote":    {"url", "key_env", "seconds", "retries", "concurrency", "fields", "result"},
	"judge":     {"url", "key_env", "seconds", "retries", "concurrency", "model", "prompt", "score"},
	"composite": {"terms"},
}

func parseSpec(text string) (Verifier, error) {
	var s spec
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	var given map[string]any
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return nil, err
	}
	for field := range given {
		if field != "verifier" && !slices.Contains(takes[s.Verifier], field) {
			return nil, fmt.Errorf("%q takes no %s, only %v", s.Verifier, field, takes[s.Verifier])
		}
	}
	switch s.Verifier {
	case "math":
		for _, p := range s.Places {
			if !slices.Contains(DefaultPlaces, p) {
				return nil, fmt.Errorf("unknown place %q, expected one of %v", p, DefaultPlaces)
			}
		}
		if s.Decimals < 0 || s.Decimals > 15 {
			return nil, fmt.Errorf("decimals %d, expected 0 to 15", s.Decimals)
		}
		return Math{Places: s.Places, Decimals: s.Decimals}, nil
	case "code":
		limit := time.Duration(s.Seconds * float64(time.Second))
		c := Code{Sandbox: Sandbox{Interpreter: s.Interpreter, RunTime: limit, Memory: s.MemoryMB << 20, Unconfined: s.Unconfined}, Partial: s.Partial}
		if s.URL == "" {
			return c, nil
		}
		client, err := s.client()
		if err != nil {
			return nil, err
		}
		client.Timeout = cmp.Or(limit, DefaultRunTime) + 30*time.Second
		c.Service = &SandboxService{Client: client, Language: s.Language, RunTime: limit}
		return c, nil
	case "remote":
		client, err := s.client()
		return Remote{Client: client, Fields: s.Fields, Result: s.Result}, err
	case "judge":
		client, err := s.client()
		if err == nil && s.Model == "" {
			err = errors.New("judge needs a model")
		}
		return Judge{Client: client, Model: s.Model, Prompt: s.Prompt, Score: s.Score}, err
	case "composite":
		return s.composite()
	}
	return ByName(s.Verifier)
}

func (s spec) client() (*Client, error) {
	if u, err := url.Parse(s.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("url %q, expected http://… or https://…", s.URL)
	}
	return &Client{URL: s.URL, KeyEnv: s.KeyEnv, Timeout: time.Duration(s.Seconds * float64(time.Second)), Retries: s.Retries, Concurrency: s.Concurrency}, nil
}

func (s spec) composite() (Verifier, error) {
	var c Composite
	for i, t := range s.Terms {
		out := Term{Name: t.Name, Weight: 1}
		if t.Weight != nil {
			out.Weight = *t.Weight
		}
		if t.Name == "" || slices.ContainsFunc(c.Terms, func(o Term) bool { return o.Name == t.Name }) {
			return nil, fmt.Errorf("term %d: name %q, expected one of its own", i, t.Name)
		}
		kinds := 0
		if t.Verify != nil {
			kinds++
			name, isName := t.Verify.(string)
			if !isName {
				text, err := json.Marshal(t.Verify)
				if err != nil {
					return nil, err
				}
				name = string(text)
			}
			v, err := ByName(name)
			if err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
			out.Verifier = v
		}
		if t.Format != "" {
			kinds++
			pattern, err := regexp.Compile(t.Format)
			if err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
			out.Shape = Format{pattern}
		}
		if t.Count != "" {
			kinds++
			pattern, err := regexp.Compile(t.Count)
			if err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
			out.Shape = Count{pattern}
		}
		if t.Length != nil {
			kinds++
			out.Shape = *t.Length
			if err := checkLength(t.Length.Max, 0, t.Length.Unit); err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
		}
		if t.Cosine != nil {
			kinds++
			out.Shape = *t.Cosine
			if err := checkLength(t.Cosine.Max, 0, t.Cosine.Unit); err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
		}
		if t.Overlong != nil {
			kinds++
			out.Shape = *t.Overlong
			if err := checkLength(t.Overlong.Max, t.Overlong.Buffer, t.Overlong.Unit); err != nil {
				return nil, fmt.Errorf("term %s: %w", t.Name, err)
			}
		}
		if kinds != 1 {
			return nil, fmt.Errorf("term %s: expected one of verify, format, count, length, cosine, overlong", t.Name)
		}
		c.Terms = append(c.Terms, out)
	}
	if len(c.Terms) == 0 {
		return nil, errors.New("composite needs terms")
	}
	return c, nil
}

func checkLength(limit, buffer float64, unit Unit) error {
	if !(limit > 0) || buffer < 0 || buffer > limit {
		return fmt.Errorf("max %v and buffer %v, expected max above 0 and buffer of at most max", limit, buffer)
	}
	if unit != "" && unit != Characters && unit != Words {
		return fmt.Errorf("unknown unit %q, expected %s or %s", unit, Characters, Words)
	}
	return nil
}
