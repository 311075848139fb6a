package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy/chat"
	"github.com/gradus-rl/gradus/policy/tokenizer"
)

// The special tokens. They are no characters: text never encodes to <pad> or
// <eos>, and no special token shows in decoded text.
const (
	PadToken = "<pad>"
	EOSToken = "<eos>"
	UnkToken = "<unk>"
)

// Tokenizer turns text into token ids and back: one token per character (Unicode
// code point), as a policy made from scratch has it, or by the tokenizer.json
// that came with a checkpoint. It is immutable and safe for concurrent use.
type Tokenizer struct {
	tokens     []string // by id; of a tokenizer of characters, as are the next
	characters map[rune]int32
	unk        int32 // −1: absent
	pad, eos   int32
	bpe        *tokenizer.Tokenizer // nil: characters
	file       []byte               // tokenizer.json as it came
	config     []byte               // tokenizer_config.json as it came; nil: none
	template   []byte               // chat_template.jinja as it came; nil: none
	chat       *chat.Template       // nil: none
	special    map[string]any       // special tokens that the template may ask for
}

// NewCharTokenizer makes the tokenizer of the characters of alphabet, whose
// order and repetitions do not matter. Ids are 0 <pad>, 1 <eos>, 2 <unk>, then
// the characters by code point.
func NewCharTokenizer(alphabet string) (*Tokenizer, error) {
	if !utf8.ValidString(alphabet) {
		return nil, fmt.Errorf("tokenizer: alphabet is not valid UTF-8")
	}
	runes := []rune(alphabet)
	slices.Sort(runes)
	tokens := []string{PadToken, EOSToken, UnkToken}
	for _, r := range slices.Compact(runes) {
		tokens = append(tokens, string(r))
	}
	if len(tokens) == 3 {
		return nil, fmt.Errorf("tokenizer: alphabet is empty, want at least one character")
	}
	return newTokenizer(tokens)
}

// newTokenizer indexes tokens by id: the special ones and single characters.
func newTokenizer(tokens []string) (*Tokenizer, error) {
	t := &Tokenizer{tokens: tokens, characters: make(map[rune]int32, len(tokens)), pad: -1, eos: -1, unk: -1}
	for i, token := range tokens {
		id := int32(i)
		switch r, n := utf8.DecodeRuneInString(token); {
		case token == PadToken:
			t.pad = id
		case token == EOSToken:
			t.eos = id
		case token == UnkToken:
			t.unk = id
		case n != len(token) || n == 0:
			return nil, fmt.Errorf("tokenizer: model.vocab: token %q is not a single character, and such tokens are not supported yet", token)
		default:
			t.characters[r] = id
		}
	}
	switch {
	case t.eos < 0:
		return nil, fmt.Errorf("tokenizer: no end token: model.vocab and added_tokens want %q", EOSToken)
	case t.pad < 0:
		t.pad = t.eos
	}
	return t, nil
}

// EOS is the end token, which closes every completion that was not cut off.
func (t *Tokenizer) EOS() int32 { return t.eos }

// Pad is the token that fills rows up to a common length; the end token if the
// tokenizer has no own.
func (t *Tokenizer) Pad() int32 { return t.pad }

// Size is the number of tokens, the special ones included.
func (t *Tokenizer) Size() int {
	if t.bpe != nil {
		return t.bpe.Size()
	}
	return len(t.tokens)
}

// Encode is the ids of text to go on from, without an end token: those of a
// checkpoint's tokenizer after what it puts before every text, such as Llama's
// <|begin_of_text|>, in which text that spells an added token is that token; else
// those of the characters. A character outside the alphabet becomes <unk>; it is
// an error, naming the character and its position, if the tokenizer has none. Text
// that spells a special token of a tokenizer of characters is text. (The Python
// library reads it as the token unless encode_special_tokens is set; anything else
// it encodes alike.)
func (t *Tokenizer) Encode(text string) ([]int32, error) { return t.encode(text, true) }

// EncodeMore is Encode of a text that goes on where another ends.
func (t *Tokenizer) EncodeMore(text string) ([]int32, error) { return t.encode(text, false) }

