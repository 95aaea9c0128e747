package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const debianRecipe = `apiVersion: bakefarm/v1
name: test/skip
os:
  debian:
    suite: bookworm
    packages: [ca-certificates, libpython3-stdlib, openssl, python3-minimal, tzdata]
    scripts: skip
`

// debianPrograms are run by the shell of the image, in it; each must succeed. The last ones ask the tools of Debian whether
// they would have made what we made.
var debianPrograms = []string{
	`test "$(id -un)" = root`,
	`test "$(id -Gn nobody)" = nogroup`,
	`getent passwd root | grep -x 'root:x:0:0:root:/root:/bin/bash'`,
	`getent shadow www-data | grep '^www-data:\*:'`,
	`test "$(awk 'BEGIN {print 6 * 7}')" = 42`,
	`test "$(which ls)" = /usr/bin/ls`,
	`echo text | pager`,
	`test "$(perl -e 'print 6 * 7')" = 42`,
	`test "$(date +%Z)" = UTC && test "$(date -d @0 +%Y)" = 1970`,
	`python3 -c 'import ssl; assert len(ssl.create_default_context().get_ca_certs()) > 100'`,
	`openssl verify -CApath /etc/ssl/certs -no-CAfile /usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt`,
	`bash -lc 'echo $PATH' | grep /usr/bin`,
	`ldconfig -p | grep 'libc.so.6.*=> /lib/'`,
	`apt-cache policy dpkg | grep 'Installed: [0-9]'`,
	`dpkg --audit && dpkg -l bash | grep '^ii'`,
	`update-alternatives --display awk | grep 'currently points to /usr/bin/mawk'`,
	`ldconfig -X -C /tmp/ld.so.cache && cmp /tmp/ld.so.cache /etc/ld.so.cache`,
	`cp -a /etc/ssl/certs /tmp/certs && rm /etc/ssl/certs/* && update-ca-certificates --hooksdir '' >/dev/null && diff -r --no-dereference /tmp/certs /etc/ssl/certs`,
	`cp -a /etc/alternatives /tmp/a && update-alternatives --auto awk && update-alternatives --auto which && diff -r --no-dereference /tmp/a /etc/alternatives`,
}

const scriptsRecipe = `apiVersion: bakefarm/v1
name: test/run
os:
  debian:
    suite: bookworm
    packages: [cron, dbus, openssh-server, vim]
`

// scriptsPrograms need what only maintainer scripts make: accounts, alternatives that are computed, diversions, units;
// and what no image may have is not there.
var scriptsPrograms = []string{
	`dpkg --audit && test -z "$(dpkg --audit)" && dpkg --verify`,
	`dpkg-query -W -f '${db:Status-Status}\n' | sort -u | grep -x installed && test "$(dpkg-query -W -f '${db:Status-Status}\n' | sort -u | wc -l)" = 1`,
	`getent passwd sshd messagebus _apt && getent group crontab`,
	`test "$(stat -c %a:%G /var/spool/cron/crontabs)" = 1730:crontab`,
	`test "$(dpkg-divert --truename /usr/share/vim/vim90/doc/tags)" = /usr/share/vim/vim90/doc/tags.vim-tiny`,
	`test -f /usr/share/vim/vim90/doc/tags && vim --version | grep -q 'Vi IMproved'`,
	`test "$(readlink /etc/alternatives/vim)" = /usr/bin/vim.basic`,
	`test -L /etc/systemd/system/multi-user.target.wants/ssh.service || test -L /etc/rc2.d/S01ssh`,
	`ldconfig -p | grep 'libc.so.6.*=> /lib/'`,
	`debconf-show openssh-server | grep permit-root-login`,
	`! ls /etc/ssh/ssh_host_* 2>/dev/null`,
	`test ! -s /etc/machine-id && test ! -e /var/lib/dbus/machine-id`,
	`test -z "$(find /var/log -type f -size +0)"`,
	`! ls /usr/sbin/policy-rc.d /etc/passwd- /var/lib/dpkg/status-old /var/cache/ldconfig/aux-cache 2>/dev/null`,
	`ssh-keygen -A >/dev/null && mkdir -p /run/sshd && /usr/sbin/sshd -t`,
}

