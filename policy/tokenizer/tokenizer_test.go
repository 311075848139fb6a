package tokenizer

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// names of the tokenizers in testdata, which make.py describes.
var names = []string{"qwen2", "llama3", "llama2", "mistral", "gpt2", "gpt4o", "unknowns"}

func source(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := Parse(source(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// corpus is texts, and what Python's library makes of them.
type corpus struct {
	Texts      []string `json:"texts"`
	Tokenizers map[string]struct {
		IDs     [][]int32            `json:"ids"`
		Around  []int32              `json:"around"` // "a" with special tokens
		Decoded [][3]json.RawMessage `json:"decoded"`
	} `json:"tokenizers"`
}

func readCorpus(t testing.TB) corpus {
	t.Helper()
	var c corpus
	if err := json.Unmarshal(source(t, "corpus"), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// The ids are those of Hugging Face's library, and so is the text of ids.
func TestAsPython(t *testing.T) {
	c := readCorpus(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			tok, want := parse(t, name), c.Tokenizers[name]
			if len(want.IDs) != len(c.Texts) || len(want.Decoded) == 0 {
				t.Fatalf("%d texts, %d encoded, %d decoded", len(c.Texts), len(want.IDs), len(want.Decoded))
			}
			for i, text := range c.Texts {
				got, err := tok.Encode(text, false)
				if err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(got, want.IDs[i]) && len(got)+len(want.IDs[i]) > 0 {
					t.Errorf("%q\n got %v\nwant %v", text, got, want.IDs[i])
				}
			}
			if got, err := tok.Encode("a", true); err != nil || !cmp.Equal(got, want.Around) {
				t.Errorf("with special tokens: %v, %v, want %v", got, err, want.Around)
			}
			for _, d := range want.Decoded {
				var ids []int32
				var skipped, whole string
				for i, v := range []any{&ids, &skipped, &whole} {
					if err := json.Unmarshal(d[i], v); err != nil {
						t.Fatal(err)
					}
				}
				if got := tok.Decode(ids, true); got != skipped {
					t.Errorf("%v decodes to %q, want %q", ids, got, skipped)
				}
				if got := tok.Decode(ids, false); got != whole {
					t.Errorf("%v decodes to %q with special tokens, want %q", ids, got, whole)
				}
			}
		})
	}
}

// The scanners written by hand do as the expressions do.
func compareScanners(t *testing.T, text string) {
	t.Helper()
	// The library for expressions does not fold ſ to s; what does the tests with
	// Python's results show.
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "ſ", "s")
	for _, p := range []string{patternGPT2, patternQwen2, patternLlama3} {
		fast, err := expression(p)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := backtracking(p)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		fast(text, func(piece string, _ bool) { got = append(got, piece) })
		slow(text, func(piece string, _ bool) { want = append(want, piece) })
		if !cmp.Equal(got, want) {
			t.Errorf("%s\n%q\n got %q\nwant %q", p, text, got, want)
		}
	}
}

func TestScanners(t *testing.T) {
	for _, text := range readCorpus(t).Texts {
		compareScanners(t, text)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	parts := []string{" ", " ", "  ", "\n", "\r", "\t", "a", "É", "1", "²", ".", "'", "'s", "'LL", "'re", "\u00a0", "\u0301", "日", "😀"}
	for range 3000 {
		var b strings.Builder
		for range 1 + rng.IntN(12) {
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		compareScanners(t, b.String())
	}
}

func FuzzScanners(f *testing.F) {
	f.Add("I'LL  do it\r\n\r\n  'tis 12345²")
	f.Fuzz(compareScanners)
}

// A byte-level tokenizer gives back what it was given, but for what its
// normalizer changes, and nothing makes any of them panic.
func FuzzEncode(f *testing.F) {
	all := map[string]*Tokenizer{}
	for _, name := range names {
		all[name] = parse(f, name)
	}
	for _, text := range readCorpus(f).Texts[:40] {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, tok := range all {
			ids, err := tok.Encode(text, false)
			if (err == nil) != utf8.ValidString(text) {
				t.Fatalf("%s: %q: error %v", name, text, err)
			}
			got := tok.Decode(ids, false)
			if err == nil && name == "llama3" && got != text {
				t.Errorf("%q comes back as %q", text, got)
			}
			if err == nil && name == "qwen2" && got != tok.normalizer.apply(text) {
				t.Errorf("%q comes back as %q", text, got)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, want := valid(data), strings.ToValidUTF8(string(data), "\ufffd"); utf8.Valid(data) && got != want || !utf8.ValidString(got) {
			t.Errorf("%q: %q", data, got)
		}
		ids := make([]int32, len(data))
		for i, b := range data {
			ids[i] = int32(b) * 3
		}
		for _, name := range names {
			parse(t, name).Decode(ids, false)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, name := range names {
		f.Add(source(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Parse(data)
		if err != nil {
			return
		}
		ids, _ := tok.Encode("It's 12 <s> é\n", true)
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Size() {
				t.Errorf("id %d of %d", id, tok.Size())
			}
		}
		tok.Decode(ids, true)
	})
}

func TestRefused(t *testing.T) {
	good := string(source(t, "qwen2"))
	sentences := string(source(t, "llama2"))
	for _, tc := range []struct{ in, old, new, want string }{
		{good, `{"type":"NFC"}`, `{"type":"Lowercase"}`, `normalizer: type "Lowercase" is not supported`},
		{good, `{"type":"NFC"}`, `{"type":"NFC","x":1}`, `normalizer: json: unknown field "x"`},
		{good, `{"type":"NFC"}`, `{}`, `normalizer: no type`},
		{good, `"type":"Split"`, `"type":"Whitespace"`, `pre_tokenizer: type "Whitespace" is not supported`},
		{good, `"Isolated"`, `"Contiguous"`, `pre_tokenizer: of Split: behavior "Contiguous" is not supported`},
		{good, `(?i:'s|`, `(?i:'s|(`, `pre_tokenizer: of Split: pattern`},
		{good, `"type":"BPE"`, `"type":"Unigram"`, `model: type "Unigram" is not supported`},
		{good, `"dropout":null`, `"dropout":0.1`, `model: dropout is 0.1`},
		{good, `"continuing_subword_prefix":null`, `"continuing_subword_prefix":"##"`, `model: continuing_subword_prefix is "##"`},
		{good, `"end_of_word_suffix":null`, `"end_of_word_suffix":"</w>"`, `model: end_of_word_suffix is "</w>"`},
		{good, `"unk_token":null`, `"unk_token":"?!?"`, `model: unk_token "?!?" is not in vocab`},
		{good, `"!":0`, `"!":1`, `model: vocab: id 1 is given twice`},
		{good, `"!":0`, `"!":-1`, `model: vocab: token "!" has id -1`},
		{good, `"Ġ t"`, `"Ġ Ġt t"`, `model: merges: "Ġ Ġt t", want two tokens`},
		{good, `"Ġ t"`, `"Ġ 数"`, `model: merges: "Ġ" and "数", or what they make, is not in vocab`},
		{good, `"id":560`, `"id":3`, `added_tokens: token "<|endoftext|>" has id 3, which is that of "$"`},
		{good, `"id":560`, `"id":561`, `added_tokens: tokens "<|endoftext|>" and "<|im_start|>" have the id 561`},
		{good, `"content":"<|endoftext|>"`, `"content":"<|im_start|>"`, `added_tokens: token "<|im_start|>" is listed twice`},
		{good, `"content":"<|endoftext|>"`, `"content":"a"`, `added_tokens: token "a" has id 560, want 64 as in model.vocab`},
		{good, `"decoder":{"type":"ByteLevel"`, `"decoder":{"type":"WordPiece"`, `decoder: type "WordPiece" is not supported`},
		{good, `"post_processor":{"type":"ByteLevel"`, `"post_processor":{"type":"BertProcessing"`, `post_processor: type "BertProcessing" is not supported`},
		{good, `"version"`, `"surprise"`, `unknown field "surprise"`},
		{sentences, `"<0x0A>"`, `"<0x0a>"`, `model: byte_fallback: <0x0A> is not in vocab`},
		{sentences, `{"String":" "}`, `{"Regex":" +"}`, `normalizer: of Replace: pattern is not supported`},
		{sentences, `"single":[{"SpecialToken":{"id":"<s>"`, `"single":[{"SpecialToken":{"id":"<t>"`, `post_processor: single: token "<t>" is not in special_tokens`},
	} {
		bad := strings.Replace(tc.in, tc.old, tc.new, 1)
		if bad == tc.in {
			t.Errorf("%s is not in the file", tc.old)
		}
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.new, err, tc.want)
		}
	}
}

func TestTokens(t *testing.T) {
	tok := parse(t, "qwen2")
	for _, token := range []string{"a", "Ġt", "<|im_end|>", "<tool_call>"} {
		id, ok := tok.ID(token)
		if back, found := tok.Token(id); !ok || !found || back != token {
			t.Errorf("%q: id %d, token %q", token, id, back)
		}
	}
	if _, ok := tok.Token(int32(tok.Size())); ok {
		t.Error("there is a token beyond the last")
	}
	if _, err := tok.Encode("ab\xff", false); err == nil || !strings.Contains(err.Error(), "byte 2 is not valid UTF-8") {
		t.Errorf("error %v, want one that names byte 2", err)
	}
}

// BenchmarkEncode reads prose and code on one core: the bytes per second.
func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat(strings.Join(readCorpus(b).Texts[:2], "\n"), 50)
	for _, name := range names {
		tok := parse(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := tok.Encode(text, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	tok := parse(b, "llama2")
	b.Run("llama2/one word", func(b *testing.B) {
		word := strings.Repeat("abababa", 50_000)
		b.SetBytes(int64(len(word)))
		for b.Loop() {
			if _, err := tok.Encode(word, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}
