package apt

import (
	"errors"
	"strings"
	"testing"
)

func TestSolveOverBase(t *testing.T) {
	base := archive(t, `
		libc6 2.36-1
		libssl3 3.0.1 D=libc6; V=ssl-engine
		broken 1 D=nobody-has-this
		mta 1/all C=other-mta
		foreign 1/i386`)
	base.Installed = true
	offered := archive(t, `
		libc6 2.36-9
		libssl3 3.0.2 D=libc6 (>= 2.36); V=ssl-engine
		curl 7 D=libc6 (>= 2.30), libssl3, libnew | libother
		libnew 1
		openssl 3.0.2 D=libssl3 (= 3.0.2)
		tls-user 1 D=ssl-engine
		other-mta 2 C=mta`)
	for _, test := range []struct{ packages, want string }{
		{"curl", "curl=7 libnew=1"},
		{"libssl3", ""},
		{"libc6 curl libssl3", "curl=7 libnew=1"},
		{"libssl3=3.0.2", "libssl3=3.0.2"},
		{"libssl3=3.0.1", ""},
		{"libssl3=3.0.*", "libssl3=3.0.2"},
		{"openssl", "libssl3=3.0.2 openssl=3.0.2"}, // what it depends on asks for another version than is there
		{"tls-user", "tls-user=1"},
		{"", ""},
	} {
		s, err := Solve(Request{Arch: "amd64", Variant: VariantBase, Packages: strings.Fields(test.packages)},
			[]*Index{offered, base})
		if err != nil {
			t.Errorf("%s: %v", test.packages, err)
			continue
		}
		var got []string
		for _, c := range s.Packages {
			got = append(got, c.Name+"="+c.Version)
			if c.Base {
				t.Errorf("%s: %s is said to be the variant's", test.packages, c.Name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %q", test.packages, got, test.want)
		}
	}
	_, err := Solve(Request{Arch: "amd64", Variant: VariantBase, Packages: []string{"other-mta"}}, []*Index{offered, base})
	var removed *RemovedError
	if !errors.As(err, &removed) || !strings.Contains(err.Error(), "mta 1") {
		t.Errorf("a conflict with the base: %v", err)
	}
}