// TestDebianWorks bakes real Debian systems, from the mirrors of this machine's own apt sources, and runs programs in them.
func TestDebianWorks(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the Debian mirror of this machine's apt sources")
	}
	farm := startDebianFarm(t)
	t.Run("without scripts", func(t *testing.T) { worksInImage(t, farm.bake(t, debianRecipe), debianPrograms) })
	t.Run("with scripts", func(t *testing.T) { worksInImage(t, farm.bake(t, scriptsRecipe), scriptsPrograms) })
}

// worksInImage runs commands of the image's shell in an image.
func worksInImage(t *testing.T, layout string, programs []string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	unpackImage(t, layout, root)
	if os.Getuid() == 0 { // else there is nobody to become
		programs = append(slices.Clip(programs), `su nobody -s /bin/sh -c true`)
	}
	for _, p := range programs {
		if out, err := inImage(root, p).CombinedOutput(); err != nil {
			t.Errorf("%s\n%v: %s", p, err, out)
		}
	}
}

// debianFarm is a farm that asks this machine's own apt sources.
type debianFarm struct {
	program, dir string
	env          []string
}

func startDebianFarm(t *testing.T) *debianFarm {
	t.Helper()
	dir := t.TempDir()
	env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	program, err := exec.LookPath("bakefarm") // this test binary, as testscript.Main arranged it
	if err != nil {
		t.Fatal(err)
	}
	farm, err := startProcess("the farm", dir, env, program, "up", "--data", filepath.Join(dir, "farm"), "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(farm.kill)
	ready, err := farm.waitFor(regexp.MustCompile(`bakefarm is ready at (http://\S+)`), patience)
	if err != nil {
		t.Fatal(err)
	}
	return &debianFarm{program, dir, append(env, "BAKEFARM_SERVER="+ready[1])}
}

// bake bakes a recipe and returns the image as an OCI layout.
func (f *debianFarm) bake(t *testing.T, recipe string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "bakefarm.yaml"), []byte(recipe), 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command(f.program, args...)
		var said strings.Builder
		cmd.Dir, cmd.Env, cmd.Stderr = f.dir, f.env, &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("bakefarm %s: %v: this test needs the Debian mirror of this machine's apt sources\n%s", strings.Join(args, " "), err, said.String())
		}
		return out
	}
	began := time.Now()
	var baked struct{ Images []struct{ Ref string } }
	if err := json.Unmarshal(client("bake", ".", "-o", "json"), &baked); err != nil || len(baked.Images) != 1 {
		t.Fatalf("bake: %v, %+v", err, baked)
	}
	t.Logf("baked in %v", time.Since(began).Round(time.Millisecond))
	layout := filepath.Join(t.TempDir(), "oci")
	client("images", "pull", baked.Images[0].Ref, "--oci", layout)
	return layout
}

// unpackImage lays the files of an OCI layout's only image.
func unpackImage(t *testing.T, layout, root string) {
	t.Helper()
	read := func(path string, into any) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(layout, path))
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	blob := func(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
	var index struct{ Manifests []struct{ Digest string } }
	read("index.json", &index)
	var manifest struct{ Layers []struct{ Digest string } }
	read(blob(index.Manifests[0].Digest), &manifest)
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	owner := "--same-owner"
	if os.Getuid() != 0 {
		owner = "--no-same-owner"
	}
	for _, l := range manifest.Layers {
		if out, err := exec.Command("tar", "-xpzf", filepath.Join(layout, blob(l.Digest)), "-C", root, owner).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
	}
}

// inImage runs a command of the image's shell in the image, with the machine's devices, as root or what looks like it.
func inImage(root, command string) *exec.Cmd {
	args := []string{"--mount"}
	if os.Getuid() != 0 {
		args = append(args, "--map-root-user")
	}
	args = append(args, "sh", "-c", `mount --rbind /dev "$0/dev" && exec chroot "$0" /bin/sh -c "$1"`, root, command)
	cmd := exec.Command("unshare", args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	return cmd
}