func (t *Tokenizer) encode(text string, special bool) ([]int32, error) {
	if t.bpe != nil {
		ids, err := t.bpe.Encode(text, special)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: encode: %w", err)
		}
		return ids, nil
	}
	ids := make([]int32, 0, len(text))
	for at, r := range text {
		id, ok := t.characters[r]
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[at:]); n == 1 {
				return nil, fmt.Errorf("tokenizer: encode: byte %d is not valid UTF-8", at)
			}
		}
		if !ok {
			if t.unk < 0 {
				return nil, fmt.Errorf("tokenizer: encode: character %d, %q, is not in the alphabet", len(ids), r)
			}
			id = t.unk
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Decode is the text of ids. Special tokens are left out, as are ids beyond the
// vocabulary, which a model with more rows than tokens can sample.
func (t *Tokenizer) Decode(ids []int32) string {
	if t.bpe != nil {
		return t.bpe.Decode(ids, true)
	}
	var b strings.Builder
	for _, id := range ids {
		if id >= 0 && int(id) < len(t.tokens) && id != t.pad && id != t.eos && id != t.unk {
			b.WriteString(t.tokens[id])
		}
	}
	return b.String()
}

// The parts of tokenizer.json that split text into characters and join tokens
// without spaces. [\s\S] is any character, line ends included.
const (
	characterSplit = `{"type":"Split","pattern":{"Regex":"[\\s\\S]"},"behavior":"Isolated","invert":false}`
	fuseDecoder    = `{"type":"Fuse"}`
)

// JSON is the tokenizer as a tokenizer.json: the file that it was read from, or a
// WordLevel model whose words are single characters. Equal tokenizers give equal
// bytes.
func (t *Tokenizer) JSON() []byte {
	if t.bpe != nil {
		return t.file
	}
	// Written by hand, since the vocabulary reads best in order of ids.
	model := []byte(`{"type":"WordLevel","vocab":{`)
	for id, token := range t.tokens {
		if id > 0 {
			model = append(model, ',')
		}
		model = append(appendJSON(model, token), ':')
		model = appendJSON(model, id)
	}
	model = append(appendJSON(append(model, `},"unk_token":`...), UnkToken), '}')

	null := json.RawMessage("null")
	file := tokenizer.File{
		Version: "1.0", Truncation: null, Padding: null, AddedTokens: []tokenizer.AddedToken{},
		Normalizer: null, PreTokenizer: json.RawMessage(characterSplit), PostProcessor: null,
		Decoder: json.RawMessage(fuseDecoder), Model: model,
	}
	for id, token := range t.tokens {
		if token == PadToken || token == EOSToken || token == UnkToken {
			file.AddedTokens = append(file.AddedTokens, tokenizer.AddedToken{ID: int32(id), Content: token, Special: true})
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(file); err != nil {
		panic(err) // strings and integers always encode
	}
	return b.Bytes()
}

// readTokenizer reads the tokenizer of a checkpoint: tokenizer.json, and if it is
// none of characters tokenizer_config.json and chat_template.jinja, where they
// are. End and padding token are those of the former, else of c, which gets the
// end token added where it lacks it.
func readTokenizer(open open, c *Config) (*Tokenizer, error) {
	data, err := open.all(TokenizerFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", TokenizerFile, err)
	}
	var file struct {
		Model struct {
			Type string `json:"type"`
		} `json:"model"`
	}
	if json.Unmarshal(data, &file) == nil && file.Model.Type == "WordLevel" {
		t, err := ReadTokenizer(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", TokenizerFile, err)
		}
		return t, nil
	}
	t := &Tokenizer{unk: -1, pad: -1, eos: -1, file: data}
	if t.bpe, err = tokenizer.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", TokenizerFile, err)
	}
	if t.template, err = open.all(ChatTemplateFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", ChatTemplateFile, err)
	}
	inConfig := chatTemplate("")
	if t.config, err = open.all(TokenizerConfigFile); err == nil {
		inConfig, err = t.configure()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", TokenizerConfigFile, err)
	}
	if source := cmp.Or(string(t.template), string(inConfig)); source != "" {
		if t.chat, err = chat.Parse(source); err != nil {
			return nil, err
		}
	}
	switch {
	case t.eos < 0 && len(c.EOSTokenID) > 0:
		t.eos = c.EOSTokenID[0]
	case t.eos < 0:
		return nil, fmt.Errorf("no end token: want eos_token in %s, or eos_token_id in %s", TokenizerConfigFile, ConfigFile)
	case !slices.Contains(c.EOSTokenID, t.eos):
		c.EOSTokenID = append(slices.Clip(c.EOSTokenID), t.eos)
	}
	if t.pad < 0 && c.PadTokenID != nil {
		t.pad = *c.PadTokenID
	}
	if t.pad < 0 {
		t.pad = t.eos
	}
	return t, nil
}

// configure takes the special tokens of tokenizer_config.json and returns its
// chat template.
func (t *Tokenizer) configure() (chatTemplate, error) {
	var file struct {
		BOS          specialToken `json:"bos_token"`
		EOS          specialToken `json:"eos_token"`
		Pad          specialToken `json:"pad_token"`
		ChatTemplate chatTemplate `json:"chat_template"`
	}
	if err := json.Unmarshal(t.config, &file); err != nil {
		return "", err
	}
	t.special = map[string]any{}
	for name, token := range map[string]specialToken{"bos_token": file.BOS, "eos_token": file.EOS, "pad_token": file.Pad} {
		if token != "" { // what a template asks for in vain is undefined there
			t.special[name] = string(token)
		}
	}
	for _, s := range []struct {
		field string
		token specialToken
		id    *int32
	}{{"eos_token", file.EOS, &t.eos}, {"pad_token", file.Pad, &t.pad}} {
		if s.token == "" {
			continue
		}
		id, ok := t.bpe.ID(string(s.token))
		if !ok {
			return "", fmt.Errorf("%s is %q, want a token of %s", s.field, s.token, TokenizerFile)
		}
		*s.id = id
	}
	return file.ChatTemplate, nil
}

// specialToken is a token's text: a string, or the content of an object.
type specialToken string

// UnmarshalJSON reads either spelling, and null.
func (s *specialToken) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*string)(s)) == nil {
		return nil
	}
	var object struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(data, &object)
	*s = specialToken(object.Content)
	return err
}

