package mirror

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"
)

// Decompressors returns the decompressors of this machine by the ending of the file's name, without dot: gz and xz. The
// caller closes a reader and then the source; a failed Close is a failure. Reading to io.EOF checks the checksums.
//
// xz is decoded by the xz program where there is one, in a process of its own: Debian's Packages.xz (8.8 MB, 50 MB of
// text) takes it 0.7 s, and the decoder in Go 1.6 s. Small files stay in Go: a process costs as much as 16 KiB of input.
func Decompressors() map[string]func(io.Reader) (io.ReadCloser, error) {
	return map[string]func(io.Reader) (io.ReadCloser, error){"gz": openGzip, "xz": openXZ}
}

// Decompress opens a file that is named like an Index: Packages.gz, Packages.xz or Packages.
func Decompress(name string, r io.Reader) (io.ReadCloser, error) {
	ending := strings.TrimPrefix(path.Ext(name), ".")
	if ending == "" {
		return io.NopCloser(r), nil
	}
	open, ok := Decompressors()[ending]
	if !ok {
		return nil, fmt.Errorf("%s: the compression %s is not known", name, ending)
	}
	return open(r)
}

func openGzip(r io.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return z, nil
}

// smallXZ is the input size in bytes up to which starting a process does not pay.
const smallXZ = 16 << 10

var xzProgram = sync.OnceValue(func() string {
	name, err := exec.LookPath("xz")
	if err != nil {
		return ""
	}
	return name
})

func openXZ(r io.Reader) (io.ReadCloser, error) { return openXZWith(xzProgram(), r) }

// openXZWith decodes with the program, or in Go when it is "" or the input is small.
func openXZWith(program string, r io.Reader) (io.ReadCloser, error) {
	head := bufio.NewReaderSize(r, smallXZ+1)
	if _, err := head.Peek(smallXZ + 1); program == "" || err != nil {
		return openSmallXZ(head)
	}
	p := &xzProcess{input: &faultKeeper{r: head}}
	// The limit is enough for the largest dictionary that xz -9 uses and refuses the gigabytes that a header can ask for.
	args := []string{"--decompress", "--stdout", "--quiet", "--format=xz", "--memlimit-decompress=256MiB"}
	if start, _ := head.Peek(maxBlockHeader); firstBlock(start) >= largeBlock && xzThreads() {
		args = append(args, "--threads=0", "--memlimit-mt-decompress=128MiB") // as many as fit into it
	}
	p.cmd = exec.Command(program, args...)
	p.cmd.Stdin = p.input
	p.cmd.Stderr = &p.said
	p.cmd.WaitDelay = 5 * time.Second
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	widen(stdout)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	p.stdout = stdout
	return p, nil
}

// widen has a pipe hold more than the kernel's own 64 KiB, where the user's limit allows it: the program writes 8 KiB at a
// time, and it and we would wait for each other all the time.
func widen(pipe io.ReadCloser) {
	const size = 1 << 20
	if f, is := pipe.(syscall.Conn); is {
		if c, err := f.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
		}
	}
}

// largeBlock is the size of a block, in bytes of data, from which on others probably follow it, and decoding them at the
// same time pays. dpkg-deb makes blocks of 24 MiB.
const largeBlock = 16 << 20

// xzThreads reports whether the program decodes several blocks at a time: since 5.4.
var xzThreads = sync.OnceValue(func() bool {
	said, err := exec.Command(xzProgram(), "--long-help").Output()
	return err == nil && bytes.Contains(said, []byte("--memlimit-mt-decompress"))
})

const (
	xzHeader       = 12 // bytes of a stream's header
	maxBlockHeader = xzHeader + 2 + 9 + 9
)

// firstBlock is the uncompressed size of a stream's first block in bytes, as its header has it: 0 when it has none. Encoders
// with several threads write it (The .xz File Format, section 3.1).
func firstBlock(start []byte) uint64 {
	const compressed, uncompressed = 0x40, 0x80 // block flags: which sizes are there
	if len(start) < maxBlockHeader || start[xzHeader] == 0 || start[xzHeader+1]&uncompressed == 0 {
		return 0
	}
	sizes := start[xzHeader+2:]
	if start[xzHeader+1]&compressed != 0 {
		_, n := binary.Uvarint(sizes)
		if n <= 0 {
			return 0
		}
		sizes = sizes[n:]
	}
	size, n := binary.Uvarint(sizes)
	if n <= 0 {
		return 0
	}
	return size
}

// maxWindow bounds the dictionary of the decoder in Go, in bytes: xz -9 takes as much.
const maxWindow = 64 << 20

// smallDecoder is a decoder with its dictionary, which has 8 MiB even for the few kB of a package's control archive: so
// one for each processor is used again and again.
type smallDecoder struct {
	src io.Reader // what z reads from: nil while nobody uses it
	z   *xz.Reader
}

var smallDecoders = make(chan *smallDecoder, runtime.GOMAXPROCS(0))

func (s *smallDecoder) feed(b []byte) (int, error) { return s.src.Read(b) }

// smallXZReader is a decoder on loan, until Close.
type smallXZReader struct{ *smallDecoder }

func openSmallXZ(r io.Reader) (io.ReadCloser, error) {
	var s *smallDecoder
	select {
	case s = <-smallDecoders:
	default:
		s = &smallDecoder{}
	}
	s.src = r
	var err error
	if s.z == nil {
		s.z, err = xz.NewReader(readerFunc(s.feed), maxWindow)
	} else {
		err = s.z.Reset(readerFunc(s.feed))
	}
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	return &smallXZReader{s}, nil
}

func (s *smallXZReader) Read(b []byte) (int, error) {
	if s.smallDecoder == nil {
		return 0, errors.New("xz: read after close")
	}
	return s.z.Read(b)
}

func (s *smallXZReader) Close() error {
	if s.smallDecoder != nil {
		s.src = nil
		select {
		case smallDecoders <- s.smallDecoder:
		default: // there are enough
		}
		s.smallDecoder = nil
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// xzProcess reads from a running xz.
type xzProcess struct {
	cmd    *exec.Cmd
	input  *faultKeeper
	said   bytes.Buffer
	stdout io.Reader
	end    error // what Read returns from now on
}

func (p *xzProcess) Read(b []byte) (int, error) {
	if p.end != nil {
		return 0, p.end
	}
	n, err := p.stdout.Read(b)
	if err == nil {
		return n, nil
	}
	p.end = p.wait(err)
	return n, p.end
}

// wait ends the process and says how it went: the source's own failure before what it made of the stream.
func (p *xzProcess) wait(read error) error {
	err := p.cmd.Wait()
	switch {
	case p.input.fault() != nil:
		return p.input.fault()
	case err != nil && p.said.Len() > 0:
		return fmt.Errorf("xz: %s", strings.TrimSpace(p.said.String()[:min(p.said.Len(), 200)]))
	case err != nil:
		return fmt.Errorf("xz: %w", err)
	}
	return read
}

// Close ends the process. Before the end of the data it is killed, and that is no error.
func (p *xzProcess) Close() error {
	if p.end != nil {
		return nil
	}
	p.end = errors.New("xz: read after close")
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.cmd.Wait()         // killed: the status says so
	return nil
}

// faultKeeper remembers how its reader failed: the process only sees an early end.
type faultKeeper struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (f *faultKeeper) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && err != io.EOF {
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
	}
	return n, err
}

func (f *faultKeeper) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
