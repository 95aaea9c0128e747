package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bakefarm/api/client"
	"bakefarm/bus/bustest"
	"bakefarm/farm"
)

// TestWorkerDiesAtEveryStep bakes again and again with a worker that is killed after one message to NATS more, or one request that
// writes to S3 more, than the time before. Another one finishes the bake, to what it is when nobody dies. In a short run only
// some of the steps are done.
func TestWorkerDiesAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("takes real processes")
	}
	step := 1
	if *length < time.Minute {
		step = 3
	}
	dir := t.TempDir()
	s3, nats := free(t), free(t)
	newPart(t, dir, "s3", []string{"BAKEFARM_S3_ACCESS_KEY=chaos", "BAKEFARM_S3_SECRET_KEY=chaos-secret"}, "s3", "--listen", s3).start()
	whole := newPart(t, dir, "farm", nil, "up", "--workers", "0", "--lease", "1s", "--listen", "127.0.0.1:0", "--nats-listen", nats, "--s3", "http://chaos:chaos-secret@"+s3+"/images")
	whole.start()
	farmAPI, err := client.New(whole.said(`ready at (http://\S+)`), "")
	if err != nil {
		t.Fatal(err)
	}
	defer farmAPI.Close()
	under := newSky(t, s3)
	wire := bustest.New(t, nats)
	worker := func(name, nats, s3 string) *part {
		return newPart(t, dir, name, nil, "worker", "--drain-timeout", "1s", "--nats", "nats://"+nats, "--s3", "http://chaos:chaos-secret@"+s3+"/images")
	}
	mortal := worker("mortal", wire.Address(), strings.TrimPrefix(under.URL, "http://"))
	heir := worker("heir", nats, s3)
	for _, kind := range []string{"message", "request"} {
		deaths := 0
		for n := 1; ; n += step {
			dead := make(chan struct{})
			kill := func() { mortal.kill(); close(dead) }
			mortal.start()
			if kind == "message" {
				wire.After(n, func(subject string) bool { return !strings.Contains(subject, ".API.") }, kill)
			} else {
				under.in(n, kill)
			}
			if !bakeOnce(t, farmAPI, dir, fmt.Sprint(kind, n), dead, heir) {
				break // it did all, and lives
			}
			deaths++
		}
		mortal.kill()
		under.in(0, nil)
		wire.After(0, nil, nil)
		t.Logf("it died after %d %ss", deaths, kind)
	}
}

// bakeOnce bakes with the worker that runs, and once that is dead with its heir. It reports whether that was needed.
func bakeOnce(t *testing.T, farmAPI *client.Client, dir, what string, dead <-chan struct{}, heir *part) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := order{name: "steps/" + what, dir: filepath.Join(dir, "contexts", what)}
	o.recipe = "apiVersion: bakefarm/v1\nname: " + o.name + "\nos: {scratch: true}\napp:\n  - {copy: ., to: /app}\n"
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "file"), []byte("what "+what+" has"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := send(ctx, farmAPI, o, false)
	if err != nil {
		t.Fatal(err)
	}
	died := false
	for err == nil && !b.State.Finished() {
		select {
		case <-dead:
			dead, died = nil, true
			heir.start()
			defer heir.kill()
		case <-time.After(20 * time.Millisecond):
		}
		b, err = farmAPI.Bake(ctx, b.ID)
	}
	if err != nil || b.State != farm.BakeDone {
		t.Fatalf("the worker died after %s: bake %s is %s: %s, %v", what, b.ID, b.State, b.Error, err)
	}
	if died {
		r, err := send(ctx, farmAPI, o, true)
		for err == nil && !r.State.Finished() {
			time.Sleep(20 * time.Millisecond)
			r, err = farmAPI.Bake(ctx, r.ID)
		}
		if err != nil || r.State != farm.BakeDone || r.Images[0].Digest != b.Images[0].Digest {
			t.Errorf("the worker died after %s: baked again: %s %s, %v", what, r.State, r.Error, err)
		}
	}
	return died
}
