package ext4

import "fmt"

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Grain is the alignment of larger files and of metadata regions, in bytes.
const Grain = 64 << 10

// MaxSize is how large a filesystem may be, in bytes.
const MaxSize = 16 << 40

// MinSize is how small it may be.
const MinSize = 16 << 20

const (
	grainBlocks    = Grain / BlockSize
	groupBlocks    = 8 * BlockSize // what one bitmap block counts
	flexGroups     = 16            // groups whose metadata stands together
	inodeSize      = 256
	inodesPerBlock = BlockSize / inodeSize
	descSize       = 64
	bytesPerInode  = 16 << 10
	firstInode     = 11 // those before are the filesystem's own
	maxJournal     = 16 << 10
)

// geometry is where metadata stands: all of it follows from the number of blocks.
type geometry struct {
	blocks      int64 // of the filesystem
	groups      int64
	inodes      int64 // per group
	tableBlocks int64 // of one group's inode table
	descBlocks  int64 // of the group descriptor table
	reserved    int64 // blocks after it, into which it may grow
	journal     int64 // blocks
	dataOnly    bool  // there is none
}

func newGeometry(size int64) (geometry, error) {
	if size < MinSize || size > MaxSize {
		return geometry{}, fmt.Errorf("ext4: %d bytes: want %d to %d", size, int64(MinSize), int64(MaxSize))
	}
	g := geometry{blocks: size / BlockSize}
	g.inodes = min(groupBlocks, g.blocks) * BlockSize / bytesPerInode &^ (inodesPerBlock - 1)
	g.tableBlocks = g.inodes / inodesPerBlock
	for {
		g.groups = (g.blocks + groupBlocks - 1) / groupBlocks
		g.descBlocks = (g.groups*descSize + BlockSize - 1) / BlockSize
		// The table may grow until the filesystem has 1024 times the size, or 16 TiB, or one block can't list its blocks.
		most := min(g.blocks*1024, MaxSize/BlockSize-1)
		mostDesc := ((most+groupBlocks-1)/groupBlocks*descSize + BlockSize - 1) / BlockSize
		g.reserved = min(max(mostDesc-g.descBlocks, 0), BlockSize/4)
		last := g.groups - 1
		if rest := g.blocks - last*groupBlocks; last > 0 && rest < g.superBlocks(last)+g.flexBlocks(last)+64 {
			g.blocks = last * groupBlocks // a rest that would hold little but its own metadata
			continue
		}
		break
	}
	switch {
	case g.blocks < 8<<10:
		g.journal = 1 << 10 // 4 MiB: what JBD2 wants at the least
	case g.blocks < 256<<10:
		g.journal = 4 << 10
	case g.blocks < 512<<10:
		g.journal = 8 << 10
	default:
		g.journal = maxJournal
	}
	return g, nil
}

// hasSuper reports whether a group begins with a copy of the superblock: 0, 1 and the powers of 3, 5 and 7.
func hasSuper(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// superBlocks is how many blocks at the start of a group the superblock, the descriptors and their reserve take.
func (g geometry) superBlocks(group int64) int64 {
	if g.dataOnly || !hasSuper(group) {
		return 0
	}
	return 1 + g.descBlocks + g.reserved
}

// leader is the group at whose start a group's bitmaps and inode table stand.
func leader(group int64) int64 { return group &^ (flexGroups - 1) }

// members is how many groups a leader leads.
func (g geometry) members(leader int64) int64 { return min(flexGroups, g.groups-leader) }

// flexBlocks is how many blocks of bitmaps and inode tables stand in a group.
func (g geometry) flexBlocks(group int64) int64 {
	if g.dataOnly || group != leader(group) {
		return 0
	}
	return g.members(group) * (2 + g.tableBlocks)
}

func (g geometry) flexStart(group int64) int64 {
	l := leader(group)
	return l*groupBlocks + g.superBlocks(l)
}

func (g geometry) blockBitmap(group int64) int64 { return g.flexStart(group) + group - leader(group) }

func (g geometry) inodeBitmap(group int64) int64 {
	return g.blockBitmap(group) + g.members(leader(group))
}

func (g geometry) inodeTable(group int64) int64 {
	l := leader(group)
	return g.flexStart(group) + 2*g.members(l) + (group-l)*g.tableBlocks
}

// resizeBlocks is how many blocks of its own the resize inode has: the double indirect one, when there is a reserve.
func (g geometry) resizeBlocks() int64 { return min(g.reserved, 1) }

// resizeStart and journalStart are the first blocks of the resize inode and the journal. They follow group 0's tables.
func (g geometry) resizeStart() int64 { return g.flexStart(0) + g.flexBlocks(0) }

func (g geometry) journalStart() int64 { return g.resizeStart() + g.resizeBlocks() }

// overhead is how many blocks at the start of a group are metadata.
func (g geometry) overhead(group int64) int64 {
	n := g.superBlocks(group) + g.flexBlocks(group)
	if group == 0 && !g.dataOnly {
		n += g.resizeBlocks() + g.journal
	}
	return n
}

// groupSize is how many blocks a group has.
func (g geometry) groupSize(group int64) int64 { return min(groupBlocks, g.blocks-group*groupBlocks) }
