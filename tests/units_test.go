package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The systemd unit is one, for every role. (Its program is replaced by one that is there.)
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	raw, err := os.ReadFile("../deploy/systemd/bakefarm@.service")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := strings.ReplaceAll(string(raw), "/usr/bin/bakefarm", "/bin/true")
	if text == string(raw) {
		t.Fatal("the unit does not run /usr/bin/bakefarm")
	}
	if err := os.WriteFile(filepath.Join(dir, "bakefarm@.service"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, role := range []string{"coordinator", "worker", "api", "s3"} {
		unit := filepath.Join(dir, "bakefarm@"+role+".service")
		if err := os.Symlink("bakefarm@.service", unit); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	verify := exec.Command(analyze, append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...)
	verify.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
