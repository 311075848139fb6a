package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// splitter cuts a text into the pieces that byte-pair encoding never joins.
// first says that a piece is the beginning of the whole text.
type splitter interface {
	split(text string, first bool, emit func(piece string, first bool))
}

func parseSplitter(raw json.RawMessage) (splitter, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "":
		return nil, nil
	case "Sequence":
		var s struct {
			Type          string            `json:"type"`
			Pretokenizers []json.RawMessage `json:"pretokenizers"`
		}
		if err := strict(raw, &s); err != nil {
			return nil, err
		}
		var all sequence
		for _, r := range s.Pretokenizers {
			one, err := parseSplitter(r)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, nil
	case "Split":
		return parseSplit(raw)
	case "ByteLevel":
		b := struct {
			Type           string `json:"type"`
			AddPrefixSpace bool   `json:"add_prefix_space"`
			TrimOffsets    bool   `json:"trim_offsets"` // of offsets, which are not computed here
			UseRegex       bool   `json:"use_regex"`
		}{UseRegex: true}
		if err := strict(raw, &b); err != nil {
			return nil, err
		}
		return byteLevel{prefixSpace: b.AddPrefixSpace, words: b.UseRegex}, nil
	case "Digits":
		var d struct {
			Type             string `json:"type"`
			IndividualDigits bool   `json:"individual_digits"`
		}
		if err := strict(raw, &d); err != nil {
			return nil, err
		}
		if d.IndividualDigits {
			return find{scanDigit, isolated}, nil
		}
		return find{scanDigits, isolated}, nil
	case "Metaspace":
		m, err := parseMetaspace(raw)
		return m, err
	}
	return nil, fmt.Errorf("type %q is not supported, want Split, ByteLevel, Digits, Metaspace or Sequence", kind)
}

// sequence is splitters one after the other.
type sequence []splitter

func (s sequence) split(text string, first bool, emit func(string, bool)) {
	if len(s) == 0 {
		emit(text, first)
		return
	}
	s[0].split(text, first, func(piece string, first bool) {
		if piece != "" {
			s[1:].split(piece, first, emit)
		}
	})
}

// find cuts at the matches of a pattern.
type find struct {
	// match calls emit with all of a text, in order: matches, and what is between.
	match func(text string, emit func(piece string, matched bool))
	behaviour
}

// behaviour is what becomes of a match.
type behaviour int

const (
	isolated     behaviour = iota // a piece of its own
	removed                       // nothing
	withPrevious                  // the end of the piece before it
	withNext                      // the start of the piece after it
)

func (f find) split(text string, first bool, emit func(string, bool)) {
	send := func(piece string) {
		if piece != "" {
			emit(piece, first)
		}
		first = false
	}
	switch f.behaviour {
	case isolated:
		f.match(text, func(piece string, _ bool) { send(piece) })
	case removed:
		f.match(text, func(piece string, matched bool) {
			if matched {
				first = false
			} else {
				send(piece)
			}
		})
	default:
		// A piece is held back until it is clear that nothing joins it.
		held, heldMatched := 0, false // length
		at := 0
		f.match(text, func(piece string, matched bool) {
			join := matched && !heldMatched
			if f.behaviour == withNext {
				join = heldMatched && !matched
			}
			if held > 0 && !join {
				send(text[at-held : at])
				held = 0
			}
			at, held, heldMatched = at+len(piece), held+len(piece), matched
		})
		send(text[at-held : at])
	}
}

func parseSplit(raw json.RawMessage) (splitter, error) {
	var s struct {
		Type     string  `json:"type"`
		Pattern  pattern `json:"pattern"`
		Behavior string  `json:"behavior"`
		Invert   bool    `json:"invert"`
	}
	if err := strict(raw, &s); err != nil {
		return nil, err
	}
	behaviours := map[string]behaviour{"Isolated": isolated, "Removed": removed, "MergedWithPrevious": withPrevious, "MergedWithNext": withNext}
	b, ok := behaviours[s.Behavior]
	if !ok {
		return nil, fmt.Errorf("of Split: behavior %q is not supported, want Isolated, Removed, MergedWithPrevious or MergedWithNext", s.Behavior)
	}
	var match func(string, func(string, bool))
	switch {
	case s.Pattern.Regex != nil:
		var err error
		if match, err = expression(*s.Pattern.Regex); err != nil {
			return nil, fmt.Errorf("of Split: pattern %q: %w", *s.Pattern.Regex, err)
		}
	case s.Pattern.String != nil && *s.Pattern.String != "":
		match = literal(*s.Pattern.String)
	default:
		return nil, fmt.Errorf("of Split: pattern: want a Regex or a String")
	}
	if s.Invert {
		straight := match
		match = func(text string, emit func(string, bool)) {
			straight(text, func(piece string, matched bool) { emit(piece, !matched) })
		}
	}
	return find{match, b}, nil
}

