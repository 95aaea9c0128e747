// Package ldcache makes /etc/ld.so.cache, the index in which glibc's loader finds shared libraries, as ldconfig(8) of
// the same glibc would: out of what the libraries say of themselves, without running anything of the image.
//
//	ELF file ─▶ Inspect ─▶ soname, ABI
//	directories with their libraries ─▶ Scan ─▶ entries, links that are missing
//	entries ─▶ Encode ─▶ the file: header ‖ entries, best first ‖ strings ‖ extension: who made it
//
// The format is that of glibc since 2.33 (sysdeps/generic/dl-cache.h): "glibc-ld.so.cache1.1" without the older format
// in front, little-endian. The libraries of glibc-hwcaps subdirectories, variants for newer processors, are not
// indexed: the loader takes the plain ones.
package ldcache
