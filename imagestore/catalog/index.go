package catalog

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// index is what questions about images are answered from: every image, version, channel and deployment, in memory. It
// says what the file says; whatever changes both changes the file first.
type index struct {
	mu          sync.RWMutex
	versions    map[string]*version // by key
	repos       map[string]*repo
	images      []image // the reverse of the order in which they are listed: what is new comes last
	facts       map[string]*facts
	channels    map[string]farm.Channel    // by key
	deployments map[string]farm.Deployment // by ID
	children    map[string]map[*version]bool
}

func newIndex() *index {
	return &index{
		versions: map[string]*version{}, repos: map[string]*repo{}, facts: map[string]*facts{}, channels: map[string]farm.Channel{},
		deployments: map[string]farm.Deployment{}, children: map[string]map[*version]bool{},
	}
}

// repo is an image name.
type repo struct {
	num      int64
	name     string
	versions []*version        // oldest first
	labels   map[string]string // of the version that came last: the next one has the same, as a rule
	base     *farm.Base        // likewise
}

// version is a committed version.
type version struct {
	num       int64
	key       string // name@version
	repo      *repo
	name      string // name and version are parts of key
	version   string
	created   int64 // Unix, ns
	sequence  uint64
	bake      string
	bakeKey   digest.Digest
	lock      digest.Digest
	base      *farm.Base // not nil; versions of a name share theirs, as a rule
	labels    map[string]string
	pins      []farm.Pin
	trash     *farm.Trash // nil: it is there
	attached  []farm.Attachment
	images    []image // in the order of farm.CompareImages
	facts     *facts  // nil: nothing is known
	forgotten bool    // removed from the index: lists are about to be cleared of it
}

// image is one image of a version. It never changes, and is copied: index.images has all of them side by side, with everything in
// them that most questions look at. A pass over these reads memory from one end to the other, where following a pointer for each
// would wait for memory each time.
type image struct {
	of      *version
	repo    *repo
	base    *farm.Base
	kind    *kind
	labels  map[string]string
	created int64
	size    int64
	text    string // what a search looks at that is the version's own
	sum     imagestore.Sum
	many    []uint32 // sets of packages, when it is an index with several
	set     uint32   // the set of packages, when it has one; else 0
	rank    int32    // among the images of its version
	trashed bool
}

// kind is what there are few of: what many images have in common.
type kind struct{ kind, platform, format, mediaType string }

// sets are the numbers of the image's sets of packages: of its platform, of all platforms for an index.
func (i *image) sets() []uint32 {
	switch {
	case i.many != nil:
		return i.many
	case i.set != 0:
		return []uint32{i.set}
	}
	return nil
}

// facts are what is known of a version beside its record. They may be known before the version is.
type facts struct {
	pulled, resolved, deployed int64    // Unix, ns; 0: never
	channels                   []string // that point to it, sorted
	deployments                map[string]bool
}

func (f *facts) empty() bool {
	return f.pulled|f.resolved|f.deployed == 0 && len(f.channels) == 0 && len(f.deployments) == 0
}

// compareListed is the order in which images are listed: newest first, then by name and version, an index before its images.
func compareListed(a, b *image) int {
	if a.of == b.of {
		return int(a.rank - b.rank)
	}
	if c := cmp.Compare(b.created, a.created); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(a.repo.name, b.repo.name), strings.Compare(a.of.version, b.of.version), int(a.rank-b.rank))
}

// older is the order of index.images.
func older(a, b image) int { return compareListed(&b, &a) }

// replace makes the changes of a batch: each version stands for what was there under its key, as nothing if it has no
// images of its own.
func (x *index) replace(changes map[string]*version) {
	removed := false
	for key, v := range changes {
		if old := x.versions[key]; old != nil {
			x.remove(old)
			removed = true
		}
		if v != nil {
			v.facts = x.facts[key]
		}
	}
	if removed {
		x.images = slices.DeleteFunc(x.images, func(i image) bool { return i.of.forgotten })
	}
	var added []image
	for _, v := range changes {
		if v == nil {
			continue
		}
		x.versions[v.key] = v
		at, _ := slices.BinarySearchFunc(v.repo.versions, v, func(a, b *version) int {
			return cmp.Or(cmp.Compare(a.created, b.created), strings.Compare(b.version, a.version))
		})
		v.repo.versions = slices.Insert(v.repo.versions, at, v)
		if parent := v.parent(); parent != "" {
			if x.children[parent] == nil {
				x.children[parent] = map[*version]bool{}
			}
			x.children[parent][v] = true
		}
		added = append(added, v.images...)
	}
	x.insert(added)
}

