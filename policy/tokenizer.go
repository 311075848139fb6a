package policy

// Tokenizer turns text into token ids and back, one token per character. It
// is immutable and safe for concurrent use.
type Tokenizer struct {
	tokens        []string // by id
	ids           map[string]int32
	pad, eos, unk int32 // -1: absent
}

// EOS is the end token, which closes every completion that was not cut off.
func (t *Tokenizer) EOS() int32 { return t.eos }

// Pad is the token that fills rows up to a common length.
func (t *Tokenizer) Pad() int32 { return t.pad }

// Size is the number of tokens, the special ones included.
func (t *Tokenizer) Size() int { return len(t.tokens) }
