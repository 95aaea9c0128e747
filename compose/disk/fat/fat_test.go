package fat

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func build(t *testing.T, o Options, files ...File) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(o.Size); err != nil {
		t.Fatal(err)
	}
	if err := Write(f, o, files); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i)
	}
	return b
}

func TestFsckAgrees(t *testing.T) {
	fsck, err := exec.LookPath("fsck.fat")
	if err != nil {
		t.Skip("fsck.fat is not here (package dosfstools)")
	}
	for _, size := range []int64{MinSize, 63 << 20, 64 << 20, 127 << 20, 255 << 20, 256 << 20, 511 << 20, 1 << 30} {
		image := build(t, Options{Size: size, ID: 0x12345678, Label: "ESP", Time: 1_700_000_000},
			File{"EFI/BOOT/BOOTX64.EFI", content(20<<20 + 77)}, File{"EFI/BOOT/EMPTY", nil}, File{"LOADER/ENTRIES.TXT", []byte("x")}, File{"TOP.TXT", content(513)})
		out, err := exec.Command(fsck, "-n", "-v", image).CombinedOutput()
		if err != nil || strings.Contains(string(out), "differ") {
			t.Errorf("%d MiB: %v: %s", size>>20, err, out)
		}
	}
}

func TestMtoolsRead(t *testing.T) {
	if _, err := exec.LookPath("mcopy"); err != nil {
		t.Skip("mcopy is not here (package mtools)")
	}
	want := content(20<<20 + 77)
	image := build(t, Options{Size: 63 << 20, Label: "ESP", Time: 1_700_000_000}, File{"EFI/BOOT/BOOTX64.EFI", want}, File{"A.B", []byte("ab")})
	got, err := exec.Command("mcopy", "-i", image, "::EFI/BOOT/BOOTX64.EFI", "-").Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes come back: %v", len(got), err)
	}
}

func TestRefused(t *testing.T) {
	o := Options{Size: MinSize}
	for name, files := range map[string][]File{
		"long name":     {{"TOOLONGNAME.EFI", nil}},
		"lower case":    {{"boot.efi", nil}},
		"empty":         {{"A//B", nil}},
		"twice":         {{"A", nil}, {"A", nil}},
		"file and dir":  {{"A/B", nil}, {"A", nil}},
		"no room":       {{"A", make([]byte, 40<<20)}},
		"two dots":      {{"A.B.C", nil}},
		"only a suffix": {{".EFI", nil}},
	} {
		if err := Write(discard{}, o, files); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	for _, size := range []int64{0, MinSize + 1, 10 << 20} {
		if err := Write(discard{}, Options{Size: size}, nil); err == nil {
			t.Errorf("%d bytes were accepted", size)
		}
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
