package mirror

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os/exec"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/ulikunitz/xz"
)

func TestXZ(t *testing.T) {
	if xzProgram() == "" {
		t.Fatal("there is no xz program: install xz-utils")
	}
	for _, size := range []int{0, 1, 1000, 150 << 10} {
		plain := make([]byte, size)
		rand.New(rand.NewSource(1)).Read(plain)
		var b bytes.Buffer
		w, err := xz.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		packed := b.Bytes()
		for _, program := range []string{"", xzProgram()} {
			read := func(r io.Reader) ([]byte, error) {
				z, err := openXZWith(program, r)
				if err != nil {
					return nil, err
				}
				raw, err := io.ReadAll(z)
				if closeErr := z.Close(); err == nil {
					err = closeErr
				}
				return raw, err
			}
			if raw, err := read(bytes.NewReader(packed)); err != nil || !bytes.Equal(raw, plain) {
				t.Errorf("%d bytes with %q: %d, %v", size, program, len(raw), err)
			}
			if _, err := read(bytes.NewReader(packed[:len(packed)-1])); err == nil {
				t.Errorf("%d bytes with %q: a truncated file is no error", size, program)
			}
			broken := errors.New("broken source")
			if _, err := read(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
				t.Errorf("%d bytes with %q: the source's error is lost: %v", size, program, err)
			}
			if size > smallXZ {
				bad := bytes.Clone(packed)
				bad[len(bad)/2] ^= 1
				if _, err := read(bytes.NewReader(bad)); err == nil {
					t.Errorf("with %q: a damaged file is no error", program)
				}
				z, err := openXZWith(program, bytes.NewReader(packed))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(z, make([]byte, 10)); err != nil {
					t.Error(err)
				}
				if err := z.Close(); err != nil {
					t.Errorf("closing early: %v", err)
				}
			}
		}
	}
}

// TestXZBlocks: a file of several blocks, as dpkg-deb makes large ones, says so in its beginning and comes out whole.
func TestXZBlocks(t *testing.T) {
	plain := bytes.Repeat([]byte("as large as a kernel "), 2<<20)
	pack := exec.Command(xzProgram(), "--compress", "--stdout", "-0", "--threads=2", "--block-size=16MiB")
	pack.Stdin = bytes.NewReader(plain)
	packed, err := pack.Output()
	if err != nil {
		t.Fatal(err)
	}
	if size := firstBlock(packed); size != largeBlock {
		t.Errorf("the first block has %d bytes, want %d", size, largeBlock)
	}
	packed = append(packed, make([]byte, 64<<10)...) // stream padding (section 2.2), so that it is no small file
	z, err := openXZ(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if args := z.(*xzProcess).cmd.Args; xzThreads() && !slices.Contains(args, "--threads=0") {
		t.Errorf("on one processor: %q", args)
	}
	if raw, err := io.ReadAll(z); err != nil || !bytes.Equal(raw, plain) {
		t.Errorf("%d bytes of %d, %v", len(raw), len(plain), err)
	}
	if err := z.Close(); err != nil {
		t.Error(err)
	}
	for n := range maxBlockHeader {
		if size := firstBlock(packed[:n]); size != 0 {
			t.Errorf("%d bytes of a header: %d", n, size)
		}
	}
}
