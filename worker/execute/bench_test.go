package execute_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/cache"
	"bakefarm/worker/execute"
)

// system is 150 MB of packages that compress to about a third, as Debian's do.
func system(packages, size int) []debtest.Package {
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	words := make([]string, 4000)
	for i := range words {
		words[i] = fmt.Sprintf("%x", rng.Uint32()>>(rng.UintN(24)))
	}
	all := make([]debtest.Package, packages)
	for i := range all {
		p := debtest.Package{Name: fmt.Sprintf("package%03d", i), Architecture: "amd64", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/share/"}}}
		for k := range 40 {
			var text strings.Builder
			for text.Len() < size/40 {
				text.WriteString(words[rng.IntN(len(words))])
				text.WriteByte(' ')
			}
			p.Entries = append(p.Entries, debtest.Entry{Name: fmt.Sprintf("./usr/share/file-%d-%d", i, k), Content: text.String()})
		}
		all[i] = p
	}
	return all
}

// BenchmarkAssemble makes the OS layer of 90 packages, 150 MB unpacked: warm with everything in the worker's cache, cold
// with nothing there.
func BenchmarkAssemble(b *testing.B) {
	bench := newBench(b, newStore(b))
	spec, members := bench.specOf(system(90, 150_000_000/90)...)
	var l plan.Layer
	bench.must(farm.KindAssemble, spec, &l, members...)
	b.Logf("%.1f MB unpacked, %.1f MB, %d pieces", float64(l.TarSize)/1e6, float64(l.Size)/1e6, l.Pieces)
	b.Run("warm", func(b *testing.B) {
		b.SetBytes(l.TarSize)
		for b.Loop() {
			bench.must(farm.KindAssemble, spec, &l, members...)
		}
	})
	b.Run("cold", func(b *testing.B) {
		b.SetBytes(l.TarSize)
		for b.Loop() {
			b.StopTimer()
			c, err := cache.Open(b.TempDir(), 0)
			if err != nil {
				b.Fatal(err)
			}
			warm := bench.env
			bench.env = &execute.Env{Store: warm.Store, Mirror: warm.Mirror, Turns: warm.Turns, Indexes: warm.Indexes, Records: execute.NewRecords(), Cache: c}
			b.StartTimer()
			bench.must(farm.KindAssemble, spec, &l, members...)
			b.StopTimer()
			bench.env = warm
			c.Close()
			b.StartTimer()
		}
	})
}

func BenchmarkConvert(b *testing.B) {
	bench := newBench(b, newStore(b))
	spec := bench.offer(system(1, 20_000_000)[0])
	var m plan.Member
	b.SetBytes(20_000_000)
	for b.Loop() {
		bench.must(farm.KindConvert, spec, &m)
	}
}

func BenchmarkCut(b *testing.B) {
	bench := newBench(b, newStore(b))
	entry := bench.upload("opt/app", random(1, 4<<20))
	spec := plan.Runs([]recipe.TreeEntry{entry})[0]
	var m plan.Member
	b.SetBytes(4 << 20)
	for b.Loop() {
		bench.must(farm.KindCut, spec, &m)
	}
}
