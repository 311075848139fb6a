package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decoders turn tokens into parts of a text, one after the other. Without any,
// tokens are words and stand apart.
type decoders []func(tokens []string) []string

func (d decoders) join(tokens []string) string {
	if d == nil {
		return strings.Join(tokens, " ")
	}
	for _, f := range d {
		tokens = f(tokens)
	}
	return strings.Join(tokens, "")
}

func parseDecoder(raw json.RawMessage) (decoders, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	var only struct {
		Type string `json:"type"`
	}
	switch kind {
	case "":
		return nil, nil
	case "ByteLevel": // its settings are for encoding
		var b struct {
			Type           string `json:"type"`
			AddPrefixSpace bool   `json:"add_prefix_space"`
			TrimOffsets    bool   `json:"trim_offsets"`
			UseRegex       bool   `json:"use_regex"`
		}
		return decoders{decodeBytes}, strict(raw, &b)
	case "ByteFallback":
		return decoders{decodeFallback}, strict(raw, &only)
	case "Fuse":
		return decoders{func(tokens []string) []string { return []string{strings.Join(tokens, "")} }}, strict(raw, &only)
	case "Replace":
		replace, err := parseReplace(raw)
		return decoders{each(func(_ int, token string) string { return replace(token) })}, err
	case "Strip":
		var s struct {
			Type    string `json:"type"`
			Content string `json:"content"`
			Start   int    `json:"start"`
			Stop    int    `json:"stop"`
		}
		if err := strict(raw, &s); err != nil {
			return nil, err
		}
		if utf8.RuneCountInString(s.Content) != 1 {
			return nil, fmt.Errorf("of Strip: content is %q, want one character", s.Content)
		}
		return decoders{each(func(_ int, token string) string {
			for i := 0; i < s.Start && strings.HasPrefix(token, s.Content); i++ {
				token = token[len(s.Content):]
			}
			for i := 0; i < s.Stop && strings.HasSuffix(token, s.Content); i++ {
				token = token[:len(token)-len(s.Content)]
			}
			return token
		})}, nil
	case "Metaspace":
		m, err := parseMetaspace(raw)
		return decoders{each(func(i int, token string) string {
			if i == 0 && m.prepend != "never" {
				return strings.ReplaceAll(token, m.replacement, "")
			}
			return strings.ReplaceAll(token, m.replacement, " ")
		})}, err
	case "Sequence":
		var s struct {
			Type     string            `json:"type"`
			Decoders []json.RawMessage `json:"decoders"`
		}
		if err := strict(raw, &s); err != nil {
			return nil, err
		}
		all := decoders{}
		for _, r := range s.Decoders {
			d, err := parseDecoder(r)
			if err != nil {
				return nil, err
			}
			all = append(all, d...)
		}
		return all, nil
	}
	return nil, fmt.Errorf("type %q is not supported, want ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace or Sequence", kind)
}

// each changes every token for itself.
func each(f func(i int, token string) string) func([]string) []string {
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			out[i] = f(i, t)
		}
		return out
	}
}

// decodeBytes is the way back from a byteLevel splitter. A token with any other
// character, such as an added one, stands for itself.
func decodeBytes(tokens []string) []string {
	var out []byte
next:
	for _, token := range tokens {
		from := len(out)
		for _, r := range token {
			b, ok := characterByte[r]
			if !ok {
				out = append(out[:from], token...)
				continue next
			}
			out = append(out, b)
		}
	}
	return []string{valid(out)}
}

// valid replaces what is no UTF-8 by U+FFFD: each longest start of a character,
// or else each byte, as the Unicode standard recommends (D93b).
func valid(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r != utf8.RuneError || n != 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		out.WriteRune(utf8.RuneError)
		for n = 1; n < len(b) && n < 4 && begins(b[:n+1]); n++ {
		}
		b = b[n:]
	}
	return out.String()
}

// begins reports whether bytes are the proper start of some character.
func begins(b []byte) bool {
	var full [utf8.UTFMax]byte
	for _, fill := range []byte{0x80, 0xbf} { // with 80 the least, with bf the greatest that start so
		n := copy(full[:], b)
		for ; n < utf8.UTFMax; n++ {
			full[n] = fill
		}
		if r, size := utf8.DecodeRune(full[:]); (r != utf8.RuneError || size > 1) && size > len(b) {
			return true
		}
	}
	return false
}

// decodeFallback joins runs of byte tokens to text; those of a run that is no
// UTF-8 become U+FFFD each.
func decodeFallback(tokens []string) []string {
	var out []string
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			for range run {
				out = append(out, string(utf8.RuneError))
			}
		}
		run = run[:0]
	}
	for _, token := range tokens {
		if len(token) == 6 && strings.HasPrefix(token, "<0x") && token[5] == '>' {
			if b, err := strconv.ParseUint(token[3:5], 16, 8); err == nil {
				run = append(run, byte(b))
				continue
			}
		}
		flush()
		out = append(out, token)
	}
	flush()
	return out
}
