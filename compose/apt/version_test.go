package apt

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// TestCompareVersions compares with dpkg itself.
func TestCompareVersions(t *testing.T) {
	versions := []string{
		"0", "1", "1.0", "1.00", "1.0-0", "1.0-1", "1.0~rc1-1", "1.0~~", "1.0~", "1.0a", "1.0+b1", "1.0-1+b1", "1.0-1~bpo12+1",
		"1:0.1", "2:0.1", "0:1.0", "10", "9", "1.2.10", "1.2.9", "1.0.a", "1.0-a", "1-1-1", "1-2", "a", "1.0+dfsg-1", "1.0.0.0.0",
		"99999999999999999999999999", "99999999999999999999999998", "00000000000000000000000000001", "20240101", "2.36-9+deb12u10", "2.36-9+deb12u9",
	}
	var script strings.Builder
	for i, a := range versions {
		for _, b := range versions[:i] {
			fmt.Fprintf(&script, "if dpkg --compare-versions '%s' lt '%s' 2>/dev/null; then echo -1; elif dpkg --compare-versions '%s' eq '%s' 2>/dev/null; then echo 0; else echo 1; fi\n", a, b, a, b)
		}
	}
	cmd := exec.Command("sh")
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Fields(string(out))
	for i, a := range versions {
		for _, b := range versions[:i] {
			got, mirrored := sign(CompareVersions(a, b)), sign(CompareVersions(b, a))
			if want := answers[0]; fmt.Sprint(got) != want || mirrored != -got {
				t.Errorf("%s against %s: %d, and %d the other way; dpkg says %s", a, b, got, mirrored, want)
			}
			answers = answers[1:]
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }
