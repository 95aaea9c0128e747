package s3embed

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// An object file is the object's bytes, so that ranges, sendfile and
// copy_file_range work on file offsets, followed by a footer:
//
//	data | JSON of objectInfo | length of the JSON, CRC-32C of the JSON (uint32, little endian) | magic
const (
	footerMagic = "bfs3obj1"
	footerTail  = 4 + 4 + len(footerMagic)
	maxFooter   = 1 << 20 // 10,000 part sizes and 2 KiB of user metadata fit many times
	footerGuess = 2 << 10 // one read of this size gets nearly every footer
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged marks an object file whose footer does not fit its file. It is never
// the result of a crash of this server: such a file was changed by something else.
var errDamaged = errors.New("object file is damaged")

// objectInfo is what is known about an object besides its bytes.
type objectInfo struct {
	Key      string            `json:"key"`
	Size     int64             `json:"size"` // bytes
	ETag     string            `json:"etag"` // hex, without quotes
	Modified time.Time         `json:"modified"`
	Headers  map[string]string `json:"headers,omitempty"` // canonical names: Content-Type, X-Amz-Meta-…, X-Amz-Checksum-…
	Parts    []int64           `json:"parts,omitempty"`   // sizes, if made by a multipart upload
	Upload   string            `json:"upload,omitempty"`  // its id, which makes a repeated Complete answerable
}

// appendFooter appends info's footer to b.
func appendFooter(b []byte, info *objectInfo) ([]byte, error) {
	meta, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode object metadata: %w", err)
	}
	if len(meta)+footerTail > maxFooter {
		return nil, fmt.Errorf("object metadata of %d bytes exceeds %d", len(meta), maxFooter-footerTail)
	}
	b = append(b, meta...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(meta)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(meta, castagnoli))
	return append(b, footerMagic...), nil
}

// readInfo reads the footer of an object file. It returns errDamaged (wrapped) if
// the file is not exactly one object.
func readInfo(f *os.File) (*objectInfo, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf, err := readTail(f, st.Size(), footerGuess)
	if err != nil {
		return nil, err
	}
	if len(buf) < footerTail || string(buf[len(buf)-len(footerMagic):]) != footerMagic {
		return nil, fmt.Errorf("%s: %w: no footer", f.Name(), errDamaged)
	}
	tail := buf[len(buf)-footerTail:]
	n, sum := int64(binary.LittleEndian.Uint32(tail)), binary.LittleEndian.Uint32(tail[4:])
	length := n + int64(footerTail)
	if length > maxFooter || length > st.Size() {
		return nil, fmt.Errorf("%s: %w: footer of %d bytes in a file of %d", f.Name(), errDamaged, length, st.Size())
	}
	if length > int64(len(buf)) {
		if buf, err = readTail(f, st.Size(), length); err != nil {
			return nil, err
		}
	}
	meta := buf[int64(len(buf))-length : len(buf)-footerTail]
	if crc32.Checksum(meta, castagnoli) != sum {
		return nil, fmt.Errorf("%s: %w: footer checksum", f.Name(), errDamaged)
	}
	info := new(objectInfo)
	if err := json.Unmarshal(meta, info); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", f.Name(), errDamaged, err)
	}
	if info.Size != st.Size()-length {
		return nil, fmt.Errorf("%s: %w: %d bytes of data, footer says %d", f.Name(), errDamaged, st.Size()-length, info.Size)
	}
	return info, nil
}

// readTail reads the last n bytes of a file of size bytes, or all of it.
func readTail(f *os.File, size, n int64) ([]byte, error) {
	n = min(n, size)
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, size-n); err != nil && err != io.EOF {
		return nil, err
	}
	return buf, nil
}

// contents is the reader of a range of an object file. Its WriteTo shows the file
// itself to the writer, so that a TCP connection uses sendfile(2) and the
// in-process transport reads it without a copy.
type contents struct {
	io.LimitedReader
	f *os.File
}

// openRange makes contents of n bytes at off; closing it closes f.
func openRange(f *os.File, off, n int64) (*contents, error) {
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, err
	}
	return &contents{LimitedReader: io.LimitedReader{R: f, N: n}, f: f}, nil
}

func (c *contents) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &c.LimitedReader) }
func (c *contents) Close() error                       { return c.f.Close() }
