package plan

import (
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// TestSpec asks whether an image does what its recipe's tests want. An image that passed has passed for good: the key
// covers the image and the tests, so that the same disk is not started twice for the same question.
type TestSpec struct {
	Image    digest.Digest `json:"image"`    // of the manifest
	Platform string        `json:"platform"` // linux/amd64
	Tests    []recipe.Test `json:"tests"`    // those that are asked of it
}

// TestOutput is the output of run and boot. There is one only when all tests have passed.
type TestOutput struct {
	Passed []string `json:"passed"` // the tests, as people read them
}

// Tests returns the shards of a recipe's tests, one for each image that any is asked of, in the order of the images.
func Tests(tests []recipe.Test, images []farm.Image) ([]Shard, error) {
	kinds := map[string]struct {
		on   string
		kind farm.Kind
	}{farm.ImageOCI: {recipe.OnOCI, farm.KindRun}, farm.ImageDisk: {recipe.OnDisk, farm.KindBoot}}
	var shards []Shard
	for _, image := range images {
		k, ok := kinds[image.Kind]
		if !ok || image.IsIndex() {
			continue
		}
		spec := TestSpec{Image: image.Digest, Platform: image.Platform}
		for _, t := range tests {
			if t.Asks(k.on, image.Platform) {
				t.On = nil
				spec.Tests = append(spec.Tests, t)
			}
		}
		if len(spec.Tests) == 0 {
			continue
		}
		arch, err := DebArch(image.Platform)
		if err != nil {
			return nil, err
		}
		s := newShard(k.kind, image.Platform, spec, spec)
		s.Class = farm.Class(arch, k.kind)
		shards = append(shards, s)
	}
	return shards, nil
}
