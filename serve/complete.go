package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
)

// Bounds of a request.
const (
	maxChoices      = 1024 // completions of one request
	maxAlternatives = 20
	maxStops        = 16
	defaultTokens   = 16 // max_tokens of completions, as OpenAI and vLLM have it
)

// work is a request, read and checked.
type work struct {
	request *openai.Request
	chat    bool
	server  *Server
	model   *model
	logprob bool
	rows    []*row // n for each prompt, in order
	n       int
	reply   openai.Response // what every answer or chunk has
}

// complete answers completions and chat completions.
func (s *Server) complete(w http.ResponseWriter, r *http.Request, chat bool) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	raw, bad := body(w, r)
	var q *openai.Request
	if bad == nil {
		q, bad = openai.ParseRequest(raw)
	}
	var k *work
	if bad == nil {
		k, bad = s.work(ctx, q, chat)
	}
	if bad != nil {
		refuse(w, bad)
		return
	}
	s.batcher.add(k.rows...)
	select {
	case <-s.done: // nobody would take them
		for _, r := range s.batcher.drain() {
			r.end("", errClosed)
		}
	default:
	}
	if q.Stream {
		k.stream(w)
	} else {
		k.whole(w)
	}
}

// work checks a request and makes its rows.
func (s *Server) work(ctx context.Context, q *openai.Request, chat bool) (*work, *openai.Error) {
	k := &work{request: q, chat: chat, server: s, model: s.current(), n: 1}
	if q.Model != "" && q.Model != s.options.Name {
		return nil, s.unknown(q.Model)
	}
	prompts, bad := k.prompts()
	if bad != nil {
		return nil, bad
	}
	if q.N != nil {
		k.n = *q.N
	}
	if k.n < 1 || k.n*len(prompts) > maxChoices {
		return nil, openai.Invalid("n", "n is %d for %d prompts; want from 1, and at most %d completions in all", k.n, len(prompts), maxChoices)
	}
	if len(q.Stop) > maxStops || len(q.Stop) > 0 && strings.Contains("\x00"+strings.Join(q.Stop, "\x00")+"\x00", "\x00\x00") {
		return nil, openai.Invalid("stop", "want at most %d texts, none of them empty", maxStops)
	}
	top, bad := k.alternatives()
	if bad != nil {
		return nil, bad
	}
	sampling := policy.Sampling{Temperature: value(q.Temperature, 1), TopP: value(q.TopP, 1), TopK: max(0, value(q.TopK, 0))}
	seed := randv2.Int64()
	if q.Seed != nil {
		seed = *q.Seed
	}
	if limit := cmp.Or(q.MaxAlias, q.MaxTokens); limit != nil && *limit < 1 {
		return nil, openai.Invalid("max_tokens", "max_tokens is %d; want at least 1", *limit)
	}
	for i, p := range prompts {
		sampling.MaxCompletionLength = k.room(len(p))
		if err := sampling.Validate(); err != nil {
			return nil, openai.Invalid("", "%v", err)
		}
		if err := k.model.state.Config.Check(p, sampling.MaxCompletionLength); err != nil {
			e := openai.Invalid(k.promptName(), "%v", err)
			code := "context_length_exceeded"
			e.Code = &code
			return nil, e
		}
		for j := range k.n {
			k.rows = append(k.rows, &row{
				ctx: ctx, prompt: p, stream: stream(seed, i, j), sampling: sampling, stops: q.Stop, top: top, model: k.model,
				tokens: make(chan token, sampling.MaxCompletionLength),
			})
		}
	}
	k.reply = openai.Response{ID: "cmpl-" + rand.Text(), Object: "text_completion", Created: time.Now().Unix(), Model: s.options.Name, Choices: []openai.Choice{}}
	if chat {
		k.reply.ID, k.reply.Object = "chat"+k.reply.ID, "chat.completion"
	}
	return k, nil
}

// stream is the key of a choice's randomness: of a request's first one the seed
// itself, so that a client can ask for a row that it knows the key of.
func stream(seed int64, prompt, choice int) uint64 {
	if prompt == 0 && choice == 0 {
		return uint64(seed)
	}
	return datasets.Stream(uint64(seed), prompt, choice)
}

// value is what p points to, or the default.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func (k *work) promptName() string {
	if k.chat {
		return "messages"
	}
	return "prompt"
}

