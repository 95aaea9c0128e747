package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// worker claims shards, works on them by the book, and reports.
type worker struct {
	f      *testFarm
	id     string
	before func(farm.Task) error    // nil: nothing; an error is reported
	output func(farm.Task, any) any // changes what is reported; nil: nothing
	mirror func() string            // what the mirror has now
	retry  bool                     // errors may pass
	work   map[farm.Kind]*bus.Work
	mu     sync.Mutex
	ran    []string // labels, in order
}

func (f *testFarm) worker(id string, change ...func(*worker)) *worker {
	f.t.Helper()
	w := &worker{f: f, id: id, work: map[farm.Kind]*bus.Work{}, mirror: func() string { return "monday" }}
	for _, c := range change {
		c(w)
	}
	for _, kind := range farm.Kinds {
		arch := "any"
		if kind == farm.KindRun {
			arch = "amd64"
		}
		q, err := f.bus.Work(f.t.Context(), farm.Class(arch, kind))
		if err != nil {
			f.t.Fatal(err)
		}
		w.work[kind] = q
	}
	return w
}

// start works until stop or the end of the test.
func (w *worker) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for kind, q := range w.work {
		loops.Go(func() {
			for ctx.Err() == nil {
				hints, err := q.Fetch(ctx, 4, time.Second)
				if err != nil && ctx.Err() == nil {
					w.f.t.Errorf("fetch %s: %v", kind, err)
					return
				}
				for _, h := range hints {
					if err := w.serve(ctx, h); err != nil && ctx.Err() == nil {
						w.f.t.Errorf("worker %s: %v", w.id, err)
					}
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); loops.Wait() })
	w.f.t.Cleanup(stop)
	return stop
}

func (w *worker) serve(ctx context.Context, h bus.Hint) error {
	reply, err := w.claim(ctx, h.ShardID)
	if err != nil || !reply.Granted {
		if err == nil && reply.Gone {
			return h.Ack()
		}
		return errors.Join(err, h.Nak(20*time.Millisecond))
	}
	_, err = w.finish(ctx, reply.Task)
	return errors.Join(err, h.Ack())
}

func (w *worker) claim(ctx context.Context, shard string) (bus.ClaimReply, error) {
	return bus.Call[bus.ClaimRequest, bus.ClaimReply](ctx, w.f.bus, bus.Claim, bus.ClaimRequest{ShardID: shard, Worker: w.id})
}

// claimHinted waits for a hint of the kind and claims its shard.
func (w *worker) claimHinted(kind farm.Kind) farm.Task {
	w.f.t.Helper()
	for {
		hints, err := w.work[kind].Fetch(w.f.t.Context(), 1, 10*time.Second)
		if err != nil || len(hints) == 0 {
			w.f.t.Fatalf("no hint of kind %s: %v", kind, err)
		}
		reply, err := w.claim(w.f.t.Context(), hints[0].ShardID)
		if err != nil {
			w.f.t.Fatal(err)
		}
		hints[0].Ack()
		if reply.Granted {
			return reply.Task
		}
	}
}

// finish does a task and reports it.
func (w *worker) finish(ctx context.Context, task farm.Task) (bus.ReportReply, error) {
	w.mu.Lock()
	w.ran = append(w.ran, task.Label)
	w.mu.Unlock()
	report := bus.ReportRequest{ShardID: task.ShardID, Token: task.Token, Worker: w.id, Took: time.Millisecond}
	var failure error
	if w.before != nil {
		failure = w.before(task)
	}
	if failure == nil {
		out, err := w.run(ctx, task)
		if err != nil {
			return bus.ReportReply{}, err
		}
		if w.output != nil {
			out = w.output(task, out)
		}
		report.Output, _ = json.Marshal(out)
	} else {
		report.Error, report.Retry = failure.Error(), w.retry
	}
	return bus.Call[bus.ReportRequest, bus.ReportReply](ctx, w.f.bus, bus.Report, report)
}

func (w *worker) labels() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ran)
}

