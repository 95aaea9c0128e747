// Package disk makes bootable disks out of the layers that images are made of. It is pure: no root, loop devices, mounts
// or virtual machine; equal layers make equal bytes. Its sub-packages know the formats: gpt, fat, uki, bios, initrd, ext4, erofs, qcow2.
//
//	OS layers ─┬─▶ ext4 ──────────────────────────────────────┐
//	           └─▶ kernel, modules, UEFI stub ─▶ initrd, UKI ─▶ FAT ─┤
//	app layer ───▶ ext4 ──────────────────────────────────────┤
//	machine layer (Machine): units, network, first boot ─▶ ext4 ─┤
//	                                                   GPT ─┴─▶ Chunks ─▶ pieces, layers of 64 MiB
//
//	0      1 MiB                   64 MiB                                    end
//	┌─────┬───────────────────────┬──────────────────────────────────────┬─────┐
//	│ GPT │ ESP: EFI/BOOT/BOOT….EFI │ root (ext4)                            │ GPT │
//	└─────┴───────────────────────┴──────────────────────────────────────┴─────┘
//
// Data stands in the order of the layers, and all identifiers come from Options.Seed, which is the OS's: another app
// changes its own part, the inode tables, bitmaps and counts, and nothing else. The chunks show it.
package disk