// prompts are the prompts as token ids.
func (k *work) prompts() ([][]int32, *openai.Error) {
	q := k.request
	var texts []string
	switch {
	case k.chat:
		ids, bad := k.conversation()
		return [][]int32{ids}, bad
	case q.ContinueFinalMessage:
		return nil, openai.Invalid("continue_final_message", "continue_final_message is for chats; a completion goes on with its prompt as it is")
	case q.ChatTemplateKwargs != nil:
		return nil, openai.Invalid("chat_template_kwargs", "chat_template_kwargs is for chats; completions have no template")
	case q.Prompt == nil || q.Messages != nil:
		return nil, openai.Invalid("prompt", "want a prompt, and no messages")
	case q.Prompt.IDs != nil:
		return q.Prompt.IDs, nil
	default:
		texts = q.Prompt.Texts
	}
	ids := make([][]int32, len(texts))
	for i, text := range texts {
		var err error
		if ids[i], err = k.model.state.Tokenizer.Encode(text); err != nil {
			return nil, openai.Invalid("prompt", "%v", err)
		}
	}
	return ids, nil
}

// room is how many tokens a completion may have behind a prompt.
func (k *work) room(prompt int) int {
	if limit := cmp.Or(k.request.MaxAlias, k.request.MaxTokens); limit != nil {
		return *limit
	}
	if k.chat {
		return max(1, k.model.state.Config.MaxPositionEmbeddings-prompt)
	}
	return defaultTokens
}

// alternatives is how many are wanted per token, and notes whether
// log-probabilities are wanted at all.
func (k *work) alternatives() (int, *openai.Error) {
	q, top, name := k.request, 0, "logprobs"
	k.logprob = q.Logprobs != nil && *q.Logprobs != -1
	if k.logprob {
		top = max(0, int(*q.Logprobs))
	}
	if k.chat {
		name = "top_logprobs"
		if top = q.TopLogprobs; top > 0 && !k.logprob {
			return 0, openai.Invalid(name, "top_logprobs needs logprobs to be true")
		}
	} else if q.TopLogprobs != 0 {
		return 0, openai.Invalid("top_logprobs", "top_logprobs is for chats; completions have logprobs")
	}
	if top < 0 || top > maxAlternatives {
		return 0, openai.Invalid(name, "%s is %d; want 0 to %d", name, top, maxAlternatives)
	}
	return top, nil
}

// failure is a row's error as the protocol has it.
func failure(err error) *openai.Error {
	e := &openai.Error{Status: http.StatusInternalServerError, Type: "server_error", Message: err.Error()}
	if errors.Is(err, errClosed) || errors.Is(err, context.Canceled) {
		e.Status, e.Message = http.StatusServiceUnavailable, errClosed.Error()
	}
	return e
}

// writer follows a row: what of its text may be told already, and the offsets of
// its tokens.
type writer struct {
	*row
	seen   []int32
	told   string // text told so far
	offset int    // characters decoded so far
}

// add takes a token, and with last or not what is known of the end. It returns
// the text that has become certain: no half character, nothing that may yet turn
// out to be the begin of a stop text.
func (w *writer) add(t *token, last bool) string {
	if t != nil {
		w.seen = append(w.seen, t.id)
	}
	text := w.model.state.Tokenizer.Decode(w.seen)
	if i := cut(text, w.stops); i >= 0 {
		text = text[:i]
	} else if !last {
		for len(text) > len(w.told) && strings.HasSuffix(text, string(utf8.RuneError)) {
			text = strings.TrimSuffix(text, string(utf8.RuneError))
		}
		hold := 0
		for _, s := range w.stops {
			for n := min(len(s)-1, len(text)); n > hold; n-- {
				if strings.HasSuffix(text, s[:n]) {
					hold = n
				}
			}
		}
		text = text[:len(text)-hold]
	}
	if len(text) <= len(w.told) {
		return ""
	}
	more := text[len(w.told):]
	w.told = text
	return more
}

// logprobs are the log-probabilities of tokens, nil where nobody asked.
func (k *work) logprobs(w *writer, tokens []token) *openai.Logprobs {
	if !k.logprob {
		return nil
	}
	decode := func(id int32) string {
		if k.request.TokensAsIDs {
			return fmt.Sprintf("token_id:%d", id)
		}
		return k.model.state.Tokenizer.Decode([]int32{id})
	}
	l := &openai.Logprobs{}
	for _, t := range tokens {
		text := decode(t.id)
		if k.chat {
			one := func(text string, logprob float32) openai.TokenLogprob {
				bytes := make([]int, len(text))
				for i := range len(text) {
					bytes[i] = int(text[i])
				}
				return openai.TokenLogprob{Token: text, Logprob: logprob, Bytes: bytes}
			}
			c := one(text, t.logprob)
			for _, a := range t.top {
				c.TopLogprobs = append(c.TopLogprobs, one(decode(a.id), a.logprob))
			}
			l.Content = append(l.Content, c)
			continue
		}
		l.Tokens, l.TokenLogprobs, l.TextOffset = append(l.Tokens, text), append(l.TokenLogprobs, t.logprob), append(l.TextOffset, w.offset)
		w.offset += utf8.RuneCountInString(k.model.state.Tokenizer.Decode([]int32{t.id}))
		if w.top > 0 {
			top := map[string]float32{text: t.logprob}
			for _, a := range t.top {
				top[decode(a.id)] = a.logprob
			}
			l.TopLogprobs = append(l.TopLogprobs, top)
		}
	}
	return l
}

