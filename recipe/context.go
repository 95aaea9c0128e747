package recipe

import "github.com/opencontainers/go-digest"

// ChunkSize is the size in bytes of the pieces that context files are cut into; the last one of a file may be smaller.
const ChunkSize = 4 << 20

// Bounds of a context.
const (
	MaxContextFiles = 200_000
	MaxContextBytes = 64 << 30
	MaxPath         = 4096 // bytes
)

// Context is the manifest of the context directory: what a client posts before it sends any content.
// Files are sorted by path (bytewise), slash-separated, relative and clean.
type Context struct {
	Files []ContextFile `json:"files"`
}

// ContextFile is one file, directory or symbolic link of the context.
type ContextFile struct {
	Path   string          `json:"path"`
	Dir    bool            `json:"dir,omitempty"`
	Exec   bool            `json:"exec,omitempty"` // any execute bit
	Size   int64           `json:"size,omitempty"`
	Chunks []digest.Digest `json:"chunks,omitempty"` // of ChunkSize each but the last
	Link   string          `json:"link,omitempty"`   // target of a symbolic link
}

// Tree is the app content of one copy as it will stand in the image, parents included as far as the copy makes them.
// Entries are sorted by path (bytewise); paths are relative to the image's root, without a leading slash.
type Tree struct {
	Entries []TreeEntry `json:"entries"`
}

// TreeEntry is one entry of a Tree.
type TreeEntry struct {
	Path   string          `json:"path"`
	Type   string          `json:"type"` // "dir", "file" or "link"
	Mode   uint32          `json:"mode"` // permission bits
	UID    int             `json:"uid"`
	GID    int             `json:"gid"`
	Size   int64           `json:"size,omitempty"`
	Chunks []digest.Digest `json:"chunks,omitempty"`
	Link   string          `json:"link,omitempty"`
}
