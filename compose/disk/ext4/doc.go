// Package ext4 writes an ext4 filesystem out of tar layers: in one pass, without root, loop devices, mounts or a kernel,
// and with equal bytes for equal input. It is pure.
//
//	New ─▶ Layer(tar) … Layer(tar) ─▶ Finish
//	        │ data, directories         │ inode tables, bitmaps, descriptors, superblocks, journal
//	        ▼                           ▼
//	       ───────────────── io.WriterAt ─────────────────
//
// # Where things stand
//
// Data is appended in the order in which it comes, so that what a lower layer wrote stands in the same place whatever
// comes over it; files of 64 KiB and more begin on a multiple of Grain, smaller ones are packed. Nothing else is between
// them but the directories of a layer: those whose names it changed are written anew when it ends. Metadata has regions of its own, at the
// start of every 16 block groups (flex_bg), the superblock's copies at the start of some groups (sparse_super).
//
//	group 0                                                          group 1
//	┌────┬─────┬──────────┬─────────┬────────┬─────────┬─────────────┬────┬───────────
//	│ sb │ GDT │ reserved │ bitmaps │ inode  │ journal │ data ──▶    │ sb │ ──▶ data
//	│    │     │ GDT      │         │ tables │         │             │ …  │
//	└────┴─────┴──────────┴─────────┴────────┴─────────┴─────────────┴────┴───────────
//
// What is not written is zero, and the filesystem relies on it: the target must read as zeros where nothing was written.
// Every byte is written at most once, no Grain holds data and metadata, and as long as layers come everything is written
// in ascending order.
//
// Between two layers a Writer's state can be kept (State), and be gone on from elsewhere (Resume): all that follows is the
// same, byte by byte, as if the layers before had just been written.
//
// # What it is
//
// The features are those that mke2fs gives a Debian root: journal, extents, 64bit, flex_bg, metadata_csum, resize_inode,
// sparse_super, dir_nlink, huge_file, dir_index (without indexes: the kernel makes them for directories that it grows
// from one block; those of many blocks are searched in a line). Blocks have 4096 bytes, inodes 256, and there is one for every 16 KiB.
// Free space is where data has not come to, and what upper layers took away.
//
// # Limits
//
// 16 TiB; 256 MiB of a directory, where a name takes 8 bytes more than its own and is rounded up to 4: six million of 30
// letters; 65000 hard links; extended attributes of one inode 4 KiB together.
//
// Format: the kernel's Documentation/filesystems/ext4, and e2fsck, which finds nothing to say (the tests ask it).
package ext4
