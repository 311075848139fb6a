package prepare

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// word is a word of a text: its hash, case folded, and where it stands.
type word struct {
	hash   uint64
	lo, hi int32
}

// words cuts a text into what comparisons look at, appended to dst, and returns the
// text that their places refer to, which is its NFKC form:
//
//   - a run of letters, digits and marks, upper and lower case alike; a point or
//     comma between digits belongs to the number;
//   - every symbol but a dollar sign, since + and - make another problem;
//   - no space and no other punctuation but brackets, dashes, slashes, % and the like.
func words(dst []word, text string) (string, []word) {
	if !norm.NFKC.IsNormalString(text) {
		text = norm.NFKC.String(text)
	}
	for at := 0; at < len(text); {
		r, n := utf8.DecodeRuneInString(text[at:])
		switch {
		case wordly(r):
			from, h := at, uint64(offset64)
			for at < len(text) {
				r, n := utf8.DecodeRuneInString(text[at:])
				if !wordly(r) && !(at > from && (r == '.' || r == ',') && at+1 < len(text) && digit(text[at-1]) && digit(text[at+1])) {
					break
				}
				h = fold(h, r)
				at += n
			}
			dst = append(dst, word{mix(h), int32(from), int32(at)})
		case unicode.IsSpace(r) || strings.ContainsRune(".,;:!?'\"`$…“”‘’", r):
			at += n
		default:
			dst = append(dst, word{mix(fold(offset64, r)), int32(at), int32(at + n)})
			at += n
		}
	}
	return text, dst
}

func wordly(r rune) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// The constants of 64-bit FNV-1a.
const offset64, prime64 = 14695981039346656037, 1099511628211

// fold adds a character, in lower case, to a hash.
func fold(h uint64, r rune) uint64 {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return (h ^ uint64(r)) * prime64
	}
	for r = unicode.ToLower(r); r > 0; r >>= 8 {
		h = (h ^ uint64(r&0xff)) * prime64
	}
	return h
}

// mix is the finaliser of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// sequence is the hash of words in their order.
func sequence(ws []word) uint64 {
	h := uint64(len(ws))
	for _, w := range ws {
		h = mix(h*prime64 ^ w.hash)
	}
	return h
}

// textHash is the hash of a text's words.
func textHash(text string) uint64 {
	_, ws := words(nil, text)
	return sequence(ws)
}
