// Package deploy decides where channels point and carries what they point to out to registries.
//
//	Promote, Rollback ──▶ move (pure) ──▶ channel record, by compare-and-set ──▶ history stream ──▶ publications
//
// The channel's record is the truth. It carries its latest move, so a process that dies between the record and the
// history leaves nothing out: whoever moves the channel next, or starts next, appends the entry first. Publications are
// records too, worked off in the background with back-off: a registry that is down delays them and nothing else.
package deploy
