package execute

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"bakefarm/compose"
	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
)

// made opens the uncompressed tar of a layer that this process has composed lately, nil when it is none: the bytes of most
// members are at hand as they went in, where a layer's pieces would have to be unpacked. When what is read is not what was
// composed, the last Read says so, and the next who opens the layer gets it from the store.
func (j *job) made(ctx context.Context, diffID digest.Digest) io.ReadCloser {
	made := j.Records.layers.get(diffID)
	if made == nil {
		return nil
	}
	return &membersReader{job: j, ctx: ctx, diffID: diffID, made: made, members: made.members}
}

// remember keeps what a layer is made of, without the trailer.
func (j *job) remember(l compose.Layer, members []compose.Member) {
	j.Records.layers.put(l.DiffID, &madeOf{members, l.Check})
}

// madeOf is what a layer is made of.
type madeOf struct {
	members []compose.Member
	check   uint32
}

// weigh says about how much memory it takes, in bytes.
func (l *madeOf) weigh() int {
	const ofMember, ofPiece = 160, 128
	n := 0
	for _, m := range l.members {
		n += ofMember + ofPiece*len(m.Pieces)
	}
	return n
}

// membersReader reads the uncompressed bytes of members one after the other, and the end of a tar.
type membersReader struct {
	*job
	ctx     context.Context // of the shard: io.Reader has no place for it
	diffID  digest.Digest
	made    *madeOf
	members []compose.Member // that are not opened yet
	now     io.ReadCloser    // nil between members
	end     *bytes.Reader    // nil before the end
	check   compose.Check    // of what was read
}

func (r *membersReader) Read(p []byte) (int, error) {
	n, err := r.read(p)
	r.check.Write(p[:n])
	if err != io.EOF {
		return n, err
	}
	if r.check.EndMember(); r.check.Sum() != r.made.check {
		r.Records.layers.drop(r.diffID)
		for _, m := range r.made.members {
			r.Cache.Drop(m.TarDigest)
		}
		err = fmt.Errorf("layer %s: %w: its members come to something else", r.diffID, cache.ErrCorrupt)
	}
	return n, err
}

func (r *membersReader) read(p []byte) (int, error) {
	for {
		switch {
		case r.end != nil:
			return r.end.Read(p)
		case r.now == nil && len(r.members) == 0:
			r.check.EndMember()
			r.end = bytes.NewReader(make([]byte, compose.TrailerSize))
			continue
		case r.now == nil:
			var err error
			r.check.EndMember()
			if r.now, err = r.openMember(r.ctx, r.members[0]); err != nil {
				return 0, err
			}
			r.members = r.members[1:]
		}
		n, err := r.now.Read(p)
		if err == io.EOF {
			err = r.now.Close()
			r.now = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Close closes the member that is being read.
func (r *membersReader) Close() error {
	if r.now == nil {
		return nil
	}
	return r.now.Close()
}
