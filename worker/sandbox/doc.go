// Package sandbox runs commands inside the root filesystem of an image: the maintainer scripts of packages, and steps.
//
//	Runner   a directory with unpacked layers and roots; one process at a time
//	 └ Root  lower layers (unpacked once, shared) + an upper layer of its own: the overlay that commands see and change
//	    ├ Run      a command in a container of the runtime (runc by default), again and again
//	    ├ Changes  what the commands changed: entries of one more layer, read from the upper layer
//	    └ Close    nothing is left
//
// The caller's process mounts nothing and touches no file of a root. It starts itself once more as a helper, which has
// mount, PID, IPC and network namespaces of its own, and a user namespace when the caller is an ordinary user:
//
//	caller ── fork ──▶ helper, PID 1 of its namespaces ──▶ runtime ──▶ command
//	   │ request, open for as long as the caller lives ▶│ overlay mount, /proc
//	   ◀──────────────────────────────────────── reply │
//
// So whatever happens, the kernel clears up: when the caller dies the request pipe closes and the helper ends; when the
// helper ends, so do all processes in its PID namespace, and the mounts with them. What can outlive a killed caller is
// files and an empty cgroup; the next Open of the same directory removes them. The directory's lock is held by helpers
// too, so that the next Open waits for their end.
//
// # What a command gets
//
// The capabilities and the system calls of Docker's default profile, no device but those of an OCI container's /dev, no
// network but a loopback interface of its own, an empty /tmp in memory, nothing of the caller's environment. Services
// can't start: policy-rc.d says 101, start-stop-daemon does nothing, systemctl believes that it's offline, ischroot says yes.
// These stand-ins are a lower layer of their own and never become part of the Changes. sync(2) does nothing: what everybody
// on the machine has written is not for a command to wait for.
//
// The root is trusted with nothing either: layers are unpacked by a helper whose root directory is the layer's, and no
// path of a layer is ever followed outside.
//
// # Root or not
//
// With CAP_SYS_ADMIN the owners in layers are the owners on disk, and the limits on memory and processes are the
// cgroup's. An ordinary user needs ranges of subordinate IDs (subuid(5), subgid(5)), newuidmap and newgidmap, and a
// kernel that mounts overlays in user namespaces (5.11); ID 0 in the layers is then the user and the others are the
// range's. Limits are resource limits in that case: on the data of each process rather than of all. Device nodes can't
// be made there, and are left out of lower layers; they are in the Changes of nobody, since containers have a /dev of
// their own.
//
// Check says what a machine lacks, and how to mend it.
package sandbox
