// Package serve puts a policy behind the OpenAI protocol: completions and chats
// with log-probabilities and token ids, streamed or whole, batched as they come,
// and weights that can be replaced while it runs.
package serve

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
)

// Options say what a Server is.
type Options struct {
	Backend *policy.Backend
	Store   datasets.Store // where Refs lead to; nil = only folders are served
	Name    string         // the model's name in requests; "" = policy
	Rows    int            // completions of one batch; 0 = 256
	Key     string         // that clients give as bearer; "" = none is asked for
}

// Server serves one policy at a time. Its requests share one engine.
type Server struct {
	options Options
	created time.Time
	batcher *batcher
	end     context.CancelFunc
	done    chan struct{}

	engine sync.Mutex // held for a batch, and to replace the weights
	policy *policy.Engine

	mu    sync.Mutex
	model *model // changed with both mutexes held
}

// model is a policy version.
type model struct {
	state   *policy.State
	path    string // Ref or folder that it came from
	version string
}

// New returns a server of the policy at path, a Ref or a Hugging Face folder.
func New(ctx context.Context, path string, o Options) (*Server, error) {
	if o.Name == "" {
		o.Name = "policy"
	}
	if o.Rows <= 0 {
		o.Rows = 256
	}
	s := &Server{options: o, created: time.Now(), batcher: &batcher{most: o.Rows, wake: make(chan struct{}, 1)}, done: make(chan struct{})}
	var err error
	if s.model, err = s.read(ctx, path, ""); err != nil {
		return nil, err
	}
	if s.policy, err = policy.NewEngine(o.Backend, s.model.state.Config); err != nil {
		return nil, err
	}
	if err := s.policy.Load(s.model.state.Weights); err != nil {
		s.policy.Close()
		return nil, err
	}
	run, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	go func() {
		defer close(s.done)
		s.run(run)
	}()
	return s, nil
}

// Close ends what is being generated and frees the device.
func (s *Server) Close() {
	s.end()
	<-s.done
	s.policy.Close()
}

// read loads a policy. version "" is derived: of a Ref its hash, of a folder the
// SHA-256 of its weights.
func (s *Server) read(ctx context.Context, path, version string) (*model, error) {
	m := &model{path: path, version: version}
	ref, err := policy.ParseRef(path)
	if info, dir := os.Stat(path); dir == nil && info.IsDir() {
		if m.state, err = policy.ReadDir(path); err != nil {
			return nil, err
		}
		m.state.Moments1, m.state.Moments2 = nil, nil
	} else if err != nil {
		return nil, err
	} else if s.options.Store == nil {
		return nil, fmt.Errorf("policy %q is a Ref, and there is no store", path)
	} else if m.state, err = policy.LoadModel(ctx, s.options.Store, ref); err != nil {
		return nil, err
	}
	if m.version == "" {
		m.version = ref.Hash
	}
	if m.version == "" {
		h := sha256.New()
		for _, w := range m.state.Weights {
			// A hash takes whatever it is given.
			_ = json.NewEncoder(h).Encode(w.Data)
		}
		m.version = fmt.Sprintf("%x", h.Sum(nil))
	}
	return m, nil
}

// current is the policy that is served.
func (s *Server) current() *model {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.model
}

// update replaces the weights, between two batches.
func (s *Server) update(ctx context.Context, path, version string) error {
	next, err := s.read(ctx, path, version)
	if err != nil {
		return err
	}
	s.engine.Lock()
	defer s.engine.Unlock()
	old := s.current()
	if string(next.state.Config.JSON()) != string(old.state.Config.JSON()) || string(next.state.Tokenizer.JSON()) != string(old.state.Tokenizer.JSON()) {
		return fmt.Errorf("%s has another architecture or tokenizer than what is served", path)
	}
	if err := s.policy.Load(next.state.Weights); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model = next
	return nil
}

// Handler answers the protocol.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	mux.HandleFunc("GET /health", alive)
	mux.HandleFunc("GET /ping", alive)
	mux.HandleFunc("POST /v1/completions", s.guarded(func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, false) }))
	mux.HandleFunc("POST /v1/chat/completions", s.guarded(func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, true) }))
	mux.HandleFunc("GET /v1/models", s.guarded(s.models))
	mux.HandleFunc("GET /v1/models/{model}", s.guarded(s.models))
	mux.HandleFunc("GET /model_info", s.guarded(s.info))
	mux.HandleFunc("GET /get_model_info", s.guarded(s.info)) // as older versions of SGLang have it
	mux.HandleFunc("POST /update_weights_from_disk", s.guarded(s.updateWeights))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &openai.Error{Status: http.StatusNotFound, Type: "invalid_request_error", Message: "there is no " + r.Method + " " + r.URL.Path})
	})
	return mux
}

// guarded asks for the key where there is one.
func (s *Server) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.options.Key != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.options.Key)) != 1 {
			refuse(w, &openai.Error{Status: http.StatusUnauthorized, Type: "authentication_error", Message: "the API key is not this server's"})
			return
		}
		next(w, r)
	}
}

func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	m := s.current()
	one := openai.Model{
		ID: s.options.Name, Object: "model", Created: s.created.Unix(), OwnedBy: "gradus", Root: m.path,
		MaxModelLen: m.state.Config.MaxPositionEmbeddings, WeightVersion: m.version,
	}
	switch name := r.PathValue("model"); name {
	case "":
		answer(w, openai.Models{Object: "list", Data: []openai.Model{one}})
	case s.options.Name:
		answer(w, one)
	default:
		refuse(w, s.unknown(name))
	}
}

// unknown refuses a model that is not served.
func (s *Server) unknown(name string) *openai.Error {
	e := openai.Invalid("model", "there is no model %q; there is %s", name, s.options.Name)
	code := "model_not_found"
	e.Status, e.Code = http.StatusNotFound, &code
	return e
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request) {
	m := s.current()
	answer(w, openai.ModelInfo{ModelPath: m.path, TokenizerPath: m.path, IsGeneration: true, WeightVersion: m.version})
}

// updateWeights is SGLang's update_weights_from_disk; beside a folder it takes a
// Ref of the store.
func (s *Server) updateWeights(w http.ResponseWriter, r *http.Request) {
	raw, bad := body(w, r)
	var in openai.Update
	if bad == nil {
		if err := json.Unmarshal(raw, &in); err != nil || in.ModelPath == "" {
			bad = invalidUpdate
		}
	}
	if bad != nil {
		refuse(w, bad)
		return
	}
	// A client that leaves does not leave a half-done update.
	if err := s.update(context.WithoutCancel(r.Context()), in.ModelPath, in.WeightVersion); err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		write(w, openai.Updated{Message: err.Error()})
		return
	}
	answer(w, openai.Updated{Success: true, Message: "Succeeded to update model weights."})
}

var invalidUpdate = openai.Invalid("model_path", `want a JSON object such as {"model_path": "/folder"}`)

// maxBody bounds what a request may bring, in bytes.
const maxBody = 64 << 20

func body(w http.ResponseWriter, r *http.Request) ([]byte, *openai.Error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		e := openai.Invalid("", "the body has more than %d bytes", maxBody)
		e.Status = http.StatusRequestEntityTooLarge
		return nil, e
	}
	if err != nil {
		return nil, openai.Invalid("", "read the body: %v", err)
	}
	return raw, nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	write(w, v)
}

func refuse(w http.ResponseWriter, e *openai.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	write(w, openai.ErrorBody{Error: e})
}

// write sends JSON; a client that has gone is nobody's error.
func write(w io.Writer, v any) {
	_ = json.NewEncoder(w).Encode(v)
}
