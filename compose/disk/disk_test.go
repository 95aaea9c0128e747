package disk

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/disk/ext4"
	"bakefarm/compose/disk/gpt"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory keeps pieces.
type memory map[digest.Digest][]byte

func (m memory) put(data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	m[d] = bytes.Clone(data)
	return d, nil
}

func (m memory) get(_ context.Context, p Part) ([]byte, error) { return m[p.Digest], nil }

// raw puts a disk together, and checks what its layers say of themselves.
func (m memory) raw(t *testing.T, layers []Layer) []byte {
	t.Helper()
	var all []byte
	for i, l := range layers {
		start := len(all)
		for _, p := range l.Parts {
			if p.Digest == "" {
				all = append(all, make([]byte, p.Size)...)
				continue
			}
			if int64(len(m[p.Digest])) != p.Size {
				t.Fatalf("layer %d: a piece of %d bytes is said to have %d", i, len(m[p.Digest]), p.Size)
			}
			all = append(all, m[p.Digest]...)
		}
		if int64(len(all)-start) != l.Size || digest.FromBytes(all[start:]) != l.Digest {
			t.Fatalf("layer %d is not what it says", i)
		}
	}
	return all
}

func TestChunks(t *testing.T) {
	const size = 194 * mebi
	r := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	m := memory{}
	c := NewChunks(size, m.put)
	defer c.Close()
	write := func(off, n int64) {
		p := want[off : off+n]
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		for len(p) > 0 { // in parts of any size
			k := min(int64(len(p)), r.Int64N(200_000)+1)
			if _, err := c.WriteAt(p[:k], off); err != nil {
				t.Fatal(err)
			}
			p, off = p[k:], off+k
		}
	}
	write(5*mebi, 3*mebi)
	write(8*mebi+100_000, 10) // a gap within the grain
	write(63*mebi, 3*mebi)    // over a layer's end
	write(100*mebi, 512)
	write(mebi, 70_000)  // back
	write(168*mebi, 512) // little in a layer, behind many zeros
	write(170*mebi, 100)
	write(size-512, 512)
	if _, err := c.WriteAt([]byte{1}, size); err == nil {
		t.Error("a write behind the end was taken")
	}
	layers, err := c.Layers(t.Context(), m.get)
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 4 || !bytes.Equal(m.raw(t, layers), want) {
		t.Errorf("%d layers, other bytes", len(layers))
	}
}

func TestTwiceWrittenIsRefused(t *testing.T) {
	m := memory{}
	c := NewChunks(MinSize, m.put)
	defer c.Close()
	for _, off := range []int64{0, 10 * mebi, 0} {
		if _, err := c.WriteAt([]byte("x"), off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Layers(t.Context(), m.get); err == nil {
		t.Error("a grain that was written twice went unnoticed")
	}
}

// Chunks are the same wherever a run of grains stands.
func TestChunksFallIntoStep(t *testing.T) {
	content := make([]byte, 20*mebi)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	m := memory{}
	for _, off := range []int64{0, 7 * grain} {
		c := NewChunks(LayerSize, m.put)
		c.WriteAt(content, off)
		if _, err := c.Layers(t.Context(), m.get); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	total := 0
	for _, p := range m {
		total += len(p)
	}
	if total > len(content)+2*mebi {
		t.Errorf("both have %d bytes in pieces, of %d that are the same", total, len(content))
	}
}

func TestLayerSize(t *testing.T) {
	for size, want := range map[int64]int64{2 << 30: 64 * mebi, 1 << 40: 64 * mebi, 1<<40 + mebi: 128 * mebi, 16 << 40: 1 << 30} {
		if got := LayerSizeOf(size); got != want {
			t.Errorf("%d: %d", size, got)
		}
	}
}

func layer(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var names []string
	for name := range files {
		names = append(names, name)
	}
	for _, name := range sorted(names) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[name]))
	}
	w.Close()
	return b.Bytes()
}

func sorted(s []string) []string {
	for i := range s {
		for k := i; k > 0 && s[k] < s[k-1]; k-- {
			s[k], s[k-1] = s[k-1], s[k]
		}
	}
	return s
}

