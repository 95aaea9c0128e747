// Package deb turns Debian packages into layer members and their control data into dpkg's database. It is pure: the
// bytes of a .deb in, pieces and a Record out; and the Records of a set in, files for the layer's head out.
//
//	.deb ─▶ Convert ─┬▶ pieces   one member: every entry of data.tar that is no directory, merged-/usr
//	                 └▶ Record   directories, dpkg's file list, control files, conffiles' hashes
//	Records of a set ─▶ Database, MergedUsr ─▶ files made for the head
//
// What comes out depends on the .deb's bytes alone: modification times are clamped to the package's own date, which is
// the time in the ar header of debian-binary, where dpkg-deb puts the build's SOURCE_DATE_EPOCH (the changelog's date).
//
// Formats: deb(5), deb-control(5), ar as dpkg reads it, tar with ustar, GNU long names and PAX extended headers.
package deb
