package scripts

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"

	"bakefarm/compose"
)

// Keep decides about one entry of what scripts have changed: it returns the entry as it belongs into a layer, with its
// content, or false when it doesn't. All times become date (Unix seconds), that of the newest package: what a script has
// made is no older than the packages that it was made of, and the clock says nothing about an image.
func Keep(e compose.Entry, content io.Reader, date int64) (compose.Entry, io.Reader, bool, error) {
	if dropped(e) {
		return e, nil, false, nil
	}
	e.ModTime = date
	if e.Type != tar.TypeReg {
		return e, nil, true, nil
	}
	switch {
	case emptied(e):
		e.Size = 0
		return e, bytes.NewReader(nil), true, nil
	case e.Size > maxRewritten:
		return e, content, true, nil
	}
	for _, r := range rewriting {
		if fits, _ := path.Match(r.pattern, e.Path); !fits { // the patterns are good
			continue
		}
		data, err := io.ReadAll(content)
		if err != nil {
			return e, nil, false, fmt.Errorf("%s: %w", e.Path, err)
		}
		data = r.rewrite(e.Path, data, date)
		e.Size = int64(len(data))
		return e, bytes.NewReader(data), true, nil
	}
	return e, content, true, nil
}

// rewriting are the files in which something changes from one time to the next that is of no use to anybody. Files that
// are not what their name says stay as they are, and so do larger ones than maxRewritten, in bytes.
var rewriting = []struct {
	pattern string // of path.Match
	rewrite func(path string, data []byte, date int64) []byte
}{
	{javaStore, func(_ string, data []byte, date int64) []byte { return restamp(data, date) }},
	{"etc/*.db", restBerkeley},
	{"etc/*/*.db", restBerkeley},
	{"var/lib/*/*.db", restBerkeley},
	{"var/lib/texmf/ls-R", sortListing},
	{"var/lib/texmf/ls-R-*", sortListing},
	{"etc/mdadm/mdadm.conf", dropMdadmDate},
	{"etc/hosts", dropMachine},
}

const maxRewritten = 16 << 20

// A rule drops paths that fit a pattern of path.Match, and what is below them.
type rule struct {
	pattern string
	why     string
}

// dropping are the paths that no image has. Removals (".wh.") stay: they are about what packages brought.
var dropping = []rule{
	{"run/*", "is for the time of a boot"},
	{"var/tmp/*", "is for the time of a script"},
	{"var/log/dpkg.log", "says when packages were configured"},
	{"var/log/alternatives.log", "says when alternatives were set"},
	{"var/log/bootstrap.log", "says when the system was made"},
	{"var/log/fontconfig.log", "says when fonts were looked for"},
	{"var/log/journal/*", "is named for the machine"},
	{"var/cache/ldconfig/aux-cache", "has inode numbers and times of libraries; ldconfig makes it again"},
	{"var/cache/apt/*.bin", "is made again by apt, of indexes that an image has none of"},
	{"var/cache/debconf/*-old", "is the state before the last script"},
	{"var/lib/dpkg/*-old", "is the state before the last script"},
	{"usr/share/info/dir.old", "is the state before the last manual"},
	{"etc/passwd-", "is the state before the last script, as are the next ones"},
	{"etc/group-", ""},
	{"etc/shadow-", ""},
	{"etc/gshadow-", ""},
	{"etc/subuid-", ""},
	{"etc/subgid-", ""},
	{"etc/.pwd.lock", "is a lock, as are the next ones"},
	{"var/lib/dpkg/lock", ""},
	{"var/lib/dpkg/lock-frontend", ""},
	{"var/lib/dpkg/triggers/Lock", ""},
	{"var/cache/debconf/passwords.dat-old", ""},
	{"var/lib/dbus/machine-id", "names the machine; D-Bus takes /etc/machine-id, which is empty until the first boot"},
	{"var/lib/systemd/random-seed", "is a secret of the machine, as are the next ones"},
	{"var/lib/urandom/random-seed", ""},
	{"etc/ssh/ssh_host_*_key", "is a secret: who has the image could pose as every machine that was made of it"},
	{"etc/ssh/ssh_host_*_key.pub", "belongs to a secret that is not there"},
	{"etc/bind/rndc.key", "is a secret"},
	{"etc/munge/munge.key", "is a secret"},
	{"var/lib/rabbitmq/.erlang.cookie", "is a secret, which the server makes when it starts"},
	{"etc/unbound/unbound_*.key", "is a secret"},
	{"etc/unbound/unbound_*.pem", "belongs to a secret that is not there"},
	{"etc/nsd/nsd_*.key", "is a secret"},
	{"etc/nsd/nsd_*.pem", "belongs to a secret that is not there"},
	{"etc/iscsi/initiatorname.iscsi", "names the machine"},
	{"etc/nvme/hostid", "names the machine, as does the next one"},
	{"etc/nvme/hostnqn", ""},
	{"etc/ssl/private/ssl-cert-snakeoil.key", "is a secret, with the certificate of the next lines"},
	{"etc/ssl/certs/ssl-cert-snakeoil.pem", ""},
}

func dropped(e compose.Entry) bool {
	if e.Type == tar.TypeSymlink && e.Link == "ssl-cert-snakeoil.pem" && path.Dir(e.Path) == "etc/ssl/certs" {
		return true // its name by hash
	}
	if e.Path == "run/lock" { // a directory that Debian's systems always have
		return false
	}
	name := path.Base(e.Path)
	if removed, is := strings.CutPrefix(name, ".wh."); is && removed != ".wh..opq" {
		return false
	}
	for p := e.Path; p != "."; p = path.Dir(p) {
		for _, r := range dropping {
			if fits, _ := path.Match(r.pattern, p); fits { // the patterns are good
				return true
			}
		}
	}
	return false
}

// emptied reports whether the file stays without its content: a log says when things happened, and its owner and mode
// are what its program needs; and a machine's name for itself is made at its first boot where the file is empty
// (machine-id(5)).
func emptied(e compose.Entry) bool {
	return e.Path == "etc/machine-id" || strings.HasPrefix(e.Path, "var/log/") ||
		strings.HasPrefix(e.Path, "var/lib/texmf/") && strings.HasSuffix(e.Path, ".log")
}
