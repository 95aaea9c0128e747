package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"bakefarm/compose"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// maxLayers is the most lower layers that a root may have; the kernel has the names of some 100 in a page.
const maxLayers = 100

// Root is a root filesystem that commands run in. One command runs at a time; others wait.
type Root struct {
	r      *Runner
	dir    string // relative to the Runner's
	layers []*unpacked

	turn   chan struct{} // holds a token while nothing runs
	once   sync.Once
	closed error
}

// Root makes a root filesystem of layers, the lowest first, with an empty upper layer. Layers that are not unpacked yet
// are opened and unpacked, two at a time. The caller closes the Root.
func (r *Runner) Root(ctx context.Context, lowers []Layer) (*Root, error) {
	lowers = distinct(lowers)
	if len(lowers) == 0 || len(lowers) > maxLayers {
		return nil, fmt.Errorf("a root of %d layers: want 1 to %d", len(lowers), maxLayers)
	}
	root := &Root{r: r, dir: filepath.Join("roots", newID()), turn: make(chan struct{}, 1), layers: make([]*unpacked, len(lowers))}
	root.turn <- struct{}{}
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.roots[root] = struct{}{}
	}
	r.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i, l := range lowers {
		group.Go(func() (err error) {
			root.layers[i], err = r.acquire(gctx, l)
			return err
		})
	}
	err := group.Wait()
	if err == nil {
		err = os.Mkdir(filepath.Join(r.dir, root.dir), 0o700)
	}
	if err == nil {
		_, err = r.call(ctx, request{Make: &makeRequest{Root: root.dir, Lowers: root.lowers()}}, stdio{})
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// distinct leaves of layers that are the same only the highest, which hides all that the others could show: an overlay
// takes no directory twice.
func distinct(layers []Layer) []Layer {
	seen := map[digest.Digest]bool{}
	var kept []Layer
	for _, l := range slices.Backward(layers) {
		if !seen[l.DiffID] {
			seen[l.DiffID] = true
			kept = append(kept, l)
		}
	}
	slices.Reverse(kept)
	return kept
}

// lowers are the paths of the layers, the lowest first.
func (root *Root) lowers() []string {
	paths := make([]string, len(root.layers))
	for i, l := range root.layers {
		paths[i] = l.path()
	}
	return paths
}

// take waits for the root's turn.
func (root *Root) take(ctx context.Context) error {
	select {
	case _, ok := <-root.turn:
		if !ok {
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (root *Root) give() { root.turn <- struct{}{} }

// Close waits for the command that runs, if one does, and removes the upper layer. The lower layers stay unpacked for
// other roots. A second Close does nothing.
func (root *Root) Close() error {
	root.once.Do(func() {
		<-root.turn
		close(root.turn)
		if _, err := os.Lstat(filepath.Join(root.r.dir, root.dir)); err == nil {
			root.closed = root.r.remove(context.Background(), root.dir)
		}
		for _, l := range root.layers {
			if l != nil {
				root.r.release(l)
			}
		}
		root.r.mu.Lock()
		delete(root.r.roots, root)
		root.r.mu.Unlock()
	})
	return root.closed
}

// makeRequest: make the directories of a root.
//
//	roots/ID/lower     where a helper mounts the layers alone
//	         stand-ins the uppermost of the lower layers while commands run
//	         upper, work, merged
//	         bundle    the runtime's: config.json, log, state
type makeRequest struct {
	Root   string
	Lowers []string
}

func (req *makeRequest) serve(user bool) error {
	for _, dir := range []string{"lower", standInsDir, "upper", "work", "merged", "bundle", "bundle/state"} {
		if err := os.Mkdir(filepath.Join(req.Root, dir), 0o755); err != nil {
			return err
		}
	}
	lower := filepath.Join(req.Root, "lower")
	if err := lowerView(req.Lowers, lower, user); err != nil {
		return err
	}
	view, err := os.OpenRoot(lower) // links in layers lead nowhere else
	if err != nil {
		return err
	}
	defer view.Close()
	standIns, err := os.OpenRoot(filepath.Join(req.Root, standInsDir))
	if err != nil {
		return err
	}
	defer standIns.Close()
	if err := makeStandIns(view, standIns); err != nil {
		return fmt.Errorf("stand-ins: %w", err)
	}
	return likeDir(view, ".", filepath.Join(req.Root, "upper"))
}

const standInsDir = "stand-ins"

// A standIn is a file that commands find in place of the layers' own, or where these have none. Their directories look
// as the layers' do: an overlay takes a directory's attributes from its uppermost layer, and would copy ours.
type standIn struct {
	path    string
	dir     bool // a place to mount on, made only where there is nothing: the runtime would make it in the upper layer
	content string
	added   string      // comes after the layers' own content, where they have the file
	mode    fs.FileMode // 0: 0755
}

// maxAddedTo bounds the files of layers that stand-ins add to, in bytes. Larger ones are hidden.
const maxAddedTo = 1 << 20

// wholeName is a line of /etc/hosts with the whole name of the machine that commands see.
const wholeName = "127.0.1.1\t" + hostname + ".localdomain\t" + hostname + "\n"

// contentOver is the file's content where the layers have had in its place, "" when nothing.
func (s standIn) contentOver(had []byte) string {
	if s.added == "" || len(had) == 0 {
		return s.content
	}
	if !bytes.HasSuffix(had, []byte("\n")) {
		had = append(had, '\n')
	}
	return string(had) + s.added
}

var standIns = []standIn{
	// Asked by invoke-rc.d and deb-systemd-invoke. 101: forbidden by policy.
	{path: "usr/sbin/policy-rc.d", content: "#!/bin/sh\nexit 101\n"},
	// For scripts that ask nobody. Those that look at --test or --status find nothing that runs.
	{path: "usr/sbin/start-stop-daemon", content: "#!/bin/sh\nexit 0\n"},
	// For scripts that have init start itself anew and wait a second for it: where init is no business of theirs, they don't.
	{path: "usr/bin/ischroot", content: "#!/bin/sh\nexit 0\n"},
	// What a machine has, and mail servers and their kind ask for its whole name when they make their first configuration.
	// The line in front tells netbase, in compose/scripts, that the layers have none.
	{path: "etc/hosts", mode: 0o644, content: wholeName + "127.0.0.1\tlocalhost\n::1\tlocalhost\n", added: wholeName},
	{path: "proc", dir: true},
	{path: "sys", dir: true},
	{path: "dev", dir: true},
	{path: "tmp", dir: true},
}

// standInTime is the time of stand-ins. They are in nobody's Changes.
var standInTime = time.Unix(compose.ModTime, 0)

func makeStandIns(view, into *os.Root) error {
	dirs := map[string]bool{}
	for _, s := range standIns {
		have, err := view.Lstat(s.path)
		if s.dir {
			if err == nil {
				if !have.IsDir() {
					return fmt.Errorf("/%s is no directory in this root", s.path)
				}
				continue
			}
			if err := into.Mkdir(s.path, 0o755); err != nil {
				return err
			}
			if err := into.Chtimes(s.path, standInTime, standInTime); err != nil {
				return err
			}
			continue
		}
		dir := filepath.Dir(s.path)
		if info, err := view.Lstat(dir); err != nil || !info.IsDir() || !plainParents(view, dir) {
			continue // no Debian: nothing there would ask
		}
		if err := into.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		var had []byte
		if s.added != "" && have != nil && have.Mode().IsRegular() && have.Size() <= maxAddedTo {
			if had, err = view.ReadFile(s.path); err != nil {
				return err
			}
		}
		if err := into.WriteFile(s.path, []byte(s.contentOver(had)), cmp.Or(s.mode, 0o755)); err != nil {
			return err
		}
		if err := into.Chtimes(s.path, standInTime, standInTime); err != nil {
			return err
		}
		for d := dir; d != "."; d = filepath.Dir(d) {
			dirs[d] = true
		}
	}
	for d := range dirs {
		if err := likeDir(view, d, filepath.Join(into.Name(), d)); err != nil {
			return err
		}
	}
	return likeDir(view, ".", into.Name())
}

// plainParents reports whether a path's directories are no symbolic links: the stand-ins' own directories would take the
// place of the links.
func plainParents(view *os.Root, dir string) bool {
	for d := dir; d != "."; d = filepath.Dir(d) {
		if info, err := view.Lstat(d); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// likeDir gives a directory of ours the attributes of one in the layers.
func likeDir(view *os.Root, name, ours string) error {
	f, err := view.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	xattrs, err := readXattrs(procPath(f))
	if err != nil {
		return err
	}
	if err := os.Lchown(ours, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, ours, st.Mode&0o7777, 0); err != nil {
		return err
	}
	for name, value := range xattrs {
		if err := unix.Lsetxattr(ours, name, []byte(value), 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, ours, []unix.Timespec{st.Mtim, st.Mtim}, 0)
}

// isStandIn reports whether a file of the upper layer, at path at, is a copy of ours below dir: something changed its
// attributes.
func isStandIn(dir, p, at string) (bool, error) {
	if !slices.ContainsFunc(standIns, func(s standIn) bool { return s.path == p && !s.dir }) {
		return false, nil
	}
	ours, err := os.ReadFile(filepath.Join(dir, p))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if info, err := os.Lstat(at); err != nil || info.Size() != int64(len(ours)) {
		return false, err
	}
	have, err := os.ReadFile(at)
	return err == nil && bytes.Equal(have, ours), err
}
