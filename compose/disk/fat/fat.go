// Package fat writes FAT32 filesystems as UEFI reads them from a system partition (Microsoft's FAT32 specification,
// 2000), with equal bytes for equal files. It is pure.
//
// Names are of the 8.3 kind, upper case: all that a system partition of ours has (EFI/BOOT/BOOTX64.EFI). Files stand in
// the order given, each in one row of clusters, so that what comes later moves nothing that came before.
package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	sector      = 512
	reserved    = 32 // sectors before the first table
	copies      = 2
	minClusters = 65525 // fewer make it FAT16 for every reader
	maxCluster  = 8     // sectors
	endOfChain  = 0x0fffffff
)

// MinSize is how small a filesystem may be, in bytes: 65525 clusters with their tables.
const MinSize = 34 << 20

// Options say what filesystem to make.
type Options struct {
	Size  int64  // in bytes, a multiple of 512
	ID    uint32 // of the volume
	Label string // at most 11 characters, upper case
	Time  int64  // Unix seconds, of everything
}

// File is a file with its path: "EFI/BOOT/BOOTX64.EFI".
type File struct {
	Path    string
	Content []byte
}

// Space returns how many bytes a filesystem needs for files of these sizes: a little more than they take.
func Space(sizes ...int64) int64 {
	total := int64(reserved+2*8) * sector
	for _, s := range sizes {
		total += (s+maxCluster*sector-1)/(maxCluster*sector)*(maxCluster*sector) + 4*maxCluster*sector
	}
	return total + total/32
}

type dir struct {
	name    [11]byte
	cluster uint32
	parent  *dir
	dirs    []*dir
	files   []entry
}

type entry struct {
	name    [11]byte
	cluster uint32
	content []byte
}

type writer struct {
	Options
	perCluster int64 // sectors
	tableSize  int64 // sectors
	clusters   int64
	table      []uint32 // from cluster 0 on, as far as in use
}

// Write writes a filesystem. What it does not write to out must read as zeros.
func Write(out io.WriterAt, o Options, files []File) error {
	w, root, err := plan(o, files)
	if err != nil {
		return err
	}
	if err := w.writeStart(out); err != nil {
		return err
	}
	return w.writeDir(out, root)
}

// Locate returns where Write puts the content of the one file that there is, in bytes.
func Locate(o Options, file File) (int64, error) {
	w, at, err := plan(o, []File{file})
	if err != nil {
		return 0, err
	}
	for len(at.dirs) > 0 {
		at = at.dirs[0]
	}
	return w.offset(at.files[0].cluster), nil
}

// plan gives everything its place.
func plan(o Options, files []File) (*writer, *dir, error) {
	w := &writer{Options: o, table: []uint32{0x0ffffff8, endOfChain}}
	if err := w.geometry(); err != nil {
		return nil, nil, err
	}
	root, err := w.tree(files)
	if err != nil {
		return nil, nil, err
	}
	return w, root, w.place(root)
}

func (w *writer) geometry() error {
	if w.Size < MinSize || w.Size%sector != 0 || w.Size/sector > 1<<32-1 {
		return fmt.Errorf("fat: %d bytes: want a multiple of %d from %d on, below 2 TiB", w.Size, sector, MinSize)
	}
	if len(w.Label) > 11 || w.Label != strings.ToUpper(w.Label) {
		return fmt.Errorf("fat: label %q: want at most 11 characters, upper case", w.Label)
	}
	total := w.Size / sector
	for w.perCluster = maxCluster; ; w.perCluster /= 2 {
		// The tables describe the clusters that are left beside them: a few entries too many do no harm.
		w.tableSize = ((total-reserved)/w.perCluster*4 + sector - 1) / sector
		w.clusters = (total - reserved - copies*w.tableSize) / w.perCluster
		if w.clusters >= minClusters || w.perCluster == 1 {
			break
		}
	}
	if w.clusters < minClusters {
		return fmt.Errorf("fat: %d bytes have %d clusters: FAT32 wants %d", w.Size, w.clusters, minClusters)
	}
	return nil
}

// tree sorts files into directories.
func (w *writer) tree(files []File) (*dir, error) {
	root := &dir{}
	for _, f := range files {
		at := root
		parts := strings.Split(f.Path, "/")
		for _, part := range parts[:len(parts)-1] {
			name, err := shortName(part)
			if err != nil {
				return nil, fmt.Errorf("fat: %q: %w", f.Path, err)
			}
			var next *dir
			for _, d := range at.dirs {
				if d.name == name {
					next = d
				}
			}
			if next == nil {
				next = &dir{name: name, parent: at}
				at.dirs = append(at.dirs, next)
			}
			at = next
		}
		name, err := shortName(parts[len(parts)-1])
		if err != nil {
			return nil, fmt.Errorf("fat: %q: %w", f.Path, err)
		}
		if int64(len(f.Content)) > 1<<32-1 {
			return nil, fmt.Errorf("fat: %q: %d bytes: at most 4 GiB", f.Path, len(f.Content))
		}
		for _, other := range at.files {
			if other.name == name {
				return nil, fmt.Errorf("fat: %q: is there twice", f.Path)
			}
		}
		for _, d := range at.dirs {
			if d.name == name {
				return nil, fmt.Errorf("fat: %q: is a directory as well", f.Path)
			}
		}
		at.files = append(at.files, entry{name: name, content: f.Content})
	}
	return root, nil
}

