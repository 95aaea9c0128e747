// Package execute runs shards: a claimed task in, the shard's output out, one file for each kind.
//
//	observe   mirror ─▶ Packages files as pieces
//	import    an image of others ─▶ its layers, as they are, and what they come to
//	inspect   chunks of a .deb of the user's ─▶ what it is
//	solve     indexes ─▶ the exact packages
//	convert   mirror ─▶ .deb ─▶ member          ┐ pieces to the store and, with the uncompressed tar,
//	trim      member ─▶ member without some files │
//	cut       chunks of app files ─▶ member     ┘ to the worker's cache, where assemble wants them
//	assemble  members' inventories ─▶ head; head ‖ members ─▶ layer
//	configure layers ─▶ maintainer scripts in a sandbox ─▶ a layer of what they changed
//	image     layers ─▶ configuration, manifest
//	index     images of several platforms ─▶ index
//	root      layers of an OS ─▶ a disk in chunks, without an app, and what to go on from
//	disk      that, and the app's layer ─▶ a disk in chunks ─▶ layers, manifest
//	run       image ─▶ a container in a sandbox ─▶ whether it passes the recipe's tests
//	boot      disk ─▶ a virtual machine ─▶ the same
//
// An executor stores through one imagestore.Writer and commits it last: whatever fails or is cancelled leaves nothing
// behind that anybody can see. It depends on its task alone, so it may run twice, anywhere, and makes the same output;
// observe is the exception, which is why its output never gets into the action cache. The interfaces that an executor
// wants stand in its file.
//
// Work that computes takes a turn on a processor (Turns) while it does, and none while it waits for the network: a
// worker claims several times as many shards as it has processors.
package execute

import (
	"context"
	"encoding/json"
	"fmt"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/worker/cache"
)

// Env is what executors work with. Its parts are shared by all shards of a process.
type Env struct {
	Store   Store
	Mirror  Mirror
	Images  Images // nil: no images of others are read here
	Cache   *cache.Cache
	Turns   Turns
	Indexes *Indexes
	Records *Records
	Sandbox Sandbox // nil: no code of images runs here

	Machines Machines // nil: no disks are started here
	BootKeys BootKeys // nil: no disks are signed here
}

// Store is the part of an image store that executors use.
type Store interface {
	imagestore.Reader
	Begin() imagestore.Writer
}

// Bounds of what comes with a task, in bytes of JSON.
const (
	maxSpec    = 64 << 20
	maxOutputs = 64 << 20
)

// A job is one task on its way: the environment, what the task depends on, and where to tell people about it.
type job struct {
	*Env
	outputs json.RawMessage // JSON array: the outputs of the shards that this one depends on
	say     func(format string, args ...any)
}

// executors are the kinds that a worker can run.
var executors = map[farm.Kind]func(context.Context, *job, json.RawMessage) (any, error){
	farm.KindObserve:   with(observe),
	farm.KindInspect:   with(inspect),
	farm.KindImport:    with(importBase),
	farm.KindSolve:     with(solve),
	farm.KindConvert:   with(convert),
	farm.KindTrim:      with(trim),
	farm.KindCut:       with(cut),
	farm.KindAssemble:  with(assemble),
	farm.KindConfigure: with(configure),
	farm.KindImage:     with(image),
	farm.KindIndex:     with(index),
	farm.KindRoot:      with(makeRoot),
	farm.KindDisk:      with(makeDisk),
	farm.KindRun:       with(runImage),
	farm.KindBoot:      with(boot),
}

// with decodes the spec for an executor.
func with[Spec, Output any](run func(context.Context, *job, Spec) (Output, error)) func(context.Context, *job, json.RawMessage) (any, error) {
	return func(ctx context.Context, j *job, raw json.RawMessage) (any, error) {
		var spec Spec
		if err := json.Unmarshal(raw, &spec); err != nil {
			return nil, fmt.Errorf("spec: %w", err)
		}
		return run(ctx, j, spec)
	}
}

// Run runs a task and returns its output as JSON. say gets lines for people while it runs, from any goroutine. When the
// error is one that MayPass, another attempt makes sense.
func Run(ctx context.Context, e *Env, task farm.Task, say func(line string)) (json.RawMessage, error) {
	run, ok := executors[task.Kind]
	if !ok {
		return nil, fmt.Errorf("this worker can't run shards of kind %q: upgrade it", task.Kind)
	}
	env := *e
	env.Store = watched{e.Store}
	spec, err := imagestore.LoadPayload(ctx, env.Store, task.Spec, maxSpec)
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	outputs, err := imagestore.LoadPayload(ctx, env.Store, task.Outputs, maxOutputs)
	if err != nil {
		return nil, fmt.Errorf("outputs of dependencies: %w", err)
	}
	j := &job{Env: &env, outputs: outputs, say: func(format string, args ...any) { say(fmt.Sprintf(format, args...)) }}
	output, err := run(ctx, j, spec)
	if err != nil {
		return nil, err
	}
	return json.Marshal(output)
}

// dependencies decodes the outputs of the shards that a job depends on.
func dependencies[Output any](j *job) ([]Output, error) {
	var outputs []Output
	if len(j.outputs) > 0 {
		if err := json.Unmarshal(j.outputs, &outputs); err != nil {
			return nil, fmt.Errorf("outputs of dependencies: %w", err)
		}
	}
	return outputs, nil
}
