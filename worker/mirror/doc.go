// Package mirror talks to Debian archives: it reads the machine's apt configuration, observes what the mirrors of a suite
// have now, and fetches packages by digest.
//
//	apt sources ─┐                    ┌─ InRelease (conditional GET) ─ signature, Valid-Until, suite
//	keyrings  ───┼─▶ Client.Observe ──┤
//	apt.conf  ───┘                    └─ Packages.gz (by hash) ─ size and sha256 as the signed Release says
//	URLs, size, sha256 ─▶ Client.Fetch ─▶ bytes, verified before the last of them is followed by io.EOF
//
// Nothing that a mirror says is believed before a signature or a digest has confirmed it, except that it is not there.
// Trouble that passes (5xx, resets, stalls) is tried again with back-off, then at the next address; errors name the URL
// and the reason.
//
// # What is read of apt's configuration
//
// sources.list, and *.list and *.sources in sources.list.d, with Types, URIs, Suites (also a directory with a slash at its
// end: a flat repository), Components, Architectures (+ and -), Signed-By (paths, fingerprints, an embedded block),
// Check-Valid-Until, Trusted, By-Hash and Enabled; preferences and preferences.d; auth.conf and auth.conf.d; and of
// apt.conf, as apt-config dumps it: Acquire::http::Proxy and Acquire::https::Proxy, Acquire::https::CAInfo, SslCert, SslKey,
// Verify-Peer and Verify-Host (all of these also per host), Acquire::Check-Valid-Until and APT::Default-Release. Where apt
// sets no proxy, http_proxy and its kin decide. Not read: the schemes mirror+…, tor+… and cdrom.
//
// # Which sources count for a suite
//
// Those of the suite and all that is named after it (bookworm-updates, bookworm-security, bookworm-backports: these have
// NotAutomatic in their Release and wait to be asked for), and the repositories of others beside it. What is another
// release of the same maker is left out, so that one machine can have the sources of several.
//
// URIs of one deb822 stanza may be mirrors of each other or different archives, and apt does not say which: those whose
// InRelease is the same are taken as mirrors and stand in for each other, and one that does not answer is left out with a
// warning as long as another one of the stanza does.
package mirror