// shortName pads a name of the 8.3 kind.
func shortName(s string) (name [11]byte, err error) {
	base, ext, dotted := strings.Cut(s, ".")
	bad := strings.ContainsFunc(base+ext, func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '~')
	})
	if bad || base == "" || len(base) > 8 || len(ext) > 3 || dotted && ext == "" {
		return name, fmt.Errorf("name %q: want 8.3 of A to Z, 0 to 9, _ and -", s)
	}
	copy(name[:], "           ")
	copy(name[:], base)
	copy(name[8:], ext)
	return name, nil
}

// place gives clusters to a directory and to all that is in it.
func (w *writer) place(d *dir) (err error) {
	entries := len(d.dirs) + len(d.files) + 2
	if d.cluster, err = w.chain(int64(entries) * 32); err != nil {
		return err
	}
	for _, sub := range d.dirs {
		if err := w.place(sub); err != nil {
			return err
		}
	}
	for i := range d.files {
		if d.files[i].cluster, err = w.chain(int64(len(d.files[i].content))); err != nil {
			return err
		}
	}
	return nil
}

// chain takes a row of clusters for size bytes; nothing has cluster 0.
func (w *writer) chain(size int64) (uint32, error) {
	if size == 0 {
		return 0, nil
	}
	n := (size + w.perCluster*sector - 1) / (w.perCluster * sector)
	first := int64(len(w.table))
	if first+n > w.clusters+2 {
		return 0, fmt.Errorf("fat: %d bytes are too small for the files: %d more find no room", w.Size, size)
	}
	for i := range n - 1 {
		w.table = append(w.table, uint32(first+i+1))
	}
	w.table = append(w.table, endOfChain)
	return uint32(first), nil
}

// offset is where a cluster begins, in bytes.
func (w *writer) offset(cluster uint32) int64 {
	return (reserved + copies*w.tableSize + (int64(cluster)-2)*w.perCluster) * sector
}

// writeStart writes the boot sector and its copy, the hints and the tables.
func (w *writer) writeStart(out io.WriterAt) error {
	le := binary.LittleEndian
	start := make([]byte, reserved*sector)
	b := start
	copy(b, "\xeb\x58\x90bakefarm")
	le.PutUint16(b[11:], sector)
	b[13] = byte(w.perCluster)
	le.PutUint16(b[14:], reserved)
	b[16] = copies
	b[21] = 0xf8 // fixed disk
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[32:], uint32(w.Size/sector))
	le.PutUint32(b[36:], uint32(w.tableSize))
	le.PutUint32(b[44:], 2) // the root's cluster
	le.PutUint16(b[48:], 1) // hints
	le.PutUint16(b[50:], 6) // copy of the boot sector
	b[64], b[66] = 0x80, 0x29
	le.PutUint32(b[67:], w.ID)
	copy(b[71:82], w.label())
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	hints := start[sector:]
	copy(hints, "RRaA")
	copy(hints[484:], "rrAa")
	le.PutUint32(hints[488:], uint32(w.clusters+2-int64(len(w.table))))
	le.PutUint32(hints[492:], uint32(len(w.table)))
	hints[510], hints[511] = 0x55, 0xaa
	copy(start[6*sector:8*sector], start[:2*sector])
	if _, err := out.WriteAt(start, 0); err != nil {
		return err
	}
	table := make([]byte, 0, 4*len(w.table))
	for _, next := range w.table {
		table = le.AppendUint32(table, next)
	}
	for i := range int64(copies) {
		if _, err := out.WriteAt(table, (reserved+i*w.tableSize)*sector); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) label() string {
	label := w.Label
	if label == "" {
		label = "NO NAME"
	}
	return label + strings.Repeat(" ", 11-len(label))
}

// writeDir writes a directory and all that is in it, in ascending order.
func (w *writer) writeDir(out io.WriterAt, d *dir) error {
	var raw []byte
	add := func(name string, attr byte, cluster uint32, size int) {
		b := make([]byte, 32)
		copy(b, name)
		b[11] = attr
		date, clock := w.stamp()
		le := binary.LittleEndian
		le.PutUint16(b[14:], clock)
		le.PutUint16(b[16:], date)
		le.PutUint16(b[18:], date)
		le.PutUint16(b[20:], uint16(cluster>>16))
		le.PutUint16(b[22:], clock)
		le.PutUint16(b[24:], date)
		le.PutUint16(b[26:], uint16(cluster))
		le.PutUint32(b[28:], uint32(size))
		raw = append(raw, b...)
	}
	if d.parent == nil {
		if w.Label != "" {
			add(w.label(), 0x08, 0, 0)
		}
	} else {
		up := d.parent.cluster
		if d.parent.parent == nil {
			up = 0 // the root is said to be 0 here
		}
		add(".          ", 0x10, d.cluster, 0)
		add("..         ", 0x10, up, 0)
	}
	for _, sub := range d.dirs {
		add(string(sub.name[:]), 0x10, sub.cluster, 0)
	}
	for _, f := range d.files {
		add(string(f.name[:]), 0x20, f.cluster, len(f.content))
	}
	if _, err := out.WriteAt(raw, w.offset(d.cluster)); err != nil {
		return err
	}
	for _, sub := range d.dirs {
		if err := w.writeDir(out, sub); err != nil {
			return err
		}
	}
	for _, f := range d.files {
		if len(f.content) == 0 {
			continue
		}
		if _, err := out.WriteAt(f.content, w.offset(f.cluster)); err != nil {
			return err
		}
	}
	return nil
}

// stamp is the time as FAT has it: local time, of which there is none here, so UTC.
func (w *writer) stamp() (date, clock uint16) {
	t := time.Unix(w.Time, 0).UTC()
	year := min(max(t.Year()-1980, 0), 127)
	return uint16(year<<9 | int(t.Month())<<5 | t.Day()), uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
}
