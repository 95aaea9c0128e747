package chaos

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"
)

// peace is how many bakes are baked again in peace, and pulled: those of many more would take longer than the chaos did.
const peace = 300

const checkers = 8 // at a time

// check holds every bake to what it must be.
func (b *book) check() {
	t := b.c.t
	t.Helper()
	done, cancelled := 0, 0
	for id, bake := range b.over {
		switch {
		case bake.State == farm.BakeDone:
			done++
		case bake.State == farm.BakeCancelled && b.bakes[id].cancelled:
			cancelled++
		default:
			t.Errorf("bake %s of %s is %s: %s", id, bake.Name, bake.State, bake.Error)
		}
	}
	t.Logf("%d are done, %d were cancelled", done, cancelled)
	calm := newPeace(t, b.c)
	ids := slices.Sorted(maps.Keys(b.over))
	ids = slices.DeleteFunc(ids, func(id string) bool { return b.over[id].State != farm.BakeDone })
	begun := time.Now()
	var checks sync.WaitGroup
	slots := make(chan struct{}, checkers)
	for i, id := range ids {
		slots <- struct{}{}
		checks.Go(func() {
			defer func() { <-slots }()
			b.checkCatalog(b.over[id])
			if i < peace && !t.Failed() {
				b.checkPull(b.over[id])
				calm.check(b.bakes[id].order, b.over[id])
			}
		})
	}
	checks.Wait()
	t.Logf("checked in %s", time.Since(begun).Round(100*time.Millisecond))
}

// checkCatalog: a name that was baked once has one version, and its image is the bake's.
func (b *book) checkCatalog(bake api.Bake) {
	images, err := b.c.api.Image(b.c.t.Context(), bake.Name+":"+bake.Version)
	if err != nil || len(images) != 1 || images[0].Digest != bake.Images[0].Digest {
		b.c.t.Errorf("%s:%s is %v in the catalog (%v), and %s in its bake", bake.Name, bake.Version, images, err, bake.Images[0].Digest)
	}
	all, err := b.c.api.Images(b.c.t.Context(), client.ImageFilter{Name: bake.Name}, client.Order{}, "", 10)
	if err != nil || len(all.Items) != 1 {
		b.c.t.Errorf("%s has %d versions (%v), and was baked once", bake.Name, len(all.Items), err)
	}
	var ends []farm.Event
	err = b.c.api.Follow(b.c.t.Context(), bake.ID, func(e farm.Event) error {
		if e.Type == farm.EventBake && e.State.Finished() {
			ends = append(ends, e)
		}
		return nil
	})
	if err != nil || len(ends) != 1 {
		b.c.t.Errorf("bake %s has ended %d times, as its events say: %+v (%v)", bake.ID, len(ends), ends, err)
	}
}

// checkPull reads and verifies every blob of an image.
func (b *book) checkPull(bake api.Bake) {
	images, err := b.c.api.Image(b.c.t.Context(), bake.Name+":"+bake.Version)
	if err == nil && len(images) == 1 {
		err = b.c.api.PullOCI(b.c.t.Context(), images[0], filepath.Join(b.c.t.TempDir(), "oci"), nil)
	}
	if err != nil {
		b.c.t.Errorf("pull %s:%s: %v", bake.Name, bake.Version, err)
	}
}

// peaceful is a farm that nothing happens to.
type peaceful struct {
	t   *testing.T
	api *client.Client
}

func newPeace(t *testing.T, c *cluster) *peaceful {
	p := newPart(t, c.dir, "peace", []string{"BAKEFARM_DEBIAN_MIRROR=" + c.mirror.URL, "BAKEFARM_DEBIAN_KEYRING=" + c.mirror.Keyring},
		"up", "--listen", "127.0.0.1:0")
	p.start()
	farmAPI, err := client.New(p.said(`ready at (http://\S+)`), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(farmAPI.Close)
	return &peaceful{t, farmAPI}
}

// check bakes an order in peace, and compares.
func (p *peaceful) check(o order, bake api.Bake) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	calm, err := send(ctx, p.api, o, false)
	for err == nil && !calm.State.Finished() {
		time.Sleep(20 * time.Millisecond)
		calm, err = p.api.Bake(ctx, calm.ID)
	}
	switch {
	case err != nil || calm.State != farm.BakeDone:
		p.t.Errorf("%s in peace: %s %s, %v", o.name, calm.State, calm.Error, err)
	case calm.Images[0].Digest != bake.Images[0].Digest || calm.Version != bake.Version:
		p.t.Errorf("%s is %s %s, and in peace %s %s", o.name, bake.Version, bake.Images[0].Digest, calm.Version, calm.Images[0].Digest)
	}
}
