package boot

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Debian's OVMF for tests: firmware that starts what the key beside it has signed, and nothing else.
const (
	secureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	secureVars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
	secureKey  = "/usr/share/ovmf/PkKek-1-snakeoil.key"
	secureCert = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
)

// TestSecureBoot starts a signed disk where Secure Boot is on, and sees that an unsigned one and a changed one are refused.
func TestSecureBoot(t *testing.T) {
	keys := t.TempDir()
	farm := startFarm(t, "--boot-keys", bootKey(t, keys))
	said, err := exec.Command("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", filepath.Join(keys, "db.crt")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	_, fingerprint, _ := strings.Cut(strings.TrimSpace(string(said)), "=")
	start := func(t *testing.T, disk string, wants ...string) *machine {
		vars, err := os.ReadFile(secureVars)
		if err != nil {
			t.Fatal(err)
		}
		mine := filepath.Join(t.TempDir(), "vars")
		if err := os.WriteFile(mine, vars, 0o600); err != nil {
			t.Fatal(err)
		}
		return powerOn(t, wants, "qemu-system-x86_64", "-machine", "q35,smm=on", "-cpu", "max", "-global", "driver=cfi.pflash01,property=secure,value=on",
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+secureCode, "-drive", "if=pflash,unit=1,format=raw,file="+mine,
			"-drive", "format=raw,if=virtio,cache=unsafe,file="+disk)
	}
	signed := farm.pull(t, farm.bake(t, farm.recipe(t, "app", skip, `{disk: {size: 2GiB, secureBoot: "`+fingerprint+`"}}`, "")))
	t.Run("signed", func(t *testing.T) {
		m := start(t, signed, "starting /sbin/init", "listening on :8080")
		if said := m.console.String(); !regexp.MustCompile(`(?i)secure ?boot.*(enabled|lockdown)|locked down from EFI Secure Boot`).MatchString(said) {
			t.Errorf("the kernel does not know of Secure Boot:\n%s", said)
		}
		m.powerOff(t)
	})
	t.Run("unsigned", func(t *testing.T) {
		unsigned := farm.pull(t, farm.bake(t, farm.recipe(t, "app", skip, "{disk: {size: 2GiB}}", "")))
		start(t, unsigned, "Access Denied")
	})
	t.Run("changed", func(t *testing.T) {
		change(t, signed, "root=PARTUUID=", "root=PARTUUIE=") // in the kernel's command line
		start(t, signed, "Access Denied")
	})
}

// bootKey makes a directory of keys with the one that the firmware trusts.
func bootKey(t *testing.T, dir string) string {
	t.Helper()
	if !*start {
		t.Skip("starts disks only with -boot: make boot")
	}
	for _, file := range []string{secureCode, secureVars, secureKey, secureCert} {
		if _, err := os.Stat(file); err != nil {
			t.Skip(err)
		}
	}
	if out, err := exec.Command("openssl", "pkey", "-in", secureKey, "-passin", "pass:snakeoil", "-out", filepath.Join(dir, "db.key")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cert, err := os.ReadFile(secureCert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "db.crt"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// change overwrites a text where a disk first has it: in its system partition, at the beginning.
func change(t *testing.T, disk, from, to string) {
	t.Helper()
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 128<<20))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(head, []byte(from))
	if at < 0 {
		t.Fatalf("there is no %q", from)
	}
	if _, err := file.WriteAt([]byte(to), int64(at)); err != nil {
		t.Fatal(err)
	}
}
