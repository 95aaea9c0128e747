package recipe

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe/strict"
)

// DefaultPlatform is the platform of an output that names none.
const DefaultPlatform = "linux/amd64"

// Platforms are those that this release bakes for.
var Platforms = []string{"linux/amd64", "linux/arm64"}

// MaxRecipe is the size limit of a recipe's text, --set values included, in bytes.
const MaxRecipe = 1 << 20

// language is what messages say about recipes.
var language = strict.Language{
	Noun: "recipe", Plural: "recipes", Max: MaxRecipe, Advice: "keep data in the context directory",
	Begin: "a recipe that begins with apiVersion: " + APIVersion, Example: "config.env.PORT=9090",
}

// Parse reads a recipe. file is its name for messages; each of set is a --set flag, "path=value", applied in order
// before anything is checked. The error is of type Errors and has everything that is wrong.
//
// The parser knows the whole language, and refuses by name what this release can't bake yet.
func Parse(file string, data []byte, set ...string) (*Recipe, error) {
	doc, err := strict.Parse(language, file, data)
	if err != nil {
		return nil, err
	}
	if err := doc.Set(set...); err != nil {
		return nil, err
	}
	recipe := readRecipe(doc.Root())
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return recipe, nil
}

// later refuses a part of the language that this release can't do.
func later(v strict.Value, instead string) {
	v.Refuse("is not in this release of bakefarm yet; %s", instead)
}

func readRecipe(v strict.Value) *Recipe {
	f, ok := v.Fields("apiVersion: "+APIVersion+" and so on",
		"apiVersion", "name", "os", "app", "steps", "config", "outputs", "tests", "publish", "requires")
	if !ok {
		return nil
	}
	recipe := &Recipe{}
	if v, ok := f.Need("apiVersion", "apiVersion: "+APIVersion); ok {
		if s, ok := v.Text(APIVersion); ok && s != APIVersion {
			v.Refuse("is %q; this release reads %s", clip(s), APIVersion)
		}
		recipe.APIVersion = APIVersion
	}
	if v, ok := f.Need("name", "name: team/app"); ok {
		if s, ok := v.Text("team/app"); ok {
			if err := farm.ValidateName(s); err != nil {
				v.Refuse("%s", strings.TrimPrefix(err.Error(), "name "))
			} else {
				recipe.Name = s
			}
		}
	}
	if v, ok := f.Get("app"); ok {
		recipe.App = readApp(v)
	}
	if v, ok := f.Need("os", "os: {debian: {suite: bookworm}}, or os: {scratch: true}"); ok {
		recipe.OS = readOS(v, recipe.Name)
		at := slices.IndexFunc(recipe.App, func(item AppItem) bool { return item.Package != "" })
		if at >= 0 && recipe.OS.Scratch {
			v.Refuse("is no system that app[%d] could be installed in; write os: {debian: …}", at)
		}
		if at >= 0 && recipe.OS.Base != nil && recipe.OS.Debian == nil {
			recipe.OS.Debian = &Debian{Variant: VariantBase, Scripts: "run"}
		}
		if app, has := f.Get("app"); recipe.OS.Scratch && (!has || app.IsEmptyList()) {
			v.Refuse("scratch without app is an image without a file; add app: [{copy: ./dist, to: /opt/app}]")
		}
	}
	if v, ok := f.Get("steps"); ok {
		later(v, "leave it out, and do the work before the bake or in the app's entrypoint")
	}
	if v, ok := f.Get("config"); ok {
		recipe.Config = readConfig(v)
	}
	recipe.Outputs = []Output{{OCI: &OCIOutput{Platforms: []string{DefaultPlatform}}}}
	if v, ok := f.Get("outputs"); ok {
		recipe.Outputs = readOutputs(v, recipe)
	}
	if v, ok := f.Get("tests"); ok {
		recipe.Tests = readTests(v, recipe.Outputs)
	}
	if v, ok := f.Get("publish"); ok {
		recipe.Publish = readPublish(v, recipe.Name)
	}
	if v, ok := f.Get("requires"); ok {
		recipe.Requires = readRequires(v)
	}
	return recipe
}

