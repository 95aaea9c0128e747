package ext4

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	xattrMagic   = 0xea020000
	inlineSpace  = inodeSize - 128 - extraSize - 4 // bytes for entries in the inode
	blockSpace   = BlockSize - 32
	entryHeader  = 16
	aclAccess    = "system.posix_acl_access"
	aclDefault   = "system.posix_acl_default"
	aclXattrs    = 2 // version of the form in tar and getxattr(2)
	aclOnDisk    = 1 // version of ext4's own
	aclUndefined = 0xffffffff
)

// prefixes are the name indexes of ext4 (fs/ext4/xattr.h).
var prefixes = []struct {
	text  string
	index byte
	whole bool
}{
	{aclAccess, 2, true}, {aclDefault, 3, true},
	{"user.", 1, false}, {"trusted.", 4, false}, {"security.", 6, false}, {"system.", 7, false},
}

type xattr struct {
	index byte
	name  string
	value []byte
}

// size is what an attribute takes, in bytes.
func (x xattr) size() int { return round4(entryHeader+len(x.name)) + round4(len(x.value)) }

func round4(n int) int { return (n + 3) &^ 3 }

// encodeXattrs encodes the attributes: in the inode as far as they fit, the others in a block.
func encodeXattrs(attrs map[string]string) (inline, block []byte, err error) {
	var all []xattr
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		x := xattr{value: []byte(attrs[key])}
		for _, p := range prefixes {
			if p.whole && key == p.text || !p.whole && len(key) > len(p.text) && strings.HasPrefix(key, p.text) {
				x.index, x.name = p.index, strings.TrimPrefix(key, p.text)
				break
			}
		}
		switch {
		case x.index == 0:
			return nil, nil, fmt.Errorf("extended attribute %q: want user., trusted., security. or system.", key)
		case len(x.name) > maxName || strings.ContainsRune(x.name, 0):
			return nil, nil, fmt.Errorf("extended attribute %.80q: the name is longer than %d bytes or has a NUL", key, maxName)
		case x.index == 2 || x.index == 3:
			if x.value, err = encodeACL(x.value); err != nil {
				return nil, nil, fmt.Errorf("extended attribute %q: %w", key, err)
			}
		}
		all = append(all, x)
	}
	// The order that ext4 keeps within a block, and searches by.
	slices.SortFunc(all, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	total := 0
	for _, x := range all {
		total += x.size()
	}
	var in, out []xattr
	left := inlineSpace - 4 // four zero bytes end the list
	outside := 0
	for _, x := range all {
		if s := x.size(); s <= left {
			left -= s
			in = append(in, x)
		} else {
			outside += s
			out = append(out, x)
		}
	}
	if outside > blockSpace-4 {
		return nil, nil, fmt.Errorf("extended attributes of %d bytes: ext4 keeps at most about %d", total, blockSpace)
	}
	if len(in) > 0 {
		inline = make([]byte, 4+inlineSpace)
		binary.LittleEndian.PutUint32(inline, xattrMagic)
		putXattrs(inline[4:], 0, in)
	}
	if len(out) > 0 {
		block = make([]byte, BlockSize)
		le := binary.LittleEndian
		le.PutUint32(block, xattrMagic)
		le.PutUint32(block[4:], 1) // references
		le.PutUint32(block[8:], 1) // blocks
		le.PutUint32(block[12:], putXattrs(block, 32, out))
	}
	return inline, block, nil
}

// putXattrs writes entries from first on and their values from the end, at offsets from the start of buf, and returns
// the hash over all.
func putXattrs(buf []byte, first int, attrs []xattr) uint32 {
	le := binary.LittleEndian
	var total uint32
	end := len(buf)
	for _, x := range attrs {
		end -= round4(len(x.value))
		copy(buf[end:], x.value)
		var hash uint32
		for _, c := range []byte(x.name) {
			hash = hash<<5 ^ hash>>27 ^ uint32(int32(int8(c))) // ext4 hashes names as signed characters
		}
		for i := 0; i < len(x.value); i += 4 {
			hash = hash<<16 ^ hash>>16 ^ le.Uint32(buf[end+i:])
		}
		e := buf[first:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], hash)
		copy(e[entryHeader:], x.name)
		first += round4(entryHeader + len(x.name))
		total = total<<16 ^ total>>16 ^ hash
	}
	return total
}

// encodeACL turns a POSIX ACL from the form of getxattr(2) into ext4's own, which leaves out IDs that say nothing.
func encodeACL(value []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(value) < 4 || (len(value)-4)%8 != 0 || le.Uint32(value) != aclXattrs {
		return nil, errors.New("is no POSIX ACL of version 2")
	}
	out := le.AppendUint32(nil, aclOnDisk)
	for b := value[4:]; len(b) > 0; b = b[8:] {
		tag := le.Uint16(b)
		out = append(out, b[:4]...)
		switch tag {
		case 0x02, 0x08: // a user, a group
			out = append(out, b[4:8]...)
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
		default:
			return nil, fmt.Errorf("tag %#x is none of a POSIX ACL", tag)
		}
	}
	return out, nil
}

// parseACL turns an ACL as text, as GNU tar and star write it, into the form of getxattr(2):
// user::rw-,user:lisa:rw-:1000,group::r--,mask::rw-,other::r--. A name without a number can't be resolved here.
func parseACL(text string) (string, error) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	var entries []entry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		f := strings.Split(line, ":")
		if len(f) < 3 || len(f) > 4 {
			return "", fmt.Errorf("ACL entry %.80q: want tag:who:rwx", line)
		}
		e := entry{id: aclUndefined}
		named := f[1] != ""
		switch f[0] {
		case "user", "u":
			e.tag = 0x01
		case "group", "g":
			e.tag = 0x04
		case "mask", "m":
			e.tag = 0x10
		case "other", "o":
			e.tag = 0x20
		default:
			return "", fmt.Errorf("ACL entry %.80q: want user, group, mask or other", line)
		}
		if named && e.tag >= 0x10 {
			return "", fmt.Errorf("ACL entry %.80q: names somebody", line)
		}
		if named {
			e.tag *= 2 // a named user or group
			id, err := strconv.ParseUint(f[len(f)-1], 10, 32)
			if len(f) == 3 {
				id, err = strconv.ParseUint(f[1], 10, 32)
			}
			if err != nil {
				return "", fmt.Errorf("ACL entry %.80q: has no numeric ID", line)
			}
			e.id = uint32(id)
		}
		if len(f[2]) != 3 {
			return "", fmt.Errorf("ACL entry %.80q: permissions: want rwx, with - for what is not allowed", line)
		}
		for i, c := range []byte(f[2]) {
			switch c {
			case "rwx"[i]:
				e.perm |= 4 >> i
			case '-':
			default:
				return "", fmt.Errorf("ACL entry %.80q: permissions: want rwx, with - for what is not allowed", line)
			}
		}
		entries = append(entries, e)
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	le := binary.LittleEndian
	out := le.AppendUint32(nil, aclXattrs)
	for _, e := range entries {
		out = le.AppendUint16(out, e.tag)
		out = le.AppendUint16(out, e.perm)
		out = le.AppendUint32(out, e.id)
	}
	return string(out), nil
}
