// Package storetest is the conformance suite of package imagestore's contracts: Run for a Store, RunTags for Tags,
// RunLedger for a Ledger. Every implementation, and every decorator, passes it; the tests of s3store also run it through
// a network that fails on schedule.
//
// It also has the two feeds that a store's index is a projection of, in memory (Ledger, Versions), for tests that are not
// about them.
package storetest