// readRequires reads labels of workers.
func readRequires(v strict.Value) []string {
	labels, at, _ := v.Texts("[gpu, region=eu]")
	if len(labels) > farm.MaxRequires {
		v.Refuse("has %d labels; write at most %d", len(labels), farm.MaxRequires)
		return nil
	}
	for i, l := range labels {
		if err := farm.CheckLabel(l); err != nil {
			at[i].Refuse("%s", err)
		}
	}
	slices.Sort(labels)
	return slices.Compact(labels)
}

// kinds of OS, one of which a recipe has.
var osKinds = []string{"debian", "image", "recipe", "tar", "scratch"}

func readOS(v strict.Value, name string) (os OS) {
	f, ok := v.Fields("debian: {suite: bookworm}, or scratch: true", osKinds...)
	if !ok {
		return os
	}
	var named []string
	for _, e := range f.Entries {
		if slices.Contains(osKinds, e.Key) {
			named = append(named, e.Key)
		}
	}
	switch {
	case len(f.Entries) == 0:
		v.Refuse("names no system; write one of %s", strings.Join(osKinds, ", "))
	case len(named) > 1:
		v.Refuse("names %s; write exactly one of %s", strings.Join(named, " and "), strings.Join(osKinds, ", "))
	}
	if v, ok := f.Get("debian"); ok {
		os.Debian = readDebian(v)
	}
	if v, ok := f.Get("scratch"); ok {
		switch {
		case v.Refused():
		case v.IsEmptyMapping():
			os.Scratch = true
		case v.IsTrue():
			os.Scratch = true
		default:
			v.Refuse("is %s; write scratch: true, or name another system", v.Describe())
		}
	}
	for _, key := range []string{"image", "recipe", "tar"} {
		if v, ok := f.Get(key); ok {
			os.Base, os.Debian = readBase(key, v, name)
		}
	}
	return os
}

