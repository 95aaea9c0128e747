// Package chaos bakes on a farm of real processes while its parts are killed, paused, cut off, starved and lied to, and then
// checks what was promised.
//
//	go test ./tests/chaos                          a short run, with the faults of one seed
//	make chaos [SEED=n]                            five minutes, 200 bakes in flight
//	go test ./tests/chaos -chaos 1h -seed 42       as long as that; the seed is the order of the faults
//
// The farm is three coordinators whose NATS servers are a cluster, an API, three workers and the S3 role. Every connection
// between two of them goes through a wire of its own (package bustest), requests to S3 through weather:
//
//	worker, api ──wire──▶ NATS of each coordinator ──wire──▶ NATS of the others
//	coordinator, worker, api ──wire──▶ weather ──▶ s3
//
// Three players, each with a part of the seed, do one thing after the other, side by side:
//
//	workers        killed · paused for longer than their lease, and woken · stopped in order · cut off from NATS or S3 · slow or
//	               doubled messages · a full disk
//	coordinators   killed · paused · the leader of the shards' stream killed · a NATS server cut off from the others · started again
//	               with a clock that is hours off. One at a time: two of three make a majority
//	weather        S3 answers 500 or 503, nothing, late, half, or breaks the connection before or after it has done its work
//
// What must be true at the end: every bake that was accepted has ended, once; none has failed; its images are in the
// catalog, can be pulled, and are those that a farm in peace makes of the same recipes.
package chaos
