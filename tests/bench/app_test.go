package bench

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// The app that is baked: about 20 MB in 500 files, as an app with its dependencies is. Most are source text that
// compresses to a quarter or so, one is a 6 MB program that compresses to about half.
const (
	appFiles = 500
	appBytes = 20 << 20
)

// appFile is one file of the app.
type appFile struct {
	path string
	mode os.FileMode
	data []byte
}

// makeApp makes an app of about so many bytes. The same seed gives the same app; with another one, no file has the same
// bytes.
func makeApp(seed uint64, total int) []appFile {
	random := rand.New(rand.NewPCG(seed, 20))
	binary := total * 3 / 10
	files := []appFile{{"bin/server", 0o755, program(random, binary)}}
	words := vocabulary(random)
	const texts = appFiles - 1
	for i := range texts {
		// Sizes are spread as those of real source trees are: many small ones, few large ones.
		share := 0.1 + 2.7*float64(i%29)*float64(i%29)/(28*28)
		size := int(share * float64(total-binary) / texts)
		kind, ext := "lib", ".py"
		if i%3 > 0 {
			kind, ext = "node_modules", ".js"
		}
		name := path.Join(kind, fmt.Sprintf("package%02d", i/12), fmt.Sprintf("module%03d%s", i, ext))
		files = append(files, appFile{name, 0o644, source(random, words, size)})
	}
	return files
}

// vocabulary is the identifiers of an app.
func vocabulary(random *rand.Rand) []string {
	syllables := strings.Fields("get set on is to re un de con text node list item key val err ctx req res map fn cb opt path name type data str num idx buf log async event state query param")
	words := make([]string, 3000)
	for i := range words {
		for range 1 + random.IntN(3) {
			s := syllables[random.IntN(len(syllables))]
			words[i] += strings.ToUpper(s[:1]) + s[1:]
		}
		if i%7 == 0 {
			words[i] += fmt.Sprint(random.IntN(1000))
		}
	}
	return words
}

// source makes text with the habits of program text: indented lines of identifiers, few of which are frequent.
func source(random *rand.Rand, words []string, size int) []byte {
	frequent := rand.NewZipf(random, 1.2, 8, uint64(len(words)-1))
	marks := []string{" = ", "(", ", ", ".", "; ", ") ", " => ", ": ", " + ", " === "}
	var out bytes.Buffer
	for out.Len() < size {
		out.WriteString(strings.Repeat("  ", random.IntN(6)))
		for range 2 + random.IntN(8) {
			out.WriteString(words[frequent.Uint64()])
			out.WriteString(marks[random.IntN(len(marks))])
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// program makes bytes that compress as machine code does: short sequences that recur with other operands between them.
func program(random *rand.Rand, size int) []byte {
	idioms := make([][]byte, 4096)
	for i := range idioms {
		idioms[i] = make([]byte, 2+random.IntN(7))
		for j := range idioms[i] {
			idioms[i][j] = byte(random.Uint32())
		}
	}
	frequent := rand.NewZipf(random, 1.1, 16, uint64(len(idioms)-1))
	out := make([]byte, 0, size+16)
	for len(out) < size {
		out = append(out, idioms[frequent.Uint64()]...)
		operand := random.Uint32()
		switch operand % 4 {
		case 0:
			out = append(out, byte(operand>>8), byte(operand>>16), 0, 0)
		case 1:
			out = append(out, byte(operand>>8))
		}
	}
	return out[:size]
}

// writeApp writes an app's files into dir.
func writeApp(dir string, files []appFile) error {
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

func TestApp(t *testing.T) {
	const want = appBytes / 10
	files, again, other := makeApp(1, want), makeApp(1, want), makeApp(2, want)
	var all bytes.Buffer
	compressor := gzip.NewWriter(&all)
	total, seen := 0, map[string]bool{}
	for i, f := range files {
		if !bytes.Equal(f.data, again[i].data) || bytes.Equal(f.data, other[i].data) {
			t.Fatalf("%s: the same seed must give the same bytes, another one others", f.path)
		}
		if seen[f.path] {
			t.Fatalf("%s is there twice", f.path)
		}
		seen[f.path] = true
		total += len(f.data)
		compressor.Write(f.data)
	}
	if err := compressor.Close(); err != nil {
		t.Fatal(err)
	}
	if len(files) != appFiles || total < want*95/100 || total > want*105/100 {
		t.Errorf("%d files of %d bytes together, want %d of about %d", len(files), total, appFiles, want)
	}
	if share := float64(all.Len()) / float64(total); share < 0.25 || share > 0.45 {
		t.Errorf("gzip leaves %.2f of it; apps of source text and a program are about a third", share)
	}
}
