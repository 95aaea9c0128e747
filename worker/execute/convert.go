package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/plan"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

// Fetcher gets files whose digest is known from the world.
type Fetcher interface {
	// Fetch reads the file of size bytes from the first of the URLs that has it. The caller closes.
	Fetch(ctx context.Context, urls []string, size int64, sha256 digest.Digest) (io.ReadCloser, error)
}

// worthALine is the size of a package, in bytes, from which on people who wait are told that it is on its way.
const worthALine = 8 << 20

// compressing is how many segments of one package are compressed at once: two keep up with any decoder of xz, and one
// leaves the second processor to it. Each takes 8 MiB of memory.
var compressing = min(max(1, runtime.GOMAXPROCS(0)-1), 2)

// decompressors are the machine's where it has better ones than this process.
var decompressors = func() deb.Decompressors {
	all := deb.PureGo()
	maps.Copy(all, mirror.Decompressors())
	return all
}()

// convert makes a member and a record of one Debian package. It reads the package once: while its end is still on the
// wire, its beginning is compressed.
func convert(ctx context.Context, j *job, spec plan.ConvertSpec) (plan.Member, error) {
	p := spec.Package
	for {
		member, err := j.convert(ctx, spec)
		if err == nil {
			return member, nil
		}
		err = fmt.Errorf("package %s %s (%s): %w", p.Name, p.Version, p.Arch, err)
		var asked *mirror.Error
		var other *mirror.MismatchError
		switch {
		case errors.As(err, &other) && len(spec.URLs) > 1: // shows at the end of a large one, when no other was asked yet
			j.say("%v; trying the next mirror", err)
			spec.URLs = spec.URLs[1:]
			continue
		case errors.As(err, &asked) && asked.Status == http.StatusNotFound:
			err = fmt.Errorf("%w, though its index lists the package: it may be in the middle of an update; bake again to see what it has now", err)
		}
		return plan.Member{}, err
	}
}

func (j *job) convert(ctx context.Context, spec plan.ConvertSpec) (plan.Member, error) {
	if len(spec.Keep) > 0 {
		return plan.Member{}, fmt.Errorf("keep %q: this worker only converts whole packages: upgrade it", spec.Keep)
	}
	p := spec.Package
	if len(spec.URLs) == 0 && !p.Own {
		return plan.Member{}, errors.New("it is not known where it can be had: the mirror does not have it any more, and the farm's own copy is gone; update it in the lock file with \"bakefarm lock RECIPE --update\"")
	}
	if p.Size >= worthALine {
		j.say("fetching %s", size(p.Size))
	}
	// The turn is taken when the package is here or a good part of it waits: a slow mirror holds up no other work.
	ahead, err := readAhead(ctx, func(ctx context.Context) (io.ReadCloser, error) {
		if p.Own {
			return j.Store.Open(ctx, p.SHA256, 0, -1)
		}
		return j.Mirror.Fetch(j.asking(ctx), spec.URLs, p.Size, p.SHA256)
	})
	if err != nil {
		return plan.Member{}, err
	}
	defer ahead.Close()
	if err := ahead.ready(ctx); err != nil {
		return plan.Member{}, err
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.Member{}, err
	}
	w := j.Store.Begin()
	store := j.newMember(w)
	defer store.discard()
	result, record, err := func() (deb.Result, []byte, error) {
		defer j.Turns.give()
		result, err := deb.Convert(ahead, p.Size, deb.Options{
			SHA256:        p.SHA256,
			Emit:          func(p compose.Piece, data []byte) error { return store.put(ctx, p, data) },
			Plain:         store,
			Parallel:      compressing,
			Decompressors: decompressors,
		})
		if err != nil {
			return result, nil, err
		}
		record, err := result.Record.Encode()
		return result, record, err
	}()
	if err != nil {
		// Where the archive broke off says nothing when the mirror broke it off, or sent other bytes: that shows at their end.
		if _, cause := io.Copy(io.Discard, ahead); cause != nil {
			err = cause
		}
		return plan.Member{}, err
	}
	store.done(result.Member)
	out, err := j.commitDescribed(ctx, w, result.Member, record)
	if err != nil {
		return plan.Member{}, err
	}
	j.Records.put(out.Inventory, result.Record)
	j.say("%s unpacked to %s, %d files", size(p.Size), size(out.TarSize), len(result.Record.Inventory.Paths))
	return out, nil
}
