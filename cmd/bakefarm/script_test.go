package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bakefarm/compose/deb/debtest"
	"bakefarm/imagestore/s3store"
	"bakefarm/worker/mirror/mirrortest"
	"bakefarm/worker/sandbox"

	"github.com/minio/minio-go/v7"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what cmp commands of scripts see into the scripts")

func TestMain(m *testing.M) {
	sandbox.Enter()
	testscript.Main(m, map[string]func(){"bakefarm": main})
}

// TestScripts runs testdata/script/*.txtar: farms in processes of their own, driven through the command line, over the
// fixture's mirror. Beside testscript's own commands a script has:
//
//	farm NAME [FLAG…]              starts "bakefarm up" with data in $WORK/NAME, waits until it is ready and points
//	                               BAKEFARM_SERVER at it. $ADDRESS: its host:port; $NATS, $S3: where it listens for others
//	start NAME PATTERN PROGRAM…    starts a program and waits until it has said PATTERN; $NAME: what the first group matched
//	[!] said NAME PATTERN          has a started program said PATTERN? Waits for it, unless negated
//	end [-SIGNAL] NAME             signals (INT) a started program and waits for its end: within 5 s and with exit code 0,
//	                               unless the signal is KILL. TWICE is INT, and when $ADDRESS is closed INT again
//	exits CODE PROGRAM…            runs a program that must exit with this code
//	until PATTERN PROGRAM…         runs a program again and again until its stdout has PATTERN
//	get VAR PATH                   sets $VAR to what stands at PATH (images.0.digest) of the JSON on stdout
//	http CODE URL                  asks for a URL until the status is this one; the body becomes stdout
//	port VAR                       sets $VAR to the address of a free port
//	contents DIR                   lists the files of the image in an OCI layout
//	deb FILE NAME VERSION DEPENDS  writes a package with usr/bin/NAME, a conffile, and a postinst that nobody runs
//	damage                         changes bytes of the smallest object of 100 kB or more in the store
//	mirror WHAT…                   changes what the mirror serves (see cmdMirror)
//
// With BAKEFARM_TEST_S3 set (a URL as --s3 takes it) farms keep their images there, each under a prefix of its own, and scripts
// about the embedded server are left out. With -short only the plainest ones run.
func TestScripts(t *testing.T) {
	const dir = "testdata/script"
	files := []string{dir + "/bake.txtar", dir + "/recipes.txtar", dir + "/usage.txtar"}
	if !testing.Short() {
		var err error
		if files, err = filepath.Glob(dir + "/*.txtar"); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Condition: func(cond string) (bool, error) {
			if cond == "embedded-s3" {
				return os.Getenv("BAKEFARM_TEST_S3") == "", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Files:               files,
		Setup:               setup,
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"farm": cmdFarm, "start": cmdStart, "said": cmdSaid, "end": cmdEnd, "exits": cmdExits, "until": cmdUntil, "get": cmdGet,
			"contents": cmdContents, "http": cmdHTTP, "port": cmdPort, "mirror": cmdMirror, "deb": cmdDeb, "hello": cmdHello,
			"damage": cmdDamage,
		},
	})
}

// patience bounds every wait for something that must happen. It is long because machines are slow, and never waited out.
const patience = 30 * time.Second

