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
// The candidate of a name is its highest version over all indexes (at equal versions: the first index, so the order of
// the sources is a preference, as it is for apt), or the version that the request pins with name=version. Only
// candidates are ever installed.
//
// Variant minbase is debootstrap's: every package with Essential: yes or Priority: required, and apt. Variant none is the
// named packages alone. Both are closed over Pre-Depends and Depends; Recommends are not followed. The minbase set is
// closed first and the named packages on top of it, because that is what debootstrap followed by apt-get install does,
// and choices between alternatives depend on it.
//
// An alternative that the set already satisfies is taken. Otherwise alternatives are tried from left to right, each
// first as the real package, then as its providers: essential ones first, then by priority, then by name. (Where apt
// itself has no rule left, it takes what its cache saw first; the name is the rule here.) An alternative whose own
// dependencies or conflicts cannot be met is undone and the next one is tried. What the request cannot be without, through
// dependencies that leave no choice, is known before the first choice, and whatever conflicts with it is no option. A choice
// that was made before and stands is not reopened: a set that exists only after reopening one is refused, with both
// packages named.
//
// One preference is bakefarm's own: where usr-is-merged is an alternative, it wins, because every layer is merged-/usr
// by construction and the other choice, usrmerge, would convert at run time what never needs converting.
package apt
