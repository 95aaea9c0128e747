package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"bakefarm/compose/disk/gpt"

	"golang.org/x/sys/unix"
)

// partition is the root's partition, once it has been found.
type partition struct {
	name   string // vda2
	disk   string // vda
	number int
}

// waitFor waits for the partition to appear: disks take their time.
func waitFor(id string) (*partition, error) {
	want, err := gpt.Parse(id)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		disks, _ := filepath.Glob("/sys/block/*")
		for _, disk := range disks {
			if p := find(filepath.Base(disk), want); p != nil {
				return p, nil
			}
		}
		if time.Now().After(deadline) {
			var names []string
			for _, disk := range disks {
				names = append(names, filepath.Base(disk))
			}
			return nil, errors.New("no partition " + id + " in " + patience.String() + "; disks here: " + strings.Join(names, " "))
		}
	}
}

// find looks for a partition on a disk, in its table and then among those that the kernel has made of it.
func find(disk string, want gpt.GUID) *partition {
	t, _, err := readTable(disk)
	if err != nil {
		return nil
	}
	for i, p := range t.Partitions {
		if p.GUID != want {
			continue
		}
		numbers, _ := filepath.Glob("/sys/block/" + disk + "/*/partition")
		for _, file := range numbers {
			raw, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(raw)) == strconv.Itoa(i+1) {
				name := filepath.Base(filepath.Dir(file))
				if _, err := os.Stat("/dev/" + name); err == nil {
					return &partition{name: name, disk: disk, number: i + 1}
				}
			}
		}
	}
	return nil
}

// readTable reads a disk's partition table and its size in bytes.
func readTable(disk string) (gpt.Table, int64, error) {
	f, err := os.Open("/dev/" + disk)
	if err != nil {
		return gpt.Table{}, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return gpt.Table{}, 0, err
	}
	head := make([]byte, gpt.HeadSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return gpt.Table{}, 0, err
	}
	t, err := gpt.Decode(head)
	return t, size, err
}

const mebi = 1 << 20

// grow lets the last partition reach the end of a disk that is larger than its image was: first the table, the backup
// before the primary, so that there is a good one at any time, then what the kernel knows.
func grow(p *partition) error {
	t, size, err := readTable(p.disk)
	if err != nil {
		return err
	}
	if p.number != len(t.Partitions) {
		return nil // something follows it
	}
	last := &t.Partitions[p.number-1]
	most := (size-gpt.TailSize)/mebi*mebi - last.Start
	if most < last.Size+mebi {
		return nil
	}
	last.Size = most
	head, tail, err := t.Encode(size / gpt.SectorSize * gpt.SectorSize)
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/"+p.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(head[:gpt.CodeSize], 0); err != nil { // what a BIOS starts stays
		return err
	}
	if _, err := f.WriteAt(tail, size/gpt.SectorSize*gpt.SectorSize-gpt.TailSize); err != nil {
		return err
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := tellKernel(f, last.Start, last.Size, p.number); err != nil {
		return errors.New("the kernel does not take the new size: " + err.Error())
	}
	say("/dev/" + p.name + " has grown to " + strconv.FormatInt(last.Size/mebi, 10) + " MiB")
	return nil
}

// tellKernel resizes a partition that may be in use (ioctl BLKPG, linux/blkpg.h).
func tellKernel(disk *os.File, start, size int64, number int) error {
	part := unix.BlkpgPartition{Start: start, Length: size, Pno: int32(number)}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// resize lets the mounted root fill its partition (ioctl EXT4_IOC_RESIZE_FS: the number of blocks), also when the machine
// was switched off between the growth of the partition and this.
func resize(p *partition) error {
	f, err := os.Open("/dev/" + p.name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return err
	}
	block, has := filesystem(super)
	const rest = 16 * mebi // less than that may be no group of blocks
	if block == 0 || size-has < rest {
		return nil
	}
	root, err := os.Open(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	blocks := uint64(size / block)
	const ext4Resize = 0x40086610 // _IOW('f', 16, __u64)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return errno
	}
	say("the root filesystem had " + strconv.FormatInt(has/mebi, 10) + " MiB, and has " + strconv.FormatInt(size/mebi, 10))
	return nil
}

// filesystem reads an ext4 superblock: the size of a block and of all of them, in bytes; 0 when it is none.
func filesystem(super []byte) (block, size int64) {
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != 0xef53 || le.Uint32(super[0x18:]) > 6 {
		return 0, 0
	}
	block = 1024 << le.Uint32(super[0x18:])
	blocks := int64(le.Uint32(super[4:]))
	if le.Uint32(super[0x60:])&0x80 != 0 { // 64bit
		blocks |= int64(le.Uint32(super[0x150:])) << 32
	}
	return block, block * blocks
}
