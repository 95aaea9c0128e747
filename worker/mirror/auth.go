package mirror

import (
	"errors"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
)

// login is one entry of auth.conf (apt_auth.conf(5)), or the credentials of a source's URI.
type login struct {
	scheme         string // "" means https
	host           string // with port, when the entry has one
	path           string
	user, password string
}

// matches reports whether a login is meant for a URL.
func (l login) matches(u *url.URL) bool {
	scheme := l.scheme
	if scheme == "" {
		scheme = "https"
	}
	return scheme == u.Scheme && (l.host == u.Host || l.host == u.Hostname()) && strings.HasPrefix(u.Path, l.path)
}

// readLogins reads auth.conf and auth.conf.d below root. Files that this user may not read are left out: they are
// usually root's alone, and a mirror that wants them says so with 401.
func readLogins(root string) ([]login, error) {
	parts, err := listParts(filepath.Join(root, "etc/apt/auth.conf.d"), ".conf", "")
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	var logins []login
	for _, name := range append([]string{filepath.Join(root, "etc/apt/auth.conf")}, parts...) {
		raw, err := readConfigFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		logins = append(logins, parseLogins(string(raw))...)
	}
	return logins, nil
}

func parseLogins(text string) []login {
	var logins []login
	var tokens []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			tokens = append(tokens, strings.Fields(line)...)
		}
	}
	for i := 0; i+1 < len(tokens); i++ {
		value := tokens[i+1]
		switch {
		case tokens[i] == "machine":
			l := login{}
			if scheme, rest, ok := strings.Cut(value, "://"); ok {
				l.scheme, value = scheme, rest
			}
			l.host = value
			if slash := strings.IndexByte(value, '/'); slash >= 0 {
				l.host, l.path = value[:slash], value[slash:]
			}
			logins = append(logins, l)
		case len(logins) == 0:
			continue
		case tokens[i] == "login":
			logins[len(logins)-1].user = value
		case tokens[i] == "password":
			logins[len(logins)-1].password = value
		default:
			continue
		}
		i++
	}
	return logins
}

// splitLogin takes the credentials out of a source's URI, so that they appear in no message and no record.
func splitLogin(u *url.URL) (base string, l *login) {
	if u.User != nil {
		password, _ := u.User.Password()
		l = &login{scheme: u.Scheme, host: u.Host, path: u.Path, user: u.User.Username(), password: password}
	}
	clean := *u
	clean.User = nil
	return strings.TrimRight(clean.String(), "/"), l
}

// redact hides credentials in a URI that may not even parse.
func redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	host, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		host = "xxxxx@" + host[at+1:]
	}
	return strings.TrimSuffix(scheme+"://"+host+"/"+path, "/")
}
