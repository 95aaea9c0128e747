// Package strict reads YAML that people write, strictly: every error has its file, line and column, names the field and
// says what to write instead, and all errors come at once.
//
//	Parse ──▶ Document ──Set (flags)──▶ Root ──▶ Value.Fields, Items, Text … ──▶ Document.Err
//	            │                                   │
//	            └── syntax, anchors, tags,          └── unknown fields, wrong kinds, what the
//	                keys that stand twice                caller refuses (Value.Refuse)
//
// A language is smaller than YAML: one document, mappings with text keys, lists and scalars; no anchors, aliases, merge
// keys or tags. Scalars are taken as they are written. What was refused once is not refused again by those who read on, so
// a reader may go on after an error and collect the rest.
package strict
