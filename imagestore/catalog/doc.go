// Package catalog is the query index of a process: what images exist, and in which pack each piece lies. It is a
// projection into SQLite of two feeds, and nothing in it is truth: the file may be deleted at any time, and is made anew
// when its schema, or the identity of what it was made from, is another.
//
//	packs' ledger  ──▶ packs ──▶ entries (digest → pack, offset, length)    imagestore.Locator
//	versions       ──▶ versions ──▶ images, repo_blobs                      Images, Resolve, RepoHasBlob …
//
// Run follows both feeds from the last sequence that the file has seen. A pack that this process wrote is known before
// it is registered (Add); of any other the index is read from the store. CatchUp makes a question see everything that
// happened before it was asked. States of packs are kept in memory, so that condemning one costs no rewriting of its
// entries; entries of deleted packs are swept when they have become many.
//
// One process, one file: SQLite runs without fsync. After a power cut (another boot) the file is checked before it is used.
package catalog
