package execute

import (
	"context"
	"errors"
	"fmt"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/debian"
	"bakefarm/worker/cache"
)

// withoutScripts makes what no maintainer script makes of a set of packages.
func (l *layer) withoutScripts(ctx context.Context, members []compose.Member, records []*deb.Record, arch string) (debian.Configured, error) {
	packages := make([]debian.Package, len(records))
	for i, r := range records {
		facts, err := l.facts(ctx, members[i], r)
		if err != nil {
			return debian.Configured{}, fmt.Errorf("package %s %s: %w", r.Package, r.Version, err)
		}
		packages[i] = debian.Package{Record: r, Facts: facts}
	}
	return debian.Configure(packages, arch), nil
}

// facts returns what a package's member has to say: of the process's memory, else read out of the member.
func (l *layer) facts(ctx context.Context, m compose.Member, r *deb.Record) (*debian.Facts, error) {
	if !debian.Wanted(r) {
		return nil, nil
	}
	if f := l.Records.facts.get(m.TarDigest); f != nil {
		return f, nil
	}
	f, err := l.gather(ctx, m)
	if errors.Is(err, cache.ErrCorrupt) { // the entry has dropped itself
		f, err = l.gather(ctx, m)
	}
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m.TarDigest, err)
	}
	l.Records.facts.put(m.TarDigest, f)
	return f, nil
}

// gather reads a member. Its bytes are not hashed as a whole: the cache compares sums before it gives any out, and
// pieces are verified when they are read.
func (l *layer) gather(ctx context.Context, m compose.Member) (*debian.Facts, error) {
	rc, err := l.openMember(ctx, m)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return debian.Gather(rc)
}
