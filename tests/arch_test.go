// Package tests holds what is tested about the project as a whole: the direction of its imports here, its speed beside
// other tools in bench.
package tests

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// floors draws the house: an import may only go down a floor, or from a package into the one that it stands under.
// The longest prefix counts. Rooms of the same floor may meet only where neighbours says so.
var floors = map[string]int{
	"bakefarm/cmd":         5,
	"bakefarm/api":         4,
	"bakefarm/coordinator": 3,
	"bakefarm/worker":      3,
	"bakefarm/deploy":      3,
	"bakefarm/upkeep":      3,
	"bakefarm/imagestore":  2,
	"bakefarm/bus":         2,
	"bakefarm/compose":     1,
	"bakefarm/plan":        1,
	"bakefarm/recipe":      0,
	"bakefarm/farm":        0,
}

// outside are no rooms of the house: they may import anything, and nothing imports them.
var outside = []string{"bakefarm/tests", "bakefarm/examples"}

// neighbours are the imports within a floor that are meant.
var neighbours = map[string]string{
	"bakefarm/recipe": "bakefarm/farm", // a recipe's names follow the farm's rules for names
}

// pure packages compute images and plans: what would make them depend on anything but their inputs is kept out.
var pure = []string{"bakefarm/compose", "bakefarm/plan", "bakefarm/recipe", "bakefarm/farm", "bakefarm/imagestore/retention"}

var impure = []string{"net", "net/http", "os", "os/exec", "math/rand", "math/rand/v2", "crypto/rand",
	"github.com/nats-io/", "github.com/minio/"}

// only are the libraries that one package alone imports.
var only = map[string]string{
	"github.com/containers/image/v5": "bakefarm/imagestore/remote",
	"github.com/minio/minio-go/v7":   "bakefarm/imagestore",
	"github.com/nats-io/nats-server": "bakefarm/bus",
	"modernc.org/sqlite":             "bakefarm/imagestore/catalog",
}

type listedPackage struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
}

// within reports whether path is the package or stands under it.
func within(path, under string) bool { return path == under || strings.HasPrefix(path, under+"/") }

// room finds the top-level room of a package and its floor.
func room(path string) (name string, floor int, ok bool) {
	for name, floor := range floors {
		if within(path, name) {
			return name, floor, true
		}
	}
	return "", 0, false
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", "containers_image_openpgp", "-json=ImportPath,Imports,GoFiles", "bakefarm/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listedPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < len(floors) {
		t.Fatalf("go list found %d packages: fewer than there are rooms", len(packages))
	}
	return packages
}

func isOutside(path string) bool {
	for _, o := range outside {
		if within(path, o) {
			return true
		}
	}
	return false
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range listPackages(t) {
		if isOutside(p.ImportPath) || len(p.GoFiles) == 0 {
			continue
		}
		from, floor, ok := room(p.ImportPath)
		if !ok {
			t.Errorf("%s stands on no floor: give its room one", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if !within(i, "bakefarm") {
				continue
			}
			to, below, ok := room(i)
			switch {
			case !ok:
				t.Errorf("%s imports %s, which is no room", p.ImportPath, i)
			case to == from, below < floor, neighbours[from] == to:
			default:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports only go down", p.ImportPath, floor, i, below)
			}
		}
	}
}

// A package under another may import the one that it stands under; the other way round would be a circle of ideas.
func TestContractsDoNotKnowTheirImplementations(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, i := range p.Imports {
			if p.ImportPath == "bakefarm/imagestore" && within(i, "bakefarm/imagestore") {
				t.Errorf("%s imports %s: the contract must not know its implementations", p.ImportPath, i)
			}
			if p.ImportPath == "bakefarm/compose" && within(i, "bakefarm/compose") {
				t.Errorf("%s imports %s: the model must not know the formats", p.ImportPath, i)
			}
		}
	}
}

func TestPureRooms(t *testing.T) {
	for _, p := range listPackages(t) {
		if strings.HasSuffix(p.ImportPath, "test") { // fixtures for tests
			continue
		}
		for _, room := range pure {
			if !within(p.ImportPath, room) {
				continue
			}
			for _, i := range p.Imports {
				for _, bad := range impure {
					if i == bad || (strings.HasSuffix(bad, "/") && strings.HasPrefix(i, bad)) {
						t.Errorf("%s imports %s: it is pure, its callers hand it what it needs", p.ImportPath, i)
					}
				}
			}
		}
	}
}

func TestOneImporter(t *testing.T) {
	for _, p := range listPackages(t) {
		if isOutside(p.ImportPath) {
			continue
		}
		for _, i := range p.Imports {
			for library, home := range only {
				if within(i, library) && !within(p.ImportPath, home) {
					t.Errorf("%s imports %s: only %s does", p.ImportPath, i, home)
				}
			}
		}
	}
}