// stub is the smallest program that takes sections.
func stub() string {
	le := binary.LittleEndian
	b := make([]byte, 2048)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+32:], 4096)
	le.PutUint32(b[0x58+36:], 512)
	le.PutUint32(b[0x58+60:], 1024)
	return string(b)
}

func bootable() map[string]string {
	return map[string]string{
		"boot/vmlinuz-6.1.0-1-cloud-amd64":                    strings.Repeat("kernel", 100_000),
		"usr/lib/modules/6.1.0-1-cloud-amd64/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\n",
		"usr/lib/systemd/boot/efi/linuxx64.efi.stub":          stub(),
		"usr/lib/os-release":                                  "ID=debian\n",
		"sbin/init":                                           strings.Repeat("init", 50_000),
	}
}

var options = Options{Size: 192 * mebi, Arch: "amd64", Boot: BootUEFI, Seed: digest.FromString("os"), Time: 315619200}

// complete checks that whoever keeps what the prefix names keeps all of its pieces.
func (p *Prefix) complete(t *testing.T, m memory) {
	t.Helper()
	named := map[digest.Digest]bool{}
	for _, l := range p.Layers {
		for _, part := range l.Parts {
			named[part.Digest] = true
		}
	}
	for _, part := range p.Loose {
		named[part.Digest] = true
	}
	var s state
	if err := json.Unmarshal(p.State, &s); err != nil {
		t.Fatal(err)
	}
	for _, k := range s.Chunks {
		if !named[k.Digest] || m[k.Digest] == nil {
			t.Errorf("the piece at %d: named is %t, stored %t", k.Offset, named[k.Digest], m[k.Digest] != nil)
		}
	}
	if len(s.Chunks) == 0 {
		t.Error("no pieces")
	}
}

func build(t *testing.T, o Options, m memory, layers ...[]byte) ([]Layer, *Kernel, error) {
	t.Helper()
	c := NewChunks(o.Size, m.put)
	defer c.Close()
	b, err := New(o, c)
	if err != nil {
		return nil, nil, err
	}
	var p *Prefix
	for i, l := range layers {
		if err := b.Layer(bytes.NewReader(l)); err != nil {
			return nil, nil, err
		}
		if i > 0 {
			continue
		}
		if p, err = b.Prefix(); err != nil {
			return nil, nil, err
		}
		if err := p.Hash(t.Context(), m.get); err != nil {
			return nil, nil, err
		}
		m.raw(t, p.Layers)
		p.complete(t, m)
		c = NewChunks(o.Size, m.put)
		defer c.Close()
		if b, err = Resume(o, c, p.State); err != nil {
			return nil, nil, err
		}
	}
	if err := b.Finish(); err != nil {
		return nil, nil, err
	}
	made, err := b.Layers(t.Context(), m.get)
	return made, p.Kernel, err
}

