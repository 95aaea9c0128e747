package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const minimal = `apiVersion: bakefarm/v1
name: a/b
os: {scratch: true}
app: [{copy: ., to: /}]
`

const full = `
apiVersion: bakefarm/v1
name: shop/checkout
os:
  debian:
    suite: bookworm
    variant: none
    packages: [tzdata, ca-certificates=2023*, tzdata]
    scripts: skip
    mirror: http://mirror.example/debian
    keyring: /usr/share/keyrings/team.gpg
app:
  - copy: ./dist/
    to: /opt/checkout
    owner: 1000:1001
  - {copy: ./run.sh, to: /usr/local/bin/, mode: 755}
config:
  entrypoint: [/opt/checkout/server, "8080"]
  cmd: [--verbose]
  env: {PORT: 8080, DEBUG: yes, RATIO: 1.10, OCTAL: 0755, ON: true, DAY: 2024-01-02, EMPTY: ""}
  user: 1000
  workingDir: /opt/checkout/
  ports: [8080, 53/udp, "8080/tcp"]
  volumes: [/var/lib/b, /var/lib/a/]
  labels: {org.example.team: shop, build: 7}
  stopSignal: SIGQUIT
outputs:
  - oci: {platforms: [linux/amd64]}
publish:
  channel: dev
  registries: ["registry.example:5000/{{.Name}}:{{.Version}}", "localhost/x:{{.Channel}}-{{.Version}}"]
requires: [region=eu, gpu, gpu]
`

