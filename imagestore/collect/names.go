package collect

import (
	"bytes"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

var namePrefix = []byte("sha256:")

// Names calls fn for every sha256 digest that stands in a text. This is how records and documents are read: what a later
// release adds to them is kept by those who know nothing of it, and what is taken for a reference and is none keeps at
// worst what happens to have that digest.
func Names(text []byte, fn func(imagestore.Sum)) {
	for {
		i := bytes.Index(text, namePrefix)
		if i < 0 {
			return
		}
		text = text[i:]
		const size = len("sha256:") + 64
		if len(text) >= size {
			if sum, err := imagestore.ParseDigest(digest.Digest(text[:size])); err == nil {
				fn(sum)
				text = text[size:]
				continue
			}
		}
		text = text[len(namePrefix):]
	}
}
