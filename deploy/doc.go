// Package deploy decides where channels point and carries what they point to out to registries.
//
//	Promote, Rollback ──▶ move (pure) ──▶ channel record, by compare-and-set ──▶ history stream ──▶ publications
//
// The channel's record is the truth. It carries its latest move, so a process that dies between the record and the
// history, or between the history and the publications, leaves nothing out: whoever moves the channel next, or starts next,
// makes up for it first. So the history has every move once and in order, however many processes there are.
//
// Publications are records too, worked off in the background with back-off: a registry that is down delays them and
// nothing else. Where versions share a target, the registry ends up with the one that the channel points to.
//
//	pending ──pushed──▶ done            any of them ──promoted again──▶ pending
//	   ├── hopeless, or tried too often ──▶ failed
//	   └── the channel moved on ──▶ superseded
package deploy