// world is what a script finds.
type world struct {
	id        string // of this run
	tb        testing.TB
	mirror    *mirrortest.Mirror
	door      *door    // before the mirror
	keys      []string // of the environment
	processes map[string]*process
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func setup(env *testscript.Env) error {
	tb := env.T().(testing.TB)
	w := &world{id: rand.Text()[:8], tb: tb, mirror: newMirror(tb), processes: map[string]*process{}}
	env.Values[worldKey{}] = w
	var address string
	w.door, address = newDoor(tb, w.mirror)
	env.Setenv("BAKEFARM_DEBIAN_MIRROR", address)
	env.Setenv("BAKEFARM_DEBIAN_KEYRING", w.mirror.Keyring)
	// What this machine's apt is told about mirrors is not meant for the fixture's.
	apt := filepath.Join(env.WorkDir, ".apt.conf")
	if err := os.WriteFile(apt, []byte("Dir \"/nowhere\";\n"), 0o644); err != nil {
		return err
	}
	env.Setenv("APT_CONFIG", apt)
	env.Setenv("BAKEFARM_SERVER", "http://127.0.0.1:1") // nobody is there until a farm is
	env.Setenv("BAKEFARM_TOKEN", "")
	env.Setenv("BAKEFARM_RUNTIME", "")
	env.Setenv("TZ", "")
	for _, flag := range []string{"s3", "nats", "nats-secret", "lease", "workers", "insecure-listen", "s3-access-key", "s3-secret-key"} {
		env.Setenv(variable(flag), "") // scripts may set them
	}
	for _, v := range env.Vars {
		key, _, _ := strings.Cut(v, "=")
		w.keys = append(w.keys, key)
	}
	env.Defer(func() {
		for _, p := range w.processes {
			p.kill()
			if tb.Failed() {
				tb.Logf("%s said:\n%s", p.name, p.output())
			}
		}
	})
	return nil
}

// environ is the script's environment for a started program.
func (w *world) environ(ts *testscript.TestScript) []string {
	var env []string
	for _, key := range w.keys {
		env = append(env, key+"="+ts.Getenv(key))
	}
	return env
}

func (w *world) start(ts *testscript.TestScript, name, pattern, program string, args ...string) (*process, []string) {
	if old := w.processes[name]; old != nil {
		select {
		case <-old.ended:
		default:
			ts.Fatalf("%s runs already", name)
		}
	}
	re, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	path, err := exec.LookPath(program)
	ts.Check(err)
	p, err := startProcess(name, ts.MkAbs("."), w.environ(ts), path, args...)
	ts.Check(err)
	w.processes[name] = p
	match, err := p.waitFor(re, patience)
	ts.Check(err)
	return p, match
}

func cmdFarm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: farm NAME [FLAG…]")
	}
	if base := os.Getenv("BAKEFARM_TEST_S3"); base != "" && ts.Getenv("BAKEFARM_S3") == "" && !slices.Contains(args, "--s3") {
		u, err := url.Parse(base)
		ts.Check(err)
		u.Path = path.Join(u.Path, filepath.Base(ts.Getenv("WORK"))+worldOf(ts).id, args[0])
		args = append(args, "--s3", u.String())
		ts.Setenv("S3", u.String())
	}
	flags := append([]string{"up", "--data", filepath.Join(ts.Getenv("WORK"), args[0]), "--listen", "127.0.0.1:0", "--log-level", "debug"}, args[1:]...)
	p, match := worldOf(ts).start(ts, args[0], `^bakefarm is ready at (http://(\S+))`, "bakefarm", flags...)
	ts.Setenv("BAKEFARM_SERVER", match[1])
	ts.Setenv("ADDRESS", match[2])
	if found := natsListens.FindStringSubmatch(p.output()); found != nil {
		ts.Setenv("NATS", found[1])
	}
	if found := s3Listens.FindStringSubmatch(p.output()); found != nil {
		raw, err := os.ReadFile(found[2])
		ts.Check(err)
		var keys s3Keys
		ts.Check(json.Unmarshal(raw, &keys))
		ts.Setenv("S3", "http://"+keys.AccessKey+":"+keys.SecretKey+"@"+found[1]+"/"+embeddedBucket)
	}
}

var (
	natsListens = regexp.MustCompile(`embedded NATS server listens.* url=(\S+)`)
	s3Listens   = regexp.MustCompile(`embedded S3 server listens.* address=(\S+) .*keys=(\S+)`)
)

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: start NAME PATTERN PROGRAM…")
	}
	_, match := worldOf(ts).start(ts, args[0], args[1], args[2], args[3:]...)
	if len(match) > 1 {
		ts.Setenv(args[0], match[1])
	}
}

