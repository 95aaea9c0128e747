package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bakefarm/compose"
	"bakefarm/worker/sandbox"
)

func TestWhatACommandGets(t *testing.T) {
	t.Setenv("FARM_SECRET", "token")
	root := debian(t, open(t, sandbox.Config{}))
	for _, c := range []struct{ name, script, want string }{
		{"root", "id -u; id -g", "0\n0\n"},
		{"no network but loopback", "ls /sys/class/net", "lo\n"},
		{"hostname", "cat /proc/sys/kernel/hostname", "bakefarm\n"},
		{"its processes alone", "ls -d /proc/1 /proc/[2-9][0-9][0-9]* 2>/dev/null || true", "/proc/1\n"},
		{"empty /tmp in memory", "ls -A /tmp; stat -f -c %T /tmp", "tmpfs\n"},
		{"devices", "ls /dev | sed /core/d", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{"no services", "/usr/sbin/policy-rc.d || echo $?; start-stop-daemon --start", "101\n"},
		{"scripts leave init alone", "ischroot && echo chroot", "chroot\n"},
		{"sync says that it is done", "sync && echo synced", "synced\n"},
		{"no more capabilities", "while read k v; do [ $k != CapBnd: ] || echo $v; done </proc/self/status", "00000000a80405fb\n"},
		{"seccomp", "while read k v; do [ $k != Seccomp: ] || echo $v; done </proc/self/status", "2\n"},
		{"no mounts", "mount -t tmpfs none /home 2>/dev/null && echo mounted || true", ""},
		{"no namespaces", "unshare -U true 2>/dev/null && echo made || true", ""},
		{"the kernel's settings are read-only", "{ echo x >/proc/sys/kernel/hostname; } 2>/dev/null && echo written || true", ""},
		{"the machine's memory is hidden", "cat /proc/timer_list /proc/keys 2>/dev/null || true", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := script(t, root, c.script)
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.script, got, c.want)
			}
		})
	}
	env := script(t, root, "env | sort")
	want := "DEBCONF_NOWARNINGS=yes\nDEBIAN_FRONTEND=noninteractive\nHOME=/root\nLC_ALL=C.UTF-8\n" +
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSOURCE_DATE_EPOCH=315619200\nSYSTEMD_OFFLINE=1\nTZ=UTC\n"
	if env != want {
		t.Errorf("environment:\n%swant:\n%s", env, want)
	}
	if got := changes(t, root); len(got) > 0 {
		t.Errorf("looking around changed the root: %v", got)
	}
}

