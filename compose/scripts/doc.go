// Package scripts knows how dpkg configures packages whose files are laid already, and what of the outcome belongs into
// an image.
//
//	system whose packages are marked as installed ─▶ Driver, run in it as root ─▶ lines ─▶ Transcript: how far it is
//	what has changed in it ─▶ Keep ─▶ the same, whenever and wherever it ran
//
// The Driver is a shell script that does with every package what dpkg does after it has unpacked one: preinst, then
// "dpkg --configure -a" for postinsts and triggers. The files of all packages are there before the first script runs,
// as in debootstrap, so no script waits for another package's.
//
// Scripts are written for one machine at one time. Keep takes out of what they leave what is of that machine or that
// time: logs, locks, backups, caches that remember when they were made, and secrets, which nobody who can pull an image
// may share. Each rule says what it is about.
package scripts