// literal matches a fixed text.
func literal(want string) func(string, func(string, bool)) {
	return func(text string, emit func(string, bool)) {
		for {
			before, after, found := strings.Cut(text, want)
			if before != "" {
				emit(before, false)
			}
			if !found {
				return
			}
			emit(want, true)
			text = after
		}
	}
}

// expression matches a regular expression. Those of the models that are served
// have scanners written by hand, thirty times as fast; the tests compare them.
func expression(source string) (func(string, func(string, bool)), error) {
	switch source {
	case patternGPT2:
		return scanGPT2, nil
	case patternQwen2:
		return scanWords(1), nil
	case patternLlama3:
		return scanWords(3), nil
	}
	return backtracking(source)
}

// backtracking matches by a library that has look-ahead, which Go's own lacks.
func backtracking(source string) (func(string, func(string, bool)), error) {
	re, err := regexp2.Compile(source, regexp2.None)
	if err != nil {
		return nil, err
	}
	return func(text string, emit func(string, bool)) {
		runes := []rune(text)
		byteAt, runeAt := 0, 0
		send := func(to int, matched bool) {
			n := 0
			for ; runeAt < to; runeAt++ {
				n += utf8.RuneLen(runes[runeAt])
			}
			if n > 0 {
				emit(text[byteAt:byteAt+n], matched)
			}
			byteAt += n
		}
		// Matching fails only by a time limit, and none is set.
		m, _ := re.FindRunesMatch(runes)
		for m != nil {
			send(m.Index, false)
			send(m.Index+m.Length, true)
			m, _ = re.FindNextMatch(m)
		}
		send(len(runes), false)
	}, nil
}

// byteLevel writes each byte as a printable character, and may cut a text into
// words first, as GPT-2 does.
type byteLevel struct{ prefixSpace, words bool }

func (b byteLevel) split(text string, first bool, emit func(string, bool)) {
	if b.prefixSpace && !strings.HasPrefix(text, " ") {
		text = " " + text
	}
	var buffer []byte
	send := func(piece string, _ bool) {
		buffer = buffer[:0]
		for i := range len(piece) {
			buffer = append(buffer, byteCharacter[piece[i]]...)
		}
		emit(string(buffer), first)
		first = false
	}
	if b.words {
		scanGPT2(text, send)
	} else {
		send(text, true)
	}
}

// byteCharacter is the character of every byte: itself where it is printable,
// the next beyond U+00FF where not. characterByte is the way back.
var byteCharacter, characterByte = func() (characters [256]string, back map[rune]byte) {
	back = make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r = next
			next++
		}
		characters[b], back[r] = string(r), byte(b)
	}
	return characters, back
}()

// metaspace writes spaces as a visible character, SentencePiece's way.
type metaspace struct {
	replacement string
	prepend     string // always, first or never
	words       bool   // cut before every replacement
}

func parseMetaspace(raw json.RawMessage) (metaspace, error) {
	m := struct {
		Type          string `json:"type"`
		Replacement   string `json:"replacement"`
		PrependScheme string `json:"prepend_scheme"`
		Split         bool   `json:"split"`
	}{Split: true, PrependScheme: "always"}
	if err := strict(raw, &m); err != nil {
		return metaspace{}, err
	}
	if utf8.RuneCountInString(m.Replacement) != 1 {
		return metaspace{}, fmt.Errorf("of Metaspace: replacement is %q, want one character", m.Replacement)
	}
	if m.PrependScheme != "always" && m.PrependScheme != "first" && m.PrependScheme != "never" {
		return metaspace{}, fmt.Errorf("of Metaspace: prepend_scheme is %q, want always, first or never", m.PrependScheme)
	}
	return metaspace{m.Replacement, m.PrependScheme, m.Split}, nil
}

func (m metaspace) split(text string, first bool, emit func(string, bool)) {
	text = strings.ReplaceAll(text, " ", m.replacement)
	if !strings.HasPrefix(text, m.replacement) && (m.prepend == "always" || m.prepend == "first" && first) {
		text = m.replacement + text
	}
	if !m.words {
		emit(text, first)
		return
	}
	find{literal(m.replacement), withNext}.split(text, first, emit)
}
