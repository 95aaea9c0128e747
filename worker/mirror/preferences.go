package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"bakefarm/compose/apt"
	"bakefarm/plan"
)

// readPins reads apt's preferences below root (apt_preferences(5)): preferences, then the files of preferences.d, after
// the release that APT::Default-Release names.
func readPins(root string, conf options) ([]plan.Pin, error) {
	var pins []plan.Pin
	if release := conf["apt::default-release"]; release != "" {
		pins = append(pins, plan.Pin{Package: "*", Pin: "release " + release, Priority: "990"})
	}
	parts, err := listParts(filepath.Join(root, "etc/apt/preferences.d"), ".pref", "")
	if err != nil {
		return nil, err
	}
	for _, name := range append([]string{filepath.Join(root, "etc/apt/preferences")}, parts...) {
		raw, err := readConfigFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		some, err := parsePins(name, string(raw))
		if err != nil {
			return nil, err
		}
		pins = append(pins, some...)
	}
	return pins, nil
}

// parsePins reads one file of preferences.
func parsePins(file, text string) ([]plan.Pin, error) {
	var pins []plan.Pin
	err := eachStanza(file, []byte(text), func(from string, fields map[string]string) error {
		p := plan.Pin{
			Package:  strings.Join(strings.Fields(fields["package"]), " "),
			Pin:      strings.Join(strings.Fields(fields["pin"]), " "),
			Priority: fields["pin-priority"],
		}
		switch {
		case p.Package == "":
			return fmt.Errorf("%s: the record has no Package", from)
		case p.Pin == "":
			return nil // as by apt
		case p.Priority == "":
			return fmt.Errorf("%s: the record has no Pin-Priority", from)
		}
		pins = append(pins, p)
		return nil
	})
	return pins, err
}

// Archive is what priorities depend on of an index.
func Archive(x plan.Index) apt.Archive {
	a := apt.Archive{
		Origin: x.Origin, Label: x.Label, Suite: x.Archive, Codename: x.Codename, Version: x.Version, Component: x.Component,
		NotAutomatic: x.NotAutomatic, ButAutomaticUpgrades: x.ButAutomaticUpgrades,
	}
	if _, rest, ok := strings.Cut(x.Name, "binary-"); ok {
		a.Arch, _, _ = strings.Cut(rest, "/")
	}
	if u, err := url.Parse(x.Base); err == nil {
		a.Site = u.Hostname()
	}
	return a
}
