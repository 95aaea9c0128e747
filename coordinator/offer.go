package coordinator

import (
	"math/rand/v2"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// offerFor is how long a shard that was offered to a worker is kept for it. Then it goes into the queue, for anybody.
const offerFor = 250 * time.Millisecond

// offer has a queued shard go to a worker whose cache has most of what it needs, if there is one that is not busy. Otherwise
// the shard is for the queue.
//
//	warm and free     an offer, which that worker claims at once; nobody else gets the shard for offerFor
//	warm and busy     the queue: waiting would cost more than reading
func (c *Coordinator) offer(s farm.Shard) bool {
	if c.NoAffinity {
		return false
	}
	degrees := c.warmth.degrees(s.Kind, s.Deps)
	if len(degrees) == 0 {
		return false
	}
	takes := s.Kind.Takes()
	var best farm.Worker
	most := 0
	c.workers.pick(func(v *view[farm.Worker]) bool {
		w := v.rec
		n := degrees[w.CacheID]
		if n < max(most, 1) || w.Draining || !slices.Contains(w.Classes, s.Class) || !farm.Meets(w.Labels, s.Requires) {
			return false
		}
		if n == most && w.ID > best.ID { // the same one each time: its workers share a cache
			return false
		}
		if c.queue.roomFor(w, takes) {
			best, most = w, n
		}
		return false
	})
	if most == 0 || !c.queue.keepFor(s.ID, best.ID, takes, time.Now().Add(offerFor)) {
		return false
	}
	if err := c.Bus.OfferTo(best.ID, bus.Offer{ShardID: s.ID, Class: s.Class}); err != nil {
		c.Log.Warn("offer not sent", "shard", s.ID, "worker", best.ID, "err", err)
	}
	c.shards.hintAt(s.ID, time.Now().Add(offerFor)) // the sweep sends it, if nobody has claimed the shard by then
	return true
}

// offersAtOnce is how many shards that wait too long one look offers: there is no room for many, else they would not wait.
const offersAtOnce = 8

// press offers a shard, which has waited although it was hinted at, to any worker that has room for it. Hints come by a queue's
// consumer, and one whose servers were cut off from each other may hand out nothing for as long as nobody makes it anew.
// Whoever is offered the shard claims it like any other, so that it is no matter who comes first. It reports whether there was a worker.
func (c *Coordinator) press(s farm.Shard) bool {
	takes := s.Kind.Takes()
	free := c.workers.pick(func(v *view[farm.Worker]) bool {
		w := v.rec
		return !w.Draining && slices.Contains(w.Classes, s.Class) && farm.Meets(w.Labels, s.Requires) && c.queue.roomFor(w, takes)
	})
	if len(free) == 0 {
		return false
	}
	w := free[rand.IntN(len(free))]
	if err := c.Bus.OfferTo(w.id, bus.Offer{ShardID: s.ID, Class: s.Class}); err != nil {
		c.Log.Warn("offer not sent", "shard", s.ID, "worker", w.id, "err", err)
	}
	return true
}