func TestDisk(t *testing.T) {
	files, err := Machine{Entrypoint: []string{"/opt/app"}, Packages: []string{"systemd", "kmod"}}.files(options)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := compose.Head(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	m := memory{}
	layers, kernel, err := build(t, options, m, layer(t, bootable()), layer(t, map[string]string{"opt/app": strings.Repeat("app", 1_000_000)}), machine)
	if err != nil {
		t.Fatal(err)
	}
	raw := m.raw(t, layers)
	if got := fmt.Sprintf("%x", sha256.Sum256(raw)); got != golden {
		t.Errorf("the bytes have changed: %s\nif that is meant, raise the disk's format number in plan.Formats", got)
	}
	table, err := gpt.Decode(raw)
	if err != nil || len(table.Partitions) != 2 {
		t.Fatalf("%+v: %v", table, err)
	}
	root := table.Partitions[1]
	if want := "root=PARTUUID=" + root.GUID.String(); !strings.Contains(kernel.Cmdline, want) {
		t.Errorf("the command line is %q, want %s in it", kernel.Cmdline, want)
	}
	dir := t.TempDir()
	part := func(name string, p gpt.Partition) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, raw[p.Start:p.Start+p.Size], 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if out, err := exec.Command("e2fsck", "-fn", part("root", root)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	if fsck, err := exec.LookPath("fsck.fat"); err == nil {
		if out, err := exec.Command(fsck, "-n", part("esp", table.Partitions[0])).CombinedOutput(); err != nil {
			t.Errorf("fsck.fat: %v: %s", err, out)
		}
	}
}

const golden = "e436728a945cc8eb9224bd1d93273b27cb71b4023e53731c68196ffab3029825"

// system makes a disk of an OS, without an app.
func system(t *testing.T, o Options, m memory) (*Chunks, *Prefix) {
	t.Helper()
	c := NewChunks(o.Size, m.put)
	t.Cleanup(c.Close)
	b, err := New(o, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Layer(bytes.NewReader(layer(t, bootable()))); err != nil {
		t.Fatal(err)
	}
	p, err := b.Prefix()
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// A disk whose layers are so large that the system partition shares one with the root.
func TestLargeLayers(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes a gigabyte of zeros and more")
	}
	o := options
	o.Size = 1<<40 + 64*mebi
	m := memory{}
	_, p := system(t, o, m)
	p.complete(t, m)
	other := NewChunks(o.Size, m.put)
	defer other.Close()
	if _, err := Resume(o, other, p.State); err != nil {
		t.Error(err)
	}
	o.Size += mebi
	if _, err := Resume(o, other, p.State); err == nil {
		t.Error("the state of another disk was taken")
	}
}

// Another app costs its own bytes and the counts.
func TestAnotherApp(t *testing.T) {
	os := layer(t, bootable())
	m := memory{}
	app := func(seed uint64) []byte {
		b := make([]byte, 5*mebi)
		r := rand.New(rand.NewPCG(seed, 0))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return layer(t, map[string]string{"opt/app": string(b)})
	}
	if _, _, err := build(t, options, m, os, app(1)); err != nil {
		t.Fatal(err)
	}
	before := len(m)
	fresh := memory{}
	layers, _, err := build(t, options, fresh, os, app(2))
	if err != nil {
		t.Fatal(err)
	}
	var bytes int64
	for d, p := range fresh {
		if _, ok := m[d]; !ok {
			bytes += int64(len(p))
		}
	}
	if bytes > 5*mebi+2*mebi {
		t.Errorf("%d new bytes beside the %d pieces of before, in %d layers", bytes, before, len(layers))
	}
}

func TestTrouble(t *testing.T) {
	if testing.Short() {
		t.Skip("make test meets all troubles")
	}
	change := func(fn func(map[string]string)) []byte {
		files := bootable()
		fn(files)
		return layer(t, files)
	}
	for name, c := range map[string]struct {
		os   []byte
		want string
	}{
		"no kernel":   {change(func(f map[string]string) { delete(f, "boot/vmlinuz-6.1.0-1-cloud-amd64") }), "add linux-image-cloud-amd64"},
		"two kernels": {change(func(f map[string]string) { f["boot/vmlinuz-7"] = "k" }), "6.1.0-1-cloud-amd64, 7: keep one"},
		"no driver": {change(func(f map[string]string) {
			f["usr/lib/modules/6.1.0-1-cloud-amd64/modules.builtin"] = "kernel/fs/ext4/ext4.ko\n"
		}), "driver for no disk"},
		"no stub":      {change(func(f map[string]string) { delete(f, "usr/lib/systemd/boot/efi/linuxx64.efi.stub") }), "add systemd-boot-efi"},
		"broken stub":  {change(func(f map[string]string) { f["usr/lib/systemd/boot/efi/linuxx64.efi.stub"] = "MZ" }), "no PE32+"},
		"large kernel": {change(func(f map[string]string) { f["boot/vmlinuz-6.1.0-1-cloud-amd64"] = strings.Repeat("x", 62*mebi) }), "room for 63"},
		"no room":      {change(func(f map[string]string) { f["big"] = strings.Repeat("x", 200*mebi) }), "give the disk a size of at least"},
	} {
		_, _, err := build(t, options, memory{}, c.os)
		var boot *BootError
		var room *ext4.NoRoom
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &boot) && !errors.As(err, &room) {
			t.Errorf("%s: %v", name, err)
		}
	}
	hybrid := options
	hybrid.Boot = BootHybrid
	if _, _, err := build(t, hybrid, memory{}, layer(t, bootable())); err == nil || !strings.Contains(err.Error(), "no bzImage that a BIOS can start: another kernel package, or boot: uefi") {
		t.Errorf("a kernel that no BIOS starts: %v", err)
	}
	theirs := options
	theirs.Distribution = true
	if _, _, err := build(t, theirs, memory{}, layer(t, bootable())); err == nil || !strings.Contains(err.Error(), "no /boot/initrd.img-6.1.0-1-cloud-amd64): add initramfs-tools") {
		t.Errorf("no initrd of the OS's own: %v", err)
	}
	if _, k, err := build(t, theirs, memory{}, change(func(f map[string]string) { f["boot/initrd.img-6.1.0-1-cloud-amd64"] = "theirs" })); err != nil || string(k.Initrd) != "theirs" {
		t.Errorf("the OS's own initrd: %v", err)
	}
	direct := options
	direct.Boot = BootDirect
	if _, k, err := build(t, direct, memory{}, change(func(f map[string]string) { delete(f, "usr/lib/systemd/boot/efi/linuxx64.efi.stub") })); err != nil || len(k.Initrd) == 0 {
		t.Errorf("direct: %v", err)
	}
}

// A BIOS finds kernel and initrd where the loader has it they are, and there they are once.
func TestHybrid(t *testing.T) {
	le := binary.LittleEndian
	image := []byte(strings.Repeat("a kernel ", 100_000))
	image[0x1f1], image[0x211] = 3, 1
	copy(image[0x202:], "HdrS")
	le.PutUint16(image[0x206:], 0x20f)
	le.PutUint32(image[0x22c:], 0x7fffffff)
	le.PutUint64(image[0x258:], 1<<24)
	le.PutUint32(image[0x260:], 1<<24)
	files := bootable()
	files["boot/vmlinuz-6.1.0-1-cloud-amd64"] = string(image)
	o := options
	o.Boot = BootHybrid
	m := memory{}
	layers, kernel, err := build(t, o, m, layer(t, files))
	if err != nil {
		t.Fatal(err)
	}
	raw := m.raw(t, layers)
	table, err := gpt.Decode(raw)
	if err != nil || len(table.Partitions) != 3 || table.Partitions[0].Type != gpt.TypeBIOS || raw[0] == 0 || raw[510] != 0x55 {
		t.Fatalf("%+v: %v", table, err)
	}
	loader := raw[gpt.HeadSize:]
	if string(loader[:4]) != "farm" {
		t.Fatalf("behind the table stands %q", loader[:4])
	}
	at := func(i int) []byte {
		p := loader[4+12*i:]
		return raw[512*le.Uint64(p):][:le.Uint32(p[8:])]
	}
	if !bytes.Equal(at(0), image[:4*512]) || !bytes.Equal(at(1), image[4*512:]) || !bytes.Equal(at(2), kernel.Initrd) {
		t.Error("something else stands where kernel and initrd are said to")
	}
	if !bytes.Contains(loader[:8192], []byte(kernel.Cmdline+"\x00")) {
		t.Error("no command line")
	}
}

// A root that nobody writes to; who goes on from its system makes it as well.
func TestReadOnly(t *testing.T) {
	files := bootable()
	if _, _, err := build(t, readOnly(), memory{}, layer(t, files)); err == nil || !strings.Contains(err.Error(), "can't mount erofs") {
		t.Errorf("a kernel without erofs: %v", err)
	}
	files["usr/lib/modules/6.1.0-1-cloud-amd64/modules.builtin"] += "kernel/fs/erofs/erofs.ko\nkernel/fs/overlayfs/overlay.ko\n"
	m := memory{}
	layers, kernel, err := build(t, readOnly(), m, layer(t, files), layer(t, map[string]string{"opt/app": strings.Repeat("app", 1_000_000)}))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(kernel.Cmdline, " ro rootfstype=erofs ") {
		t.Errorf("the command line is %s", kernel.Cmdline)
	}
	raw := m.raw(t, layers)
	table, err := gpt.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	root := table.Partitions[1]
	file := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(file, raw[root.Start:root.Start+root.Size], 0o600); err != nil {
		t.Fatal(err)
	}
	if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command(fsck, "--extract", file).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v: %s", err, out)
		}
	}
	files["big"] = strings.Repeat("x", 100*mebi)
	if _, _, err := build(t, readOnly(), memory{}, layer(t, files)); err == nil || !strings.Contains(err.Error(), "give the disk a size of at least") {
		t.Errorf("no room: %v", err)
	}
}

