// Package catalog is the query index of a process: what images exist, what is in them, where they are published and used,
// and in which pack each piece lies. It is a projection into SQLite of the farm's feeds, and nothing in it is truth: the
// file may be deleted at any time, and is made anew when its schema, or the identity of what it was made from, is another.
//
//	packs' ledger ──▶ packs ──▶ entries (digest → pack, offset, length)          imagestore.Locator
//	versions      ──▶ versions, repo_blobs                    ┐
//	  └─ Locks    ──▶ package_sets, packages        ├──▶ index ──▶     Images, Count, Channels, Family …
//	channels, usage, deployments ──▶ records                  ┘
//
// Run follows every feed from the last sequence that the file has seen. A pack that this process wrote is known before
// it is registered (Add); of any other the index is read from the store. The CatchUp methods make a question see
// everything that happened before it was asked. States of packs are kept in memory, so that condemning one costs no
// rewriting of its entries; entries of deleted packs are swept when they have become many.
//
// # Questions about images
//
// An image's row is a few hundred bytes, and a farm has 10⁵ of them: all rows stand in memory too (index.go), where any
// combination of filters and any order is one pass over them, a few milliseconds, with no query plan that could turn out
// slow. What is large stays in the file and is looked up: blobs by repository, and what images contain.
//
// Images share their sets of packages (an app's re-bake has its predecessor's), so a set is stored once, under a number,
// and a package's version once. In memory, each of these has the numbers of the sets that have it, a byte or so for each: the
// question "openssl<3.0.15" compares the versions of openssl that were ever seen, joins their sets, and passes over the rows.
//
// One process, one file: SQLite runs without fsync. After a power cut (another boot) the file is checked before it is used.
package catalog
