package gpt

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var table = Table{
	GUID: NewGUID([16]byte{1, 2, 3}),
	Partitions: []Partition{
		{Type: TypeESP, GUID: NewGUID([16]byte{4}), Name: "ESP", Start: 1 << 20, Size: 63 << 20},
		{Type: TypeRootAMD64, GUID: NewGUID([16]byte{5}), Name: "root-ä", Start: 64 << 20, Size: 100 << 20},
	},
}

func TestRoundTrip(t *testing.T) {
	head, tail, err := table.Encode(200 << 20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(head)
	if err != nil || !reflect.DeepEqual(got, table) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if len(tail) != TailSize {
		t.Errorf("%d bytes at the end", len(tail))
	}
	for _, at := range []int{SectorSize + 60, 2*SectorSize + 3, SectorSize} {
		damaged := append([]byte(nil), head...)
		damaged[at]++
		if _, err := Decode(damaged); !errors.Is(err, ErrNoTable) {
			t.Errorf("damaged at %d: %v", at, err)
		}
	}
	if got := MustParse(TypeESP.String()); got != TypeESP {
		t.Errorf("%s", got)
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]func(*Table){
		"overlap":    func(t *Table) { t.Partitions[1].Start = 2 << 20 },
		"beyond":     func(t *Table) { t.Partitions[1].Size = 136 << 20 },
		"part":       func(t *Table) { t.Partitions[1].Size++ },
		"empty":      func(t *Table) { t.Partitions[0].Size = 0 },
		"long name":  func(t *Table) { t.Partitions[0].Name = strings.Repeat("n", 37) },
		"in the way": func(t *Table) { t.Partitions[0].Start = SectorSize },
	} {
		other := Table{Partitions: append([]Partition(nil), table.Partitions...)}
		change(&other)
		if _, _, err := other.Encode(200 << 20); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestSfdiskAgrees(t *testing.T) {
	sfdisk, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Skip("sfdisk is not here (package fdisk)")
	}
	head, tail, err := table.Encode(200 << 20)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt(head, 0)
	f.WriteAt(tail, 200<<20-TailSize)
	out, err := exec.Command(sfdisk, "--verify", image).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(sfdisk, "--dump", image).CombinedOutput()
	for _, want := range []string{"label: gpt", strings.ToUpper(table.GUID.String()), "start=        2048, size=      129024", strings.ToUpper(table.Partitions[1].GUID.String()), `name="ESP"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s (%v)", want, out, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	head, _, err := table.Encode(200 << 20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head)
	f.Fuzz(func(t *testing.T, head []byte) { Decode(head) })
}
