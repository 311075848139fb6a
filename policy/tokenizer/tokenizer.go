package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Tokenizer is one tokenizer.json. It is immutable and safe for concurrent use.
type Tokenizer struct {
	added      added
	normalizer normalizers
	splitter   splitter // nil: a text is one piece
	model      *bpe
	before     []int32 // what the post-processor puts before a text
	after      []int32 // and behind it
	decoder    decoders
}

// File is tokenizer.json, its components as they stand there, which differ by
// type. Truncation and padding are what a caller asks of each call, in Python too,
// and [Parse] does not look at them.
type File struct {
	Version       string          `json:"version"`
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	AddedTokens   []AddedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// Parse reads a tokenizer.json. What it cannot follow to the letter is an error
// that names the field.
func Parse(data []byte) (*Tokenizer, error) {
	var f File
	if err := strict(data, &f); err != nil {
		return nil, fmt.Errorf("not a tokenizer.json that is supported: %w", err)
	}
	t := &Tokenizer{}
	var err error
	if t.model, err = parseModel(f.Model); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if t.normalizer, err = parseNormalizer(f.Normalizer); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	if t.splitter, err = parseSplitter(f.PreTokenizer); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	if t.decoder, err = parseDecoder(f.Decoder); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	if t.added, err = newAdded(f.AddedTokens, t.model, t.normalizer); err != nil {
		return nil, fmt.Errorf("added_tokens: %w", err)
	}
	if t.before, t.after, err = t.parsePostProcessor(f.PostProcessor); err != nil {
		return nil, fmt.Errorf("post_processor: %w", err)
	}
	return t, nil
}

// Size is the greatest id and one.
func (t *Tokenizer) Size() int { return max(len(t.model.tokens), t.added.size) }

// ID is the id of a token, added or of the model.
func (t *Tokenizer) ID(token string) (id int32, ok bool) {
	if id, ok = t.added.ids[token]; !ok {
		id, ok = t.model.vocab[token]
	}
	return id, ok
}

// Token is the text of an id as the file spells it: "Ġa" for " a" of a byte-level
// tokenizer. It is false for an id that the file does not have.
func (t *Tokenizer) Token(id int32) (token string, ok bool) {
	if a, ok := t.added.byID[id]; ok {
		return a.Content, true
	}
	if id < 0 || int(id) >= len(t.model.tokens) || !t.model.present[id] {
		return "", false
	}
	return t.model.tokens[id], true
}

// Encode is the ids of a text. With special they stand between what the
// post-processor puts around a text, such as <s>; without, as one encodes a
// text that a chat template has made. Text that spells an added token is that
// token. Text that is not UTF-8 is an error that names the byte.
func (t *Tokenizer) Encode(text string, special bool) ([]int32, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("byte %d is not valid UTF-8", validPrefix(text))
	}
	ids := make([]int32, 0, len(text)/3+len(t.before)+len(t.after))
	if special {
		ids = append(ids, t.before...)
	}
	e := encoder{bpe: t.model}
	word := func(piece string, _ bool) {
		if piece != "" {
			ids = e.encode(ids, piece)
		}
	}
	// Tokens that stand for themselves are taken from the text as it is, then it is
	// normalized, then the tokens that are looked for after that are taken.
	at := 0
	t.added.raw.split(text, func(piece string, id int32) {
		first := at == 0
		at += len(piece)
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		t.added.normalized.split(t.normalizer.apply(piece), func(piece string, id int32) {
			switch {
			case id >= 0:
				ids = append(ids, id)
			case t.splitter == nil:
				word(piece, first)
			default:
				t.splitter.split(piece, first, word)
			}
			first = false
		})
	})
	if special {
		ids = append(ids, t.after...)
	}
	return ids, nil
}

// validPrefix is where the first byte that is not UTF-8 stands.
func validPrefix(text string) int {
	for at, r := range text {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[at:]); n == 1 {
				return at
			}
		}
	}
	return len(text)
}

// Decode is the text of ids. Ids that the file does not have are left out, and
// with skipSpecial its special tokens. Bytes that are no UTF-8, as when a
// character is cut in the middle, become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if token, ok := t.Token(id); ok && !(skipSpecial && t.added.byID[id].Special) {
			tokens = append(tokens, token)
		}
	}
	return t.decoder.join(tokens)
}

// parsePostProcessor reads what is put around a text.
func (t *Tokenizer) parsePostProcessor(raw json.RawMessage) (before, after []int32, err error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case "", "ByteLevel": // the latter moves offsets, which are not computed here
		return nil, nil, nil
	case "Sequence":
		var s struct {
			Type       string            `json:"type"`
			Processors []json.RawMessage `json:"processors"`
		}
		if err := strict(raw, &s); err != nil {
			return nil, nil, err
		}
		for _, p := range s.Processors {
			b, a, err := t.parsePostProcessor(p)
			if err != nil {
				return nil, nil, err
			}
			before, after = append(b, before...), append(after, a...)
		}
		return before, after, nil
	case "TemplateProcessing":
		return t.parseTemplate(raw)
	}
	return nil, nil, fmt.Errorf("type %q is not supported, want ByteLevel, TemplateProcessing or Sequence", kind)
}

func (t *Tokenizer) parseTemplate(raw json.RawMessage) (before, after []int32, err error) {
	type named struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
	type piece struct {
		SpecialToken *named `json:"SpecialToken"`
		Sequence     *named `json:"Sequence"`
	}
	var p struct {
		Type          string  `json:"type"`
		Single        []piece `json:"single"`
		Pair          []piece `json:"pair"` // two texts at once are never encoded here
		SpecialTokens map[string]struct {
			ID     string   `json:"id"`
			IDs    []int32  `json:"ids"`
			Tokens []string `json:"tokens"`
		} `json:"special_tokens"`
	}
	if err := strict(raw, &p); err != nil {
		return nil, nil, err
	}
	seen := false
	for _, part := range p.Single {
		switch {
		case part.Sequence != nil && !seen:
			seen = true
		case part.SpecialToken != nil:
			special, ok := p.SpecialTokens[part.SpecialToken.ID]
			if !ok {
				return nil, nil, fmt.Errorf("single: token %q is not in special_tokens", part.SpecialToken.ID)
			}
			if seen {
				after = append(after, special.IDs...)
			} else {
				before = append(before, special.IDs...)
			}
		default:
			return nil, nil, fmt.Errorf("single: want special tokens and one sequence")
		}
	}
	if !seen {
		return nil, nil, fmt.Errorf("single: no sequence")
	}
	for _, id := range append(before[:len(before):len(before)], after...) {
		if _, ok := t.Token(id); !ok {
			return nil, nil, fmt.Errorf("special_tokens: id %d is no token's", id)
		}
	}
	return before, after, nil
}

// strict decodes JSON and refuses fields that v does not have.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("text after the JSON value")
	}
	return nil
}

// kindOf is the type of a component; empty for null.
func kindOf(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var c struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", err
	}
	if c.Type == "" {
		return "", fmt.Errorf("no type")
	}
	return c.Type, nil
}
