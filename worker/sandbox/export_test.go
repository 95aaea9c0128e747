package sandbox

// CgroupOf is where tests look for cgroups that are left.
var CgroupOf = cgroupOf

// The race detector waits for a second before a process ends, and every call is a process or two.
func init() { helperEnv = append(helperEnv, "GORACE=atexit_sleep_ms=0") }
