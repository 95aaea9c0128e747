package recipe

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"

	"bakefarm/farm"
	"bakefarm/recipe/strict"
)

// Bounds of publish.
const (
	maxRegistries = 32
	maxReference  = 1024 // bytes
)

// Release is what a reference in publish.registries may name: {{.Name}}, {{.Version}} and {{.Channel}}.
type Release struct {
	Name    string // shop/checkout
	Version string // 16 hex digits
	Channel string // dev
}

// Reference fills a template of publish.registries in. The result is a full reference: registry/path:tag.
//
// A template is text with the fields of Release and nothing else of text/template: a range over a number would never end.
func (r Release) Reference(registry string) (string, error) {
	if len(registry) > maxReference {
		return "", fmt.Errorf("is longer than %d bytes", maxReference)
	}
	t, err := template.New("").Option("missingkey=error").Parse(registry)
	if err != nil {
		return "", fmt.Errorf("is no template: %s", strings.TrimPrefix(err.Error(), "template: :"))
	}
	if t.Tree == nil {
		return "", errors.New("is a template without text")
	}
	for _, n := range t.Root.Nodes {
		if !isField(n) {
			return "", fmt.Errorf("%s: only {{.Name}}, {{.Version}} and {{.Channel}} are filled in", clip(n.String()))
		}
	}
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		return "", errors.New("has a field that is none of {{.Name}}, {{.Version}} and {{.Channel}}")
	}
	ref := b.String()
	return ref, checkReference(ref)
}

// isField reports whether a node of a template is text or a bare field.
func isField(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.TextNode:
		return true
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 && len(n.Pipe.Cmds) == 1 && len(n.Pipe.Cmds[0].Args) == 1 {
			_, field := n.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
			return field
		}
	}
	return false
}

var (
	registryHost = regexp.MustCompile(`^(?:localhost|localhost:[0-9]{1,5}|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*(?::[0-9]{1,5})?)$`)
	imageTag     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`) // OCI distribution specification: <reference>
)

// checkReference checks registry/path:tag. The registry must look like one, so that shop/checkout:1 never means a
// registry of somebody else's choice.
func checkReference(ref string) error {
	host, rest, slash := strings.Cut(ref, "/")
	if !slash || !registryHost.MatchString(host) || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("%q does not begin with a registry", clip(ref))
	}
	name, tag, tagged := strings.Cut(rest, ":")
	if err := farm.ValidateName(name); err != nil {
		return fmt.Errorf("%q: the path after the registry: %w", clip(ref), err)
	}
	if !tagged || !imageTag.MatchString(tag) {
		return fmt.Errorf("%q does not end in a tag", clip(ref))
	}
	return nil
}

func readPublish(v strict.Value, name string) (p Publish) {
	f, ok := v.Fields("{channel: dev}", "channel", "registries")
	if !ok {
		return p
	}
	if v, ok := f.Get("channel"); ok {
		if s, ok := v.Text("dev"); ok {
			if err := farm.ValidateChannel(s); err != nil {
				v.Refuse("%s", strings.TrimPrefix(err.Error(), "channel "))
			}
			p.Channel = s
		}
	}
	if v, ok := f.Get("registries"); ok {
		const example = `["registry.example/shop/checkout:{{.Version}}"]`
		refs, at, _ := v.Texts(example)
		if len(refs) > maxRegistries {
			v.Refuse("has %d references; write at most %d", len(refs), maxRegistries)
			return p
		}
		for i, ref := range refs {
			sample := Release{Name: cmp.Or(name, "team/app"), Version: "0123456789abcdef", Channel: "dev"}
			if _, err := sample.Reference(ref); err != nil {
				at[i].Refuse("%v; write a reference such as %s", err, strings.Trim(example, "[]"))
			}
		}
		p.Registries = refs
	}
	return p
}