// run makes outputs of the right form: their bytes are names, but the store has all that they name.
func (w *worker) run(ctx context.Context, task farm.Task) (any, error) {
	spec, err := imagestore.LoadPayload(ctx, w.f.pieces(), task.Spec, 64<<20)
	if err != nil {
		return nil, err
	}
	rawOutputs, err := imagestore.LoadPayload(ctx, w.f.pieces(), task.Outputs, 64<<20)
	if err != nil {
		return nil, err
	}
	into := w.f.pieces().Begin()
	put := func(text string) plan.Piece {
		part, perr := into.Put(ctx, []byte(text))
		err = errors.Join(err, perr)
		return plan.Piece{Digest: part.Digest, Size: part.Size}
	}
	deps := func(list any) {
		err = errors.Join(err, json.Unmarshal(rawOutputs, list))
	}
	var out any
	switch task.Kind {
	case farm.KindObserve:
		p := put("index of " + w.mirror())
		out = plan.ObserveOutput{Indexes: []plan.Index{{Base: "http://127.0.0.1/debian", Suite: "bookworm", Packages: p.Digest, Size: p.Size}}}
	case farm.KindSolve:
		var s plan.SolveSpec
		if err := json.Unmarshal(spec, &s); err != nil {
			return nil, err
		}
		var list []plan.SolvedPackage
		for _, name := range slices.Sorted(slices.Values(s.Debian.Packages)) {
			text := fmt.Sprintf("%s of %s", name, s.Indexes[0].Packages)
			arch := "all"
			if name == "libc6" {
				arch, text = s.Arch, text+" "+s.Arch
			}
			list = append(list, plan.SolvedPackage{URL: "http://127.0.0.1/" + name + ".deb", LockedPackage: recipe.LockedPackage{
				Name: name, Version: "1.0-1", Arch: arch, SHA256: digest.FromString(text), Size: 1000,
			}})
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		out = plan.SolveOutput{Packages: put(string(raw)).Digest, Count: len(list)}
	case farm.KindConvert, farm.KindCut:
		text := fmt.Sprintf("member %s %s", task.Kind, task.Key)
		out = plan.Member{
			Pieces: []plan.Piece{put(text)}, TarSize: 10240, TarDigest: digest.FromString("tar of " + text),
			Inventory: put("inventory of " + text).Digest,
		}
	case farm.KindAssemble:
		var members []plan.Member
		deps(&members)
		text := "head " + task.Key.String()
		head := put(text)
		blob := imagestore.Blob{Parts: []imagestore.Part{{Digest: head.Digest, Size: head.Size}}, Size: head.Size}
		for _, m := range members {
			for _, p := range m.Pieces {
				content, rerr := imagestore.ReadAll(ctx, w.f.pieces(), p.Digest, p.Size)
				err = errors.Join(err, rerr)
				text += string(content)
				blob.Parts = append(blob.Parts, imagestore.Part{Digest: p.Digest, Size: p.Size})
				blob.Size += p.Size
			}
		}
		blob.Digest = digest.FromString(text)
		err = errors.Join(err, into.Compose(ctx, blob))
		out = plan.Layer{Digest: blob.Digest, Size: blob.Size, DiffID: digest.FromString("diff" + text), TarSize: 20480, Pieces: len(blob.Parts)}
	case farm.KindImage:
		var layers []plan.Layer
		deps(&layers)
		text := "image " + task.Key.String()
		var blobs []digest.Digest
		for _, l := range layers {
			text += l.Digest.String()
			blobs = append(blobs, l.Digest)
		}
		out = plan.ImageOutput{
			Manifest: put(text).Digest, MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 3000,
			Blobs: append(blobs, put("config of "+text).Digest),
		}
	case farm.KindIndex:
		var images []plan.ImageOutput
		deps(&images)
		index := plan.ImageOutput{Manifest: put("index " + task.Key.String()).Digest, MediaType: "application/vnd.oci.image.index.v1+json", Size: 6000}
		for _, i := range images {
			index.Blobs = append(index.Blobs, i.Manifest)
		}
		out = index
	case farm.KindRun:
		out = plan.TestOutput{Passed: []string{"all"}}
	}
	return out, errors.Join(err, into.Commit(ctx))
}
