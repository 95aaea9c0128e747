package inflate

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	klauspost "github.com/klauspost/compress/flate"
)

// samples are texts, programs, noise and what repeats itself.
func samples(t testing.TB) map[string][]byte {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	noise, skewed := make([]byte, 300_000), make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
		skewed[i] = byte(random.ExpFloat64() * 9) // long codes
	}
	return map[string][]byte{
		"nothing": nil, "byte": {7}, "program": program[:min(len(program), 3<<20)], "noise": noise, "skewed": skewed,
		"zeros": make([]byte, 1<<20), "ab": []byte(strings.Repeat("ab", 100_000)), "text": []byte(strings.Repeat("the quick brown fox ", 20)),
		"seven": []byte(strings.Repeat("1234567", 9_999)),
	}
}

func pack(t testing.TB, data []byte, level int, other bool) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	if other {
		w, err = klauspost.NewWriter(&b, level)
	} else {
		w, err = flate.NewWriter(&b, level)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestInflate(t *testing.T) {
	t.Parallel()
	for name, want := range samples(t) {
		for _, level := range []int{-2, 0, 1, 5, 9} {
			for _, other := range []bool{false, true} {
				packed := pack(t, want, level, other)
				got := make([]byte, len(want))
				n, err := Inflate(got, append(packed, "what follows"...))
				if err != nil || n != len(packed) || !bytes.Equal(got, want) {
					t.Errorf("%s, level %d: %d of %d bytes taken: %v", name, level, n, len(packed), err)
				}
				if n, err := Inflate(make([]byte, len(want)+1), packed); err == nil {
					t.Errorf("%s, level %d: one byte more came, of %d", name, level, n)
				}
				if len(want) > 0 {
					if _, err := Inflate(make([]byte, len(want)-1), packed); err == nil {
						t.Errorf("%s, level %d: one byte less was enough", name, level)
					}
				}
				if _, err := Inflate(got, packed[:len(packed)-1]); err == nil {
					t.Errorf("%s, level %d: the last byte was not needed", name, level)
				}
			}
		}
	}
}

// What it takes the standard library takes too, and makes the same of it.
func FuzzInflate(f *testing.F) {
	for _, want := range samples(f) {
		f.Add(pack(f, want[:min(len(want), 2000)], 6, false), len(want))
	}
	f.Fuzz(func(t *testing.T, packed []byte, size int) {
		want, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), 1<<20))
		if err != nil {
			want = make([]byte, max(0, min(size, 1<<20)))
		}
		got := make([]byte, len(want))
		_, said := Inflate(got, packed)
		switch {
		case len(want) == 1<<20: // it may be more
		case err == nil && (said != nil || !bytes.Equal(got, want)):
			t.Errorf("%d bytes are not the same: %v", len(want), said)
		case err != nil && said == nil:
			t.Errorf("was taken: %v", err)
		}
	})
}

func BenchmarkInflate(b *testing.B) {
	want := samples(b)["program"]
	packed := pack(b, want, 6, true)
	got := make([]byte, len(want))
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(want)))
		for b.Loop() {
			if _, err := Inflate(got, packed); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("klauspost", func(b *testing.B) {
		b.SetBytes(int64(len(want)))
		r := klauspost.NewReader(bytes.NewReader(packed))
		for b.Loop() {
			r.(klauspost.Resetter).Reset(bytes.NewReader(packed), nil)
			if _, err := io.ReadFull(r, got); err != nil {
				b.Fatal(err)
			}
		}
	})
}