// ReadTokenizer reads a tokenizer.json that splits text into characters, as
// JSON writes it for such a tokenizer. Anything else, such as a normalizer or a
// model with merges, is an error that names the field, as is the lack of an end
// token.
func ReadTokenizer(data []byte) (*Tokenizer, error) {
	fail := func(format string, args ...any) (*Tokenizer, error) {
		return nil, fmt.Errorf("tokenizer: "+format, args...)
	}
	var file tokenizer.File
	if err := datasets.DecodeStrict(data, &file); err != nil {
		return fail("not a tokenizer.json this package supports: %w", err)
	}
	var kind struct{ Type string }
	if err := json.Unmarshal(file.Model, &kind); err != nil {
		return fail("model: want an object: %w", err)
	}
	if kind.Type != "WordLevel" {
		return fail("model.type is %q, want %q over single characters", kind.Type, "WordLevel")
	}
	var model struct {
		Type     string           `json:"type"`
		Vocab    map[string]int32 `json:"vocab"`
		UnkToken string           `json:"unk_token"`
	}
	if err := datasets.DecodeStrict(file.Model, &model); err != nil {
		return fail("model: %w", err)
	}
	if model.UnkToken != UnkToken {
		return fail("model.unk_token is %q, want %q", model.UnkToken, UnkToken)
	}
	for _, part := range []struct {
		field     string
		got, want json.RawMessage
	}{
		{"truncation", file.Truncation, nil},
		{"padding", file.Padding, nil},
		{"normalizer", file.Normalizer, nil},
		{"post_processor", file.PostProcessor, nil},
		{"pre_tokenizer", file.PreTokenizer, json.RawMessage(characterSplit)},
		{"decoder", file.Decoder, json.RawMessage(fuseDecoder)},
	} {
		if got, want := canonical(part.got), canonical(part.want); got != want {
			return fail("%s is %s, which is not supported yet, want %s", part.field, got, want)
		}
	}

	tokens := make([]string, len(model.Vocab))
	taken := make([]bool, len(tokens))
	for token, id := range model.Vocab {
		if id < 0 || int(id) >= len(tokens) || taken[id] {
			return fail("model.vocab: %d tokens want the ids 0 to %d, each once", len(tokens), len(tokens)-1)
		}
		tokens[id], taken[id] = token, true
	}
	special := map[string]bool{}
	for _, a := range file.AddedTokens {
		switch {
		case a.Content != PadToken && a.Content != EOSToken && a.Content != UnkToken:
			return fail("added_tokens: token %q is not supported yet, want %q, %q and %q only", a.Content, PadToken, EOSToken, UnkToken)
		case special[a.Content]:
			return fail("added_tokens: token %q is listed twice", a.Content)
		case a.ID < 0 || int(a.ID) >= len(tokens) || tokens[a.ID] != a.Content:
			return fail("added_tokens: token %q has id %d, want its id in model.vocab", a.Content, a.ID)
		case a.SingleWord || a.LStrip || a.RStrip || a.Normalized || !a.Special:
			return fail("added_tokens: token %q: want special true, and single_word, lstrip, rstrip and normalized false", a.Content)
		}
		special[a.Content] = true
	}
	for _, token := range []string{PadToken, EOSToken, UnkToken} {
		if _, ok := model.Vocab[token]; ok && !special[token] {
			return fail("added_tokens: token %q of model.vocab is missing", token)
		}
	}
	return newTokenizer(tokens)
}

// canonical is JSON with sorted keys and no spaces, for comparing; absent is null.
func canonical(raw json.RawMessage) string {
	var v any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			return string(raw)
		}
	}
	return string(appendJSON(nil, v))
}
