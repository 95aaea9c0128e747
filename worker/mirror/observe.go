package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"bakefarm/compose/apt"
	"bakefarm/plan"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Observation is what the mirrors of a suite have.
type Observation struct {
	Indexes []Index    // in the order of the sources, their URIs and components
	Pins    []plan.Pin // of the machine's preferences, when its own sources were asked
	Notes   []string   // what was left out and why, for people
}

// Index is one verified Packages file.
type Index struct {
	plan.Index
	Data []byte // the file as the mirror compresses it
}

const (
	maxIndex = 256 << 20 // bytes of a compressed Packages file; Debian's main has 12 MB
	parallel = 8         // requests of one observation at a time
)

// endings are the compressions of Packages files that are taken, best first. Decoding Debian's main takes 0.3 s from gz,
// 0.7 s with the xz program and 1.6 s with xz in Go, each time that it is solved against; fetching gz costs 3.3 MB more,
// once per change of the archive. A mirror lists the plain file, and often does not have it.
var endings = []string{".gz", ".xz", ""}

// archive is a suite at one or more bases that serve the same Release.
type archive struct {
	source  Source
	bases   []string
	release *apt.Release
	digest  digest.Digest
	signer  string
}

// target is a suite of a source with its keys.
type target struct {
	source   Source
	keys     openpgp.EntityList
	optional bool // a mirror that does not have it is no error
}

// Observe asks the mirrors of a suite (and of its updates and security updates) what they have for a Debian
// architecture, verifies it and returns it.
//
// With mirror empty the machine's apt sources say where. Otherwise mirror is one base URI or several separated by spaces,
// of which component main is taken: at least one must have the suite, and suite-updates and suite-security are taken
// where they exist; those with the same path stand in for each other, and one of them must be there and right. Credentials
// for it come from auth.conf. Options as in a one-line entry may come first: [check-valid-until=no]. keyring is the path of a keyring; empty: the source's Signed-By or apt's trusted keys.
//
// It is idempotent, and asks only for what changed since the last time when Options.Cache is set.
func (c *Client) Observe(ctx context.Context, suite, arch, mirror, keyring string) (*Observation, error) {
	targets, err := c.targets(suite, arch, mirror, keyring)
	if err != nil {
		return nil, err
	}
	var pins []plan.Pin
	if mirror == "" {
		if pins, err = readPins(c.opts.Root, c.conf); err != nil {
			return nil, err
		}
	}
	o, err := c.observe(ctx, targets, suite, arch, false)
	var mismatch *MismatchError
	if errors.As(err, &mismatch) || notFound(err) {
		// The archive may have moved on between its Release and its Packages, or a proxy may hold an old one of them.
		if again, againErr := c.observe(ctx, targets, suite, arch, true); againErr == nil {
			o, err = again, nil
		}
	}
	if err != nil {
		return nil, err
	}
	o.Pins = pins
	return o, nil
}

