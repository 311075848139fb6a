package policy

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func ExampleTokenizer() {
	t, err := NewCharTokenizer("0123456789+=")
	if err != nil {
		fmt.Println(err)
		return
	}
	ids, err := t.Encode("12+3=?")
	fmt.Println(ids, err)
	fmt.Println(t.Decode(append(ids, t.EOS(), t.Pad())))
	// Output:
	// [5 6 3 7 14 2] <nil>
	// 12+3=
}

// alphabet has what is awkward: JSON and HTML escapes, line ends, a combining
// mark, a character beyond 16 bits, and all letters of the special tokens.
const alphabet = "abcdefghijklmnopqrstuvwxyz<>&\"\\/ \t\n\r0123456789é\u0301日😀\u2028\ufffd"

// must is v, where there is no error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func mustTokenizer(t testing.TB, alphabet string) *Tokenizer {
	t.Helper()
	tok, err := NewCharTokenizer(alphabet)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTokenizerRoundTrip(t *testing.T) {
	tok := mustTokenizer(t, alphabet)
	if tok.Size() != 3+utf8.RuneCountInString(alphabet) || tok.Pad() != 0 || tok.EOS() != 1 {
		t.Errorf("size %d, pad %d, eos %d", tok.Size(), tok.Pad(), tok.EOS())
	}
	read, err := ReadTokenizer(tok.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tok, read, cmp.AllowUnexported(Tokenizer{})); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "abc", alphabet, "e\u0301 é", "\r\n\n", "<eos><pad><unk>", "😀😀", "\ufffd"} {
		ids, err := read.Encode(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) != utf8.RuneCountInString(text) || read.Decode(ids) != text {
			t.Errorf("%q encodes to %v, which decodes to %q", text, ids, read.Decode(ids))
		}
	}
}

func TestAlphabetIsASet(t *testing.T) {
	a, b := mustTokenizer(t, "banana"), mustTokenizer(t, "nab")
	if string(a.JSON()) != string(b.JSON()) || a.Size() != 6 {
		t.Errorf("order and repetitions matter:\n%s\n%s", a.JSON(), b.JSON())
	}
	for _, bad := range []string{"", "a\xff"} {
		if _, err := NewCharTokenizer(bad); err == nil {
			t.Errorf("alphabet %q is accepted", bad)
		}
	}
}