// insert merges images into the ordered list. Those of a live farm are the newest, and few.
func (x *index) insert(added []image) {
	slices.SortFunc(added, older)
	if len(added) == 0 {
		return
	}
	at, _ := slices.BinarySearchFunc(x.images, added[0], older)
	tail := slices.Clone(x.images[at:])
	x.images = slices.Grow(x.images[:at], len(tail)+len(added))
	for len(tail) > 0 && len(added) > 0 {
		if older(tail[0], added[0]) < 0 {
			x.images, tail = append(x.images, tail[0]), tail[1:]
		} else {
			x.images, added = append(x.images, added[0]), added[1:]
		}
	}
	x.images = append(append(x.images, tail...), added...)
}

func (x *index) remove(v *version) {
	v.forgotten = true
	delete(x.versions, v.key)
	v.repo.versions = slices.DeleteFunc(v.repo.versions, func(o *version) bool { return o == v })
	if parent := v.parent(); parent != "" {
		delete(x.children[parent], v)
		if len(x.children[parent]) == 0 {
			delete(x.children, parent)
		}
	}
}

// forgetVersions empties the index of versions. What is known about them stays.
func (x *index) forgetVersions() {
	x.versions, x.repos, x.images, x.children = map[string]*version{}, map[string]*repo{}, nil, map[string]map[*version]bool{}
}

// parent is the key of the version of this farm that v was built on, or "".
func (v *version) parent() string { return parentKey(v.base) }

func parentKey(b *farm.Base) string {
	if b.Name == "" {
		return ""
	}
	return versionKey(b.Name, b.Version)
}

func versionKey(name, version string) string { return name + "@" + version }

// about changes what is known of a version.
func (x *index) about(key string, change func(*facts)) {
	f := x.facts[key]
	if f == nil {
		f = &facts{}
		x.facts[key] = f
	}
	change(f)
	if f.empty() {
		delete(x.facts, key)
		f = nil
	}
	if v := x.versions[key]; v != nil {
		v.facts = f
	}
}

func (x *index) takeChannel(key string, c *farm.Channel) {
	if old, ok := x.channels[key]; ok {
		x.about(versionKey(old.Name, old.Version), func(f *facts) {
			f.channels = slices.DeleteFunc(slices.Clone(f.channels), func(s string) bool { return s == old.Channel })
		})
		delete(x.channels, key)
	}
	if c == nil {
		return
	}
	x.channels[key] = *c
	x.about(versionKey(c.Name, c.Version), func(f *facts) {
		f.channels = append(slices.Clone(f.channels), c.Channel)
		slices.Sort(f.channels)
	})
}

func (x *index) takeUsage(key string, u *farm.Usage) {
	x.about(key, func(f *facts) {
		f.pulled, f.resolved, f.deployed = 0, 0, 0
		if u != nil {
			f.pulled, f.resolved, f.deployed = nanos(u.PulledAt), nanos(u.ResolvedAt), nanos(u.DeployedAt)
		}
	})
}

func (x *index) takeDeployment(id string, d *farm.Deployment) {
	if old, ok := x.deployments[id]; ok {
		x.about(versionKey(old.Name, old.Version), func(f *facts) { delete(f.deployments, id) })
		delete(x.deployments, id)
	}
	if d == nil {
		return
	}
	x.deployments[id] = *d
	x.about(versionKey(d.Name, d.Version), func(f *facts) {
		if f.deployments == nil {
			f.deployments = map[string]bool{}
		}
		f.deployments[id] = true
	})
}

// live counts the deployments of a version that are taken to run.
func (x *index) live(v *version, now time.Time) (n int) {
	if v.facts == nil {
		return 0
	}
	for id := range v.facts.deployments {
		if x.deployments[id].Live(now) {
			n++
		}
	}
	return n
}

// nanos and instant keep times in 8 bytes; 0 stands for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
