package ext4

// DataStart is where contents begin with Options.DataOnly, in bytes: a layer of a disk, so that what is written before them in
// the end changes no layer that has contents.
const DataStart = 64 << 20

// Inode is one of what has been laid out with Options.DataOnly.
type Inode struct {
	Number     uint32
	Mode       uint16 // as stat(2) has it, with the type
	UID, GID   uint32
	Time       int64 // Unix seconds
	Size       int64 // of a file, in bytes
	Links      int   // names of what is no directory
	Major      uint32
	Minor      uint32
	Target     string            // of a symbolic link
	Attributes map[string]string // as getxattr(2) has them
	Start      int64             // where a file's content begins, in blocks; 0: it has none
	Parent     uint32            // of a directory; the root's is its own
	Names      []Name            // of a directory
}

// Name is an entry of a directory.
type Name struct {
	Text   string
	Number uint32
}

// Inodes are what the layers come to, the root first, and how many blocks there are up to the end of the contents.
func (w *Writer) Inodes() (all []Inode, blocks int64, err error) {
	if err := w.Room(); err != nil {
		return nil, 0, err
	}
	all = append(all, w.root.inode())
	for _, n := range w.nodes {
		if n != nil && n != w.lost {
			all = append(all, n.inode())
		}
	}
	for i := range all[0].Names {
		if all[0].Names[i].Number == w.lost.ino { // ext4's own
			all[0].Names = append(all[0].Names[:i], all[0].Names[i+1:]...)
			break
		}
	}
	return all, w.alloc.next, nil
}

func (n *node) inode() Inode {
	i := Inode{
		Number: n.ino, Mode: n.mode, UID: n.uid, GID: n.gid, Time: n.mtime, Size: n.size, Links: n.links, Major: n.device >> 20, Minor: n.device & 0xfffff,
		Target: n.target, Attributes: n.attrs,
	}
	if len(n.extents) > 0 {
		i.Start = n.extents[0].start
	}
	if n.isDir() {
		i.Parent = n.ino
		if n.dir.parent != nil {
			i.Parent = n.dir.parent.ino
		}
		for _, c := range n.dir.names {
			if c.node != nil {
				i.Names = append(i.Names, Name{c.text, c.node.ino})
			}
		}
	}
	return i
}
