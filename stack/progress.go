package stack

import (
	"fmt"
	"io"
	"os"
	"time"
)

// sparse is the time between two lines where lines cannot be refreshed.
const sparse = 15 * time.Second

// progress shows one status line: refreshed in place on a terminal, repeated now and then elsewhere.
type progress struct {
	out      io.Writer // nil is quiet
	terminal bool
	open     bool // a refreshed line is on the screen
	last     time.Time
	lastText string
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// show replaces the status.
func (p *progress) show(format string, args ...any) {
	if p.out == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	switch {
	case text == p.lastText:
	case p.terminal:
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		p.open = true
	case time.Since(p.last) < sparse:
		return
	default:
		fmt.Fprintln(p.out, text)
	}
	p.last, p.lastText = time.Now(), text
}

// print writes a line that stays.
func (p *progress) print(format string, args ...any) {
	if p.out == nil {
		return
	}
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.open = false
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// end leaves the screen on a line of its own.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}
