package worker

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// Bounds of what an attempt may say between two messages.
const (
	maxLines = 400
	maxLine  = 2 << 10 // bytes
)

// lines collects what an attempt says until a message takes it along.
type lines struct {
	ready chan struct{} // capacity 1: there are some

	mu      sync.Mutex
	pending []string
	dropped int
}

func newLines() *lines { return &lines{ready: make(chan struct{}, 1)} }

// say adds text, which may have several lines.
func (l *lines) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		if len(l.pending) >= maxLines {
			l.dropped++
			continue
		}
		l.pending = append(l.pending, clip(line, maxLine))
	}
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// take returns what was said since the last take.
func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.pending
	if l.dropped > 0 {
		taken = append(taken, fmt.Sprintf("… %d more lines", l.dropped))
	}
	l.pending, l.dropped = nil, 0
	return taken
}

// restore puts back what a message did not take along after all.
func (l *lines) restore(taken []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(taken, l.pending...)
	if over := len(l.pending) - maxLines; over > 0 {
		l.pending, l.dropped = l.pending[:maxLines], l.dropped+over
	}
}

// clip shortens text to at most limit bytes of UTF-8.
func clip(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	cut := limit - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
