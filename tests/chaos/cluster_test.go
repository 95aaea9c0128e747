package chaos

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bakefarm/api/client"
	"bakefarm/bus/bustest"
	"bakefarm/compose/deb/debtest"
	"bakefarm/worker/mirror/mirrortest"
)

// lease is the farm's: short, so that much happens in little time.
const lease = "2s"

const members = 3 // coordinators, and workers

// cluster is a farm of processes with a wire on every connection.
type cluster struct {
	t            *testing.T
	dir          string
	sky          *sky
	mirror       *mirrortest.Mirror
	coordinators []*part
	workers      []*part
	servers      []string // addresses of the NATS servers, without wires
	routes       [][]*bustest.Wire
	toNATS       [][]*bustest.Wire // of each worker, and of the API last
	toS3         []*bustest.Wire   // likewise
	disks        []string          // data of the workers that have small disks; empty: ordinary
	api          *client.Client
}

// free finds an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	for range 100 { // below the ports that connections get by themselves: those of the farm would take it
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(20_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// nowhere is an address where nobody is: what servers are told to call themselves, so that every way leads through a wire.
const nowhere = "127.0.0.1:1"

func startCluster(t *testing.T) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), mirror: debian(t)}
	s3 := free(t)
	newPart(t, c.dir, "s3", []string{"BAKEFARM_S3_ACCESS_KEY=chaos", "BAKEFARM_S3_SECRET_KEY=chaos-secret"}, "s3", "--listen", s3).start()
	c.sky = newSky(t, s3)
	under := strings.TrimPrefix(c.sky.URL, "http://")
	s3URL := func(w *bustest.Wire) string { return "http://chaos:chaos-secret@" + w.Address() + "/images" }

	var listen []string
	for range members {
		c.servers, listen = append(c.servers, free(t)), append(listen, free(t))
	}
	for i := range members {
		c.routes = append(c.routes, make([]*bustest.Wire, members))
		var routes []string
		for j := range members {
			if i != j {
				c.routes[i][j] = bustest.New(t, listen[j])
				routes = append(routes, c.routes[i][j].Address())
			}
		}
		p := newPart(t, c.dir, fmt.Sprint("coordinator", i), nil, "coordinator", "--s3", s3URL(bustest.New(t, under)), "--lease", lease,
			"--nats-listen", c.servers[i], "--nats-advertise", nowhere,
			"--cluster-listen", listen[i], "--cluster-advertise", nowhere, "--routes", strings.Join(routes, ","))
		p.start()
		c.coordinators = append(c.coordinators, p)
	}
	connected := func() []string {
		var wires []*bustest.Wire
		var urls []string
		for _, server := range c.servers {
			w := bustest.New(t, server)
			wires, urls = append(wires, w), append(urls, "nats://"+w.Address())
		}
		c.toNATS = append(c.toNATS, wires)
		c.toS3 = append(c.toS3, bustest.New(t, under))
		return []string{"--nats", strings.Join(urls, ","), "--s3", s3URL(c.toS3[len(c.toS3)-1])}
	}
	for i := range members {
		name := fmt.Sprint("worker", i)
		env := []string{"BAKEFARM_DEBIAN_MIRROR=" + c.mirror.URL, "BAKEFARM_DEBIAN_KEYRING=" + c.mirror.Keyring}
		p := newPart(t, c.dir, name, env, append([]string{"worker", "--drain-timeout", "200ms", "--slots", "4"}, connected()...)...)
		c.disks = append(c.disks, smallDisk(t, p.dir))
		c.workers = append(c.workers, p)
	}
	web := newPart(t, c.dir, "api", nil, append([]string{"api", "--listen", "127.0.0.1:0"}, connected()...)...)
	for _, p := range c.coordinators {
		p.said(`coordinator \S+ is ready`)
	}
	web.start()
	for _, w := range c.workers {
		w.start()
	}
	var err error
	if c.api, err = client.New(web.said(`ready at (http://\S+)`), ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	return c
}

// smallDisk mounts a disk of 32 MiB at a directory, and returns it; empty where this may not be done.
func smallDisk(t *testing.T, dir string) string {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Logf("no small disk at %s: %v", filepath.Base(dir), err)
		return ""
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill leaves no room on a disk, until the file that it makes is removed.
func fill(disk string) (file string) {
	file = filepath.Join(disk, "filler")
	f, err := os.Create(file)
	if err != nil {
		return file // no room at all
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 16 {
		for block := make([]byte, size); ; {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
	return file
}

// debian is an archive of a few packages.
func debian(t *testing.T) *mirrortest.Mirror {
	text := func(n int) string { return strings.Repeat("some text of a file, which compresses\n", n) }
	var offered []mirrortest.Package
	for _, p := range []debtest.Package{
		{Name: "base-files", Version: "12.4", Architecture: "amd64", Fields: map[string]string{"Priority": "required", "Essential": "yes"}, Compression: "xz",
			Entries: []debtest.Entry{{Name: "etc/"}, {Name: "etc/debian_version", Content: "12.1\n"}, {Name: "usr/"}, {Name: "usr/lib/"}, {Name: "usr/lib/os-release", Content: "ID=debian\nVERSION_ID=\"12\"\n"}}},
		{Name: "libc6", Version: "2.36-9", Architecture: "amd64", Fields: map[string]string{"Priority": "required"}, Compression: "xz",
			Entries: []debtest.Entry{{Name: "lib/"}, {Name: "lib/libc.so.6", Content: text(5000), Mode: 0o755}}},
		{Name: "openssl", Version: "3.0.11-1", Architecture: "amd64", Fields: map[string]string{"Depends": "libc6"}, Compression: "gz",
			Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/openssl", Content: text(3000), Mode: 0o755}}},
		{Name: "apt", Version: "2.6.1", Architecture: "amd64", Fields: map[string]string{"Priority": "important", "Depends": "libc6"}, Compression: "zst",
			Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/apt", Content: text(300), Mode: 0o755}}},
		{Name: "tzdata", Version: "2024a-0", Compression: "gz",
			Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/zoneinfo/"}, {Name: "usr/share/zoneinfo/UTC", Content: "TZif2"}}},
	} {
		offered = append(offered, mirrortest.Package{Control: p.ControlText(), Deb: p.Build(t)})
	}
	return mirrortest.New(t, offered...)
}

// reached cuts or mends what leads from a worker to NATS.
func (c *cluster) reached(worker int, do func(*bustest.Wire)) {
	for _, w := range c.toNATS[worker] {
		do(w)
	}
}

// parted does something to every route of a NATS server to the others, and theirs to it.
func (c *cluster) parted(server int, do func(*bustest.Wire)) {
	for i := range members {
		for j := range members {
			if i != j && (i == server || j == server) {
				do(c.routes[i][j])
			}
		}
	}
}
