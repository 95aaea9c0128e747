// Package s3store is the image store over any S3-compatible service, through minio-go.
//
// # Writing
//
// A Writer keeps its pieces to itself until Commit: what is never committed is never seen. Only when they have become
// many are they uploaded early, in a pack of that Writer's own, which gets its record at Commit. Commit hands the rest
// to the packer, which all Writers of a Store share:
//
//	Writer ─Commit─▶ ┌ packer ─────────────────┐
//	Writer ─Commit─▶ │ open pack (collecting)  │──▶ at most 2 uploads ──▶ PUT ─▶ Locator.Add ─▶ Ledger.Register ─▶ visible
//	Writer ─Commit─▶ └─────────────────────────┘
//
// The first Commit is uploaded at once. Commits that come while two uploads run collect in the open pack and go together
// when one has ended (group commit): under load there are fewer and larger packs, without a timer. A piece that is on its
// way already for another Writer is not stored again: Commit waits for that one.
//
// Pack IDs are never reused, not even by the retry of a failed upload. A pack is registered after the store has
// acknowledged it, and after the packs that its composites refer to; until then nobody finds it, and if that never
// happens it is an object without a record, which garbage collection removes.
//
// Memory: 8 MiB for each Writer (or its largest piece), 24 MiB for all that are uploaded early, and 16 MiB of what was read
// or written last.
//
// # Reading
//
// Pieces that lie side by side in a pack are read with one ranged GET; up to 16 GETs, or 16 MiB, run ahead of the reader. Every piece is
// verified as a whole before a byte of it is given out. Small pieces and descriptors are kept in memory.
//
// # What S3 must be able to do
//
// PUT, ranged GET, DELETE and HEAD of a bucket, and a listing for garbage collection (which may lag): no multipart,
// conditional writes or tagging. The store only writes below
// its prefix, under packs/<2 characters>/<pack ID>.
package s3store
