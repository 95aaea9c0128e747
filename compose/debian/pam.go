package debian

import (
	"fmt"
	"strings"
)

// pam does what pam-auth-update does when the only profile is "unix", that of libpam-runtime itself: passwords are
// those of /etc/shadow. Profiles of other packages are combined by the real pam-auth-update alone.
func (s *system) pam() {
	profile, ok := s.texts["usr/share/pam-configs/unix"]
	if !ok {
		return
	}
	for _, f := range []struct{ name, variable, profile, module string }{
		{"account", "account", "Account", "account"},
		{"auth", "auth", "Auth", "auth"},
		{"password", "password", "Password", "password"},
		{"session", "session", "Session", "session"},
		{"session-noninteractive", "session_nonint", "Session", "session"},
	} {
		template, ok := s.texts["usr/share/pam/common-"+f.name]
		if !ok {
			return
		}
		kind, modules := pamModules(string(profile.data), f.profile, f.module)
		primary, additional := modules, ""
		if kind == "Additional" { // the primary block is then one that lets everybody pass
			primary, additional = f.module+"\t[default=1]\t\t\tpam_permit.so\n", modules
		}
		text := strings.Replace(string(template.data), "$"+f.variable+"_primary\n", primary, 1)
		text = strings.Replace(text, "$"+f.variable+"_additional\n", additional, 1)
		s.write("etc/pam.d/common-"+f.name, 0o644, template.date, []byte(text))
	}
}

// pamModules returns the modules that a profile has for a type (Auth, Account, Password, Session) as first of their
// block, as lines of PAM's configuration, and the block that they belong to: Primary or Additional.
func pamModules(profile, kind, module string) (block, modules string) {
	var wanted, have []string // the first module of a block has lines of its own
	var into *[]string
	for line := range strings.Lines(profile) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, " ") {
			if into != nil {
				*into = append(*into, strings.TrimSpace(line))
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		into = nil
		switch name {
		case kind + "-Type":
			block = strings.TrimSpace(value)
		case kind:
			into = &have
		case kind + "-Initial":
			into = &wanted
		}
	}
	if len(wanted) == 0 {
		wanted = have
	}
	for i, w := range wanted {
		control, rest, _ := strings.Cut(w, "\t")
		// "end" is behind the last module, and behind the one that denies.
		control = strings.ReplaceAll(control, "=end", fmt.Sprintf("=%d", len(wanted)-i))
		rest = strings.TrimSpace(rest)
		if !strings.Contains(rest, " ") {
			rest += " " // pam-auth-update leaves the place of the options
		}
		modules += module + "\t" + control + "\t" + rest + "\n"
	}
	return block, modules
}
