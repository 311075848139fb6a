package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The expressions of GPT-2, Qwen2 and Llama 3, as their files spell them. Qwen3
// has Qwen2's.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// class is what the expressions tell apart. The classes exclude each other.
type class uint8

const (
	other class = iota
	letter
	number
	space
	newline // white space that is \r or \n
	none    // the end of the text
)

var ascii = func() (classes [utf8.RuneSelf]class) {
	for i := range classes {
		classes[i] = classOf(rune(i))
	}
	return classes
}()

func classOf(r rune) class {
	switch {
	case r == '\r' || r == '\n':
		return newline
	case unicode.IsSpace(r):
		return space
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	}
	return other
}

// at is the class of the character at a place, and where the next one is.
func at(text string, i int) (class, int) {
	if i >= len(text) {
		return none, i
	}
	if b := text[i]; b < utf8.RuneSelf {
		return ascii[b], i + 1
	}
	r, n := utf8.DecodeRuneInString(text[i:])
	return classOf(r), i + n
}

// run is where the run of a class that includes place i ends, after at most
// limit characters.
func run(text string, i int, want class, limit int) int {
	for ; limit > 0; limit-- {
		c, next := at(text, i)
		if c != want {
			break
		}
		i = next
	}
	return i
}

// unlimited is more characters than a text has.
const unlimited = int(^uint(0) >> 1)

// scanGPT2 is patternGPT2.
func scanGPT2(text string, emit func(piece string, matched bool)) {
	for i := 0; i < len(text); {
		end := i + contraction(text[i:], false)
		if end == i {
			c, next := at(text, i)
			begin := i
			if text[i] == ' ' { // " ?" before letters, numbers or others
				if after, _ := at(text, next); after == letter || after == number || after == other {
					c, begin = after, next
				}
			}
			if c == space || c == newline {
				end = blank(text, i, false)
			} else {
				end = run(text, begin, c, unlimited)
			}
		}
		emit(text[i:end], true)
		i = end
	}
}

// scanWords is patternQwen2 for runs of one digit, patternLlama3 for three.
func scanWords(digits int) func(text string, emit func(piece string, matched bool)) {
	return func(text string, emit func(piece string, matched bool)) {
		for i := 0; i < len(text); {
			end := wordEnd(text, i, digits)
			emit(text[i:end], true)
			i = end
		}
	}
}

// wordEnd is where the word that begins at i ends.
func wordEnd(text string, i, digits int) int {
	if n := contraction(text[i:], true); n > 0 {
		return i + n
	}
	c, next := at(text, i)
	after, _ := at(text, next)
	switch {
	case c == letter:
		return run(text, i, letter, unlimited)
	case (c == other || c == space) && after == letter: // [^\r\n\p{L}\p{N}]?\p{L}+
		return run(text, next, letter, unlimited)
	case c == number:
		return run(text, i, number, digits)
	case c == other, text[i] == ' ' && after == other: //  ?[^\s\p{L}\p{N}]+[\r\n]*
		return run(text, run(text, next, other, unlimited), newline, unlimited)
	}
	return blank(text, i, true)
}

// blank is where white space that begins at i ends: with lines behind the last
// line end of the run (\s*[\r\n]+), else at its end if that is the text's, else
// before its last character (\s+(?!\S)), which goes to the word that follows,
// else behind that one character (\s+).
func blank(text string, i int, lines bool) int {
	end, last, line := i, i, -1
	for {
		c, next := at(text, end)
		if c != space && c != newline {
			break
		}
		last, end = end, next
		if c == newline {
			line = next
		}
	}
	switch {
	case lines && line >= 0:
		return line
	case end == len(text) || last == i:
		return end
	}
	return last
}

// contraction is the length of 's, 't, 're, 've, 'm, 'll or 'd at the start of a
// text, 0 if there is none.
func contraction(text string, fold bool) int {
	if len(text) < 2 || text[0] != '\'' {
		return 0
	}
	if fold && strings.HasPrefix(text[1:], "ſ") { // folds to s
		return 1 + len("ſ")
	}
	lower := func(b byte) byte {
		if fold && b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		return b
	}
	switch a := lower(text[1]); a {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v', 'l':
		if len(text) < 3 {
			return 0
		}
		if b := lower(text[2]); a == 'l' && b == 'l' || a != 'l' && b == 'e' {
			return 3
		}
	}
	return 0
}

// scanDigit matches every numeric character for itself, scanDigits runs of them.
func scanDigit(text string, emit func(piece string, matched bool)) { scanNumbers(text, 1, emit) }
func scanDigits(text string, emit func(piece string, matched bool)) {
	scanNumbers(text, unlimited, emit)
}

func scanNumbers(text string, limit int, emit func(piece string, matched bool)) {
	done := 0
	for i := 0; i < len(text); {
		end := run(text, i, number, limit)
		if end == i {
			_, i = at(text, i)
			continue
		}
		if done < i {
			emit(text[done:i], false)
		}
		emit(text[i:end], true)
		done, i = end, end
	}
	if done < len(text) {
		emit(text[done:], false)
	}
}
