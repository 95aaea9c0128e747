package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/probe"
	"bakefarm/worker/sandbox"
	"bakefarm/worker/vm"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// runImage starts an image's program in a sandbox and asks the tests.
func runImage(ctx context.Context, j *job, spec plan.TestSpec) (plan.TestOutput, error) {
	if j.Sandbox == nil {
		return plan.TestOutput{}, errors.New("this worker has no sandbox for containers")
	}
	var m v1.Manifest
	if err := j.loadJSON(ctx, spec, &m); err != nil {
		return plan.TestOutput{}, err
	}
	raw, err := imagestore.ReadAll(ctx, j.Store, m.Config.Digest, imagestore.MaxManifest)
	if err != nil {
		return plan.TestOutput{}, err
	}
	var image v1.Image
	if err := json.Unmarshal(raw, &image); err != nil {
		return plan.TestOutput{}, fmt.Errorf("image configuration: %w", err)
	}
	if len(m.Layers) != len(image.RootFS.DiffIDs) {
		return plan.TestOutput{}, fmt.Errorf("image configuration: %d diff IDs for %d layers", len(image.RootFS.DiffIDs), len(m.Layers))
	}
	if len(image.Config.Entrypoint)+len(image.Config.Cmd) == 0 {
		return plan.TestOutput{}, errors.New("the image has no entrypoint: there is nothing to run; write config: {entrypoint: [...]}, or on: disk in tests")
	}
	lowers := make([]sandbox.Layer, len(m.Layers))
	for i, l := range m.Layers {
		layer := plan.Layer{Digest: l.Digest, Size: l.Size, DiffID: image.RootFS.DiffIDs[i]}
		lowers[i] = sandbox.Layer{DiffID: layer.DiffID, Open: func(ctx context.Context) (io.ReadCloser, error) { return j.open(ctx, layer) }}
	}
	root, err := j.Sandbox.Root(ctx, lowers)
	if err != nil {
		return plan.TestOutput{}, err
	}
	err = j.runOnce(ctx, root, image.Config, spec.Tests)
	if cerr := root.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return plan.TestOutput{}, err
	}
	return passed(spec.Tests), nil
}

// errEnded: the program ended by itself, with status 0.
var errEnded = errors.New("the program has ended")

// runOnce runs the image's program until its tests have passed or failed. An error of the image's own has the end of the
// program's output in it.
func (j *job) runOnce(ctx context.Context, root *sandbox.Root, c v1.ImageConfig, tests []recipe.Test) error {
	dialer, err := sandbox.NewDialer()
	if err != nil {
		return err
	}
	defer dialer.Close()
	output := probe.NewOutput(tests)
	lines := &splitter{line: func(line string) {
		j.say(consoleTag+"%s", line)
		output.Line(line)
	}}
	longest := time.Duration(0)
	for _, t := range tests {
		longest = max(longest, t.Within)
	}
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	user := c.User
	if user == "" {
		user = "0"
	}
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	running, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := root.Run(running, sandbox.Command{
			Args: append(append([]string(nil), c.Entrypoint...), c.Cmd...), Env: env, Alone: true, Dir: c.WorkingDir, User: user,
			Stdout: lines, Stderr: lines, Dialer: dialer, Limits: sandbox.Limits{Time: longest + time.Minute},
		})
		if err == nil {
			err = errEnded
		}
		stop(err)
	}()
	err = probe.All(asking, tests, probe.Target{
		Dial: dialer.Dial, Output: output, Slow: 1,
		Passed: func(t recipe.Test, after time.Duration) {
			j.say("passed %s, after %s", t, after.Round(10*time.Millisecond))
		},
	})
	end()
	<-ended
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w\nthe end of its output:\n%s", err, output.Tail())
}

// splitter hands on what is written to it as lines of plain text.
type splitter struct {
	line func(string)
	rest []byte
}

const maxOutputLine = 4 << 10

func (s *splitter) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		at := bytes.IndexByte(s.rest, '\n')
		if at < 0 {
			if len(s.rest) < maxOutputLine {
				return len(p), nil
			}
			at = len(s.rest) - 1
		}
		if line := vm.Plain(string(s.rest[:at+1])); line != "" {
			s.line(line)
		}
		s.rest = s.rest[at+1:]
	}
}
