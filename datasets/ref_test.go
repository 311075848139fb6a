package datasets_test

import (
	"strings"
	"testing"

	"github.com/gradus-rl/gradus/datasets"
)

var someHash = strings.Repeat("0123456789abcdef", 4)

func TestRef(t *testing.T) {
	for _, r := range []datasets.Ref{
		{Hash: someHash, Rows: 7473, Bytes: 2252850, Kind: datasets.KindProblems},
		{Hash: someHash, Kind: datasets.KindBlob},
		{Hash: someHash, Bytes: 1, Kind: "policy"},
	} {
		got, err := datasets.ParseRef(r.String())
		noError(t, err)
		equal(t, "parsed "+r.String(), r, got)
		if r.IsZero() {
			t.Errorf("%v is zero", r)
		}
	}
	if zero := (datasets.Ref{}); !zero.IsZero() || zero.String() != "" {
		t.Errorf("zero Ref: %v, %q", zero.IsZero(), zero)
	}
}

func TestParseRefRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "want kind:rows:bytes:hash",
		someHash:                                 "want kind:rows:bytes:hash",
		"blob:0:1:" + someHash[1:]:               "64 lower-case hex digits",
		"blob:0:1:" + strings.ToUpper(someHash):  "64 lower-case hex digits",
		"blob:0:1:" + someHash + ":":             "want kind:rows:bytes:hash",
		"blob:-1:1:" + someHash:                  "rows",
		"blob:01:1:" + someHash:                  "rows",
		"blob:0:x:" + someHash:                   "bytes",
		"blob:0:9999999999999999999:" + someHash: "bytes",
		":0:1:" + someHash:                       "not a kind",
		"Blob!:0:1:" + someHash:                  "not a kind",
	} {
		if _, err := datasets.ParseRef(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse %q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("problems/1:1:2:" + someHash)
	f.Add(":::")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := datasets.ParseRef(text)
		if err == nil && r.String() != text {
			t.Errorf("%q parses to %q", text, r)
		}
	})
}
