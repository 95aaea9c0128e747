package debian

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inhabited are the packages of the systems that are looked at from inside.
const inhabited = "ca-certificates, openssl, python3, perl, curl, locales, cron"

// TestInside is about what people do in a system, and what tools say of it: dpkg and apt find it whole, install and remove
// packages in it, and programs find what they need. Both with maintainer scripts and without.
func TestInside(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages, and bakes two systems")
	}
	if os.Getuid() != 0 {
		t.Skip("changes its root, which only root may")
	}
	f := start(t)
	lists := filepath.Join(t.TempDir(), "lists") // apt's, for both
	for _, scripts := range []string{"run", "skip"} {
		t.Run(scripts, func(t *testing.T) {
			image := f.bake(t, "{debian: {suite: bookworm, scripts: "+scripts+", packages: ["+inhabited+"]}}")
			in := &inside{t: t, root: filepath.Join(t.TempDir(), "root"), lists: lists}
			in.lay(image)
			in.whole()
			in.programs()
			in.apt(scripts == "run")
			in.whole()
		})
	}
}

// inside is a system that commands run in.
type inside struct {
	t     *testing.T
	root  string
	lists string
}

// lay unpacks an image and gives it the machine's way to its mirrors.
func (in *inside) lay(i image) {
	in.t.Helper()
	if err := os.MkdirAll(in.root, 0o755); err != nil {
		in.t.Fatal(err)
	}
	for _, layer := range i.layers {
		if out, err := exec.Command("tar", "--extract", "--gzip", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", in.root, "-f", layer).CombinedOutput(); err != nil {
			in.t.Fatalf("tar: %v\n%s", err, out)
		}
		removed, err := exec.Command("find", in.root, "-name", ".wh.*", "-printf", "%p\n").Output()
		if err != nil {
			in.t.Fatal(err)
		}
		for name := range strings.Lines(string(removed)) {
			name = strings.TrimSpace(name)
			gone := filepath.Join(filepath.Dir(name), strings.TrimPrefix(filepath.Base(name), ".wh."))
			for _, path := range []string{gone, name} {
				if err := os.RemoveAll(path); err != nil {
					in.t.Fatal(err)
				}
			}
		}
	}
	access, err := exec.Command("apt-config", "dump", "Acquire").Output()
	if err != nil {
		in.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.root, "etc/apt/apt.conf.d/99machine"), access, 0o644); err != nil {
		in.t.Fatal(err)
	}
	if err := os.MkdirAll(in.lists, 0o755); err != nil {
		in.t.Fatal(err)
	}
}

// run runs a script in the system, with the machine's network, and returns what it prints.
func (in *inside) run(script string) string {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(in.t.Context(), 5*time.Minute)
	defer cancel()
	const enter = `set -e; cd "$1"
		mount --rbind /dev dev; mount -t proc proc proc; mount -t tmpfs tmpfs tmp; mount -t tmpfs tmpfs run; mkdir run/lock
		mkdir -p var/lib/apt/lists; mount --bind "$2" var/lib/apt/lists; mkdir -p var/lib/apt/lists/partial
		for f in /etc/resolv.conf /etc/hosts; do touch ".$f"; mount --bind "$f" ".$f"; done
		for d in /etc/apt/sources.list.d /usr/share/keyrings; do mkdir -p ".$d"; mount --bind "$d" ".$d"; done
		if test -e /etc/apt/sources.list; then touch etc/apt/sources.list; mount --bind /etc/apt/sources.list etc/apt/sources.list; fi
		exec chroot . /bin/sh -ec "$3"`
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", enter, "sh", in.root, in.lists, script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		in.t.Errorf("%s: %v\n%s%s", script, err, out.String(), said.String())
	}
	return out.String()
}

// whole: dpkg and apt have nothing to complain about.
func (in *inside) whole() {
	in.t.Helper()
	for _, check := range []string{"dpkg --audit", "dpkg --verify", "apt-get check -qq"} {
		if out := in.run(check); out != "" {
			in.t.Errorf("%s:\n%s", check, out)
		}
	}
	listed := 0
	for line := range strings.Lines(in.run("dpkg --list")) {
		switch {
		case strings.HasPrefix(line, "ii  "):
			listed++
		case listed > 0:
			in.t.Errorf("dpkg --list: %s", line)
		}
	}
	if listed < 80 {
		in.t.Errorf("dpkg lists %d packages", listed)
	}
}

// programs: what they look for is there.
func (in *inside) programs() {
	in.t.Helper()
	for script, want := range map[string]string{
		"getent passwd root; id -un; id -gn":                                                                    "root:x:0:0:root:/root:/bin/bash\nroot\nroot\n",
		"bash -c 'echo $BASH | sed s/usr.//'; awk 'BEGIN {print 1}'":                                            "/bin/bash\n1\n",
		"python3 -c 'import ssl, json, sqlite3; print(len(ssl.create_default_context().get_ca_certs()) > 100)'": "True\n",
		"perl -MPOSIX -e 'print POSIX::strftime(\"%Y\\n\", gmtime 0)'":                                          "1970\n",
		// Every certificate is found by its hash, and by those who read the bundle.
		"cd /etc/ssl/certs; f=$(ls *.pem | head -1); openssl verify -CApath . $f | sed 's/.*: //'; openssl verify -CAfile ca-certificates.crt $f | sed 's/.*: //'": "OK\nOK\n",
		// No library is looked for in vain.
		"for p in /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so*; do test -L $p || ldd $p 2>/dev/null; done | grep 'not found' | sort -u": "",
		"ldconfig -p | grep -c 'libc.so.6 '":                                 "1\n",
		"date -d @0 +%Z; readlink -f /etc/localtime | sed 's/.*zoneinfo.//'": "UTC\nEtc/UTC\n",
		"curl --version | sed -n 's/^curl .*/curl/p'":                        "curl\n",
		"find / -xdev -nouser -o -xdev -nogroup":                             "",
	} {
		if got := in.run(script); got != want {
			in.t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// apt: it brings up to date, installs, removes.
func (in *inside) apt(scripts bool) {
	in.t.Helper()
	in.run("test -e /var/lib/apt/lists/lock || apt-get update -qq")
	if out := in.run("apt-get --simulate upgrade"); !strings.Contains(out, "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.") {
		in.t.Errorf("apt-get upgrade would do something:\n%s", out)
	}
	before := in.run("dpkg-query --show")
	in.run("apt-get install --yes --no-install-recommends sudo less openssh-client")
	in.whole()
	in.run("getent group _ssh; sudo -n true; echo x | less; ssh -V")
	in.run("SUDO_FORCE_REMOVE=yes apt-get purge --yes --autoremove sudo less openssh-client; apt-get clean")
	if after := in.run("dpkg-query --show"); after != before {
		in.t.Errorf("packages before:\n%s\nand after:\n%s", before, after)
	}
	// A package of the image's own, again and without. A script that has never run may have left nothing that it could run
	// over a second time.
	own := "curl"
	if scripts {
		own = "cron"
	}
	in.run("apt-get install --yes --reinstall " + own + "; apt-get purge --yes " + own + "; ! dpkg --listfiles " + own + " 2>/dev/null")
}
