package catalog_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
)

// built commits a version that was built on another.
func (s *shelf) built(name, v, baseName, baseVersion string, age time.Duration, packages ...string) {
	record := s.put(name, v, age, debian("bookworm", nil, packages...), true)
	if baseName != "" {
		record.Contents.Base = farm.Base{Ref: baseName + ":" + baseVersion, Name: baseName, Version: baseVersion}
	}
	s.versions.Set(name+"@"+v, record)
}

// drawn is a family's lower half in one line.
func drawn(r catalog.Relative) string {
	s := r.Name + ":" + r.Version
	if len(r.Children) == 0 {
		return s
	}
	var below []string
	for _, c := range r.Children {
		below = append(below, drawn(c))
	}
	return s + "(" + strings.Join(below, " ") + ")"
}

func TestFamily(t *testing.T) {
	s := newShelf()
	s.built("base", "b", "", "", 9*time.Hour, "a=1")
	s.built("jre", "j1", "base", "b", 8*time.Hour, "a=1")
	s.built("jre", "j2", "base", "b", 7*time.Hour, "a=1")
	s.built("app", "x", "jre", "j1", 6*time.Hour, "a=1")
	s.built("lost", "l", "gone", "g", 5*time.Hour, "a=1")
	s.built("round", "r", "round", "r", 5*time.Hour, "a=1") // nobody can bake this, but a record may say it
	s.channels.Set("app@prod", &farm.Channel{Name: "app", Channel: "prod", Version: "x"})
	c, _ := s.open(t, "")
	if err := c.CatchUpImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"base:b": "| base:b(jre:j2 jre:j1(app:x))", "app:x": "jre:j1 base:b | app:x", "lost:l": "| lost:l",
	} {
		name, version, _ := strings.Cut(ref, ":")
		f, err := c.Family(t.Context(), name, version)
		if err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, a := range f.Ancestors {
			line = append(line, a.Name+":"+a.Version)
		}
		if got := strings.TrimSpace(strings.Join(line, " ") + " | " + drawn(f.Self)); got != want {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
	}
	if f, err := c.Family(t.Context(), "round", "r"); err != nil || !f.More {
		t.Errorf("%d, %v, %v", f.Size, f.More, err)
	}
	if _, err := c.Family(t.Context(), "gone", "g"); !errors.Is(err, imagestore.ErrNotFound) {
		t.Error(err)
	}
}

// TestAffected: channels that point to what contains it, what others are built on first, with who runs it.
func TestAffected(t *testing.T) {
	s := newShelf()
	s.built("zbase", "b", "", "", 9*time.Hour, "openssl=3.0.11")
	s.built("app", "old", "zbase", "b", 6*time.Hour, "openssl=3.0.11", "libc6=1")
	s.built("app", "new", "zbase", "b", 5*time.Hour, "openssl=3.0.15")
	now := time.Now()
	for key, version := range map[string]string{"zbase@prod": "b", "app@prod": "old", "app@canary": "old", "app@dev": "new", "none@prod": "n"} {
		name, channel, _ := strings.Cut(key, "@")
		s.channels.Set(key, &farm.Channel{Name: name, Channel: channel, Version: version})
	}
	s.deployments.Set("i-1", &farm.Deployment{ID: "i-1", Name: "app", Version: "old", Until: now.Add(time.Hour)})
	s.deployments.Set("i-2", &farm.Deployment{ID: "i-2", Name: "app", Version: "new", Until: now.Add(time.Hour)})
	s.deployments.Set("i-3", &farm.Deployment{ID: "i-3", Name: "app", Version: "old", Until: now.Add(-time.Hour)})
	c, _ := s.open(t, "")
	list := func(name string, questions ...string) string {
		t.Helper()
		if err := c.CatchUpImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows, err := c.Affected(t.Context(), name, packages(t, questions...))
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, r := range rows {
			all = append(all, fmt.Sprintf("%s@%s:%d", r.Name, r.Channel.Channel, r.Deployments))
		}
		return strings.Join(all, " ")
	}
	for _, test := range []struct{ name, question, want string }{
		{"", "openssl<3.0.15", "zbase@prod:0 app@canary:1 app@prod:1"}, {"app", "openssl<3.0.15", "app@canary:1 app@prod:1"},
		{"", "openssl", "zbase@prod:0 app@canary:1 app@dev:1 app@prod:1"}, {"", "nginx", ""},
	} {
		if got := list(test.name, test.question); got != test.want {
			t.Errorf("%s %s: got %q, want %q", test.name, test.question, got, test.want)
		}
	}
	if got := list("", "openssl<3.0.15", "libc6"); got != "app@canary:1 app@prod:1" {
		t.Errorf("two questions: %q", got)
	}
	s.channels.Set("app@prod", &farm.Channel{Name: "app", Channel: "prod", Version: "new"})
	s.channels.Set("app@canary", nil)
	if got := list("app", "openssl<3.0.15"); got != "" {
		t.Errorf("after promoting: %q", got)
	}

	running := func(f catalog.DeploymentFilter) string {
		t.Helper()
		rows, next, err := c.Deployments(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range rows {
			ids = append(ids, r.ID)
		}
		return strings.Join(ids, " ") + " " + next
	}
	for _, test := range []struct {
		f    catalog.DeploymentFilter
		want string
	}{
		{catalog.DeploymentFilter{}, "i-1 i-2 "}, {catalog.DeploymentFilter{Ended: true}, "i-3 "}, {catalog.DeploymentFilter{Limit: 1}, "i-1 i-1"},
		{catalog.DeploymentFilter{After: "i-1"}, "i-2 "}, {catalog.DeploymentFilter{Packages: packages(t, "openssl<3.0.15")}, "i-1 "},
		{catalog.DeploymentFilter{Name: "a*", Version: "new"}, "i-2 "}, {catalog.DeploymentFilter{Name: "b*"}, " "},
	} {
		if got := running(test.f); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.f, got, test.want)
		}
	}
}
