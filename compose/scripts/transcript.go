package scripts

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Transcript reads what the Driver prints, and knows which package's script is running and what it said last. It is an
// io.Writer for one goroutine; its Write never fails.
type Transcript struct {
	// Say gets every line, without its end.
	Say func(line string)

	line    []byte // without an end yet
	step    string // what the package's script is, for people: "postinst of cron 3.0pl1-162"
	last    []string
	verdict string // what was said to have failed
	failed  bool   // a package has failed
	over    bool   // and dpkg goes on to end what it has begun: the rest is not about the failure
}

// Bounds of what a Transcript keeps.
const (
	maxLine   = 8 << 10 // bytes
	lastLines = 20
)

// steps are the lines with which dpkg and the Driver begin the script of a package (dpkg's in the C locale).
var steps = []struct {
	line *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`^Running the preinst of (\S+) \((\S+)\) \.\.\.$`), "preinst"},
	{regexp.MustCompile(`^(?:Preparing to unpack|Unpacking) (\S+) \((\S+)\) \.\.\.$`), "unpacking"},
	{regexp.MustCompile(`^Setting up (\S+) \((\S+)\) \.\.\.$`), "postinst"},
	{regexp.MustCompile(`^Processing triggers for (\S+) \((\S+)\) \.\.\.$`), "triggers"},
}

// failed are the lines that say what went wrong: "dpkg: error processing package cron (--configure):" and
// " installed cron package post-installation script subprocess returned error exit status 1".
var (
	failedPackage = regexp.MustCompile(`^dpkg: error processing (?:package|archive) (\S+)`)
	failedScript  = regexp.MustCompile(`script subprocess (.+)$`)
)

// Write takes the next bytes of output.
func (t *Transcript) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			t.line = append(t.line, rest[:min(len(rest), max(0, maxLine-len(t.line)))]...)
			break
		}
		t.line = append(t.line, rest[:min(end, max(0, maxLine-len(t.line)))]...)
		rest = rest[end+1:]
		t.end()
	}
	return len(p), nil
}

// Close ends the last line.
func (t *Transcript) Close() error {
	if len(t.line) > 0 {
		t.end()
	}
	return nil
}

// end takes in a whole line. Of one that was written over ("Reading database ... 5%\r"), the end counts.
func (t *Transcript) end() {
	line := strings.TrimRight(string(t.line), "\r")
	t.line = t.line[:0]
	line = strings.ToValidUTF8(line[strings.LastIndexByte(line, '\r')+1:], "\uFFFD")
	if t.Say != nil {
		t.Say(line)
	}
	if t.over {
		return
	}
	for _, s := range steps {
		if m := s.line.FindStringSubmatch(line); m != nil {
			if t.over = t.failed; t.over {
				return
			}
			t.step, t.last, t.verdict = fmt.Sprintf("%s of %s %s", s.name, m[1], m[2]), nil, ""
			return
		}
	}
	if m := failedScript.FindStringSubmatch(line); m != nil {
		t.verdict = m[1]
	} else if m := failedPackage.FindStringSubmatch(line); m != nil && !t.failed {
		t.failed = true
		if !strings.Contains(t.step, " "+m[1]+" ") {
			t.step = "package " + m[1] // failed before its script began
		}
	}
	if t.last = append(t.last, line); len(t.last) > lastLines {
		t.last = t.last[1:]
	}
}

// Failure is why the Driver failed, for people: which script of which package, and the last lines of output. err is what
// the end of the Driver itself was, and is wrapped.
func (t *Transcript) Failure(err error) error {
	var b strings.Builder
	for _, line := range t.last {
		b.WriteString("\n  ")
		b.WriteString(line)
	}
	step := t.step
	if step == "" {
		step = "before the first script"
	}
	if t.verdict != "" {
		return &Failed{text: fmt.Sprintf("%s %s; its last lines:%s", step, t.verdict, b.String()), err: err}
	}
	return &Failed{text: fmt.Sprintf("%s: %v; the last lines:%s", step, err, b.String()), err: err}
}

// Failed is a system that could not be configured.
type Failed struct {
	text string
	err  error
}

func (f *Failed) Error() string { return f.text }
func (f *Failed) Unwrap() error { return f.err }
