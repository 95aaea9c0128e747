package sandbox

import "context"

// Report says whether sandboxes work on a machine, for people.
type Report struct {
	Works   bool
	Runtime string // path of the OCI runtime; empty when there is none
	As      string // whom sandboxes run as: "root" or "user"
	Limits  string // how memory and processes are bounded
	Problem string // what is missing and how to mend it, when they don't work

	Arches []string          // whose programs run, by Debian's names
	Lacks  map[string]string // of the others: what is missing
}

// Check tries everything that Open needs, in a directory of its own below dir, and runs a program in a sandbox.
func Check(ctx context.Context, c Config) Report {
	var rep Report
	if path, err := findRuntime(c.Runtime); err == nil {
		rep.Runtime = path
	}
	r, err := Open(ctx, c)
	if err != nil {
		rep.Problem = err.Error()
		return rep
	}
	rep.Works = true
	rep.As, rep.Limits = "root", "by cgroup, for all processes of a command together"
	if !r.host.privileged {
		rep.As = "user"
	}
	if r.cgroup == "" {
		rep.Limits = "by resource limits, for each process of a command: there is no cgroup that this user may use"
	}
	rep.Arches, rep.Lacks = r.Arches(ctx)
	if err := r.Close(); err != nil {
		rep.Works, rep.Problem = false, err.Error()
	}
	return rep
}

// Arches tells the architectures whose programs run in sandboxes here from those whose don't, with what is missing, for
// people.
func (r *Runner) Arches(ctx context.Context) (run []string, lacks map[string]string) {
	lacks = map[string]string{}
	for _, arch := range Arches() {
		if err := r.Runs(ctx, arch); err != nil {
			lacks[arch] = err.Error()
		} else {
			run = append(run, arch)
		}
	}
	return run, lacks
}