func readOnly() Options {
	o := options
	o.ReadOnly = true
	return o
}

// What a machine needs comes over what the OS has, and leaves alone what the app has; a hosts file stays whose ever it is.
func TestMachine(t *testing.T) {
	system := bootable()
	system["etc/fstab"] = "of the OS"
	system["etc/machine-id"] = "of the OS"
	for _, c := range []struct {
		os, app map[string]string
		want    map[string]string // by path, how a file begins
	}{
		{nil, nil, map[string]string{"/etc/hosts": "127.0.0.1\tlocalhost\n", "/etc/fstab": "PARTUUID=", "/etc/machine-id": "uninitialized\n"}},
		{map[string]string{"etc/hosts": "of the OS"}, nil, map[string]string{"/etc/hosts": "of the OS", "/etc/fstab": "PARTUUID="}},
		{nil, map[string]string{"etc/fstab": "of the app", "etc/hosts": "of the app", "etc/machine-id": "of the app", "etc/systemd/system/app.service": "[Unit]"},
			map[string]string{"/etc/hosts": "of the app", "/etc/fstab": "of the app", "/etc/machine-id": "uninitialized\n", "/etc/systemd/system/app.service": "[Unit]",
				"/etc/systemd/network/80-ether.network": "# Every"}},
	} {
		m := memory{}
		first := NewChunks(options.Size, m.put)
		b, err := New(options, first)
		if err != nil {
			t.Fatal(err)
		}
		below := maps.Clone(system)
		maps.Copy(below, c.os)
		if err := b.Layer(bytes.NewReader(layer(t, below))); err != nil {
			t.Fatal(err)
		}
		p, err := b.Prefix()
		first.Close()
		if err != nil {
			t.Fatal(err)
		}
		chunks := NewChunks(options.Size, m.put)
		defer chunks.Close()
		if b, err = Resume(options, chunks, p.State); err != nil {
			t.Fatal(err)
		}
		if err := b.Layer(bytes.NewReader(layer(t, c.app))); err != nil {
			t.Fatal(err)
		}
		if err := b.Machine(Machine{Entrypoint: []string{"/opt/app"}}); err != nil {
			t.Fatal(err)
		}
		if err := b.Finish(); err != nil {
			t.Fatal(err)
		}
		layers, err := b.Layers(t.Context(), m.get)
		if err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(t.TempDir(), "root")
		if err := os.WriteFile(root, m.raw(t, layers)[rootStart:], 0o600); err != nil {
			t.Fatal(err)
		}
		for path, want := range c.want {
			if out, err := exec.Command("debugfs", "-R", "cat "+path, root).Output(); err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("%s is %q, want %q: %v", path, out, want, err)
			}
		}
	}
}

func TestUnit(t *testing.T) {
	unit, err := Machine{
		Entrypoint: []string{"/opt/my app", "--price=$5", "100%", `"quoted"\`}, Env: map[string]string{"B": "2\n3", "A": "$x"},
		User: "1000", StopSignal: "SIGINT", WorkingDir: "/srv", Restart: "on-failure",
	}.unit()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`ExecStart="/opt/my app" "--price=$$5" "100%%" "\"quoted\"\\"`, `Environment="A=$x"` + "\n" + `Environment="B=2\n3"`,
		"User=1000\nGroup=1000", "KillSignal=SIGINT", "WorkingDirectory=/srv", "Restart=on-failure", "StandardOutput=journal+console",
	} {
		if !strings.Contains(unit, want+"\n") {
			t.Errorf("no %s in\n%s", want, unit)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	file := filepath.Join(t.TempDir(), Service)
	os.WriteFile(file, []byte(strings.ReplaceAll(unit, "/opt/my app", "/bin/true")), 0o600)
	if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), Service) {
		t.Errorf("systemd-analyze: %v: %s", err, out)
	}
}
