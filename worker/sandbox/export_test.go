package sandbox

// CgroupOf is where tests look for cgroups that are left.
var CgroupOf = cgroupOf
