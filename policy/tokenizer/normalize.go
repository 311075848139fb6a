package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// normalizers change a text one after the other.
type normalizers []func(string) string

func (n normalizers) apply(text string) string {
	for _, f := range n {
		text = f(text)
	}
	return text
}

func parseNormalizer(raw json.RawMessage) (normalizers, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	var only struct {
		Type string `json:"type"`
	}
	// Of more than thirty marks in a row the library makes two runs, with U+034F
	// between them. That is the one known difference from Python's.
	one := func(f func(string) string, into any) (normalizers, error) {
		return normalizers{f}, strict(raw, into)
	}
	switch kind {
	case "":
		return nil, nil
	case "NFC":
		return one(norm.NFC.String, &only)
	case "NFD":
		return one(norm.NFD.String, &only)
	case "NFKC":
		return one(norm.NFKC.String, &only)
	case "NFKD":
		return one(norm.NFKD.String, &only)
	case "Prepend":
		var p struct {
			Type    string `json:"type"`
			Prepend string `json:"prepend"`
		}
		return one(func(text string) string {
			if text == "" {
				return ""
			}
			return p.Prepend + text
		}, &p)
	case "Replace":
		replace, err := parseReplace(raw)
		return normalizers{replace}, err
	case "Sequence":
		var s struct {
			Type        string            `json:"type"`
			Normalizers []json.RawMessage `json:"normalizers"`
		}
		if err := strict(raw, &s); err != nil {
			return nil, err
		}
		var all normalizers
		for _, r := range s.Normalizers {
			n, err := parseNormalizer(r)
			if err != nil {
				return nil, err
			}
			all = append(all, n...)
		}
		return all, nil
	}
	return nil, fmt.Errorf("type %q is not supported, want NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence", kind)
}

// parseReplace reads the replacement of a fixed text by another.
func parseReplace(raw json.RawMessage) (func(string) string, error) {
	var r struct {
		Type    string  `json:"type"`
		Pattern pattern `json:"pattern"`
		Content string  `json:"content"`
	}
	if err := strict(raw, &r); err != nil {
		return nil, err
	}
	if r.Pattern.Regex != nil || r.Pattern.String == nil || *r.Pattern.String == "" {
		return nil, fmt.Errorf("of Replace: pattern is not supported, want a String of at least one character")
	}
	old := *r.Pattern.String
	return func(text string) string { return strings.ReplaceAll(text, old, r.Content) }, nil
}

// pattern is what a component looks for.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}
