package scripts

import (
	_ "embed" // the script
	"fmt"
	"strings"

	"bakefarm/compose"
)

// Driver is a script for the shell of the system: sh -c Driver NAME PHASE… does the phases in their order.
//
//	keep        reads from standard input what Configured says
//	unmark      makes installed packages unpacked ones, but those that are configured: over these, their configuration
//	            files are put aside until dpkg configures their package
//	preinst     runs their preinsts: base-passwd's first, which makes the owners of files, then by name
//	unpack      has dpkg unpack the .deb on standard input, its preinst included
//	incomplete  takes it that what some packages depend on is none of the system
//	configure   has dpkg configure what is unpacked, triggers included, and look for what is left half-done
//
//go:embed driver.sh
var Driver string

// The phases of the Driver.
const (
	PhaseKeep       = "keep"
	PhaseUnmark     = "unmark"
	PhasePreinst    = "preinst"
	PhaseUnpack     = "unpack"
	PhaseIncomplete = "incomplete"
	PhaseConfigure  = "configure"
)

// Environment is what the Driver wants in its environment beside what every sandbox gives: what debootstrap and its
// kind set, and the time that tools which stamp what they make shall take for now: TeX only does when it is forced to.
func Environment(epoch string) map[string]string {
	return map[string]string{"DEBCONF_NONINTERACTIVE_SEEN": "true", "SOURCE_DATE_EPOCH": epoch, "FORCE_SOURCE_DATE": "1"}
}

// Configured says to the Driver what of the system is configured already, when it runs over one that other packages were
// laid on: these packages by name, and directories as their scripts have left them. dpkg leaves a directory that is there
// as it is when it unpacks a package that has one of the same name; a layer does not.
//
// Each line is a word for what it is about, and its fields: names of packages and paths have no line ends
// (deb-control(5); compose.ValidatePath), and only paths, which are last, may have blanks.
func Configured(names []string, dirs []compose.Entry) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "package %s\n", name)
	}
	for _, d := range dirs {
		fmt.Fprintf(&b, "dir %o %d:%d /%s\n", d.Mode, d.UID, d.GID, d.Path)
	}
	return b.String()
}
