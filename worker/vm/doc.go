// Package vm starts disks in virtual machines, to see whether they work: QEMU, as an ordinary process.
//
//	Host      what this machine can start: programs, firmware, KVM if it has proved itself
//	 └ Start  a disk, written to by nobody (what the machine writes goes with it)
//	    ├ Console  lines of the serial console, as they come
//	    ├ Dial     a TCP connection to a port of the machine
//	    └ Close    the process has ended, nothing is left
//
// # What a machine gets
//
// Two processors, 1 GiB, a disk, a network card whose network ends in QEMU: an address by DHCP, nothing and nobody
// else, and no way out (restrict=on). What reaches it are connections through Dial. QEMU itself runs with its own
// system call filter, and as nobody when the caller is root; its disk is a snapshot, so the file stays as it is.
//
// # KVM
//
// A /dev/kvm that can be opened may still not run a kernel: where virtual machines are not meant to be nested, for one.
// So the first machine with KVM has to reach its kernel within seconds; when it doesn't, it is started again without, and
// so are all after it. Without KVM the processor is emulated (TCG), some ten times slower: Emulated says so.
package vm
