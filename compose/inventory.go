package compose

// Entry describes one tar entry. Paths are relative, clean, slash-separated, merged-/usr, without a leading slash or a
// trailing one; "." never occurs.
type Entry struct {
	Path    string            `json:"path"`
	Type    byte              `json:"type"` // tar type flag: '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' directory, '6' fifo
	Mode    int64             `json:"mode"` // permission bits with setuid, setgid, sticky
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	ModTime int64             `json:"mtime"` // Unix seconds
	Size    int64             `json:"size,omitempty"`
	Link    string            `json:"link,omitempty"`
	Major   int64             `json:"major,omitempty"`
	Minor   int64             `json:"minor,omitempty"`
	Xattrs  map[string]string `json:"xattrs,omitempty"` // PAX SCHILY.xattr.* without the prefix
}

// Inventory says what a member holds and which directories it needs in the head.
type Inventory struct {
	Dirs  []Entry  `json:"dirs,omitempty"`  // as the package or tree has them, sorted by path
	Paths []string `json:"paths,omitempty"` // of every non-directory entry in the member, in the member's order
}
