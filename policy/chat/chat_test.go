package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The text is that of transformers' apply_chat_template.
func TestAsTransformers(t *testing.T) {
	var cases []struct {
		Template string
		Turns    [][2]string
		Prompt   bool
		Text     string
	}
	if err := json.Unmarshal([]byte(read(t, "expected.json")), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 24 {
		t.Errorf("%d cases, want 24", len(cases))
	}
	for _, c := range cases {
		template, err := Parse(read(t, c.Template))
		if err != nil {
			t.Fatal(err)
		}
		var messages []Message
		for _, turn := range c.Turns {
			messages = append(messages, Message{turn[0], turn[1]})
		}
		got, err := template.Render(messages, c.Prompt, map[string]any{"bos_token": "<s>"})
		if err != nil || got != c.Text {
			t.Errorf("%s: %v\n got %q\nwant %q", c.Template, err, got, c.Text)
		}
	}
}

func TestToJSON(t *testing.T) {
	template, err := Parse(`{{ messages | tojson }}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := template.Render([]Message{{"user", `<é> "a:b",` + "\n"}}, false, nil)
	if want := `[{"content": "<é> \"a:b\",\n", "role": "user"}]`; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// Llama 3 looks whether it may ask for the date.
func TestNoDate(t *testing.T) {
	template, err := Parse(`{%- if strftime_now is defined %}{{ strftime_now("%d %b %Y") }}{%- else %}26 Jul 2024{%- endif %}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := template.Render([]Message{{"user", "x"}}, true, nil); err != nil || got != "26 Jul 2024" {
		t.Errorf("%q, %v", got, err)
	}
}

// What a caller sets is there for the template to look at, as JSON had it.
func TestValues(t *testing.T) {
	template, err := Parse(`{{ bos_token }}{% if enable_thinking is defined and enable_thinking is false %}no thoughts, {% endif %}{{ budget }}, {{ share }}{% if tools %}!{% endif %}`)
	if err != nil {
		t.Fatal(err)
	}
	messages := []Message{{"user", "x"}}
	got, err := template.Render(messages, true, map[string]any{"bos_token": "<s>", "enable_thinking": false, "budget": 100.0, "share": 0.5, "tools": []any{"t"}})
	if want := "<s>no thoughts, 100, 0.5!"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	for _, own := range []string{"messages", "add_generation_prompt", "raise_exception"} {
		if _, err := template.Render(messages, true, map[string]any{own: "mine"}); err == nil || err.Error() != "chat template: "+own+" is not for a caller to set" {
			t.Errorf("%s: %v", own, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ source, want string }{
		{"{% if %}", "chat template: "},
		{"{{ raise_exception('no ' + messages[0].role) }}", "chat template: the template says: no user"},
		{"{{ strftime_now('%d %b %Y') }}", "chat template: "},
		{"{% include '/etc/passwd' %}", "chat template: "},
	} {
		template, err := Parse(tc.source)
		if err == nil {
			_, err = template.Render([]Message{{"user", "x"}}, true, nil)
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.source, err, tc.want)
		}
	}
}
