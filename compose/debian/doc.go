// Package debian makes the files that a Debian system has from its packages' maintainer scripts, for images in which no
// script ever runs, and only those that programs can't do without: who root is, which certificates are trusted, where
// libraries are, what "awk" is.
//
//	member ─▶ Gather ─▶ Facts     of one package, whatever set it is in: keep them
//	Records and Facts of a set ─▶ Configure ─▶ files made for the head
//
// Each file is what the package's own script would have left on a new system, byte for byte where nothing random or
// dated is in it; docs/debian.md lists them, and what is left out. A package that is not in the set makes nothing, and
// what a package brings is never replaced, as in the scripts. dpkg's database says nothing of these files there either.
package debian