// targets finds the sources of a suite and reads their keys.
func (c *Client) targets(suite, arch, mirror, keyring string) ([]target, error) {
	var sources []Source
	if mirror != "" {
		all, named := &Sources{}, named
		if options, rest, ok := strings.Cut(strings.TrimPrefix(mirror, "["), "]"); ok && strings.HasPrefix(mirror, "[") {
			named.setAll(options)
			mirror = rest
		}
		if err := all.add(named, strings.Fields(mirror), suitesOf(suite)); err != nil {
			return nil, err
		}
		if len(all.logins) > 0 {
			return nil, fmt.Errorf("mirror %s: credentials in the URI would end in records, and other workers would not have them: put them in /etc/apt/auth.conf.d of every worker",
				all.All[0].URIs[0])
		}
		for _, s := range all.All {
			for _, s := range s.byPath() {
				if snapshot.MatchString(s.URIs[0]) {
					s.CheckValidUntil = new(bool) // who asks for a day that is past gets it
				}
				sources = append(sources, s)
			}
		}
	} else {
		all, err := ReadSources(c.opts.Root)
		if err != nil {
			return nil, err
		}
		c.sources.Store(&all.logins)
		if sources, err = all.For(suite, arch); err != nil {
			return nil, err
		}
	}
	var targets []target
	for _, s := range sources {
		t := target{source: s, optional: mirror != ""}
		var err error
		switch {
		case keyring != "":
			t.keys, err = readKeyring(keyring)
		case !s.Trusted:
			t.keys, err = keysFor(c.opts.Root, s)
		}
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// named is the source of a mirror that is named beside the machine's own: what the machine lets pass for its own does not
// hold for it.
var named = Source{From: "mirror", Components: []string{"main"}, CheckValidUntil: func() *bool { yes := true; return &yes }()}

// snapshot is in the path of an archive as it was at a time.
var snapshot = regexp.MustCompile(`/[0-9]{8}T[0-9]{6}Z(/|\s|$)`)

func (c *Client) observe(ctx context.Context, targets []target, suite, arch string, fresh bool) (*Observation, error) {
	o := &Observation{}
	archives, err := c.archives(ctx, o, targets, fresh)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(archives, func(a archive) bool { return a.source.Suite == suite }) {
		return nil, fmt.Errorf("no mirror has suite %s: %s", suite, strings.Join(o.Notes, "; "))
	}
	archives = beside(o, archives)
	seen := map[string]bool{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	var found []*Index
	for _, a := range archives {
		names, err := a.indexNames(o, arch)
		if err != nil && a.source.Extra {
			o.Notes = append(o.Notes, err.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		for component, list := range names {
			for _, name := range list {
				if key := a.bases[0] + " " + a.source.Suite + " " + name; seen[key] {
					continue
				} else {
					seen[key] = true
				}
				x := &Index{Index: plan.Index{
					Base: a.bases[0], Also: a.bases[1:], Suite: a.source.Suite, Codename: a.release.Codename, Component: a.component(component),
					Release: a.digest, SignedBy: a.signer, Name: name,
					Packages: a.release.Files[name].SHA256, Size: a.release.Files[name].Size,
					Origin: a.release.Origin, Label: a.release.Label, Archive: a.release.Suite, Version: a.release.Version,
					NotAutomatic: a.release.NotAutomatic, ButAutomaticUpgrades: a.release.ButAutomaticUpgrades,
				}}
				found = append(found, x)
				group.Go(func() (err error) {
					x.Data, err = c.packages(gctx, a, x.Index)
					return err
				})
			}
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, x := range found {
		o.Indexes = append(o.Indexes, *x)
	}
	for _, note := range o.Notes {
		c.opts.Log.InfoContext(ctx, note, "suite", suite, "arch", arch)
	}
	return o, nil
}

// beside keeps of the extra archives those that are repositories beside the suite: made by somebody else, and not for
// another release of the suite's own maker that the machine has sources of.
func beside(o *Observation, archives []archive) []archive {
	var makers, releases []string
	for _, a := range archives {
		if !a.source.Extra && a.release.Origin != "" {
			makers = append(makers, a.release.Origin)
		}
	}
	for _, a := range archives {
		if a.source.Extra && slices.Contains(makers, a.release.Origin) {
			releases = append(releases, suiteHead(a.source.Suite), suiteHead(a.release.Suite), suiteHead(a.release.Codename))
		}
	}
	return slices.DeleteFunc(archives, func(a archive) bool {
		other := a.source.Extra && !a.source.flat() && slices.Contains(releases, suiteHead(a.source.Suite))
		if other {
			o.Notes = append(o.Notes, fmt.Sprintf("%s: suite %s is another release's and left out", a.source.From, a.source.Suite))
		}
		return other
	})
}

// component is the i-th component, or none in a flat repository.
func (a archive) component(i int) string {
	if a.source.flat() {
		return ""
	}
	return a.source.Components[i]
}

// archives asks for every target's Release and puts together the bases that serve the same one.
func (c *Client) archives(ctx context.Context, o *Observation, targets []target, fresh bool) ([]archive, error) {
	type result struct {
		archive
		err error
	}
	results := make([][]result, len(targets))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, t := range targets {
		results[i] = make([]result, len(t.source.URIs))
		for j, base := range t.source.URIs {
			group.Go(func() error {
				a, err := c.release(ctx, t, base, fresh)
				results[i][j] = result{a, err}
				return nil
			})
		}
	}
	_ = group.Wait() // the errors are in the results: which of them count depends on the others
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var archives []archive
	for i, t := range targets {
		answered := slices.ContainsFunc(results[i], func(r result) bool { return r.err == nil })
		// standIn reports whether another base of the j-th one's path is there and has said what there is.
		standIn := func(j int) bool {
			for k, r := range results[i] {
				if k != j && (r.err == nil || t.optional && notFound(r.err)) && pathOf(t.source.URIs[k]) == pathOf(t.source.URIs[j]) {
					return true
				}
			}
			return false
		}
		first := len(archives)
		for j, r := range results[i] {
			if r.err != nil {
				var e *Error
				its := errors.As(r.err, &e) // the mirror's own, not this machine's
				unreachable := its && (e.Temporary || e.Status != 0)
				if !(t.optional && notFound(r.err)) && !(answered && unreachable) && !(its && standIn(j)) {
					if t.source.Extra {
						return nil, fmt.Errorf("%w (of %s; write Enabled: no there when images shall do without it)", r.err, t.source.From)
					}
					return nil, r.err
				}
				if !(t.optional && answered && notFound(r.err)) {
					o.Notes = append(o.Notes, r.err.Error())
				}
				continue
			}
			if t.source.Trusted {
				o.Notes = append(o.Notes, fmt.Sprintf("%s says Trusted: yes, so the signature of %s was not checked", t.source.From, r.bases[0]))
			}
			same := slices.IndexFunc(archives[first:], func(a archive) bool { return a.digest == r.digest })
			if same >= 0 {
				archives[first+same].bases = append(archives[first+same].bases, r.bases...)
				continue
			}
			archives = append(archives, r.archive)
		}
	}
	return archives, nil
}

// release gets and verifies a Release: InRelease, or where there is none Release with Release.gpg beside it.
func (c *Client) release(ctx context.Context, t target, base string, fresh bool) (archive, error) {
	address := suiteURL(base, t.source.Suite, "InRelease")
	got, cached, err := c.ask(ctx, address, fresh)
	var signature []byte
	if notFound(err) {
		address = suiteURL(base, t.source.Suite, "Release")
		got, cached, err = c.ask(ctx, address, fresh)
		if err == nil && !t.source.Trusted {
			signature, err = c.signature(ctx, base, t.source.Suite)
		}
	}
	if err != nil {
		if notFound(err) {
			return archive{}, &Error{URL: redact(address), Status: http.StatusNotFound,
				Err: fmt.Errorf("404 Not Found: the mirror has no suite %s, or none with InRelease or with Release and Release.gpg", t.source.Suite)}
		}
		return archive{}, err
	}
	a, err := c.verify(t, base, got.Body, signature)
	if err != nil && (cached || signature != nil) { // what we kept is to blame, perhaps, or it changed between two questions
		if got, _, err = c.ask(ctx, address, true); err == nil && signature != nil {
			signature, err = c.signature(ctx, base, t.source.Suite)
		}
		if err == nil {
			a, err = c.verify(t, base, got.Body, signature)
		}
	}
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			return archive{}, err
		}
		return archive{}, &Error{URL: redact(address), Err: err}
	}
	if err := c.cache.keepRelease(got); err != nil {
		return archive{}, fmt.Errorf("mirror cache: %w", err)
	}
	return a, nil
}

// signature gets the detached signature of a Release.
func (c *Client) signature(ctx context.Context, base, suite string) ([]byte, error) {
	got, _, err := c.ask(ctx, suiteURL(base, suite, "Release.gpg"), true)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, got.Body...), nil
}

// verify checks the text of a Release against the target's keys, its dates and its name. Without a signature of its own
// the text carries it.
func (c *Client) verify(t target, base string, raw, signature []byte) (archive, error) {
	a := archive{source: t.source, bases: []string{base}, digest: digest.FromBytes(raw)}
	check := c.conf.checkValidUntil()
	if t.source.CheckValidUntil != nil {
		check = *t.source.CheckValidUntil
	}
	var err error
	switch {
	case t.source.Trusted:
		if text, ok := apt.SignedText(raw); ok {
			raw = text
		}
		if a.release, err = apt.ParseRelease(raw); err == nil && check {
			err = a.release.CheckValid(c.opts.Now())
		}
	case signature != nil:
		a.release, a.signer, err = apt.VerifyDetached(raw, signature, t.keys, c.opts.Now(), check)
	default:
		a.release, a.signer, err = apt.VerifyRelease(raw, t.keys, c.opts.Now(), check)
	}
	if err != nil {
		return a, err
	}
	if t.source.flat() {
		return a, nil // its name is a path
	}
	names := []string{a.release.Suite, a.release.Codename}
	wanted := strings.TrimSuffix(t.source.Suite, "/updates")
	if !slices.Contains(names, wanted) && !slices.Contains(names, t.source.Suite) && names[0]+names[1] != "" {
		return a, fmt.Errorf("it is the Release of suite %s (codename %s), not of %s", names[0], names[1], t.source.Suite)
	}
	return a, nil
}

// indexNames lists, for each of the source's components, the Packages files to take.
func (a archive) indexNames(o *Observation, arch string) ([][]string, error) {
	r := a.release
	address := suiteURL(a.bases[0], a.source.Suite, "")
	if a.source.flat() {
		for _, ending := range endings {
			if f, ok := r.Files["Packages"+ending]; ok && f.Size <= maxIndex {
				return [][]string{{"Packages" + ending}}, nil
			}
		}
		return nil, fmt.Errorf("mirror %s: its Release lists no Packages file", address)
	}
	if len(r.Architectures) > 0 && !slices.Contains(r.Architectures, arch) {
		return nil, fmt.Errorf("mirror %s: its Release has no architecture %s, only %s", address, arch, strings.Join(r.Architectures, ", "))
	}
	names := make([][]string, len(a.source.Components))
	for i, component := range a.source.Components {
		arches := []string{arch}
		if !r.AllInEach {
			arches = append(arches, "all")
		}
		for _, arch := range arches {
			plain := component + "/binary-" + arch + "/Packages"
			for _, ending := range endings {
				f, ok := r.Files[plain+ending]
				if !ok {
					continue
				}
				if f.Size > maxIndex {
					return nil, fmt.Errorf("mirror %s: its Release says that %s has %d bytes: more than %d", address, plain+ending, f.Size, maxIndex)
				}
				names[i] = append(names[i], plain+ending)
				break
			}
		}
		if len(names[i]) == 0 {
			o.Notes = append(o.Notes, fmt.Sprintf("mirror %s: its Release lists no Packages file of component %s for %s", address, component, arch))
		}
	}
	if !slices.ContainsFunc(names, func(list []string) bool { return len(list) > 0 }) {
		return nil, fmt.Errorf("mirror %s: its Release lists no Packages file of %s for %s", address, strings.Join(a.source.Components, ", "), arch)
	}
	return names, nil
}

// packages gets a Packages file, by hash where the archive offers that, from any base that serves this Release.
func (c *Client) packages(ctx context.Context, a archive, x plan.Index) ([]byte, error) {
	key := suiteURL(x.Base, x.Suite, strings.TrimSuffix(strings.TrimSuffix(x.Name, ".gz"), ".xz"))
	if raw := c.cache.index(key, x.Packages); raw != nil {
		return raw, nil
	}
	var urls []string
	for _, base := range a.bases {
		if byHash := a.source.ByHash; byHash == "force" || a.release.ByHash && (byHash == "" || isTrue(byHash)) {
			dir := x.Name[:strings.LastIndexByte(x.Name, '/')+1]
			urls = append(urls, suiteURL(base, x.Suite, dir+"by-hash/SHA256/"+x.Packages.Encoded()))
		}
		urls = append(urls, suiteURL(base, x.Suite, x.Name))
	}
	raw, err := c.readFirst(ctx, urls, x.Size, x.Packages, "the signed Release")
	if err != nil {
		return nil, err
	}
	if err := c.cache.keepIndex(key, raw); err != nil {
		return nil, fmt.Errorf("mirror cache: %w", err)
	}
	return raw, nil
}

// ask gets a Release file, or learns that the one that we keep is still the one. fresh asks past all caches.
func (c *Client) ask(ctx context.Context, address string, fresh bool) (a *answer, cached bool, err error) {
	header := http.Header{"Cache-Control": {"max-age=0"}}
	kept := c.cache.release(address)
	switch {
	case fresh:
		header.Set("Cache-Control", "no-cache")
	case kept != nil:
		if kept.ETag != "" {
			header.Set("If-None-Match", kept.ETag)
		}
		if kept.LastModified != "" {
			header.Set("If-Modified-Since", kept.LastModified)
		}
	}
	for n := 1; ; n++ {
		if pauseErr := c.pause(ctx, n, err); pauseErr != nil {
			return nil, false, pauseErr
		}
		if a, cached, err = c.askOnce(ctx, address, header, kept); err == nil {
			return a, cached, nil
		}
		var e *Error
		if !errors.As(err, &e) || !e.Temporary || n >= c.attempts(err) || ctx.Err() != nil {
			return nil, false, err
		}
	}
}

func (c *Client) askOnce(ctx context.Context, address string, header http.Header, kept *answer) (a *answer, cached bool, err error) {
	resp, err := c.open(ctx, address, header)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close() // read to its end, or failed
	if resp.StatusCode == http.StatusNotModified {
		if kept == nil {
			return nil, false, &Error{URL: redact(address), Err: errors.New("304 Not Modified, though nothing is kept")}
		}
		return kept, true, nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, apt.MaxRelease+1))
	switch {
	case err != nil:
		return nil, false, &Error{URL: redact(address), Temporary: true, Err: err}
	case len(raw) > apt.MaxRelease:
		return nil, false, &Error{URL: redact(address), Err: fmt.Errorf("it has more than %d bytes", apt.MaxRelease)}
	}
	return &answer{URL: address, ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified"), Body: raw}, false, nil
}

// suiteURL is the address of a file of a suite.
func suiteURL(base, suite, name string) string {
	if strings.HasSuffix(suite, "/") { // flat: a directory below the base
		return base + (&url.URL{Path: path.Clean("/" + suite + "/" + name)}).EscapedPath()
	}
	return base + "/" + (&url.URL{Path: "dists/" + suite + "/" + name}).EscapedPath()
}