func TestEncodeOutsideTheAlphabet(t *testing.T) {
	tok := mustTokenizer(t, "ab")
	if ids, err := tok.Encode("aéb"); err != nil || !cmp.Equal(ids, []int32{3, 2, 4}) {
		t.Errorf("%v, %v, want [3 2 4]: é is unknown", ids, err)
	}
	if _, err := tok.Encode("ab\xff"); err == nil || !strings.Contains(err.Error(), "byte 2 is not valid UTF-8") {
		t.Errorf("error %v, want one that names byte 2", err)
	}
	without, err := newTokenizer([]string{EOSToken, "a", "é"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Encode("aéx"); err == nil || !strings.Contains(err.Error(), `character 2, 'x', is not in the alphabet`) {
		t.Errorf("error %v, want one that names character 2", err)
	}
	if without.Pad() != without.EOS() {
		t.Errorf("pad %d, want the end token %d", without.Pad(), without.EOS())
	}
	read, err := ReadTokenizer(without.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(without, read, cmp.AllowUnexported(Tokenizer{})); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeLeavesOut(t *testing.T) {
	tok := mustTokenizer(t, "ab")
	if got := tok.Decode([]int32{0, 3, 2, -1, 4, 99, 1, 3}); got != "aba" {
		t.Errorf("%q, want %q", got, "aba")
	}
}

func TestReadTokenizerRefuses(t *testing.T) {
	good := string(mustTokenizer(t, "ab").JSON())
	for _, tc := range []struct{ old, new, want string }{
		{good, "", "tokenizer: "},
		{good, "[]", "not a tokenizer.json"},
		{good, `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a"]}}`, `model.type is "BPE", want "WordLevel" over single characters`},
		{good, `{"model":{"type":"Unigram"}}`, `model.type is "Unigram", want "WordLevel"`},
		{`"type": "WordLevel"`, `"type": "WordLevel", "dropout": 0.1`, `unknown field "dropout"`},
		{`"version"`, `"surprise"`, `unknown field "surprise"`},
		{`"normalizer": null`, `"normalizer": {"type": "NFC"}`, `normalizer is {"type":"NFC"}, which is not supported yet, want null`},
		{`"truncation": null`, `"truncation": {"max_length": 4}`, "truncation is"},
		{`"padding": null`, `"padding": {"direction": "Left"}`, "padding is"},
		{`"post_processor": null`, `"post_processor": {"type": "ByteLevel"}`, "post_processor is"},
		{`"Isolated"`, `"Removed"`, "pre_tokenizer is"},
		{`"Fuse"`, `"ByteLevel"`, "decoder is"},
		{`"unk_token": "<unk>"`, `"unk_token": "?"`, `model.unk_token is "?", want "<unk>"`},
		{`"a": 3`, `"a": 4`, "model.vocab: 5 tokens want the ids 0 to 4, each once"},
		{`"a": 3`, `"a": 5`, "model.vocab: 5 tokens want the ids 0 to 4, each once"},
		{`"a": 3`, `"a": -1`, "model.vocab: 5 tokens want the ids 0 to 4, each once"},
		{`"a": 3`, `"aa": 3`, `token "aa" is not a single character`},
		{`"a": 3`, `"": 3`, `token "" is not a single character`},
		{`<eos>`, `x`, `added_tokens: token "x" is not supported yet`},
		{`"id": 1`, `"id": 2`, `added_tokens: token "<eos>" has id 2, want its id in model.vocab`},
		{`"id": 1`, `"id": 77`, `added_tokens: token "<eos>" has id 77`},
		{`"lstrip": false`, `"lstrip": true`, `added_tokens: token "<pad>": want special true`},
		{`"special": true`, `"special": false`, `added_tokens: token "<pad>": want special true`},
	} {
		data := strings.ReplaceAll(good, tc.old, tc.new)
		if data == good {
			t.Fatalf("%q is not in tokenizer.json", tc.old)
		}
		if _, err := ReadTokenizer([]byte(data)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: error %v, want one with %q", tc.new, err, tc.want)
		}
	}
}

func TestReadTokenizerWantsAnEndToken(t *testing.T) {
	without := (&Tokenizer{tokens: []string{PadToken, UnkToken, "a"}}).JSON()
	if _, err := ReadTokenizer(without); err == nil || !strings.Contains(err.Error(), `no end token: model.vocab and added_tokens want "<eos>"`) {
		t.Errorf("error %v, want one that names the end token", err)
	}
	unlisted := strings.Replace(string(mustTokenizer(t, "a").JSON()), `"added_tokens": [`, `"added_tokens": [], "version": "1.0", "padding": [`, 1)
	if _, err := ReadTokenizer([]byte(unlisted)); err == nil {
		t.Error("a tokenizer without added tokens is read")
	}
}

// What is read tokenizes as before when it is written and read again.
func FuzzReadTokenizer(f *testing.F) {
	f.Add(mustTokenizer(f, "ab").JSON(), "abc")
	f.Add(mustTokenizer(f, alphabet).JSON(), alphabet)
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		tok, err := ReadTokenizer(data)
		if err != nil {
			return
		}
		again, err := ReadTokenizer(tok.JSON())
		if err != nil {
			t.Fatal(err)
		}
		a, errA := tok.Encode(text)
		b, errB := again.Encode(text)
		if !cmp.Equal(a, b) || (errA == nil) != (errB == nil) {
			t.Errorf("%q: %v, %v and %v, %v", text, a, errA, b, errB)
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add(alphabet, "abc")
	f.Add("é", "e\u0301\xff")
	f.Fuzz(func(t *testing.T, alphabet, text string) {
		tok, err := NewCharTokenizer(alphabet)
		if err != nil {
			return
		}
		ids, err := tok.Encode(text)
		if (err == nil) != utf8.ValidString(text) {
			t.Fatalf("%q: error %v", text, err)
		}
		letters := map[rune]bool{}
		for _, r := range alphabet {
			letters[r] = true
		}
		inside := strings.Map(func(r rune) rune {
			if letters[r] {
				return r
			}
			return -1
		}, text)
		if err == nil && tok.Decode(ids) != inside {
			t.Errorf("%q decodes to %q, want %q", text, tok.Decode(ids), inside)
		}
	})
}
