package upkeep

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"

	"github.com/opencontainers/go-digest"
)

// drill is a farm in two directories, as a backup has them.
type drill struct {
	*world
	close func()
}

// openDrill opens what lies in the directories.
func openDrill(t *testing.T, nats, s3 string) *drill {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Dir: nats, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, bus: b, now: time.Now()}
	server, err := s3embed.Open(s3, s3embed.Config{AccessKey: "key", SecretKey: "secret-of-the-test", NoSync: true})
	w.must(err)
	client, bucket, prefix, err := s3store.Dial("http://key:secret-of-the-test@s3.invalid/test", server.Transport())
	w.must(err)
	index, err := openCatalog(b)
	w.must(err)
	w.store, err = s3store.Open(t.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: b.Ledger(), Locator: index, Writer: "test"})
	w.must(err)
	stop := follow(index, w.store)
	w.u = New(Config{Bus: b, Store: w.store, Index: index, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
		Collect: collect.Config{MinAge: time.Nanosecond, Grace: time.Hour}})
	return &drill{w, func() {
		stop()
		w.store.Close()
		index.Close()
		server.Close()
		b.Close()
	}}
}

// commit stores an image of one blob, and commits a version with it.
func (d *drill) commit(version string) {
	d.Helper()
	content := d.put("content of " + version)
	_, err := d.bus.Versions.Create(d.Context(), "app@"+version, farm.Version{Schema: farm.Schema, Name: "app", Version: version, Bake: version, CreatedAt: d.now,
		Images: []farm.Image{{Name: "app", Digest: content, Kind: farm.ImageOCI, Blobs: []digest.Digest{content}}}})
	d.must(err)
}

// readable lists the versions that there are, and says which can be read.
func (d *drill) readable() (all map[string]bool) {
	d.Helper()
	all = map[string]bool{}
	records, err := d.bus.Versions.List(d.Context(), "")
	d.must(err)
	for _, v := range records {
		raw, err := imagestore.ReadAll(d.Context(), d.store, v.Images[0].Digest, 1000)
		all[v.Version] = err == nil && string(raw) == "content of "+v.Version
	}
	return all
}

func (d *drill) scrubbed() Scrubbed {
	d.Helper()
	c := d.u.Collect
	c.Packs, c.Index, c.Store, c.Now = packs{d.bus.Packs}, d.u.Index, d.store, d.u.Now
	found, err := collect.New(c).Scrub(d.Context(), "", func(string, collect.Scrubbed) {})
	d.must(err)
	hurt, err := d.u.hurt(d.Context(), found)
	d.must(err)
	return Scrubbed{Scrubbed: found, Hurt: hurt}
}

// TestRestoreDrill restores NATS and S3 from copies of different times, both ways round, as docs/backup.md says.
func TestRestoreDrill(t *testing.T) {
	nats, s3 := t.TempDir(), t.TempDir()
	d := openDrill(t, nats, s3)
	d.commit("early")
	d.close()
	oldNATS, oldS3 := t.TempDir(), t.TempDir()
	if err := os.CopyFS(oldNATS, os.DirFS(nats)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(oldS3, os.DirFS(s3)); err != nil {
		t.Fatal(err)
	}
	d = openDrill(t, nats, s3)
	d.commit("late")
	if got := fmt.Sprint(d.readable()); got != "map[early:true late:true]" {
		t.Fatalf("before: %s", got)
	}
	d.close()
	newNATS, newS3 := t.TempDir(), t.TempDir()
	if err := os.CopyFS(newNATS, os.DirFS(nats)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(newS3, os.DirFS(s3)); err != nil {
		t.Fatal(err)
	}

	t.Run("NATS older than S3", func(t *testing.T) {
		d := openDrill(t, oldNATS, newS3)
		defer d.close()
		if got := fmt.Sprint(d.readable()); got != "map[early:true]" {
			t.Errorf("after: %s", got)
		}
		if s := d.scrubbed(); len(s.Damage)+len(s.Hurt) != 0 {
			t.Errorf("%+v", s)
		}
		d.commit("late") // the same again
		d.now = d.now.Add(50 * time.Hour)
		d.gc()
		if got := fmt.Sprint(d.readable()); got != "map[early:true late:true]" {
			t.Errorf("after baking again and collecting: %s", got)
		}
	})
	t.Run("NATS newer than S3", func(t *testing.T) {
		d := openDrill(t, newNATS, oldS3)
		defer d.close()
		if got := fmt.Sprint(d.readable()); got != "map[early:true late:false]" {
			t.Errorf("after: %s", got)
		}
		s := d.scrubbed()
		if len(s.Damage) != 1 || fmt.Sprint(s.Hurt) != "[app:late]" {
			t.Errorf("%+v", s)
		}
		d.put("content of late") // what baking it again does
		if got := fmt.Sprint(d.readable()); got != "map[early:true late:true]" {
			t.Errorf("after baking again: %s", got)
		}
		d.gc()
		if s := d.scrubbed(); len(s.Damage)+len(s.Hurt) != 0 {
			t.Errorf("in the end: %+v", s)
		}
	})
}
