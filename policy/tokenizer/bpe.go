package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// bpe is byte-pair encoding (arXiv:1508.07909): a word's characters are joined
// pair by pair, always by the merge of least rank, and of equal ones the
// leftmost.
type bpe struct {
	vocab   map[string]int32
	tokens  []string // by id
	present []bool   // by id

	ranks   map[uint64]int32  // by pair of ids
	results []int32           // by rank: what the pair becomes
	seams   map[[2]rune]bool  // the characters on both sides of every merge
	small   [smallRunes]int32 // ids of the first characters; −1: none
	bytes   *[256]int32       // tokens <0x00> to <0xFF>, for characters without a token; nil: none
	unknown int32             // for characters without a token; −1: they are left out
	fuse    bool              // one unknown token for a run of them
	whole   bool              // a word that is a token is not looked into
}

const smallRunes = 0x200

// maxTokens bounds ids, so that a pair of them fits a word and a file cannot ask
// for endless memory.
const maxTokens = 1 << 24

// merges is pairs of tokens, each written "a b" or ["a", "b"].
type merges [][2]string

// UnmarshalJSON reads either spelling.
func (m *merges) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*[][2]string)(m)) == nil {
		return nil
	}
	var lines []string
	if err := json.Unmarshal(data, &lines); err != nil {
		return err
	}
	*m = make(merges, len(lines))
	for i, line := range lines {
		a, b, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(b, " ") {
			return fmt.Errorf("merges: %q, want two tokens", line)
		}
		(*m)[i] = [2]string{a, b}
	}
	return nil
}

