package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/spf13/cobra"
)

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                   "0 ms",
		412*time.Millisecond + 600_000:      "412 ms",
		1300 * time.Millisecond:             "1.3 s",
		42 * time.Second:                    "42 s",
		119 * time.Second:                   "119 s",
		3 * time.Minute:                     "3 min",
		3 * time.Hour:                       "3 h",
		72 * time.Hour:                      "3 d",
		-5 * time.Second:                    "0 ms", // clocks differ
		365*24*time.Hour + 1234*time.Second: "365 d",
	} {
		if got := took(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := age(time.Time{}); got != "-" {
		t.Errorf("no time: %q", got)
	}
}

func TestChannelArgs(t *testing.T) {
	cmd := &cobra.Command{Use: "promote NAME CHANNEL VERSION"}
	for args, want := range map[string]string{
		"shop/checkout prod 0123": "shop/checkout|prod|0123",
		"shop/checkout:prod 0123": "shop/checkout|prod|0123",
		"shop/checkout@prod 0123": "shop/checkout|prod|0123",
		"shop/checkout 0123":      "",
		"0123":                    "",
	} {
		name, channel, rest, err := channelArgs(cmd, strings.Fields(args), 1)
		var usage usageError
		switch got := name + "|" + channel + "|" + strings.Join(rest, ","); {
		case want == "" && !errors.As(err, &usage):
			t.Errorf("%s: %v; want a usage error", args, err)
		case want != "" && (err != nil || got != want):
			t.Errorf("%s: %s, %v; want %s", args, got, err, want)
		}
	}
}

func TestChoose(t *testing.T) {
	oci := func(platform string) api.CatalogImage {
		return api.CatalogImage{Image: api.Image{Kind: "oci", Platform: platform}}
	}
	disk := api.CatalogImage{Image: api.Image{Kind: "disk", Platform: "linux/amd64"}}
	for name, c := range map[string]struct {
		images         []api.CatalogImage
		platform, want string // platform, or a part of the error after !
	}{
		"the only one":       {[]api.CatalogImage{oci("linux/amd64")}, "", "linux/amd64"},
		"beside a disk":      {[]api.CatalogImage{disk, oci("linux/amd64")}, "", "linux/amd64"},
		"one of two":         {[]api.CatalogImage{oci("linux/amd64"), oci("linux/arm64")}, "linux/arm64", "linux/arm64"},
		"which of two?":      {[]api.CatalogImage{oci("linux/amd64"), oci("linux/arm64")}, "", "!choose one with --platform"},
		"not this platform":  {[]api.CatalogImage{oci("linux/amd64")}, "linux/arm64", "!but for linux/amd64"},
		"only a disk":        {[]api.CatalogImage{disk}, "", "!no OCI image"},
		"nothing whatsoever": {nil, "linux/amd64", "!no OCI image"},
	} {
		got, err := choose(c.images, "shop/checkout", c.platform)
		if part, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want an error with %q", name, err, part)
			}
		} else if err != nil || got.Platform != c.want || got.Kind != "oci" {
			t.Errorf("%s: %s, %v; want %s", name, got.Platform, err, c.want)
		}
	}
}

func TestDescribe(t *testing.T) {
	for want, e := range map[string]farm.Event{
		"baking":                          {Type: farm.EventBake, State: farm.BakeBaking},
		"failed: no suite":                {Type: farm.EventBake, State: farm.BakeFailed, Error: "no suite"},
		"cancelled":                       {Type: farm.EventBake, State: farm.BakeCancelled, Error: "cancelled"},
		"3 of 9 shards are known already": {Type: farm.EventPlan, Done: 3, Total: 9},
		"[4/9] convert libc6 (1.5 s)":     {Type: farm.EventShard, Status: farm.ShardDone, Label: "convert libc6", Took: 1500 * time.Millisecond, Done: 4, Total: 9},
		"observe bookworm (20 ms)":        {Type: farm.EventShard, Status: farm.ShardDone, Label: "observe bookworm", Took: 20 * time.Millisecond},
		"convert libc6: failed: 404":      {Type: farm.EventShard, Status: farm.ShardFailed, Label: "convert libc6", Error: "404"},
		"convert libc6: fetching 12 MB":   {Type: farm.EventLog, Label: "convert libc6", Line: "fetching 12 MB"},
		"something of the bake's own":     {Type: farm.EventLog, Line: "something of the bake's own"},
	} {
		if got := describe(e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, e := range []farm.Event{
		{Type: farm.EventShard, Status: farm.ShardClaimed, Label: "convert libc6"},
		{Type: farm.EventShard, Status: farm.ShardQueued, Label: "convert libc6", Error: "worker is stopping"}, // a line of the log says so
		{Type: "of a later release"},
	} {
		if got := describe(e); got != "" {
			t.Errorf("%+v: %q, want nothing", e, got)
		}
	}
}

func TestStoreErrors(t *testing.T) {
	for from, want := range map[error]error{bus.ErrNotFound: imagestore.ErrNotFound, bus.ErrConflict: imagestore.ErrConflict, bus.ErrExists: imagestore.ErrConflict} {
		if got := storeError(from); !errors.Is(got, want) || !errors.Is(got, from) {
			t.Errorf("%v becomes %v", from, got)
		}
	}
	if err := storeError(nil); err != nil {
		t.Error(err)
	}
}