// helloProgram is that of examples/hello, built once.
var helloProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "bakefarm-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/hello", "bakefarm/examples/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(dir + "/hello")
})

// cmdHello writes the program of examples/hello to a file.
func cmdHello(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hello FILE")
	}
	program, err := helloProgram()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), program, 0o755))
}

// cmdDamage changes four bytes of a pack behind the farm's back, by way of the S3 service.
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: damage")
	}
	ctx := ts.Value(worldKey{}).(*world).tb.Context()
	transport, err := s3store.Transport("")
	ts.Check(err)
	defer transport.CloseIdleConnections()
	client, bucket, prefix, err := s3store.Dial(ts.Getenv("S3"), transport)
	ts.Check(err)
	var victim minio.ObjectInfo
	for o := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: path.Join(prefix, "packs") + "/", Recursive: true}) {
		ts.Check(o.Err)
		if o.Size >= 100e3 && (victim.Size == 0 || o.Size < victim.Size) {
			victim = o
		}
	}
	object, err := client.GetObject(ctx, bucket, victim.Key, minio.GetObjectOptions{})
	ts.Check(err)
	defer object.Close()
	content, err := io.ReadAll(object)
	ts.Check(err)
	copy(content[60_000:], "XXXX")
	_, err = client.PutObject(ctx, bucket, victim.Key, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{DisableContentSha256: true})
	ts.Check(err)
	ts.Logf("%s is damaged", victim.Key)
}

func started(ts *testscript.TestScript, name string) *process {
	p := worldOf(ts).processes[name]
	if p == nil {
		ts.Fatalf("nothing was started as %s", name)
	}
	return p
}

func cmdSaid(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] said NAME PATTERN")
	}
	p := started(ts, args[0])
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	if neg {
		if match := re.FindString(p.output()); match != "" {
			ts.Fatalf("%s has said %q", args[0], match)
		}
		return
	}
	_, err = p.waitFor(re, patience)
	ts.Check(err)
}

func cmdEnd(ts *testscript.TestScript, neg bool, args []string) {
	signal, limit, orderly := syscall.SIGINT, 5*time.Second, true
	if len(args) == 2 {
		switch args[0] {
		case "-INT":
		case "-TERM":
			signal = syscall.SIGTERM
		case "-KILL":
			signal, orderly = syscall.SIGKILL, false
		case "-TWICE":
			limit, orderly = time.Second, false
			ts.Check(started(ts, args[1]).cmd.Process.Signal(signal))
			for {
				c, err := net.Dial("tcp", ts.Getenv("ADDRESS"))
				if err != nil {
					break
				}
				c.Close()
			}
		default:
			neg = true
		}
		args = args[1:]
	}
	if neg || len(args) != 1 {
		ts.Fatalf("usage: end [-INT|-TERM|-KILL|-TWICE] NAME")
	}
	took, err := started(ts, args[0]).end(signal, limit)
	if orderly {
		ts.Check(err)
	}
	ts.Logf("%s has ended within %v", args[0], took)
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM…")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for limit := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && re.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("no %q within %v (%v)", args[0], patience, err)
		}
	}
}

func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get VAR PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(at) {
				ts.Fatalf("%s: there are only %d items", args[1], len(at))
			}
			v = at[i]
		default:
			v = nil
		}
	}
	if v == nil {
		ts.Fatalf("stdout has nothing at %s", args[1])
	}
	value, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		ts.Check(err)
		value = string(raw)
	}
	ts.Setenv(args[0], value)
}

