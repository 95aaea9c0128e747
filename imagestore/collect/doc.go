// Package collect is the garbage collection of packs. It runs while bakes, pulls and uploads run, and locks nothing.
//
//	mark    everything that the farm's records lead to, now: digests, parts of composites, names in documents
//	sweep   each pack by what of it is marked:
//	          live, and nothing is          ──▶ condemned                   (not the young ones)
//	          live, and little is           ──▶ condemned, and the rest copied: repacking
//	          live, half of it is, and all  ──▶ likewise, the emptiest first, until little is wasted
//	          packs together waste much
//	          condemned, and something is   ──▶ copied out; live again when that is most of it
//	          condemned long ago, nothing   ──▶ the record deleted, then the object
//	        objects without a record, long after their upload: deleted
//
// # Why nothing is lost
//
// Condemned means absent to "have?": nobody decides to build upon a condemned pack any more (a Writer that had decided
// before copies the piece: s3store.Writer.Compose), and a worker's report is refused for pieces that only such a pack has.
// Whoever decided before has recorded it within the time that a bake may take, or never will. So a pack is deleted only
//
//   - when its grace, which is longer than that time, was over before the mark began, and
//   - that mark, which has seen every record that could have been made on the old decision, did not need it.
//
// Each step is one compare-and-set of the pack's record or can be done again. A collector that was paused for a day between
// mark and sweep does no harm: what it condemns is looked at again before it is deleted, and what it would delete has been
// condemned, untouched, since before its mark. So two at once are safe as well, merely wasteful, and there is no state to
// resume from: a run that was killed, or that S3 failed, is begun again.
//
// # What it costs
//
// A run reads the farm's records and its own index of entries, in their order, and no object, but for what it has not met
// before: descriptors of new composites and new documents, whose references it then remembers. Marks are 32 bytes each.
package collect
