package openai

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A content is a text or a list of text parts, read and written.
func TestText(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want Text
		back string
	}{
		{`"a"`, Text{"a"}, `"a"`},
		{`null`, Text{""}, `""`},
		{`[{"type":"text","text":"a"}]`, Text{"a"}, `"a"`},
		{`[{"type":"text","text":"a"},{"type":"text","text":"b"}]`, Text{"a", "b"}, `[{"type":"text","text":"a"},{"type":"text","text":"b"}]`},
		{`[]`, Text{}, `[]`},
	} {
		var m Message
		if err := json.Unmarshal([]byte(`{"role":"user","content":`+c.raw+`}`), &m); err != nil {
			t.Errorf("%s: %v", c.raw, err)
		}
		if d := cmp.Diff(c.want, m.Content); d != "" {
			t.Errorf("%s: %s", c.raw, d)
		}
		if back, err := json.Marshal(m.Content); err != nil || string(back) != c.back {
			t.Errorf("%s: %s, %v, want %s", c.raw, back, err, c.back)
		}
	}
	for _, raw := range []string{`3`, `["a"]`, `[{"type":"image_url"}]`} {
		if err := json.Unmarshal([]byte(raw), new(Text)); err == nil {
			t.Errorf("%s was read", raw)
		}
	}
}
