package apt

import (
	"fmt"
	"slices"
	"testing"
)

// exact is a package of an index as a Lock has it.
func exact(t *testing.T, x *Index, name, version string) Exact {
	t.Helper()
	for _, p := range x.Packages {
		if p.Name == name && p.Version == version {
			return Exact{p.Name, p.Version, p.Arch, p.SHA256}
		}
	}
	t.Fatalf("the index has no %s %s", name, version)
	return Exact{}
}

func withVersions(s *Solution) []string {
	var list []string
	for _, p := range s.Packages {
		list = append(list, p.Name+"="+p.Version)
	}
	return list
}

func TestStay(t *testing.T) {
	x := archive(t, `
		curl 7 D=libcurl (= 7), libc
		curl 8 D=libcurl (= 8), libc
		libcurl 7 D=libc, ssl
		libcurl 8 D=libc, ssl (>= 3)
		ssl 2 D=libc
		ssl 3 D=libc
		ssl 4 D=libc
		libc 1
		libc 2
		tool 1 D=curl, libc
		tool 2 D=curl, libc
		plugin 1 D=libcurl (= 7)
		plugin 2 D=libcurl (= 8)
		mta 1 V=mail
		other-mta 1 V=mail
		mutt 1 D=other-mta | mail`)
	old := []string{"curl 7", "libcurl 7", "ssl 2", "libc 1", "tool 1", "plugin 1"}
	for name, test := range map[string]struct {
		stay []string
		ask  []string
		want []string
	}{
		"nothing asked anew": {old, []string{"tool", "plugin"}, []string{"curl=7", "libc=1", "libcurl=7", "plugin=1", "ssl=2", "tool=1"}},
		"one anew":           {[]string{"curl 7", "libcurl 7", "ssl 2", "libc 1"}, []string{"tool"}, []string{"curl=7", "libc=1", "libcurl=7", "ssl=2", "tool=2"}},
		"what comes new":     {[]string{"libc 1"}, []string{"tool"}, []string{"curl=8", "libc=1", "libcurl=8", "ssl=4", "tool=2"}},
		"what must move with it": {[]string{"libcurl 7", "ssl 2", "libc 1", "tool 1", "plugin 1"}, []string{"tool", "plugin", "curl"},
			[]string{"curl=8", "libc=1", "libcurl=8", "plugin=2", "ssl=4", "tool=1"}},
		"a version of the request wins": {old, []string{"tool", "ssl=3"}, []string{"curl=7", "libc=1", "libcurl=7", "ssl=3", "tool=1"}},
		"what nobody needs any more":    {old, []string{"libcurl"}, []string{"libc=1", "libcurl=7", "ssl=2"}},
		"a choice that was made":        {[]string{"mta 1"}, []string{"mutt"}, []string{"mta=1", "mutt=1"}},
		"a choice that was not":         {nil, []string{"mutt"}, []string{"mutt=1", "other-mta=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := Request{Arch: "amd64", Variant: VariantNone, Packages: test.ask}
			for _, text := range test.stay {
				var name, version string
				if _, err := fmt.Sscan(text, &name, &version); err != nil {
					t.Fatal(err)
				}
				req.Stay = append(req.Stay, exact(t, x, name, version))
			}
			s, err := Solve(req, []*Index{x})
			if err != nil {
				t.Fatal(err)
			}
			if got := withVersions(s); !slices.Equal(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
}

// What no archive has any more stays, as long as somebody knows what it depends on.
func TestStayGone(t *testing.T) {
	x := archive(t, `
		curl 8 D=libcurl (>= 8)
		libcurl 8
		tool 1 D=curl`)
	gone := archive(t, `
		curl 7 D=libcurl (= 7)
		libcurl 7`)
	gone.Unlisted = true
	for i := range gone.Packages {
		gone.Packages[i].Filename = ""
		gone.Packages[i].SHA256 = fmt.Sprintf("%064x", 100+i)
	}
	req := Request{Arch: "amd64", Variant: VariantNone, Packages: []string{"tool"},
		Stay: []Exact{exact(t, gone, "curl", "7"), exact(t, gone, "libcurl", "7")}}
	s, err := Solve(req, []*Index{x, gone})
	if err != nil {
		t.Fatal(err)
	}
	if got := withVersions(s); !slices.Equal(got, []string{"curl=7", "libcurl=7", "tool=1"}) || s.Packages[0].Index != 1 {
		t.Errorf("got %v", got)
	}
	if s, err = Solve(req, []*Index{x}); err != nil {
		t.Fatal(err)
	}
	if got := withVersions(s); !slices.Equal(got, []string{"curl=8", "libcurl=8", "tool=1"}) {
		t.Errorf("when nobody knows it: %v", got)
	}
	if p, i := Find(req.Stay[0], []*Index{x, gone}); p == nil || i != 1 || p.Version != "7" {
		t.Errorf("Find: %+v %d", p, i)
	}
	if all := Offers("curl", "amd64", []*Index{gone, x}); len(all) != 2 || all[0].Version != "8" {
		t.Errorf("Offers: %+v", all)
	}
}

// A request that cannot be says why, whatever stays.
func TestStayOfNoUse(t *testing.T) {
	x := archive(t, `
		a 1 D=nothing
		b 1`)
	_, err := Solve(Request{Arch: "amd64", Variant: VariantNone, Packages: []string{"a"}, Stay: []Exact{exact(t, x, "b", "1")}}, []*Index{x})
	if err == nil || err.Error() != "The following packages have unmet dependencies:\n a : Depends: nothing but it is not installable" {
		t.Errorf("%v", err)
	}
}
