// Package apt turns what a Debian archive publishes into the exact packages of a system, as apt would choose them.
//
//	InRelease + keyring + now ──VerifyRelease──▶ Release: which index files, by sha256
//	Packages text ──────────────ParsePackages──▶ Index: what an archive offers
//	Request + Indexes ──────────Solve──────────▶ Solution: name, version, architecture, sha256
//
// It is pure: bytes, keys and the time come in as arguments, and the answer depends on nothing else. Fetching is the
// business of worker/mirror.
//
// # What Solve chooses
//
// What apt 2.6 chooses. docs/resolution.md has the rules for people and the differences that are meant; tests/apt compares
// with apt-get itself, over a real archive.
//
//	policy    the candidate of each name: the version of the highest priority (apt_preferences(5)), of these the highest;
//	          or the one that the request pins with name=version. Only candidates are ever installed.
//	mark      depth first through Pre-Depends, Depends, Conflicts and Breaks, as apt's MarkInstall does: an alternative
//	          that is met already is taken, else they are tried from left to right, and what cannot be is undone.
//	repair    what is still broken after all was marked: by score, as apt's problem resolver does.
//	sweep     what came with an attempt that failed goes again.
//
// Variant minbase is debootstrap's: every package with Essential: yes or Priority: required, and apt. It is resolved
// first, by itself, and is the installed system that the request then meets, because that is what debootstrap followed
// by apt-get install does, and choices between alternatives depend on it. Variant none is the named packages on nothing.
// Recommends are not followed.
//
// The search is not complete, and is not meant to be: for a request where apt gives up although there is a set, so does
// Solve, with the same packages named.
package apt
