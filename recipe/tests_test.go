package recipe

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTests(t *testing.T) {
	parse := func(outputs, tests string) (*Recipe, error) {
		return Parse("f", []byte("apiVersion: bakefarm/v1\nname: a/b\nos: {debian: {suite: bookworm}}\noutputs: "+outputs+"\ntests: "+tests+"\n"))
	}
	const both = "[{oci: {platforms: [linux/amd64, linux/arm64]}}, {disk: {size: 2GiB}}]"
	r, err := parse(both, `[{http: {port: 8080, path: /healthz, status: 204, contains: ok}, within: 90s},
  {tcp: {port: 22}, on: disk}, {console: ready, on: [oci, linux/amd64]}, {boot: true, within: 5m}]`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Test{
		{HTTP: &HTTPTest{8080, "/healthz", 204, "ok"}, Within: 90 * time.Second},
		{TCP: &TCPTest{22}, Within: time.Minute, On: []string{"disk"}},
		{Console: "ready", Within: time.Minute, On: []string{"linux/amd64", "oci"}},
		{Boot: true, Within: 5 * time.Minute},
	}
	if !reflect.DeepEqual(r.Tests, want) {
		t.Errorf("%+v", r.Tests)
	}
	asked := ""
	for _, of := range [][2]string{{OnOCI, "linux/amd64"}, {OnOCI, "linux/arm64"}, {OnDisk, "linux/amd64"}} {
		for i, test := range r.Tests {
			if test.Asks(of[0], of[1]) {
				asked += string(rune('0' + i))
			}
		}
		asked += " "
	}
	if asked != "02 0 013 " {
		t.Errorf("asked are %s", asked)
	}
	for _, bad := range []struct{ outputs, tests, want string }{
		{both, "[{}]", "asks for nothing; write one of http, tcp, console and boot"},
		{both, "[{http: {port: 1}, tcp: {port: 1}}]", "asks for http and tcp; make them items"},
		{both, "[{http: {path: /}}]", "port"},
		{both, "[{http: {port: 70000}}]", "65535"},
		{both, "[{http: {port: 80, path: healthz}}]", `"healthz" is no path of a URL`},
		{both, "[{http: {port: 80, status: 20}}]", "from 100 to 599"},
		{both, "[{boot: false}]", "write boot: true"},
		{both, "[{boot: true, within: soon}]", `"soon" is no duration`},
		{both, "[{boot: true, within: 2h}]", "is 2h; a test has from 1s to 30m"},
		{both, "[{boot: true, on: vm}]", `"vm" is no output; write oci, disk, or linux/amd64 or linux/arm64`},
		{both, `[{console: "a\nb"}]`, "on one line"},
		{"[{oci: {}}]", "[{boot: true}]", "is asked of disks, and the outputs have none"},
		{"[{oci: {}}]", "[{tcp: {port: 1}, on: disk}]", "is asked of none of the outputs"},
		{both, "[{tcp: {port: 1}, on: [disk, linux/arm64]}]", "is asked of none of the outputs"},
		{both, "{http: {port: 1}}", "list"},
	} {
		if _, err := parse(bad.outputs, bad.tests); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", bad.tests, err, bad.want)
		}
	}
}