func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: http CODE URL")
	}
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(args[1])
		ts.Check(err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		ts.Check(err)
		if strconv.Itoa(resp.StatusCode) == args[0] {
			ts.Logf("%s\n%s", resp.Status, body)
			_, err := ts.Stdout().Write(body)
			ts.Check(err)
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("%s: %s, want %s:\n%s", args[1], resp.Status, args[0], body)
		}
	}
}

func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], l.Addr().String())
}

func cmdContents(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: contents DIR")
	}
	list, err := listLayout(ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), list)
	ts.Check(err)
}

func cmdDeb(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: deb FILE NAME VERSION DEPENDS")
	}
	name, version := args[1], args[2]
	p := debtest.Package{Name: name, Version: version, Architecture: "amd64", Compression: "none", Fields: map[string]string{"Depends": args[3]},
		Control: map[string]string{"conffiles": "/etc/" + name + ".conf\n", "postinst": "#!/bin/sh\nexit 1\n"},
		Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/" + name, Content: name + " " + version, Mode: 0o755},
			{Name: "etc/"}, {Name: "etc/" + name + ".conf", Content: "on\n"}, {Name: "usr/share/"}, {Name: "usr/share/" + name + "/"},
			{Name: "usr/share/" + name + "/data", Content: text(name, 6<<20)}}}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), p.Build(worldOf(ts).tb), 0o644))
}

// cmdMirror changes what the mirror serves:
//
//	mirror hold PART       answers nothing for paths that contain PART
//	mirror release         until now
//	mirror flip PART       one byte is another
//	mirror cut PART        the connection breaks in the middle
//	mirror missing PART
//	mirror break-signature | unknown-key | expire
//	mirror heal            serves everything as it should be
//	mirror twin VAR        sets $VAR to the address of another mirror of the same, which nothing is wrong with
//	mirror update          publishes a newer tzdata
//	mirror asked PART      waits until a path that contains PART was asked for
//	mirror count VAR PART  sets $VAR to how many requests there were for paths that contain PART
func cmdMirror(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	m := w.mirror
	want := map[string]int{"hold": 2, "flip": 2, "cut": 2, "missing": 2, "asked": 2, "count": 3, "twin": 2}
	if neg || len(args) == 0 || len(args) != max(1, want[args[0]]) {
		ts.Fatalf("usage: mirror hold|flip|cut|missing|asked PART, mirror count VAR PART, mirror twin VAR, mirror break-signature|unknown-key|expire|update|heal|release")
	}
	switch args[0] {
	case "hold":
		w.door.hold(args[1])
	case "release":
		w.door.release()
	case "flip":
		m.Serve(args[1], mirrortest.Flipped())
	case "cut":
		m.Serve(args[1], mirrortest.Cut(100, 0))
	case "twin":
		ts.Setenv(args[1], m.Twin())
	case "missing":
		m.Serve(args[1], mirrortest.Missing())
	case "break-signature":
		m.BreakSignature()
	case "unknown-key":
		m.SignWithUnknownKey(mirrortest.Suite)
	case "expire":
		m.Expire(mirrortest.Suite)
	case "heal":
		m.Heal()
		m.Resign(mirrortest.Suite, mirrortest.Release{})
	case "update":
		var packages []mirrortest.Package
		for _, p := range fixture() {
			if p.Name == "tzdata" {
				p.Version = "2024b-0"
				p.Entries = append(p.Entries[:len(p.Entries):len(p.Entries)], debtest.Entry{Name: "usr/share/zoneinfo/GMT", Link: "UTC"})
			}
			packages = append(packages, offered(w.tb, p))
		}
		m.Publish(mirrortest.Suite, mirrortest.Component, packages...)
	case "asked":
		for limit := time.Now().Add(patience); w.door.requests(args[1]) == 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(limit) {
				ts.Fatalf("nobody has asked for %s within %v", args[1], patience)
			}
		}
	case "count":
		ts.Setenv(args[1], strconv.Itoa(w.door.requests(args[2])))
	default:
		ts.Fatalf("mirror: unknown %s", args[0])
	}
}