// whole answers when all rows are done.
func (k *work) whole(w http.ResponseWriter) {
	usage := k.usage()
	for i, r := range k.rows {
		f := &writer{row: r}
		var all []token
		for t := range r.tokens {
			all = append(all, t)
		}
		if r.err != nil {
			refuse(w, failure(r.err))
			return
		}
		c := openai.Choice{Index: i, FinishReason: &r.reason, StopReason: r.met, Logprobs: k.logprobs(f, all)}
		for _, t := range all {
			f.seen = append(f.seen, t.id)
		}
		text := f.add(nil, true)
		if k.chat {
			c.Message = &openai.Message{Role: "assistant", Content: openai.Text{text}}
		} else {
			c.Text = &text
		}
		if k.request.ReturnTokenIDs {
			c.TokenIDs = f.seen
			if !k.chat {
				c.PromptTokenIDs = r.prompt
			}
		}
		usage.CompletionTokens += len(all)
		k.reply.Choices = append(k.reply.Choices, c)
		if v := k.reply.Metadata; v != nil && v.WeightVersion != r.version {
			// The rows of one request were drawn across an update: the answer has no one version.
			refuse(w, &openai.Error{Status: http.StatusServiceUnavailable, Type: "server_error", Message: "the weights were replaced while the request was answered; ask again"})
			return
		}
		k.reply.Metadata = &openai.Metadata{WeightVersion: r.version}
	}
	if k.request.ReturnTokenIDs && k.chat {
		k.reply.PromptTokenIDs = k.rows[0].prompt
	}
	usage.TotalTokens = usage.PromptTokens + usage.CompletionTokens
	k.reply.Usage = &usage
	answer(w, k.reply)
}

// usage counts the prompts.
func (k *work) usage() (u openai.Usage) {
	for i := 0; i < len(k.rows); i += k.n {
		u.PromptTokens += len(k.rows[i].prompt)
	}
	return u
}

// stream answers token by token, as server-sent events.
func (k *work) stream(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	usage := k.usage()
	if k.chat {
		k.reply.Object = "chat.completion.chunk"
	}
	send := func(v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			raw, _ = json.Marshal(openai.ErrorBody{Error: failure(err)}) // texts and integers
		}
		fmt.Fprintf(w, "data: %s\n\n", raw)
		_ = control.Flush() // the client may have gone
	}
	chunk := func(r *row, c openai.Choice) {
		k.reply.Choices, k.reply.Metadata = []openai.Choice{c}, &openai.Metadata{WeightVersion: r.version}
		send(k.reply)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	type event struct {
		index int
		token *token // nil: the row is over
	}
	// Rows are told of in the order of their tokens: one goroutine each hands them on.
	events := make(chan event)
	for i, r := range k.rows {
		go func() {
			for t := range r.tokens {
				events <- event{i, &t}
			}
			events <- event{i, nil}
		}()
	}
	writers := make([]*writer, len(k.rows))
	for left := len(k.rows); left > 0; {
		e := <-events
		r := k.rows[e.index]
		c := openai.Choice{Index: e.index}
		first := writers[e.index] == nil
		if first {
			writers[e.index] = &writer{row: r}
			if k.request.ReturnTokenIDs && !k.chat {
				c.PromptTokenIDs = r.prompt
			}
		}
		f := writers[e.index]
		text := f.add(e.token, e.token == nil)
		if e.token == nil {
			left--
			if r.err != nil {
				send(openai.ErrorBody{Error: failure(r.err)})
				continue
			}
			c.FinishReason, c.StopReason = &r.reason, r.met
		} else {
			usage.CompletionTokens++
			c.Logprobs = k.logprobs(f, []token{*e.token})
			if k.request.ReturnTokenIDs {
				c.TokenIDs = []int32{e.token.id}
			}
		}
		if k.chat {
			c.Delta = &openai.Delta{Content: text}
			if first {
				c.Delta.Role = "assistant"
			}
		} else {
			c.Text = &text
		}
		chunk(r, c)
	}
	if o := k.request.StreamOptions; o != nil && o.IncludeUsage {
		usage.TotalTokens = usage.PromptTokens + usage.CompletionTokens
		k.reply.Choices, k.reply.Usage = []openai.Choice{}, &usage
		send(k.reply)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
	_ = control.Flush()
}
