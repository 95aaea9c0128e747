package farm

// Resources are what a machine has for shards, or what a shard takes of it while it runs.
type Resources struct {
	CPU    int   `json:"cpu,omitempty"`    // thousandths of a processor
	Memory int64 `json:"memory,omitempty"` // bytes
}

// Minus returns what is left of r.
func (r Resources) Minus(takes Resources) Resources {
	return Resources{r.CPU - takes.CPU, r.Memory - takes.Memory}
}

// Plus returns both together.
func (r Resources) Plus(takes Resources) Resources {
	return Resources{r.CPU + takes.CPU, r.Memory + takes.Memory}
}

// Fits reports whether r is to be had within room.
func (r Resources) Fits(room Resources) bool { return r.CPU <= room.CPU && r.Memory <= room.Memory }

// Takes are what a worker sets aside for a shard of the kind. Shards that run no code of images wait for mirrors and for the
// store most of the time, and take turns on the processors when they compute; what a command in a sandbox does nobody knows, and a
// virtual machine has its memory for itself.
func (k Kind) Takes() Resources {
	const mib = 1 << 20
	switch k {
	case KindConfigure, KindRun:
		return Resources{1000, 1024 * mib}
	case KindBoot:
		return Resources{2000, 1280 * mib}
	case KindSolve, KindImport:
		return Resources{125, 256 * mib}
	case KindAssemble, KindRoot, KindDisk:
		return Resources{125, 128 * mib}
	default:
		return Resources{125, 48 * mib}
	}
}
