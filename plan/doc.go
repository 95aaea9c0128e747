// Package plan turns what a bake resolved to into the DAG of shards that make it, and says which of them a farm need
// not run again.
//
//	Recipe ──Resolve──▶ questions ──observe, solve──▶ answers ─┐
//	                                         recipe.BuildTrees ─┴─Lock──▶ recipe.Lock
//
//	Lock ──New──▶ convert … convert ──▶ assemble os ──┐
//	              cut ……… cut ────────▶ assemble app ─┴──▶ image …▶ index  ──Decide──▶ hit, miss or not needed
//
// Packages of the user's own are inspected before the questions are solved: what they are, and what they depend on, is
// part of these.
//
// Each platform has an OS layer and an image of its own; what they have in common (packages for all architectures, the app)
// is the same shards. Several platforms have an index over their images.
//
// A shard's key is the digest of its kind, the kind's format number and its inputs, where an input that another shard
// makes stands as that shard's key: all keys are known before anything runs, and equal keys are one shard in any bake.
// Keys are a contract with every action cache in the world; golden tests hold them.
//
// The package is pure: no clock, store, network or environment.
package plan
