package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs beside a script: a farm, a worker, a registry.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended and everything it wrote was read
	err   error         // of its end, once ended is closed

	mu    sync.Mutex
	said  bytes.Buffer  // stdout and stderr
	heard chan struct{} // closed and replaced with each write
}

// startProcess starts a program in a directory with an environment.
func startProcess(name, dir string, env []string, program string, args ...string) (*process, error) {
	p := &process{name: name, ended: make(chan struct{}), heard: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Env = dir, env
	p.cmd.Stdout, p.cmd.Stderr = p, p
	// It dies with the tests, however they end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said.Write(b)
	close(p.heard)
	p.heard = make(chan struct{})
	return len(b), nil
}

// output is all that it has written so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// waitFor waits until it has written what the pattern matches, and returns the match.
func (p *process) waitFor(pattern *regexp.Regexp, limit time.Duration) ([]string, error) {
	timeout := time.After(limit)
	for {
		p.mu.Lock()
		match, heard := pattern.FindStringSubmatch(p.said.String()), p.heard
		p.mu.Unlock()
		if match != nil {
			return match, nil
		}
		select {
		case <-heard:
		case <-p.ended:
			if match := pattern.FindStringSubmatch(p.output()); match != nil {
				return match, nil
			}
			return nil, fmt.Errorf("%s has ended (%v) without a word like %q; it said:\n%s", p.name, p.err, pattern, p.output())
		case <-timeout:
			return nil, fmt.Errorf("%s has said nothing like %q within %v; it said:\n%s", p.name, pattern, limit, p.output())
		}
	}
}

// end sends a signal, waits for the end and returns how long it took and how it exited.
func (p *process) end(signal os.Signal, limit time.Duration) (time.Duration, error) {
	started := time.Now()
	if err := p.cmd.Process.Signal(signal); err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.ended:
		return time.Since(started), p.err
	case <-time.After(limit):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines say what they wait for
		<-p.ended
		return limit, fmt.Errorf("%s has not ended within %v of %v; it said:\n%s", p.name, limit, signal, p.output())
	}
}

// kill ends it at once, if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it has ended: nothing to do
	<-p.ended
}