func TestParseFull(t *testing.T) {
	r, err := Parse("bakefarm.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o755)
	want := &Recipe{
		APIVersion: APIVersion,
		Name:       "shop/checkout",
		OS: OS{Debian: &Debian{Suite: "bookworm", Variant: "none", Packages: []string{"tzdata", "ca-certificates=2023*"}, Scripts: "skip",
			Mirror: "http://mirror.example/debian", Keyring: "/usr/share/keyrings/team.gpg"}},
		App: []AppItem{
			{Copy: "dist", To: "/opt/checkout", UID: 1000, GID: 1001},
			{Copy: "run.sh", To: "/usr/local/bin", ToDir: true, Mode: &mode},
		},
		Config: Config{
			Entrypoint: []string{"/opt/checkout/server", "8080"}, Cmd: []string{"--verbose"},
			Env: map[string]string{"PORT": "8080", "DEBUG": "yes", "RATIO": "1.10", "OCTAL": "0755", "ON": "true",
				"DAY": "2024-01-02", "EMPTY": ""},
			User: "1000", WorkingDir: "/opt/checkout", Ports: []string{"53/udp", "8080/tcp"},
			Volumes: []string{"/var/lib/a", "/var/lib/b"}, Labels: map[string]string{"org.example.team": "shop", "build": "7"},
			StopSignal: "SIGQUIT",
		},
		Outputs: []Output{{OCI: &OCIOutput{Platforms: []string{"linux/amd64"}}}},
		Publish: Publish{Channel: "dev", Registries: []string{
			"registry.example:5000/{{.Name}}:{{.Version}}", "localhost/x:{{.Channel}}-{{.Version}}"}},
		Requires: []string{"gpu", "region=eu"},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}

func TestParseDefaults(t *testing.T) {
	r, err := Parse("f", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if !r.OS.Scratch || len(r.Outputs) != 1 || r.Outputs[0].OCI.Platforms[0] != "linux/amd64" || r.App[0].Copy != "." || r.App[0].To != "/" {
		t.Errorf("%+v", r)
	}
	r, err = Parse("f", []byte("apiVersion: bakefarm/v1\nname: a\nos: {debian: {suite: bookworm, scripts: skip}}\n"))
	if err != nil || r.OS.Debian.Variant != "minbase" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestExampleParses(t *testing.T) {
	const file = "../examples/hello/bakefarm.yaml"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "demo/hello" || r.OS.Debian == nil || len(r.OS.Debian.Packages) != 2 || r.Publish.Channel != "dev" {
		t.Errorf("%+v", r)
	}
}

// TestParseErrors has, for each text, every error it must give, in order.
func TestParseErrors(t *testing.T) {
	debian := func(fields string) string {
		return "apiVersion: bakefarm/v1\nname: a\nos:\n  debian: {suite: s1, scripts: skip, " + fields + "}\n"
	}
	app := func(fields string) string {
		return "apiVersion: bakefarm/v1\nname: a\nos: {scratch: {}}\napp:\n- {" + fields + "}\n"
	}
	config := func(fields string) string { return minimal + "config: {" + fields + "}\n" }
	disk := func(fields string) string {
		return "apiVersion: bakefarm/v1\nname: a/b\nos: {debian: {suite: bookworm, scripts: skip}}\n\noutputs: [{disk: {" + fields + "}}]\n"
	}
	publish := func(fields string) string { return minimal + "publish: {" + fields + "}\n" }
	tests := []struct {
		name, text string
		want       []string
	}{
		// The text as a whole.
		{"empty", "", []string{`f:1:1: is empty; write a recipe that begins with apiVersion: bakefarm/v1`}},
		{"comment", "# nothing\n", []string{`f:1:1: is empty; write a recipe that begins with apiVersion: bakefarm/v1`}},
		{"null", "---\n~\n", []string{`f:1:1: is empty; write a recipe that begins with apiVersion: bakefarm/v1`}},
		{"a list", "- a\n", []string{`f:1:1: is a list where a mapping is wanted; write apiVersion: bakefarm/v1 and so on`}},
		{"a word", "hello", []string{`f:1:1: is the text "hello" where a mapping is wanted; write apiVersion: bakefarm/v1 and so on`}},
		{"no YAML", "name: a\n  os: b\n", []string{`f:2:1: is not YAML: mapping values are not allowed in this context`}},
		{"open bracket", "name: [a\n", []string{`f:1:1: is not YAML: did not find expected ',' or ']'`}},
		{"tab", "os:\n\tdebian: x\n", []string{`f:2:1: is not YAML: found character that cannot start any token`}},
		{"not UTF-8", "name: \xff\n", []string{`f:1:7: byte 0xff is not UTF-8; a recipe is plain UTF-8 text`}},
		{"control character", "name: a\nos: \x01\n", []string{`f:2:5: control character 0x01 is not allowed; a recipe is plain UTF-8 text`}},
		{"two documents", minimal + "---\nname: b\n", []string{`f:5:1: a second YAML document begins here; write one recipe a file`}},
		{"broken second document", minimal + "---\n[\n", []string{`f:6:1: is not YAML: did not find expected node content`}},

		// What YAML has and recipes have not.
		{"anchor", strings.Replace(minimal, "name: a/b", "name: &n a/b", 1), []string{
			`f:2:7: name: anchors (&n) are not part of recipes; write the value out where it is needed`}},
		{"alias", strings.Replace(minimal, "name: a/b", "name: &n a/b\nconfig: {user: *n}", 1), []string{
			`f:2:7: name: anchors (&n) are not part of recipes; write the value out where it is needed`,
			`f:3:16: config.user: aliases (*n) are not part of recipes; write the value out`}},
		{"unknown alias", "name: *n\n", []string{`f:1:1: is not YAML: unknown anchor 'n' referenced`}},
		{"merge key", minimal + "config:\n  <<: {user: a}\n", []string{
			`f:6:3: config: merge keys (<<) are not part of recipes; write the fields out`}},
		{"tag", strings.Replace(minimal, "a/b", "!!str a/b", 1), []string{
			`f:2:7: name: tags (!!str) are not part of recipes; leave it out, and quote the value when it is text`}},
		{"key twice", minimal + "name: c\n", []string{`f:5:1: name: stands here a second time (first in line 2); keep one of them`}},
		{"nested key twice", config("env: {A: 1, A: 2}"), []string{
			`f:5:22: config.env.A: stands here a second time (first in line 5); keep one of them`}},
		{"key that is a list", config("[a]: b"), []string{`f:5:10: config: a key must be plain text`}},
		{"too deep", minimal + "config: " + strings.Repeat("[", 25) + strings.Repeat("]", 25) + "\n", []string{
			`f:5:9: config: is a list where a mapping is wanted; write {entrypoint: [/opt/app/server]}`,
			`f:5:29: config` + strings.Repeat("[0]", 20) + `: is nested more than 20 levels deep; no recipe is`}},

		// Top level.
		{"nothing of it", "{}\n", []string{
			`f:1:1: apiVersion: is missing; write apiVersion: bakefarm/v1`,
			`f:1:1: name: is missing; write name: team/app`,
			`f:1:1: os: is missing; write os: {debian: {suite: bookworm}}, or os: {scratch: true}`}},
		{"unknown fields", minimal + "outptus: []\nsomething: 1\n", []string{
			`f:5:1: outptus: unknown field; did you mean outputs?`,
			`f:6:1: something: unknown field; the fields here are apiVersion, name, os, app, steps, config, outputs, tests, publish, requires`}},
		{"case", minimal + "Config: {}\n", []string{`f:5:1: Config: unknown field; did you mean config?`}},
		{"other apiVersion", strings.Replace(minimal, "/v1", "/v2", 1), []string{`f:1:13: apiVersion: is "bakefarm/v2"; this release reads bakefarm/v1`}},
		{"bad name", strings.Replace(minimal, "a/b", "A/b", 1), []string{
			`f:2:7: name: "A/b": "A" is no path component: lower-case letters and digits, separated by one of . _ __ -`}},
		{"name is a number", strings.Replace(minimal, "a/b", "1.10", 1), []string{
			`f:2:7: name: is the number 1.10 where text is wanted; write it in quotes: "1.10"`}},
		{"name is null", strings.Replace(minimal, "a/b", "", 1), []string{`f:2:6: name: is empty; write team/app`}},
		{"steps", minimal + "steps: [{run: [x]}]\n", []string{
			`f:5:8: steps: is not in this release of bakefarm yet; leave it out, and do the work before the bake or in the app's entrypoint`}},

		// os
		{"no system", "apiVersion: bakefarm/v1\nname: a\nos: {}\n", []string{
			`f:3:5: os: names no system; write one of debian, image, recipe, tar, scratch`}},
		{"two systems", strings.Replace(minimal, "{scratch: true}", "{scratch: true, debian: {suite: s, scripts: skip}}", 1), []string{
			`f:3:5: os: names scratch and debian; write exactly one of debian, image, recipe, tar, scratch`}},
		{"image with a scheme", strings.Replace(minimal, "{scratch: true}", "{image: 'https://a.example/b'}", 1), []string{
			`f:3:13: os.image: "https://a.example/b" has https:// in front, which registries' references have not; write registry.example/team/base:1, …@sha256:…, oci:./layout:tag or docker-archive:./base.tar`}},
		{"bad image", strings.Replace(minimal, "{scratch: true}", "{image: a.example/B}", 1), []string{
			`f:3:13: os.image: "a.example/B" is no reference: lower-case letters and digits, separated by one of . _ __ - /; write registry.example/team/base:1, …@sha256:…, oci:./layout:tag or docker-archive:./base.tar`}},
		{"bad digest", strings.Replace(minimal, "{scratch: true}", "{image: 'a.example/b@sha256:12'}", 1), []string{
			`f:3:13: os.image: "a.example/b@sha256:12" does not end in a digest such as sha256:e3b0c442…; write registry.example/team/base:1, …@sha256:…, oci:./layout:tag or docker-archive:./base.tar`}},
		{"layout elsewhere", strings.Replace(minimal, "{scratch: true}", "{image: 'oci:/srv/base'}", 1), []string{
			`f:3:13: os.image: "oci:/srv/base": the path is absolute; write one inside the context directory, such as oci:./base or oci:./base:1`}},
		{"no channel", strings.Replace(minimal, "{scratch: true}", "{recipe: base/debian}", 1), []string{
			`f:3:14: os.recipe: "base/debian": names no channel, version or digest of the image; write base/debian@prod, base/debian@ and a version, or a digest`}},
		{"itself", strings.Replace(minimal, "{scratch: true}", "{recipe: a/b@prod}", 1), []string{
			`f:3:14: os.recipe: "a/b@prod" is this recipe's own name: an image can't stand on itself; give one of them another name`}},
		{"tar of what", strings.Replace(minimal, "{scratch: true}", "{tar: ./x.zip}", 1), []string{
			`f:3:11: os.tar: "./x.zip" is no .tar, .tar.gz, .tar.xz or .tar.zst; write the path of a root file system's tar inside the context directory, such as ./rootfs.tar.xz`}},
		{"tar from afar", strings.Replace(minimal, "{scratch: true}", "{tar: 'http://a.example/x.tar'}", 1), []string{
			`f:3:11: os.tar: "http://a.example/x.tar" is a URL, and what lies there may change; write the path of a root file system's tar inside the context directory, such as ./rootfs.tar.xz`}},
		{"base without reference", strings.Replace(minimal, "{scratch: true}", "{image: {packages: [curl]}}", 1), []string{
			`f:3:13: os.image.ref: is missing; write ref: registry.example/team/base:1`}},
		{"base as a list", strings.Replace(minimal, "{scratch: true}", "{image: [a]}", 1), []string{
			`f:3:13: os.image: is a list; write registry.example/team/base:1, or {ref: registry.example/team/base:1, packages: [curl]}`}},
		{"no scratch", strings.Replace(minimal, "true", "false", 1), []string{
			`f:3:15: os.scratch: is the truth value false; write scratch: true, or name another system`}},
		{"scratch without app", "apiVersion: bakefarm/v1\nname: a\nos: {scratch: {}}\n", []string{
			`f:3:5: os: scratch without app is an image without a file; add app: [{copy: ./dist, to: /opt/app}]`}},
		{"debian is text", "apiVersion: bakefarm/v1\nname: a\nos: {debian: bookworm}\n", []string{
			`f:3:14: os.debian: is the text "bookworm" where a mapping is wanted; write {suite: bookworm}`}},
		{"no suite", "apiVersion: bakefarm/v1\nname: a\nos: {debian: {}}\n", []string{
			`f:3:14: os.debian.suite: is missing; write suite: bookworm`}},
		{"scripts odd", "apiVersion: bakefarm/v1\nname: a\nos: {debian: {suite: s, scripts: no}}\n", []string{
			`f:3:34: os.debian.scripts: "no" is neither run (the default) nor skip, which lays the packages' files and runs no maintainer script`}},
		{"bad suite", "apiVersion: bakefarm/v1\nname: a\nos: {debian: {suite: ../x, scripts: skip}}\n", []string{
			`f:3:22: os.debian.suite: "../x" is no suite: lower-case letters, digits, . and -; write suite: bookworm`}},
		{"bad variant", debian("variant: small"), []string{
			`f:4:47: os.debian.variant: "small" is no variant; write minbase (the default), or none for only the named packages and what they depend on`}},
		{"none of nothing", debian("variant: none"), []string{
			`f:4:47: os.debian.variant: none brings no package of its own; name some with packages, or write minbase`}},
		{"none of an empty list", debian("variant: none, packages: []"), []string{
			`f:4:63: os.debian.packages: is empty, and variant none brings no package of its own; name one, or write variant: minbase`}},
		{"bad packages", debian("packages: [tzdata, Git, git=, g++:arm64, -x, 7, vim=1:2, vim=3]"), []string{
			`f:4:57: os.debian.packages[1]: "Git" is no Debian package name: two or more lower-case letters, digits, +, - and .`,
			`f:4:62: os.debian.packages[2]: "git=" asks for no Debian version: letters, digits, . + - : ~, and * for any text; write git, or git=1.2-3`,
			`f:4:68: os.debian.packages[3]: "g++:arm64" asks for architecture arm64; every package is of the output's platform: write g++`,
			`f:4:79: os.debian.packages[4]: "-x" is no Debian package name: two or more lower-case letters, digits, +, - and .`,
			`f:4:83: os.debian.packages[5]: is the number 7 where text is wanted; write it in quotes: "7"`,
			`f:4:95: os.debian.packages[7]: "vim=3" asks for another version than vim=1:2 does; write one of them`}},
		{"packages is text", debian("packages: git"), []string{
			`f:4:48: os.debian.packages: is the text "git" where a list is wanted; write [ca-certificates, tzdata]`}},
		{"bad mirror", debian("mirror: mirror.example/debian"), []string{
			`f:4:46: os.debian.mirror: "mirror.example/debian" is no mirror; write a URL such as http://mirror.example/debian, https or file`}},
		{"mirror with password", debian("mirror: http://u:p@mirror.example/"), []string{
			`f:4:46: os.debian.mirror: has a user or password in it, and recipes are for everybody's eyes; put them into auth.conf.d on the workers`}},
		{"keyring alone", debian("keyring: /k.gpg"), []string{
			`f:4:47: os.debian.keyring: stands without mirror, whose signatures it is for; write both, or leave both to the worker's apt sources`}},
		{"keyring relative", debian("mirror: file:/m, keyring: k.gpg"), []string{
			`f:4:64: os.debian.keyring: "k.gpg" is not absolute; write a path such as /usr/share/keyrings/team.gpg`}},

		// app
		{"app is a mapping", "apiVersion: bakefarm/v1\nname: a\nos: {scratch: {}}\napp: {copy: a, to: /b}\n", []string{
			`f:4:6: app: is a mapping where a list is wanted; write [{copy: ./dist, to: /opt/app}]`}},
		{"copy of nothing", app("owner: \"1:2\""), []string{
			`f:5:3: app[0].copy: is missing; write copy: ./dist`, `f:5:3: app[0].to: is missing; write to: /opt/app`}},
		{"copy upwards", app("copy: ./a/../../b, to: /c"), []string{
			`f:5:10: app[0].copy: "./a/../../b" has .. in it; write a path inside the context directory, such as ./dist`}},
		{"copy absolute", app("copy: /etc/passwd, to: /c"), []string{
			`f:5:10: app[0].copy: "/etc/passwd" is absolute; write a path inside the context directory, such as ./dist`}},
		{"copy empty", app(`copy: "", to: /c`), []string{
			`f:5:10: app[0].copy: "" is empty; write a path inside the context directory, such as ./dist`}},
		{"copy with zero", app(`copy: "a\0b", to: /c`), []string{
			`f:5:10: app[0].copy: has a zero byte, which no program can be given; leave it out`}},
		{"copy with newline", app(`copy: "a\nb", to: /c`), []string{
			`f:5:10: app[0].copy: "a\nb" has a control character in it; write a path inside the context directory, such as ./dist`}},
		{"to relative", app("copy: a, to: opt"), []string{
			`f:5:17: app[0].to: "opt" is not absolute; write a path such as /opt/app, with a / at the end for a directory that the source goes into`}},
		{"to upwards", app("copy: a, to: /opt/../x"), []string{
			`f:5:17: app[0].to: "/opt/../x" has .. in it; write a path such as /opt/app, with a / at the end for a directory that the source goes into`}},
		{"owner by name", app("copy: a, to: /b, owner: www-data"), []string{
			`f:5:28: app[0].owner: "www-data" is no owner; write the numbers of user and group: "1000:1000"`}},
		{"owner out of range", app(`copy: a, to: /b, owner: "1:2147483648"`), []string{
			`f:5:28: app[0].owner: "1:2147483648" is no owner; write the numbers of user and group: "1000:1000"`}},
		{"owner number", app("copy: a, to: /b, owner: 1000"), []string{
			`f:5:28: app[0].owner: is the number 1000 where text is wanted; write it in quotes: "1000"`}},
		{"mode setuid", app("copy: a, to: /b, mode: \"4755\""), []string{
			`f:5:27: app[0].mode: "4755" is no file mode; write octal permission bits, "0644" to "0777", without setuid, setgid and sticky`}},
		{"mode not octal", app("copy: a, to: /b, mode: 0789"), []string{
			`f:5:27: app[0].mode: is the number 0789 where text is wanted; write it in quotes: "0789"`}},
		{"mode in words", app("copy: a, to: /b, mode: u+x"), []string{
			`f:5:27: app[0].mode: "u+x" is no file mode; write octal permission bits, "0644" to "0777", without setuid, setgid and sticky`}},
		{"package", app("package: ./a.deb"), []string{
			`f:3:5: os: is no system that app[0] could be installed in; write os: {debian: …}`}},
		{"no package", app("package: ./a.rpm, to: /opt"), []string{
			`f:3:5: os: is no system that app[0] could be installed in; write os: {debian: …}`,
			`f:5:13: app[0].package: "./a.rpm" is no .deb; write the path of a .deb inside the context directory, such as ./app_1.0_amd64.deb, or name a package of the mirror with os.debian.packages`,
			`f:5:22: app[0]: stands beside package, which says itself where its files go; make them two items of the list`}},
		{"misspelt", app("cpoy: a, to: /b"), []string{
			`f:5:3: app[0].copy: is missing; write copy: ./dist`, `f:5:4: app[0].cpoy: unknown field; did you mean copy?`}},

		// config
		{"entrypoint as text", config("entrypoint: /bin/server -x"), []string{
			`f:5:22: config.entrypoint: is text, and no shell would split it; write a list: ["/bin/sh", "-c", …] or ["/opt/app/server", "--verbose"]`}},
		{"numbers in a command", config("cmd: [-p, 8080]"), []string{
			`f:5:20: config.cmd[1]: is the number 8080 where text is wanted; write it in quotes: "8080"`}},
		{"empty program", config(`entrypoint: ["", a]`), []string{
			`f:5:23: config.entrypoint[0]: is empty, but stands where the program is named; write its path`}},
		{"bad env", config(`env: {A: [1], "B=C": d, "": e, F: }`), []string{
			`f:5:19: config.env.A: is a list; write "" for an empty value`,
			`f:5:24: config.env: "B=C" is no name of an environment variable: it has =, a space or a control character; write {PORT: "8080"}`,
			`f:5:34: config.env: "" is an empty name; write {PORT: "8080"}`,
			`f:5:44: config.env.F: is empty; write "" for an empty value`}},
		{"env as a list", config(`env: [A=b]`), []string{
			`f:5:15: config.env: is a list where a mapping is wanted; write {PORT: "8080"}`}},
		{"bad user", config(`user: "a b"`), []string{
			`f:5:16: config.user: "a b" is no user; write a name or number, with or without a group: "1000:1000"`}},
		{"bad working directory", config(`workingDir: opt`), []string{
			`f:5:22: config.workingDir: "opt" is not absolute; write a path such as /opt/app`}},
		{"bad ports", config(`ports: [0, 65536, 80/http, x, 080, true]`), []string{
			`f:5:18: config.ports[0]: "0" is no port; write a number from 1 to 65535, as in [8080, 53/udp]`,
			`f:5:21: config.ports[1]: "65536" is no port; write a number from 1 to 65535, as in [8080, 53/udp]`,
			`f:5:28: config.ports[2]: "80/http" names no protocol that images can have; write 80/tcp, 80/udp or 80/sctp`,
			`f:5:37: config.ports[3]: "x" is no port; write a number from 1 to 65535, as in [8080, 53/udp]`,
			`f:5:40: config.ports[4]: is the number 080 where text is wanted; write it in quotes: "080"`,
			`f:5:45: config.ports[5]: is the truth value true where text is wanted; write it in quotes: "true"`}},
		{"bad volumes", config(`volumes: [data, /]`), []string{
			`f:5:20: config.volumes[0]: "data" is not absolute; write a path such as /var/lib/app`,
			`f:5:26: config.volumes[1]: is the whole image; name a directory in it, such as /var/lib/app`}},
		{"bad label", config(`labels: {"a\tb": c}`), []string{
			`f:5:19: config.labels: "a\tb" is no label: it has a control character; write {org.example.team: shop}`}},
		{"misspelt signal", config(`stopSignal: sigtrem`), []string{`f:5:22: config.stopSignal: "sigtrem" is no signal; did you mean SIGTERM?`}},
		{"bad signal", config(`stopSignal: 65`), []string{
			`f:5:22: config.stopSignal: "65" is no signal; write a name such as SIGTERM, or a number from 1 to 64`}},

		// outputs
		{"no outputs", minimal + "outputs: []\n", []string{
			`f:5:10: outputs: is empty, so that nothing would be made; write [{oci: {platforms: [linux/amd64]}}], or leave outputs out for just that`}},
		{"disk over scratch", minimal + "outputs: [{disk: {size: 2GiB, boot: uefi}}]\n", []string{
			`f:5:18: outputs[0].disk: has no kernel over scratch; write os: {debian: {suite: bookworm}}`}},
		{"disk without size", disk("boot: direct"), []string{`f:5:18: outputs[0].disk.size: is missing; write size: 2GiB`}},
		{"disk's size", disk("size: 2GB"), []string{`f:5:25: outputs[0].disk.size: "2GB" is no size; write a number with MiB, GiB or TiB, such as 2GiB`}},
		{"small disk", disk("size: 100MiB"), []string{`f:5:25: outputs[0].disk.size: is 100MiB; a disk has from 256MiB to 16TiB`}},
		{"large disk", disk("size: 17TiB"), []string{`f:5:25: outputs[0].disk.size: is 17TiB; a disk has from 256MiB to 16TiB`}},
		{"disk's boot", disk("size: 2GiB, boot: bios"), []string{`f:5:37: outputs[0].disk.boot: "bios" is not in this release of bakefarm; write uefi or hybrid or direct`}},
		{"BIOS on arm64", disk("size: 2GiB, boot: hybrid, platform: linux/arm64"), []string{`f:5:37: outputs[0].disk.boot: hybrid is for the BIOS of PCs, and linux/arm64 has none; write uefi`}},
		{"fingerprint", disk("size: 2GiB, secureBoot: abcd"), []string{`f:5:43: outputs[0].disk.secureBoot: "abcd" is no fingerprint; write the SHA-256 fingerprint of a certificate, as openssl x509 -noout -fingerprint -sha256 prints it`}},
		{"nothing to sign", disk("size: 2GiB, boot: direct, secureBoot: abababababababababababababababababababababababababababababababab"), []string{`f:5:57: outputs[0].disk.secureBoot: is for what firmware starts, and with boot: direct it starts nothing; write boot: uefi`}},
		{"restart", disk("size: 2GiB, restart: sometimes"), []string{`f:5:40: outputs[0].disk.restart: "sometimes" is not in this release of bakefarm; write always or on-failure or no`}},
		{"initrd without scripts", disk("size: 2GiB, initrd: distribution"), []string{`f:5:18: outputs[0].disk: has initrd: distribution, which the packages' maintainer scripts make; write scripts: run`}},
		{"entrypoint without systemd", "apiVersion: bakefarm/v1\nname: a/b\nos: {debian: {suite: bookworm, packages: [curl, sysvinit-core=3.06-4]}}\nconfig: {cmd: [/x]}\noutputs: [{disk: {size: 2GiB}}]\n", []string{
			`f:5:18: outputs[0].disk: has sysvinit-core for its init, and a disk's entrypoint is a unit of systemd; take sysvinit-core out of os.debian.packages, or config.entrypoint and config.cmd away`}},
		{"disk's root", disk("size: 2GiB, filesystem: btrfs"), []string{`f:5:43: outputs[0].disk.filesystem: "btrfs" is not in this release of bakefarm; write ext4 or erofs`}},
		{"disk's command line", disk("size: 2GiB, cmdline: quiet root=/dev/sda"), []string{`f:5:40: outputs[0].disk.cmdline: has root= in it, which the disk sets itself; take it out`}},
		{"two disks", disk("size: 2GiB}}, {disk: {size: 4GiB"), []string{`f:5:40: outputs[1].disk: is a second disk for linux/amd64; keep one`}},
		{"word", minimal + "outputs: [oci]\n", []string{
			`f:5:11: outputs[0]: is the text "oci" where a mapping is wanted; write {oci: {platforms: [linux/amd64]}}`}},
		{"neither", minimal + "outputs: [{}]\n", []string{`f:5:11: outputs[0]: names no output; write {oci: {platforms: [linux/amd64]}}`}},
		{"both", minimal + "outputs: [{oci: {}, disk: {}}]\n", []string{
			`f:5:11: outputs[0]: names both oci and disk; make them two items of the list`,
			`f:5:27: outputs[0].disk.size: is missing; write size: 2GiB`,
			`f:5:27: outputs[0].disk: has no kernel over scratch; write os: {debian: {suite: bookworm}}`}},
		{"oci twice", minimal + "outputs: [{oci: {}}, {oci: {}}]\n", []string{`f:5:22: outputs[1]: is a second oci output; name all platforms in one`}},
		{"platforms", minimal + "outputs: [{oci: {platforms: [linux/amd64, linux/arm64, arm]}}]\n", []string{
			`f:5:56: outputs[0].oci.platforms[2]: "arm" is no platform; write os/architecture: linux/amd64 or linux/arm64`}},
		{"other platforms", minimal + "outputs: [{oci: {platforms: [linux/arm/v7, linux/arm64/v8, linux/x86_64]}}]\n", []string{
			`f:5:30: outputs[0].oci.platforms[0]: "linux/arm/v7" is not in this release of bakefarm yet; write linux/amd64 or linux/arm64`,
			`f:5:44: outputs[0].oci.platforms[1]: "linux/arm64/v8" is another name of linux/arm64; write that`,
			`f:5:60: outputs[0].oci.platforms[2]: "linux/x86_64" is another name of linux/amd64; write that`}},
		{"no platforms", minimal + "outputs: [{oci: {platforms: []}}]\n", []string{
			`f:5:29: outputs[0].oci.platforms: is empty; write [linux/amd64], or leave it out for just that`}},

		// publish
		{"bad channel", publish("channel: latest"), []string{
			`f:5:20: publish.channel: "latest": want a letter, then up to 63 letters, digits, _ or -; not 16 hex digits and not latest`}},
		{"broken template", publish(`registries: ["r.example/a:{{.Version"]`), []string{
			`f:5:24: publish.registries[0]: is no template: 1: unclosed action; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},
		{"unknown field", publish(`registries: ["r.example/a:{{.Tag}}"]`), []string{
			`f:5:24: publish.registries[0]: has a field that is none of {{.Name}}, {{.Version}} and {{.Channel}}; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},
		{"programs in templates", publish(`registries: ["r.example/a:{{range 1000000000}}x{{end}}", 'r.example/a:{{printf "%1000000000d" 1}}', 'r.example/{{.Version | len}}:x']`), []string{
			`f:5:24: publish.registries[0]: {{range 1000000000}}x{{end}}: only {{.Name}}, {{.Version}} and {{.Channel}} are filled in; write a reference such as "registry.example/shop/checkout:{{.Version}}"`,
			`f:5:68: publish.registries[1]: {{printf "%1000000000d" 1}}: only {{.Name}}, {{.Version}} and {{.Channel}} are filled in; write a reference such as "registry.example/shop/checkout:{{.Version}}"`,
			`f:5:111: publish.registries[2]: {{.Version | len}}: only {{.Name}}, {{.Version}} and {{.Channel}} are filled in; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},
		{"no registry", publish(`registries: ["shop/checkout:{{.Version}}"]`), []string{
			`f:5:24: publish.registries[0]: "shop/checkout:0123456789abcdef" does not begin with a registry; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},
		{"no tag", publish(`registries: [r.example/a]`), []string{
			`f:5:24: publish.registries[0]: "r.example/a" does not end in a tag; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},
		{"bad path", publish(`registries: ["r.example/A:1"]`), []string{
			`f:5:24: publish.registries[0]: "r.example/A:1": the path after the registry: name "A": "A" is no path component: lower-case letters and digits, separated by one of . _ __ -; write a reference such as "registry.example/shop/checkout:{{.Version}}"`}},

		// requires
		{"no label", minimal + "requires: [gpu, 'a b']\n", []string{
			`f:5:17: requires[1]: label "a b": want a word or a word and a value, of letters, digits, '.', '_' and '-': gpu, region=eu`}},
		{"many labels", minimal + "requires: [" + strings.Repeat("gpu, ", 17) + "]\n", []string{`f:5:11: requires: has 17 labels; write at most 16`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("f", []byte(test.text))
			if err == nil {
				t.Fatal("no error")
			}
			if got, want := err.Error(), strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestErrorsAreTyped(t *testing.T) {
	_, err := Parse("dir/f.yaml", []byte(strings.Replace(minimal, "a/b", "A", 1)))
	var all Errors
	if !errors.As(err, &all) || len(all) != 1 {
		t.Fatalf("%T %v", err, err)
	}
	var one *Error
	if !errors.As(err, &one) || one.File != "dir/f.yaml" || one.Line != 2 || one.Column != 7 || one.Field != "name" || one.Message == "" {
		t.Errorf("%+v", one)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString(minimal)
	for i := range 5000 {
		fmt.Fprintf(&text, "x%d: 1\n", i)
	}
	_, err := Parse("f", []byte(text.String()))
	var all Errors
	if !errors.As(err, &all) || len(all) != MaxErrors || !strings.HasSuffix(err.Error(), "f:104:1: and 4901 more errors from here on") {
		t.Errorf("%d errors, ending in %s", len(all), all[len(all)-1])
	}
}

func TestParseIsBounded(t *testing.T) {
	big := append([]byte(minimal), bytes.Repeat([]byte("#"), MaxRecipe)...)
	if _, err := Parse("f", big); err == nil || !strings.Contains(err.Error(), "a recipe has at most 1048576") {
		t.Errorf("%v", err)
	}
	if _, err := Parse("f", []byte(minimal), strings.Repeat("x", MaxRecipe)); err == nil || !strings.Contains(err.Error(), "--set") {
		t.Errorf("%v", err)
	}
	// Aliases of aliases: refused without being expanded.
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x]\n")
	for i := range 50 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	if _, err := Parse("f", []byte(bomb.String())); err == nil || !strings.Contains(err.Error(), "anchors (&a0)") {
		t.Errorf("%v", err)
	}
	for name, text := range map[string]string{
		"flow":  strings.Repeat("[", MaxRecipe/2),
		"block": strings.Repeat("- ", MaxRecipe/4),
		"pairs": strings.Repeat("{a: ", MaxRecipe/8),
		"keys":  strings.Repeat("? ", MaxRecipe/4),
	} {
		if _, err := Parse("f", []byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSet(t *testing.T) {
	ok := func(set ...string) *Recipe {
		t.Helper()
		r, err := Parse("f", []byte(full), set...)
		if err != nil {
			t.Fatalf("%q: %v", set, err)
		}
		return r
	}
	if r := ok("config.env.PORT=9090", "config.env.NEW=a=b"); r.Config.Env["PORT"] != "9090" || r.Config.Env["NEW"] != "a=b" {
		t.Errorf("%v", r.Config.Env)
	}
	if r := ok("os.debian.packages[0]=git"); strings.Join(r.OS.Debian.Packages, " ") != "git ca-certificates=2023* tzdata" {
		t.Errorf("%v", r.OS.Debian.Packages)
	}
	if r := ok("os.debian.packages=[git, vim]", "os.debian.packages[2]=curl"); strings.Join(r.OS.Debian.Packages, " ") != "git vim curl" {
		t.Errorf("%v", r.OS.Debian.Packages)
	}
	if r := ok(`config.labels.org\.example\.team=new`, `config.env.EMPTY=`); r.Config.Labels["org.example.team"] != "new" || r.Config.Env["EMPTY"] != "" {
		t.Errorf("%v", r.Config)
	}
	if r := ok("config.user=null", "config.cmd=null", "app[1]=null", "publish.nothing=null"); r.Config.User != "" || r.Config.Cmd != nil || len(r.App) != 1 {
		t.Errorf("%+v", r)
	}
	if r := ok("config.cmd=null", "config.cmd[0]=-x", "app[2].copy=x", "app[2].to=/y"); r.Config.Cmd[0] != "-x" || r.App[2].To != "/y" {
		t.Errorf("%+v", r)
	}
	if r := ok(`config.env.X="quoted"`, "config.env.Y=# comment"); r.Config.Env["X"] != "quoted" || r.Config.Env["Y"] != "" {
		t.Errorf("%v", r.Config.Env)
	}
	// What is missing in the file may come from the flags.
	r, err := Parse("f", []byte("apiVersion: bakefarm/v1\napp: [{copy: ., to: /}]\n"), "name=x", "os.scratch=true", "config.env.A=b")
	if err != nil || r.Name != "x" || !r.OS.Scratch || r.Config.Env["A"] != "b" {
		t.Errorf("%+v, %v", r, err)
	}

	for _, test := range []struct{ set, want string }{
		{"name=A", `--set name=A: name: "A": "A" is no path component: lower-case letters and digits, separated by one of . _ __ -`},
		{"name", "--set name: there is no =; write --set path=value, such as config.env.PORT=9090"},
		{"=x", "--set =x: the path has an empty step; write --set path=value, such as config.env.PORT=9090"},
		{"a..b=x", "--set a..b=x: the path has an empty step; write --set path=value, such as config.env.PORT=9090"},
		{"app[0=x", "--set app[0=x: the path has a [ without ]; write --set path=value, such as config.env.PORT=9090"},
		{"app[x]=x", "--set app[x]=x: [x] is no index; write --set path=value, such as config.env.PORT=9090"},
		{"app[-1]=x", "--set app[-1]=x: [-1] is no index; write --set path=value, such as config.env.PORT=9090"},
		{"app[0]to=x", "--set app[0]to=x: after ] comes 't'; write --set path=value, such as config.env.PORT=9090"},
		{"app[9].to=x", "--set app[9].to=x: app has 2 items, so [9] is out of range; [2] appends"},
		{"name.first=x", `--set name.first=x: name is the text "shop/checkout", which has no field "first"`},
		{"name[0]=x", `--set name[0]=x: name is the text "shop/checkout", which has no item [0]`},
		{"config.env.A=[", "--set config.env.A=[: the value is not YAML: did not find expected node content; quote it when it is text"},
		{"config.env.A=&x 1", "--set config.env.A=&x 1: config.env.A: anchors (&x) are not part of recipes; write the value out where it is needed"},
		{"config.env.P\xff=1", "--set config.env.P\ufffd=1: byte 0xff is not UTF-8 (character 13); a flag is plain UTF-8 text"},
		{"confg.user=a", "--set confg.user=a: confg: unknown field; did you mean config?"},
		{"app[0]={to: /x}", "--set app[0]={to: /x}: app[0].copy: is missing; write copy: ./dist"},
		{"config.cmd=[1]", `--set config.cmd=[1]: config.cmd[0]: is the number 1 where text is wanted; write it in quotes: "1"`},
		{strings.Repeat("a.", 100) + "a=x", "--set " + strings.Repeat("a.", 40) + "…: the path has more than 20 steps; write --set path=value, such as config.env.PORT=9090"},
	} {
		_, err := Parse("f", []byte(full), test.set)
		if err == nil || err.Error() != test.want {
			t.Errorf("--set %s:\n got %v\nwant %s", test.set, err, test.want)
		}
	}

	// Errors of the file come first, whatever the flags say.
	_, err = Parse("f", []byte(minimal+"x: 1\n"), "y=1")
	if want := "f:5:1: x: unknown field; the fields here are apiVersion, name, os, app, steps, config, outputs, tests, publish, requires\n--set y=1: y: unknown field; the fields here are"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

func TestReference(t *testing.T) {
	r := Release{Name: "shop/checkout", Version: "0123456789abcdef", Channel: "prod"}
	got, err := r.Reference("registry.example:5000/{{.Name}}:{{ .Channel }}-{{.Version}}")
	if want := "registry.example:5000/shop/checkout:prod-0123456789abcdef"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "x", `{{define "a"}}b{{end}}`, "r.example/a:{{.Name}}", "r.example/a:b c", "r.example/a@sha256:00",
		"{{template \"x\"}}", "r.example/a:{{$x := .Name}}b", "r.example/a:{{.Name.X}}", strings.Repeat("r", 2000)} {
		if ref, err := r.Reference(bad); err == nil {
			t.Errorf("%q is taken for %q", clip(bad), ref)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full), "config.env.PORT=9090")
	f.Add([]byte(minimal), `config.labels.a\.b=[1, {x: y}]`)
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: !!binary y\n"), "app[0].to=null")
	f.Add([]byte(full), "config.env.P\x92ORT=9090")
	f.Add([]byte("publish: {registries: ['{{range 9}}{{end}}']}"), "=")
	f.Fuzz(func(t *testing.T, data []byte, set string) {
		r, err := Parse("f", data, set)
		var all Errors
		switch {
		case err == nil && r == nil:
			t.Fatal("neither a recipe nor an error")
		case err == nil:
			if again, err := Parse("f", data, set); err != nil || !reflect.DeepEqual(r, again) {
				t.Fatalf("not the same twice: %v", err)
			}
			l := Lock{APIVersion: LockVersion, Config: r.Config, Outputs: r.Outputs}
			if decoded, err := DecodeLock(l.Encode()); err != nil || !bytes.Equal(decoded.Encode(), l.Encode()) {
				t.Fatalf("what it says does not survive a Lock: %v", err)
			}
		case !errors.As(err, &all) || len(all) == 0 || len(all) > MaxErrors:
			t.Fatalf("%T with %d errors", err, len(all))
		}
		last := 0
		for _, e := range all {
			flag := e.Line == 0 && strings.HasPrefix(e.File, "--set")
			if e.Message == "" || !flag && (e.Line < max(1, last) || e.Column < 1) {
				t.Fatalf("error without a place, or out of order: %+v", e)
			}
			last = e.Line
		}
	})
}

func sha(s string) digest.Digest { return digest.FromString(s) }
