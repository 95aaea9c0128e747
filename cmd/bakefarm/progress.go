package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"bakefarm/farm"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows what a bake does while it does it: as bars on a terminal, as plain lines in a pipe.
type progress interface {
	sent(bytes int64) // of the context, from several goroutines
	event(farm.Event) error
	say(line string)
	close()
}

func newProgress(w io.Writer) progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return newBars(f)
	}
	return &lines{w: w}
}

// lines writes one line for each thing that happens.
type lines struct {
	w     io.Writer
	bytes atomic.Int64
	told  bool
}

func (l *lines) sent(n int64) { l.bytes.Add(n) }

func (l *lines) say(line string) { fmt.Fprintln(l.w, line) }

func (l *lines) close() {}

func (l *lines) event(e farm.Event) error {
	if n := l.bytes.Load(); n > 0 && !l.told {
		l.told = true
		fmt.Fprintf(l.w, "sent %s of the context\n", size(n))
	}
	if line := describe(e); line != "" && !chatter(e) && !final(e) {
		fmt.Fprintln(l.w, line)
	}
	return nil
}

// final is how a bake failed: who waits for it reads that in the command's own last line.
func final(e farm.Event) bool { return e.Type == farm.EventBake && e.State == farm.BakeFailed }

// chatter is what the many small shards of a bake say, and the console of what is tested: it is kept for "bakes logs".
func chatter(e farm.Event) bool {
	kind, _, _ := strings.Cut(e.Label, " ")
	if e.Type == farm.EventLog && slices.Contains([]farm.Kind{farm.KindRun, farm.KindBoot}, farm.Kind(kind)) {
		return strings.HasPrefix(e.Line, "console: ")
	}
	return e.Type == farm.EventLog && slices.Contains([]farm.Kind{farm.KindConvert, farm.KindTrim, farm.KindCut}, farm.Kind(kind))
}

// describe puts an event into words; empty for one that a reader can do without.
func describe(e farm.Event) string {
	switch e.Type {
	case farm.EventBake:
		if e.Error != "" && e.Error != string(e.State) {
			return fmt.Sprintf("%s: %s", e.State, e.Error)
		}
		return string(e.State)
	case farm.EventPlan:
		return fmt.Sprintf("%d of %d shards are known already", e.Done, e.Total)
	case farm.EventShard:
		switch {
		case e.Status == farm.ShardDone && e.Total == 0: // there is no plan yet
			return fmt.Sprintf("%s (%s)", e.Label, took(e.Took))
		case e.Status == farm.ShardDone:
			return fmt.Sprintf("[%d/%d] %s (%s)", e.Done, e.Total, e.Label, took(e.Took))
		case e.Status == farm.ShardFailed: // of attempts that failed before a line of the log tells
			return fmt.Sprintf("%s: %s: %s", e.Label, e.Status, e.Error)
		}
		return ""
	case farm.EventLog:
		if e.Label == "" {
			return e.Line
		}
		return fmt.Sprintf("%s: %s", e.Label, e.Line)
	}
	return ""
}

// bars draws one bar for the shards, with what is being done beside it.
type bars struct {
	all     *mpb.Progress
	bar     *mpb.Bar
	label   atomic.Pointer[string]
	uploads atomic.Int64
	running []string // labels of shards, in the order of their beginning
}

func newBars(f *os.File) *bars {
	b := &bars{all: mpb.New(mpb.WithOutput(f), mpb.WithWidth(40), mpb.WithRefreshRate(80*time.Millisecond))}
	b.doing("resolving")
	b.bar = b.all.New(0, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding("╌"),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.CountersNoUnit("%d/%d ", decor.WCSyncWidth)),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + *b.label.Load() })))
	return b
}

// doing puts a word beside the bar.
func (b *bars) doing(label string) { b.label.Store(&label) }

func (b *bars) say(line string) { fmt.Fprintln(b.all, line) }

func (b *bars) sent(n int64) { b.doing("sending the context: " + size(b.uploads.Add(n))) }

func (b *bars) event(e farm.Event) error {
	switch e.Type {
	case farm.EventPlan, farm.EventShard:
		if e.Total > 0 {
			b.bar.SetTotal(int64(e.Total), false)
			b.bar.SetCurrent(int64(e.Done))
		}
		if e.Type == farm.EventShard {
			b.shard(e)
		}
	case farm.EventBake:
		b.doing(string(e.State))
	}
	if line := describe(e); line != "" && (e.Type == farm.EventLog && !chatter(e) || e.Error != "" && !final(e)) {
		fmt.Fprintln(b.all, line)
	}
	return nil
}

// shard says what is being done after a shard has moved.
func (b *bars) shard(e farm.Event) {
	b.running = slices.DeleteFunc(b.running, func(label string) bool { return label == e.Label })
	if e.Status == farm.ShardClaimed {
		b.running = append(b.running, e.Label)
	}
	switch n := len(b.running); n {
	case 0:
	case 1:
		b.doing(b.running[0])
	default:
		b.doing(fmt.Sprintf("%s and %d more", b.running[0], n-1))
	}
}

func (b *bars) close() {
	b.bar.Abort(true)
	b.all.Wait()
}
