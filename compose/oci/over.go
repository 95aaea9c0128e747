package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Inherit is the configuration of an image over a base, as a Dockerfile's FROM has it: base is the base's configuration,
// c what is wanted over it.
//
// Names of the environment and labels are added or replaced one by one, ports and volumes are added. User, working
// directory and stop signal replace the base's. So does an entrypoint, and the base's command, which were its arguments,
// goes with it; a command alone replaces the command.
func Inherit(base []byte, c Config) (v1.ImageConfig, error) {
	var image v1.Image
	if err := json.Unmarshal(base, &image); err != nil {
		return v1.ImageConfig{}, fmt.Errorf("configuration: %w", err)
	}
	is := image.Config
	is.Env = environmentOver(is.Env, c.Env)
	is.Labels = merged(is.Labels, c.Labels)
	is.ExposedPorts, is.Volumes = merged(is.ExposedPorts, set(c.Ports)), merged(is.Volumes, set(c.Volumes))
	is.User, is.WorkingDir, is.StopSignal = cmp.Or(c.User, is.User), cmp.Or(c.WorkingDir, is.WorkingDir), cmp.Or(c.StopSignal, is.StopSignal)
	if c.Entrypoint != nil {
		is.Entrypoint, is.Cmd = c.Entrypoint, nil
	}
	if c.Cmd != nil {
		is.Cmd = c.Cmd
	}
	//lint:ignore SA1019 a base may still have it, and it is about Windows
	is.ArgsEscaped = false
	return is, nil
}

// environmentOver sets names in a list: those that are there keep their place, others follow, sorted. There is a PATH in
// any case.
func environmentOver(list []string, env map[string]string) []string {
	var out []string
	have := map[string]bool{}
	for _, e := range list {
		name, _, _ := strings.Cut(e, "=")
		if value, ok := env[name]; ok {
			e = name + "=" + value
		}
		if !have[name] {
			out = append(out, e)
		}
		have[name] = true
	}
	if _, wanted := env["PATH"]; !have["PATH"] && !wanted {
		out = append(out, "PATH="+DefaultPath)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !have[name] {
			out = append(out, name+"="+env[name])
		}
	}
	return out
}

func merged[V any](base, over map[string]V) map[string]V {
	if len(base)+len(over) == 0 {
		return nil
	}
	all := map[string]V{}
	maps.Copy(all, base)
	maps.Copy(all, over)
	return all
}

// overConfig is a configuration with what the specification has not, but images have and tools heed.
type overConfig struct {
	v1.ImageConfig
	Healthcheck json.RawMessage `json:"Healthcheck,omitempty"`
	Shell       json.RawMessage `json:"Shell,omitempty"`
}

type overImage struct {
	v1.Image
	Config overConfig `json:"config,omitempty"`
}

// NewConfigOver writes the configuration of an image over a base: what Inherit says, with the base's history, and the
// layers of both, the base's below. What of the base's history is not of its layers' number is made anew.
func NewConfigOver(base []byte, c Config, p Platform, below, layers []Layer) ([]byte, error) {
	var was overImage
	if err := json.Unmarshal(base, &was); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	inherited, err := Inherit(base, c)
	if err != nil {
		return nil, err
	}
	image := overImage{
		Image: v1.Image{
			Created:  &created,
			Author:   was.Author,
			Platform: v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
			RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
			History:  was.History,
		},
		Config: overConfig{ImageConfig: inherited, Healthcheck: was.Config.Healthcheck, Shell: was.Config.Shell},
	}
	told := 0
	for _, h := range image.History {
		if !h.EmptyLayer {
			told++
		}
	}
	if told != len(below) {
		image.History = nil
		for range below {
			image.History = append(image.History, v1.History{Created: &created, CreatedBy: "base"})
		}
	}
	for i, l := range slices.Concat(below, layers) {
		if err := l.validate(); err != nil {
			return nil, fmt.Errorf("image configuration: %w", err)
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.DiffID)
		if i >= len(below) {
			image.History = append(image.History, v1.History{Created: &created, CreatedBy: "bakefarm " + l.Role})
		}
	}
	return encode("image configuration", image)
}
