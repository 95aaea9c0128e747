package api

import (
	"bytes"
	"testing"

	"bakefarm/imagestore"
)

func FuzzFrames(f *testing.F) {
	sum := imagestore.SumOf([]byte("chunk"))
	f.Add(append(append(sum[:], 0, 0, 0, 5), "chunk"...))
	f.Add(append(sum[:], 255, 255, 255, 255))
	f.Fuzz(func(t *testing.T, raw []byte) {
		buf := make([]byte, 16)
		for r := bytes.NewReader(raw); ; {
			at := len(raw) - r.Len()
			sum, n, err := readFrame(r, &buf, 1<<10)
			if err != nil {
				return
			}
			if n < 1 || imagestore.SumOf(buf[:n]) != sum || sum != imagestore.Sum(raw[at:at+32]) {
				t.Errorf("a chunk of %d bytes at %d was taken for another", n, at)
			}
		}
	})
}

func FuzzSubmission(f *testing.F) {
	f.Add([]byte(`{"recipe": "apiVersion: bakefarm/v1\nname: a\nos: {scratch: true}\n", "context": {"files": [{"path": "a"}]}}`))
	f.Add([]byte(`{"recipe": "x", "set": ["a=b"], "context": null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := readSubmission(raw)
		if err == nil && (s.recipeAt == "" || (s.manifest == nil) != (s.manifestAt == "")) {
			t.Errorf("%+v", s)
		}
	})
}
