package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLines(t *testing.T) {
	l := newLines()
	l.say("one\ntwo\n")
	select {
	case <-l.ready:
	default:
		t.Error("nothing is ready")
	}
	if got := l.take(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("took %q", got)
	}
	if got := l.take(); len(got) != 0 {
		t.Errorf("took %q again", got)
	}

	for i := range maxLines + 5 {
		l.say(fmt.Sprint(i))
	}
	got := l.take()
	if len(got) != maxLines+1 || got[maxLines-1] != fmt.Sprint(maxLines-1) || got[maxLines] != "… 5 more lines" {
		t.Errorf("took %d lines, the last ones %q", len(got), got[len(got)-2:])
	}

	l.say("later")
	l.restore([]string{"sooner"})
	if got := l.take(); !slices.Equal(got, []string{"sooner", "later"}) {
		t.Errorf("took %q", got)
	}
	l.say("dropped")
	l.restore(slices.Repeat([]string{"x"}, maxLines))
	if got := l.take(); len(got) != maxLines+1 || got[maxLines] != "… 1 more lines" {
		t.Errorf("took %d lines", len(got))
	}
}

func TestClip(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", 100), strings.Repeat("ü", 100), "\xff\xfe" + strings.Repeat("€", 50)} {
		for limit := 10; limit < 20; limit++ {
			got := clip(text, limit)
			if len(got) > limit && len(text) > limit || !utf8.ValidString(got) {
				t.Errorf("clip(%q, %d) = %q", text, limit, got)
			}
			if len(text) <= limit && utf8.ValidString(text) && got != text {
				t.Errorf("clip(%q, %d) = %q", text, limit, got)
			}
		}
	}
}
