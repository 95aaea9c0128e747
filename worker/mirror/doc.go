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
// sources.list, and *.list and *.sources in sources.list.d, with Types, URIs, Suites, Components, Architectures, Signed-By
// (paths, fingerprints, an embedded block), Check-Valid-Until, Trusted and Enabled; auth.conf and auth.conf.d; and of
// apt.conf, as apt-config dumps it: Acquire::http::Proxy and Acquire::https::Proxy (also per host), Acquire::https::CaInfo
// and Acquire::Check-Valid-Until. Where apt sets no proxy, http_proxy and its kin decide. Not read: preferences (pinning),
// flat repositories, client certificates, the schemes mirror+…, tor+… and cdrom.
//
// URIs of one deb822 stanza may be mirrors of each other or different archives, and apt does not say which: those whose
// InRelease is the same are taken as mirrors and stand in for each other, and one that does not answer is left out with a
// warning as long as another one of the stanza does.
package mirror
