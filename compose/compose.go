// Package compose makes images out of locked inputs. It is pure: bytes in, bytes out; no network, store, clock,
// environment or map order. Its sub-packages know the formats: deb (Debian packages), oci (manifests).
//
// The root package holds the model of a layer:
//
//	layer  = head member ‖ member … ‖ trailer        (a multi-member gzip; one tar when unpacked)
//	head   = every directory and usr-merge link, and files made for the whole set, each once
//	member = a run of whole tar entries that are no directories, compressed on its own
//
// Members are made once and shared by every layer that holds them; no path occurs twice in a layer, because podman and
// buildah refuse such layers and dpkg would never have installed it. One set may be cut into two layers: Over makes the
// head of the upper one.
package compose
