package scripts

import _ "embed" // the script

// Driver is a script for the shell of the system: sh -c Driver NAME PHASE… does the phases in their order.
//
//	unmark      makes installed packages unpacked ones
//	preinst     runs their preinsts: base-passwd's first, which makes the owners of files, then by name
//	unpack      has dpkg unpack the .deb on standard input, its preinst included
//	configure   has dpkg configure what is unpacked, triggers included, and look for what is left half-done
//
//go:embed driver.sh
var Driver string

// The phases of the Driver.
const (
	PhaseUnmark    = "unmark"
	PhasePreinst   = "preinst"
	PhaseUnpack    = "unpack"
	PhaseConfigure = "configure"
)

// Environment is what the Driver wants in its environment beside what every sandbox gives: what debootstrap and its
// kind set, and the time that tools which stamp what they make shall take for now.
func Environment(epoch string) map[string]string {
	return map[string]string{"DEBCONF_NONINTERACTIVE_SEEN": "true", "SOURCE_DATE_EPOCH": epoch}
}