func TestACommandIsWhatItWasAskedFor(t *testing.T) {
	root := debian(t, open(t, sandbox.Config{}))
	var out, complaints bytes.Buffer
	err := root.Run(t.Context(), sandbox.Command{
		Args: []string{"sh", "-c", "cat; pwd; id -u; id -G; echo $A; echo no >&2; exit 3"}, Dir: "/usr/bin", UID: 1000, GID: 100, Groups: []uint32{7},
		Env: map[string]string{"A": "b c"}, Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &complaints,
	})
	if exit, ok := errors.AsType[*sandbox.ExitError](err); !ok || exit.Code != 3 {
		t.Errorf("error %v, want exit status 3", err)
	}
	if got, want := out.String(), "in\n/usr/bin\n1000\n100 7\nb c\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
	if got := complaints.String(); got != "no\n" {
		t.Errorf("standard error %q", got)
	}
	err = root.Run(t.Context(), sandbox.Command{Args: []string{"absent"}})
	if _, ok := errors.AsType[*sandbox.ExitError](err); err == nil || ok || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestLimits(t *testing.T) {
	root := debian(t, open(t, sandbox.Config{}))
	run := func(text string, l sandbox.Limits) error {
		return root.Run(t.Context(), sandbox.Command{Args: []string{"sh", "-c", text}, Limits: l})
	}
	begin := time.Now()
	if err := run("setsid sleep 60 & sleep 60", sandbox.Limits{Time: time.Second}); !errors.Is(err, sandbox.ErrTimeout) {
		t.Errorf("time: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the timeout of a second took %s", took)
	}
	if err := run("while :; do echo abcdefgh; done", sandbox.Limits{Output: 1 << 20}); !errors.Is(err, sandbox.ErrOutput) {
		t.Errorf("output: %v", err)
	}
	if err := run("exec dd if=/dev/zero of=/dev/null bs=200M count=1", sandbox.Limits{Memory: 64 << 20}); err == nil {
		t.Error("memory: 200 MB of 64 were had")
	}
	if err := run("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done; wait", sandbox.Limits{Pids: 12}); err == nil {
		t.Error("processes: 20 of 12 were had")
	}
	if err := run("dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null", sandbox.Limits{File: 2 << 20}); err == nil {
		t.Error("file: 3 MB of 2 were had")
	}
	if err := run("dd if=/dev/zero of=/tmp/file bs=1M count=3 2>/dev/null", sandbox.Limits{Tmp: 2 << 20}); err == nil {
		t.Error("/tmp: 3 MB of 2 were had")
	}
	if err := run("rm -f /file", sandbox.Limits{}); err != nil {
		t.Errorf("after all that: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := root.Run(ctx, sandbox.Command{Args: []string{"sleep", "60"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

func TestChanges(t *testing.T) {
	lower := archive(t, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "srv/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "srv/gone/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "srv/gone/a", Mode: 0o644},
		{Typeflag: tar.TypeDir, Name: "srv/again/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "srv/again/old", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "srv/rewritten", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "srv/touched", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "srv/same", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "srv/mode", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "srv/removed", Mode: 0o644},
		{Typeflag: tar.TypeSymlink, Name: "srv/link", Linkname: "/etc"},
		{Typeflag: tar.TypeDir, Name: "srv/quiet/", Mode: 0o2775, Gid: 8},
		{Typeflag: tar.TypeReg, Name: "srv/moved", Mode: 0o644, Uid: 33, Gid: 33},
	}, map[string]string{"srv/rewritten": "old", "srv/same": "same", "srv/mode": "m", "srv/moved": "content"})
	r := open(t, sandbox.Config{})
	const text = `
		cd /srv
		rm -r gone; rm removed
		rm -r again; mkdir again; echo new >again/new
		echo new >rewritten
		touch touched
		printf same >same.new; mv same.new same
		chmod 4755 mode
		rm link; mkdir link; echo x >link/passwd
		echo 1 >quiet/file
		mv moved other
		mkfifo fifo
		mknod ../home/never p; rm ../home/never
		ln -s ../target symlink
		echo twice >one; ln one two
		echo owned >owned; chown 33:34 owned; chmod 600 owned
		chmod 700 /usr/sbin/start-stop-daemon
		rm /usr/sbin/policy-rc.d
		echo gone >/tmp/temporary`
	want := []string{
		`5 0755 0:0 srv/again`,
		`0 0000 0:0 srv/again/.wh..wh..opq ""`,
		`0 0644 0:0 srv/again/new "new\n"`,
		`6 0644 0:0 srv/fifo`,
		`0 0000 0:0 srv/.wh.gone ""`,
		`5 0755 0:0 srv/link`,
		`0 0644 0:0 srv/link/passwd "x\n"`,
		`0 4755 0:0 srv/mode "m"`,
		`0 0000 0:0 srv/.wh.moved ""`,
		`0 0644 0:0 srv/one "twice\n"`,
		`0 0644 33:33 srv/other "content"`,
		`0 0600 33:34 srv/owned "owned\n"`,
		`0 0644 0:8 srv/quiet/file "1\n"`,
		`0 0000 0:0 srv/.wh.removed ""`,
		`0 0644 0:0 srv/rewritten "new\n"`,
		`2 0777 0:0 srv/symlink -> ../target`,
		`1 0644 0:0 srv/two -> srv/one`,
	}
	for range 2 {
		root := debian(t, r, layer(lower))
		script(t, root, text)
		equalLines(t, changes(t, root), want)
		equalLines(t, changes(t, root), want) // reading changes nothing
		if got := script(t, root, "cat /srv/again/new /srv/one; ls /srv/again"); got != "new\ntwice\nnew\n" {
			t.Errorf("the next command sees %q", got)
		}
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The machine's name comes after the layers' own hosts, and in front where they have none.
func TestHosts(t *testing.T) {
	r := open(t, sandbox.Config{})
	const name = "127.0.1.1\tbakefarm.localdomain\tbakefarm\n"
	if got := script(t, debian(t, r), "head -n 1 /etc/hosts"); got != name {
		t.Errorf("/etc/hosts begins with %q", got)
	}
	root := debian(t, r, layer(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "etc/hosts", Mode: 0o640}}, map[string]string{"etc/hosts": "10.0.0.1 db"})))
	if got := script(t, root, "cat /etc/hosts; chmod 600 /etc/hosts"); got != "10.0.0.1 db\n"+name {
		t.Errorf("/etc/hosts is %q", got)
	}
	equalLines(t, changes(t, root), nil)
	script(t, root, "echo 10.0.0.2 cache >>/etc/hosts")
	equalLines(t, changes(t, root), []string{`0 0600 0:0 etc/hosts "10.0.0.1 db\n127.0.1.1\tbakefarm.localdomain\tbakefarm\n10.0.0.2 cache\n"`})
}

// What Changes says of a root makes the same root when it's a layer of the next.
func TestChangesAreALayer(t *testing.T) {
	r := open(t, sandbox.Config{})
	first := debian(t, r)
	script(t, first, `rm /etc/passwd; rm -r /home; mkdir /home /home/x; echo 1 >/home/x/1; ln /home/x/1 /home/x/2; mkdir -m 2770 /srv; chown 5:6 /srv`)
	var b bytes.Buffer
	if err := first.Changes(t.Context(), writeTo(&b)); err != nil {
		t.Fatal(err)
	}
	b.Write(make([]byte, compose.TrailerSize))
	const look = `cd /; ls -lnR --time-style=+ etc home srv`
	second := debian(t, r, layer(b.Bytes()))
	if a, b := script(t, first, look), script(t, second, look); a != b {
		t.Errorf("from changes:\n%swant:\n%s", b, a)
	}
	if got := changes(t, second); len(got) > 0 {
		t.Errorf("a fresh root has changes: %v", got)
	}
}

// Whoever unpacks a layer into a tree of its own finds the directories above what changed as they are, and no others.
func TestChangesHaveTheDirectoriesAboveThem(t *testing.T) {
	r := open(t, sandbox.Config{})
	root := debian(t, r, layer(archive(t, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "opt/", Mode: 0o750, Gid: 3}, {Typeflag: tar.TypeDir, Name: "opt/a/", Mode: 0o2770, Gid: 7},
		{Typeflag: tar.TypeDir, Name: "opt/b/", Mode: 0o755}, {Typeflag: tar.TypeDir, Name: "opt/c/", Mode: 0o755},
	}, nil)))
	script(t, root, `echo 1 >/opt/a/x; echo 2 >/opt/a/y; touch /opt/b/z; rm /opt/b/z; chmod 0700 /opt/c; echo 3 >/opt/c/x`)
	var got []string
	err := root.Changes(t.Context(), func(c sandbox.Change, _ io.Reader) error {
		got = append(got, fmt.Sprintf("%s %04o %d:%d %v %v", c.Path, c.Mode, c.UID, c.GID, c.Above, c.Xattrs))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, got, []string{
		"opt 0750 0:3 true map[]", "opt/a 2770 0:7 true map[]", "opt/a/x 0644 0:7 false map[]", "opt/a/y 0644 0:7 false map[]",
		"opt/c 0700 0:0 false map[]", "opt/c/x 0644 0:0 false map[]",
	})
}

func TestLayersAreUnpackedOnce(t *testing.T) {
	dir := t.TempDir()
	small := func(name string) []byte {
		return archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}}, map[string]string{name: strings.Repeat("x", 1000)})
	}
	r := open(t, sandbox.Config{Dir: dir, LayerBytes: 2500})
	unpacked := func() int {
		names, err := os.ReadDir(filepath.Join(dir, "layers"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	use := func(names ...string) {
		t.Helper()
		var layers []sandbox.Layer
		for _, n := range names {
			layers = append(layers, layer(small(n)))
		}
		root, err := r.Root(t.Context(), layers)
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
	}
	use("a", "b", "c", "d")
	if n := unpacked(); n != 2 {
		t.Errorf("%d layers of 1000 bytes are kept within 2500", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// The next process finds what was kept.
	r = open(t, sandbox.Config{Dir: dir, LayerBytes: 1 << 20})
	use("e")
	e := layer(small("e"))
	e.Open = nil // would panic
	root, err := r.Root(t.Context(), []sandbox.Layer{e})
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	if err := root.Run(t.Context(), sandbox.Command{Args: []string{"x"}}); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("a closed root: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Root(t.Context(), []sandbox.Layer{e}); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("a closed Runner: %v", err)
	}
}

func TestManyLayers(t *testing.T) {
	r := open(t, sandbox.Config{})
	var more []sandbox.Layer
	for i := range 60 {
		name := fmt.Sprintf("file%d", i)
		more = append(more, layer(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}}, map[string]string{name: name})))
	}
	root := debian(t, r, more...)
	if got := script(t, root, "cat /file0 /file59"); got != "file0file59" {
		t.Errorf("files: %q", got)
	}
}

// An image may have a layer twice, an empty one above all. An overlay takes no directory twice.
func TestSameLayerTwice(t *testing.T) {
	file := func(content string) sandbox.Layer {
		return layer(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "etc/who", Mode: 0o644}}, map[string]string{"etc/who": content}))
	}
	gone := layer(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "etc/.wh.who", Mode: 0o644}}, nil))
	empty := layer(archive(t, nil, nil))
	r := open(t, sandbox.Config{Dir: t.TempDir()})
	root := debian(t, r, empty, file("first"), file("second"), empty, gone, file("first"), empty)
	if got := script(t, root, "cat /etc/who"); got != "first" {
		t.Errorf("%q", got)
	}
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, sandbox.Config{Dir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := sandbox.Open(ctx, sandbox.Config{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
}

func TestCheck(t *testing.T) {
	rep := sandbox.Check(t.Context(), sandbox.Config{Dir: t.TempDir()})
	if !rep.Works || rep.Problem != "" || rep.Runtime == "" {
		t.Errorf("%+v", rep)
	}
	rep = sandbox.Check(t.Context(), sandbox.Config{Dir: t.TempDir(), Runtime: "norunc"})
	if rep.Works || !strings.Contains(rep.Problem, "apt-get install") {
		t.Errorf("without a runtime: %+v", rep)
	}
	if _, err := sandbox.Open(t.Context(), sandbox.Config{Dir: "/proc/sandbox"}); err == nil {
		t.Error("a directory in /proc")
	}
}
