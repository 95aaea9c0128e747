// Package farm holds the nouns that the farm keeps, with their rules and states: bakes, shards and their attempts,
// packs, versions, channels and workers. They are the values of the JetStream key-value buckets and the payloads of the
// messages between roles, so every record carries a schema number: a reader accepts its own and the neighbouring ones.
//
// Nothing here does I/O. A rule stands beside the noun that it rules: which moves between states are legal, which
// names are well formed, which record supersedes which.
//
//	Recipe ──▶ Bake ──plan──▶ Shard … Shard ──▶ Output (action cache)
//	                │                             │
//	                └──────────▶ Version ◀────────┘        Channel ──▶ Version
//	                               │
//	                             Images ──▶ blobs ──▶ pieces ──▶ Packs
package farm

import "fmt"

// Schema is the number that writers of this release put into every record.
const Schema = 1

// CheckSchema refuses a record that is more than one schema away from ours: an older or newer neighbour is readable
// (fields are only ever added), anything further is not.
func CheckSchema(record string, schema int) error {
	if schema < Schema-1 || schema > Schema+1 || schema < 1 {
		return fmt.Errorf("%s has schema %d: this release reads %d to %d; upgrade the older side", record, schema, max(1, Schema-1), Schema+1)
	}
	return nil
}
