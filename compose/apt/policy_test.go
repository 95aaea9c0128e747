package apt

import (
	"strings"
	"testing"
)

// TestPolicy: three archives have the same package; preferences say which one counts (apt_preferences(5)).
func TestPolicy(t *testing.T) {
	archives := []Archive{
		{Origin: "Debian", Label: "Debian", Suite: "stable", Codename: "bookworm", Version: "12.15", Component: "main", Arch: "amd64", Site: "mirror.example"},
		{Origin: "Debian Backports", Suite: "stable-backports", Codename: "bookworm-backports", Component: "main", Arch: "amd64",
			Site: "mirror.example", NotAutomatic: true, ButAutomaticUpgrades: true},
		{Origin: "Team", Suite: "team", Component: "extra", Arch: "amd64", Site: "team.example"},
	}
	indexes := []*Index{archive(t, "a 1 D=b\nb 1"), archive(t, "a 3\nb 3"), archive(t, "b 2\nonly 1")}
	for name, test := range map[string]struct {
		pins []Pin
		ask  string
		want string
	}{
		"highest version, backports not by themselves": {nil, "a", "a 1, b 2"},
		"by version from backports":                    {nil, "a=3", "a 3"},
		"a release":                                    {[]Pin{{"*", "release o=Team", "400"}}, "a", "a 1, b 1"},
		"a release by suite":                           {[]Pin{{"*", "release team", "400"}}, "a", "a 1, b 1"},
		"a release by codename":                        {[]Pin{{"*", "release bookworm-backports", "600"}}, "a", "a 3"},
		"a release by version":                         {[]Pin{{"*", "release 12*", "600"}}, "a", "a 1, b 1"},
		"a release by several":                         {[]Pin{{"*", "release o=Debian,l=Other", "600"}, {"*", "release n=bookworm, c=main, b=amd64", "550"}}, "a", "a 1, b 1"},
		"an origin":                                    {[]Pin{{"*", `origin "mirror.example"`, "600"}}, "a", "a 3"},
		"an origin by pattern":                         {[]Pin{{"*", "origin *.example", "-1"}, {"b", "origin /^TEAM/", "100"}}, "b", "b 2"},
		"a package":                                    {[]Pin{{"b", "release o=Debian", "990"}}, "a", "a 1, b 1"},
		"packages by glob":                             {[]Pin{{"x? [bc]", "version 1", "1000"}}, "a", "a 1, b 1"},
		"packages by expression":                       {[]Pin{{"/^[B]$/", "version 3*", "501"}}, "a", "a 1, b 3"},
		"the first pin counts":                         {[]Pin{{"b", "version 3", "100"}, {"b", "version *", "700"}}, "b", "b 2"},
		"a package before all":                         {[]Pin{{"*", "release *", "100"}, {"b", "version 1", "200"}}, "b", "b 1"},
		"never":                                        {[]Pin{{"*", "release o=Team", "never"}}, "a", "a 1, b 1"},
		"never, but for one":                           {[]Pin{{"*", "release o=Team", "never"}, {"b", "version 2", "900"}}, "b", "b 1"},
		"kept out":                                     {[]Pin{{"only", "version *", "-1"}}, "only", "Package 'only' has no installation candidate: preferences keep"},
		"kept out with its archive":                    {[]Pin{{"*", "origin team.example", "-1"}}, "only", "Package 'only' has no installation candidate: preferences keep"},
		"kept out, but named by version":               {[]Pin{{"*", "origin team.example", "-1"}}, "only=1", "only 1"},
		"no priority":                                  {[]Pin{{"*", "release *", "0"}}, "a", `Pin-Priority "0" of Package *`},
		"no type":                                      {[]Pin{{"*", "version 1", "1"}}, "a", "use release, origin or version"},
		"no expression":                                {[]Pin{{"/(/", "version 1", "1"}}, "a", "missing closing )"},
		"by source":                                    {[]Pin{{"src:a", "version 1", "1"}}, "a", "pins by source package are not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			req := Request{Arch: "amd64", Variant: VariantNone, Packages: strings.Fields(test.ask), Archives: archives, Pins: test.pins}
			s, err := Solve(req, indexes)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = strings.Join(names(s), ", ")
			}
			if err == nil && got != test.want || err != nil && !strings.Contains(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
