// Package upkeep keeps what matters and lets the rest go: it applies the retention policy, empties the trash, and collects
// what nothing needs any more.
//
//	versions ──policy──▶ trash ──restorable for a while──▶ record deleted ─┐
//	bakes, shards, action cache, locks ──age──▶ record deleted ────────────┼─▶ mark ─▶ condemn packs ─▶ grace ─▶ delete
//	                                                                       │          (imagestore/collect)
//	uploads that nothing came of ──────────────────────────────────────────┘
//
// Only records are decided about; what they lead to follows from them. Every decision about a version is one
// compare-and-set of its record, made after a look at everything that may hold it, so that whoever uses a version at the
// same moment either sees it in the trash or keeps it from going there.
package upkeep
