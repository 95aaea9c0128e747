// Package coordinator accepts bakes, resolves and plans them, hands their shards to workers, rescues what gets lost, and
// commits what comes out.
//
// Truth is in the records of package farm in JetStream's key-value buckets, changed by compare-and-set only; queue
// messages are hints. A Coordinator itself holds nothing that it could not lose: a mirror of the unfinished records, a
// memo of outputs (they never change), and for each bake that it drives a flight, which is its plan with what is known
// of each shard. Kill it between any two writes, start another one on the same bus, and every unfinished bake goes on.
// Several may run at once: whoever loses a compare-and-set reads again and finds the work done.
//
//	SubmitBake ─▶ accept ─▶ resolve ───────────────▶ plan ─▶ advance ─▶ commit ─▶ archive
//	                 │      observe, solve: shards     │      shards      │       the log
//	                 │                                 │                  │
//	                 └── version exists: done at once ─┘                  └ version, tags, channel
//
//	a worker:  hint ─▶ Claim ─▶ Beat … Beat ─▶ Report ─▶ action cache ─▶ kick every bake that wants the shard
//	the sweep: lease out ─▶ queued again; hint lost ─▶ hint again; bake stalled ─▶ driven; nobody wants it ─▶ cancelled
//
// Who gets a shard is decided when a worker asks (queue.go), but for one: where the worker is present that has in its cache what
// the shard needs (warmth.go), and has room, the shard is offered to it (offer.go) before it goes into the queue.
//
// Drive (drive.go) takes a bake as far as it goes without waiting, from whatever state its record has, and may run again
// at any time; what to do next is a pure function (decide.go). Shards with the same key are one record: a bake joins by
// adding itself to Shard.Bakes and leaves by taking itself out; a shard that nobody wants any longer is cancelled.
//
// A re-bake keeps the Lock that its request resolved to last and runs every shard anew, under IDs of its own
// ("key~bake"). An output that differs from the action cache's fails it: not reproducible.
package coordinator