func parseModel(raw json.RawMessage) (*bpe, error) {
	kind := struct {
		Type string `json:"type"`
	}{Type: "BPE"} // older files do not say
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	if kind.Type != "BPE" {
		return nil, fmt.Errorf("type %q is not supported, want BPE", kind.Type)
	}
	var m struct {
		Type                    string           `json:"type"`
		Dropout                 float64          `json:"dropout"`
		UnkToken                *string          `json:"unk_token"`
		ContinuingSubwordPrefix string           `json:"continuing_subword_prefix"`
		EndOfWordSuffix         string           `json:"end_of_word_suffix"`
		FuseUnk                 bool             `json:"fuse_unk"`
		ByteFallback            bool             `json:"byte_fallback"`
		IgnoreMerges            bool             `json:"ignore_merges"`
		Vocab                   map[string]int32 `json:"vocab"`
		Merges                  merges           `json:"merges"`
	}
	if err := strict(raw, &m); err != nil {
		return nil, err
	}
	switch {
	case m.Dropout != 0:
		return nil, fmt.Errorf("dropout is %v, want 0", m.Dropout)
	case m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("continuing_subword_prefix is %q, want none", m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("end_of_word_suffix is %q, want none", m.EndOfWordSuffix)
	case len(m.Vocab) == 0:
		return nil, fmt.Errorf("vocab is empty")
	}
	b := &bpe{vocab: m.Vocab, unknown: -1, fuse: m.FuseUnk, whole: m.IgnoreMerges}
	if err := b.index(); err != nil {
		return nil, fmt.Errorf("vocab: %w", err)
	}
	if err := b.addMerges(m.Merges); err != nil {
		return nil, fmt.Errorf("merges: %w", err)
	}
	if m.UnkToken != nil {
		id, ok := m.Vocab[*m.UnkToken]
		if !ok {
			return nil, fmt.Errorf("unk_token %q is not in vocab", *m.UnkToken)
		}
		b.unknown = id
	}
	if m.ByteFallback {
		b.bytes = new([256]int32)
		for i := range b.bytes {
			id, ok := m.Vocab[byteToken(byte(i))]
			if !ok {
				return nil, fmt.Errorf("byte_fallback: %s is not in vocab", byteToken(byte(i)))
			}
			b.bytes[i] = id
		}
	}
	return b, nil
}

// byteToken is how byte fallback spells a byte.
func byteToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// index orders the vocabulary by id.
func (b *bpe) index() error {
	greatest := int32(0)
	for token, id := range b.vocab {
		if id < 0 || id >= maxTokens {
			return fmt.Errorf("token %q has id %d, want 0 to %d", token, id, maxTokens-1)
		}
		greatest = max(greatest, id)
	}
	b.tokens, b.present = make([]string, greatest+1), make([]bool, greatest+1)
	for i := range b.small {
		b.small[i] = -1
	}
	for token, id := range b.vocab {
		if b.present[id] {
			return fmt.Errorf("id %d is given twice", id)
		}
		b.tokens[id], b.present[id] = token, true
		if r, n := utf8.DecodeRuneInString(token); n == len(token) && n > 0 && r < smallRunes {
			b.small[r] = id
		}
	}
	return nil
}

func (b *bpe) addMerges(all merges) error {
	b.ranks, b.results = make(map[uint64]int32, len(all)), make([]int32, len(all))
	b.seams = map[[2]rune]bool{}
	for rank, m := range all {
		left, ok1 := b.vocab[m[0]]
		right, ok2 := b.vocab[m[1]]
		result, ok3 := b.vocab[m[0]+m[1]]
		if !ok1 || !ok2 || !ok3 {
			return fmt.Errorf("%q and %q, or what they make, is not in vocab", m[0], m[1])
		}
		b.ranks[pair(left, right)], b.results[rank] = int32(rank), result
		last, _ := utf8.DecodeLastRuneInString(m[0])
		first, _ := utf8.DecodeRuneInString(m[1])
		b.seams[[2]rune{last, first}] = true
	}
	return nil
}

func pair(left, right int32) uint64 { return uint64(left)<<32 | uint64(right) }

// character is the id of a character; −1: it has none.
func (b *bpe) character(r rune, text string) int32 {
	if r < smallRunes {
		return b.small[r]
	}
	if id, ok := b.vocab[text]; ok {
		return id
	}
	return -1
}

// symbol is a part of a word while its parts are joined.
type symbol struct {
	id         int32 // −1: it has been joined to the one before it
	rank       int32 // of the merge with the next; noMerge: there is none
	prev, next int32 // −1: none
}

const noMerge = math.MaxInt32

// encoder holds the memory of one call.
type encoder struct {
	*bpe
	symbols []symbol
	heap    []uint64 // rank and place of merges that may be done
}

// encode appends the ids of a word.
func (e *encoder) encode(ids []int32, word string) []int32 {
	if e.whole {
		if id, ok := e.vocab[word]; ok {
			return append(ids, id)
		}
	}
	// No merge crosses two characters that are the seam of none, so what lies on
	// both sides is joined for itself. That cuts texts of SentencePiece, which are
	// one word, into short ones.
	e.symbols = e.symbols[:0]
	previous, known := rune(-1), false
	unknown := false // the last symbol is an unknown character
	for i := 0; i < len(word); {
		r, n := utf8.DecodeRuneInString(word[i:])
		text := word[i : i+n]
		i += n
		id := e.character(r, text)
		if known && id >= 0 && !e.seams[[2]rune{previous, r}] {
			ids = e.join(ids)
		}
		previous, known = r, id >= 0
		switch {
		case id >= 0:
			e.add(id)
		case e.bytes != nil:
			for _, b := range []byte(text) {
				e.add(e.bytes[b])
			}
		case e.unknown >= 0 && !(e.fuse && unknown):
			e.add(e.unknown)
		}
		unknown = id < 0
	}
	return e.join(ids)
}

func (e *encoder) add(id int32) {
	n := int32(len(e.symbols))
	if n > 0 {
		e.symbols[n-1].next = n
	}
	e.symbols = append(e.symbols, symbol{id, noMerge, n - 1, -1})
}

// rate looks up the merge of a symbol with the next one.
func (e *encoder) rate(at int32) {
	s := &e.symbols[at]
	s.rank = noMerge
	if s.next < 0 {
		return
	}
	if rank, ok := e.ranks[pair(s.id, e.symbols[s.next].id)]; ok {
		s.rank = rank
		e.push(uint64(rank)<<32 | uint64(at))
	}
}

// join merges the symbols as far as they go, appends their ids and forgets them.
func (e *encoder) join(ids []int32) []int32 {
	if len(e.symbols) > 1 {
		for i := range e.symbols {
			e.rate(int32(i))
		}
	}
	for len(e.heap) > 0 {
		top := e.pop()
		at := int32(top & math.MaxUint32)
		s := &e.symbols[at]
		if s.id < 0 || uint64(s.rank) != top>>32 {
			continue // one of the two has been joined elsewhere
		}
		gone := &e.symbols[s.next]
		s.id, s.next = e.results[s.rank], gone.next
		gone.id = -1
		if s.next >= 0 {
			e.symbols[s.next].prev = at
		}
		e.rate(at)
		if s.prev >= 0 {
			e.rate(s.prev)
		}
	}
	for _, s := range e.symbols {
		if s.id >= 0 {
			ids = append(ids, s.id)
		}
	}
	e.symbols = e.symbols[:0]
	return ids
}

// push and pop keep a binary heap with the least value on top. The one of the
// standard library boxes every value.
func (e *encoder) push(x uint64) {
	h := append(e.heap, x)
	i := len(h) - 1
	for i > 0 && h[(i-1)/2] > x {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = x
	e.heap = h
}

func (e *encoder) pop() uint64 {
	h := e.heap
	top, x := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[child] >= x {
			break
		}
		h[i] = h[child]
		i = child
	}
	if len(h) > 0 {
		h[i] = x
	}
	e.heap = h
	return top
}
