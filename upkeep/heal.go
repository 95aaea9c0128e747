package upkeep

import (
	"context"
	"maps"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"

	"github.com/opencontainers/go-digest"
)

// Bounds of asking workers' caches.
const (
	healPatience = 5 * time.Minute // for all of them
	askPatience  = time.Minute     // for one answer
)

// heal asks the workers, one after the other, for lost pieces that their caches have, and says how many came from whom. What a
// worker says that it has put back is read once, and so verified, before it counts. A worker that does not answer is passed over:
// what is lost can be made anew.
func (u *Upkeep) heal(ctx context.Context, lost collect.Lost) map[string]int {
	ctx, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	restored := map[string]int{}
	workers, err := u.Bus.Workers.List(ctx, "")
	if err != nil {
		u.Log.Warn("the workers' caches were not asked for what is lost", "err", err)
		return restored
	}
	missing := make([]digest.Digest, 0, len(lost.Pieces))
	for sum := range lost.Pieces {
		missing = append(missing, sum.Digest())
	}
	slices.Sort(missing)
	for _, id := range slices.Sorted(maps.Keys(workers)) {
		back := map[digest.Digest]bool{}
		for part := range slices.Chunk(missing, bus.MaxRestore) {
			for _, d := range u.ask(ctx, id, part) {
				if _, err := imagestore.ReadAll(ctx, u.Store, d, imagestore.MaxPiece); err == nil {
					back[d] = true
				}
			}
		}
		if len(back) > 0 {
			restored[id] = len(back)
			missing = slices.DeleteFunc(missing, func(d digest.Digest) bool { return back[d] })
		}
		if len(missing) == 0 || ctx.Err() != nil {
			break
		}
	}
	return restored
}

// ask asks one worker.
func (u *Upkeep) ask(ctx context.Context, worker string, pieces []digest.Digest) []digest.Digest {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	reply, err := bus.Call[bus.RestoreRequest, bus.RestoreReply](ctx, u.Bus, bus.Restore(worker), bus.RestoreRequest{Pieces: pieces})
	if err != nil {
		u.Log.Warn("a worker's cache was not asked for what is lost", "worker", worker, "err", err)
	}
	return reply.Restored
}
