// Package rootfs knows the file systems that layers of others make: what stands where when all of them lie over each other,
// and what somebody who lays something over them has to know. It is pure.
//
//	layers, the lowest first ─▶ Builder ─▶ Record   directories with what they are like, links, files by name,
//	                                               dpkg's database, and what Configure of package debian asks for
//	a tar of a whole system ─▶ Scan ─▶ Contents ─▶ Write   a layer of it in which no path stands twice
//
// Layers follow the OCI image specification (layer.md): a later layer's entry replaces an earlier one's, whiteouts remove
// what earlier layers have. What is in such a layer is of strangers: nothing in a Record leads out of the file system,
// and everything is bounded.
package rootfs