var (
	debianSuite   = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)
	debianPackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)           // Debian Policy 5.6.1
	debianVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~*?-]{0,127}$`) // Debian Policy 5.6.12, and patterns as for apt-get
)

func readDebian(v strict.Value) *Debian {
	f, ok := v.Fields("{suite: bookworm}", "suite", "variant", "packages", "scripts", "exclude", "mirror", "keyring", "checkValidUntil")
	if !ok {
		return nil
	}
	d := &Debian{Variant: "minbase", Scripts: "run"}
	if v, ok := f.Need("suite", "suite: bookworm"); ok {
		d.Suite = readSuite(v)
	}
	variant, hasVariant := f.Get("variant")
	if hasVariant {
		if s, ok := variant.Text("minbase or none"); ok {
			if s != "minbase" && s != "none" {
				variant.Refuse("%q is no variant; write minbase (the default), or none for only the named packages and what they depend on", clip(s))
			}
			d.Variant = s
		}
	}
	if v, ok := f.Get("packages"); ok {
		d.Packages = readPackages(v)
		if d.Variant == "none" && v.IsEmptyList() {
			v.Refuse("is empty, and variant none brings no package of its own; name one, or write variant: minbase")
		}
	} else if d.Variant == "none" {
		variant.Refuse("none brings no package of its own; name some with packages, or write minbase")
	}
	readAdded(f, d)
	return d
}

func readSuite(v strict.Value) string {
	s, ok := v.Text("bookworm")
	if ok && !debianSuite.MatchString(s) {
		v.Refuse("%q is no suite: lower-case letters, digits, . and -; write suite: bookworm", clip(s))
	}
	return s
}

// readAdded reads how packages are installed and where they come from; over a base, also which.
func readAdded(f strict.Fields, d *Debian) {
	if v, ok := f.Get("packages"); ok && d.Variant == VariantBase {
		d.Packages = readPackages(v)
	}
	if v, ok := f.Get("scripts"); ok {
		if s, ok := v.Text("run or skip"); ok {
			if s != "run" && s != "skip" {
				v.Refuse("%q is neither run (the default) nor skip, which lays the packages' files and runs no maintainer script", clip(s))
			}
			d.Scripts = s
		}
	}
	if v, ok := f.Get("exclude"); ok {
		d.Exclude = readExcludes(v)
	}
	if v, ok := f.Get("mirror"); ok {
		d.Mirror = readMirror(v)
	}
	if v, ok := f.Get("keyring"); ok {
		if s, ok := readAbsolute(v, "/usr/share/keyrings/team.gpg"); ok {
			d.Keyring = s
		}
		if _, ok := f.Get("mirror"); !ok {
			v.Refuse("stands without mirror, whose signatures it is for; write both, or leave both to the worker's apt sources")
		}
	}
	if v, ok := f.Get("checkValidUntil"); ok {
		switch {
		case v.IsTrue():
		case !v.IsFalse():
			v.Refuse("is %s; write checkValidUntil: false for a mirror that keeps an old state, or leave it out", v.Describe())
		case d.Mirror == "":
			v.Refuse("stands without mirror; for the worker's apt sources, Check-Valid-Until: no stands there")
		default:
			d.Mirror = "[check-valid-until=no] " + d.Mirror
		}
	}
}

// readPackages reads names and name=version. Their order is kept: which of two alternatives is taken may depend on it.
func readPackages(v strict.Value) []string {
	names, at, _ := v.Texts("[ca-certificates, tzdata]")
	versions := map[string]string{}
	var kept []string
	for i, text := range names {
		name, version, pinned := strings.Cut(text, "=")
		bare, arch, qualified := strings.Cut(name, ":")
		switch {
		case qualified && debianPackage.MatchString(bare):
			at[i].Refuse("%q asks for architecture %s; every package is of the output's platform: write %s", clip(text), clip(arch), clip(bare))
		case !debianPackage.MatchString(name):
			at[i].Refuse("%q is no Debian package name: two or more lower-case letters, digits, +, - and .", clip(text))
		case pinned && !debianVersion.MatchString(version):
			at[i].Refuse("%q asks for no Debian version: letters, digits, . + - : ~, and * for any text; write %s, or %s=1.2-3", clip(text), clip(name), clip(name))
		case pinned && versions[name] != "" && versions[name] != version:
			at[i].Refuse("%q asks for another version than %s=%s does; write one of them", clip(text), clip(name), clip(versions[name]))
		case !slices.Contains(kept, text):
			kept = append(kept, text)
		}
		if pinned {
			versions[name] = version
		}
	}
	return kept
}

// readMirror reads a mirror, or a list of several, into one text with spaces between them.
func readMirror(v strict.Value) string {
	if v.IsText() {
		return readMirrorURL(v)
	}
	items, _ := v.Items("a mirror's URL, or [http://one.example/debian, http://two.example/debian]")
	if v.IsEmptyList() {
		v.Refuse("is empty; write a mirror's URL, or leave it out for the worker's apt sources")
	}
	var all []string
	for _, v := range items {
		all = append(all, readMirrorURL(v))
	}
	return strings.Join(all, " ")
}

func readMirrorURL(v strict.Value) string {
	s, ok := v.Text("the mirror's URL")
	if !ok {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, !slices.Contains([]string{"http", "https", "file"}, schemeOf(u)),
		u.Scheme != "file" && u.Host == "", strings.ContainsAny(s, " \t\n"), u.RawQuery != "", u.Fragment != "":
		v.Refuse("%q is no mirror; write a URL such as http://mirror.example/debian, https or file", clip(s))
	case u.User != nil:
		v.Refuse("has a user or password in it, and recipes are for everybody's eyes; put them into auth.conf.d on the workers")
	}
	return s
}

func schemeOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Scheme
}

func readApp(v strict.Value) []AppItem {
	values, _ := v.Items("[{copy: ./dist, to: /opt/app}]")
	items := make([]AppItem, 0, len(values))
	for _, v := range values {
		f, ok := v.Fields("{copy: ./dist, to: /opt/app}", "copy", "to", "owner", "mode", "package")
		if !ok {
			continue
		}
		if _, ok := f.Get("package"); ok {
			items = append(items, readPackage(f))
			continue
		}
		items = append(items, readCopy(f))
	}
	return items
}

func readPackage(f strict.Fields) (item AppItem) {
	for _, e := range f.Entries {
		if slices.Contains([]string{"copy", "to", "owner", "mode"}, e.Key) {
			e.RefuseKey("stands beside package, which says itself where its files go; make them two items of the list")
		}
	}
	if v, ok := f.Need("package", "package: ./app_1.0_amd64.deb"); ok {
		if s, ok := v.Text("./app_1.0_amd64.deb"); ok {
			why := badRelative(s)
			if why == "" && !strings.HasSuffix(s, ".deb") {
				why = "is no .deb"
			}
			if why != "" {
				v.Refuse("%q %s; write the path of a .deb inside the context directory, such as ./app_1.0_amd64.deb, or name a package of the mirror with os.debian.packages", clip(s), why)
			}
			item.Package = path.Clean(s)
		}
	}
	return item
}

func readCopy(f strict.Fields) (item AppItem) {
	if v, ok := f.Need("copy", "copy: ./dist"); ok {
		if s, ok := v.Text("./dist"); ok {
			if why := badRelative(s); why != "" {
				v.Refuse("%q %s; write a path inside the context directory, such as ./dist", clip(s), why)
			}
			item.Copy = path.Clean(s)
		}
	}
	if v, ok := f.Need("to", "to: /opt/app"); ok {
		if s, ok := readAbsolute(v, "/opt/app, with a / at the end for a directory that the source goes into"); ok {
			item.To, item.ToDir = path.Clean(s), strings.HasSuffix(s, "/")
		}
	}
	if v, ok := f.Get("owner"); ok {
		if s, ok := v.Text(`"1000:1000"`); ok {
			uid, gid, both := strings.Cut(s, ":")
			var badUID, badGID error
			item.UID, badUID = parseID(uid)
			item.GID, badGID = parseID(gid)
			if !both || badUID != nil || badGID != nil {
				v.Refuse("%q is no owner; write the numbers of user and group: \"1000:1000\"", clip(s))
			}
		}
	}
	if v, ok := f.Get("mode"); ok {
		// As text: 755 without a leading zero means octal too, whatever number YAML sees in it.
		if s, ok := v.TextOrInteger(`"0755"`); ok {
			mode, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
			if err != nil || mode > 0o777 || len(s) < 3 || s[0] == '+' {
				v.Refuse("%q is no file mode; write octal permission bits, \"0644\" to \"0777\", without setuid, setgid and sticky", clip(s))
			} else {
				bits := uint32(mode)
				item.Mode = &bits
			}
		}
	}
	return item
}

// MaxID is the largest user and group number: above it the kernel's and tar's signed numbers begin to differ.
const MaxID = 1<<31 - 1

func parseID(s string) (int, error) {
	id, err := strconv.ParseUint(s, 10, 31)
	return int(id), err
}

// badRelative says what keeps s from being a path below the context directory, or "".
func badRelative(s string) string {
	switch {
	case s == "":
		return "is empty"
	case strings.HasPrefix(s, "/"):
		return "is absolute"
	case slices.Contains(strings.Split(s, "/"), ".."):
		return "has .. in it"
	}
	return badPath(s)
}

// readAbsolute reads a path of the image or of a worker, as written.
func readAbsolute(v strict.Value, example string) (string, bool) {
	s, ok := v.Text(example)
	if !ok {
		return "", false
	}
	why := badPath(s)
	switch {
	case !strings.HasPrefix(s, "/"):
		why = "is not absolute"
	case slices.Contains(strings.Split(s, "/"), ".."):
		why = "has .. in it"
	}
	if why != "" {
		v.Refuse("%q %s; write a path such as %s", clip(s), why, example)
		return "", false
	}
	return s, true
}

func badPath(s string) string {
	switch {
	case len(s) > MaxPath:
		return fmt.Sprintf("is longer than %d bytes", MaxPath)
	case hasControl(s):
		return "has a control character in it"
	}
	return ""
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func sortedSet(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}
