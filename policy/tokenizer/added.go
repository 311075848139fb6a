package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is taken from a text as a whole, before the model
// sees the rest.
type AddedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only where no word character touches it
	LStrip     bool   `json:"lstrip"`      // it takes the white space before it
	RStrip     bool   `json:"rstrip"`      // and after it
	Normalized bool   `json:"normalized"`  // it is looked for in the normalized text
	Special    bool   `json:"special"`     // it shows in no decoded text
}

// added is all added tokens.
type added struct {
	ids             map[string]int32
	byID            map[int32]AddedToken
	raw, normalized *matcher // those looked for before and after normalization
	size            int      // greatest id and one
}

func newAdded(tokens []AddedToken, model *bpe, n normalizers) (added, error) {
	a := added{ids: map[string]int32{}, byID: map[int32]AddedToken{}, raw: &matcher{}, normalized: &matcher{}}
	for _, t := range tokens {
		own, inModel := model.vocab[t.Content]
		switch {
		case t.Content == "":
			return a, fmt.Errorf("token %d is empty", t.ID)
		case t.ID < 0 || t.ID >= maxTokens:
			return a, fmt.Errorf("token %q has id %d, want 0 to %d", t.Content, t.ID, maxTokens-1)
		case inModel && own != t.ID:
			return a, fmt.Errorf("token %q has id %d, want %d as in model.vocab", t.Content, t.ID, own)
		case !inModel && int(t.ID) < len(model.tokens) && model.present[t.ID]:
			return a, fmt.Errorf("token %q has id %d, which is that of %q in model.vocab", t.Content, t.ID, model.tokens[t.ID])
		}
		if _, ok := a.ids[t.Content]; ok {
			return a, fmt.Errorf("token %q is listed twice", t.Content)
		}
		if o, ok := a.byID[t.ID]; ok {
			return a, fmt.Errorf("tokens %q and %q have the id %d", o.Content, t.Content, t.ID)
		}
		a.ids[t.Content], a.byID[t.ID] = t.ID, t
		a.size = max(a.size, int(t.ID)+1)
		if t.Normalized {
			a.normalized.add(n.apply(t.Content), t)
		} else {
			a.raw.add(t.Content, t)
		}
	}
	return a, nil
}

// matcher finds tokens in a text: the first, and of those that start there the
// longest.
type matcher struct {
	root  trie
	first [256]bool // bytes that a token starts with
}

type trie struct {
	next  map[byte]*trie
	token *AddedToken
}

func (m *matcher) add(content string, t AddedToken) {
	if content == "" {
		return
	}
	m.first[content[0]] = true
	at := &m.root
	for _, b := range []byte(content) {
		if at.next == nil {
			at.next = map[byte]*trie{}
		}
		if at.next[b] == nil {
			at.next[b] = &trie{}
		}
		at = at.next[b]
	}
	at.token = &t
}

// longest is the longest token at the start of a text, and its length.
func (m *matcher) longest(text string) (t *AddedToken, length int) {
	at := &m.root
	for i := range len(text) {
		if at = at.next[text[i]]; at == nil {
			break
		}
		if at.token != nil {
			t, length = at.token, i+1
		}
	}
	return t, length
}

// split calls emit with the tokens of a text, by id, and with what lies between
// them, with the id −1.
func (m *matcher) split(text string, emit func(piece string, id int32)) {
	if m.root.next == nil {
		if text != "" {
			emit(text, -1)
		}
		return
	}
	done := 0 // all before is emitted
	for at := 0; at < len(text); {
		if !m.first[text[at]] {
			at++
			continue
		}
		t, length := m.longest(text[at:])
		if t == nil {
			at++
			continue
		}
		begin, end := at, at+length
		at = end
		if t.SingleWord && (endsWithWord(text[:begin]) || startsWithWord(text[end:])) {
			continue
		}
		if t.LStrip {
			begin = len(strings.TrimRightFunc(text[:begin], unicode.IsSpace))
		}
		begin = max(begin, done)
		if t.RStrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if done < begin {
			emit(text[done:begin], -1)
		}
		emit(text[begin:end], t.ID)
		done = end
	}
	if done < len(text) {
		emit(text[done:], -1)
	}
}

// word is \w of regular expressions with Unicode: letters, marks, decimal
// digits, connecting punctuation, and the two joiners.
func word(r rune) bool {
	return unicode.IsLetter(r) || unicode.In(r, unicode.M, unicode.Nd, unicode.Pc, unicode.Other_Alphabetic, unicode.Nl, unicode.Join_Control)
}

func endsWithWord(text string) bool {
	r, n := utf8.DecodeLastRuneInString(text)
	return n > 0 && word(r)
}

func startsWithWord(text string) bool {
	r, n := utf8.DecodeRuneInString(text)
	return n > 0 && word(r)
}
