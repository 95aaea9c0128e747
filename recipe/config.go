package recipe

import (
	"path"
	"regexp"
	"strconv"
	"strings"

	"bakefarm/recipe/strict"
)

func readConfig(v strict.Value) (c Config) {
	f, ok := v.Fields("{entrypoint: [/opt/app/server]}",
		"entrypoint", "cmd", "env", "user", "workingDir", "ports", "volumes", "labels", "stopSignal")
	if !ok {
		return c
	}
	if v, ok := f.Get("entrypoint"); ok {
		c.Entrypoint = readCommand(v)
	}
	if v, ok := f.Get("cmd"); ok {
		c.Cmd = readCommand(v)
	}
	if v, ok := f.Get("env"); ok {
		c.Env = readTextMap(v, `{PORT: "8080"}`, func(name string) string {
			if strings.ContainsAny(name, "= ") || hasControl(name) {
				return "is no name of an environment variable: it has =, a space or a control character"
			}
			return ""
		})
	}
	if v, ok := f.Get("user"); ok {
		c.User = readUser(v)
	}
	if v, ok := f.Get("workingDir"); ok {
		if s, ok := readAbsolute(v, "/opt/app"); ok {
			c.WorkingDir = path.Clean(s)
		}
	}
	if v, ok := f.Get("ports"); ok {
		c.Ports = readPorts(v)
	}
	if v, ok := f.Get("volumes"); ok {
		c.Volumes = readVolumes(v)
	}
	if v, ok := f.Get("labels"); ok {
		c.Labels = readTextMap(v, `{org.example.team: shop}`, func(key string) string {
			if hasControl(key) {
				return "is no label: it has a control character"
			}
			return ""
		})
	}
	if v, ok := f.Get("stopSignal"); ok {
		c.StopSignal = readSignal(v)
	}
	return c
}

// readCommand reads an exec-form command; a shell's words are the shell's to split.
func readCommand(v strict.Value) []string {
	const example = `["/opt/app/server", "--verbose"]`
	if v.IsText() && !v.Refused() {
		v.Refuse(`is text, and no shell would split it; write a list: ["/bin/sh", "-c", …] or %s`, example)
		return nil
	}
	words, at, _ := v.Texts(example)
	if len(words) > 0 && words[0] == "" {
		at[0].Refuse("is empty, but stands where the program is named; write its path")
	}
	if len(words) == 0 {
		return nil
	}
	return words
}

// readTextMap reads names and values, these as they are written: PORT: 8080 is "8080", and 1.10 stays 1.10.
func readTextMap(v strict.Value, example string, bad func(key string) string) map[string]string {
	f, ok := v.Mapping(example)
	if !ok || len(f.Entries) == 0 {
		return nil
	}
	m := make(map[string]string, len(f.Entries))
	for _, e := range f.Entries {
		why := bad(e.Key)
		if e.Key == "" {
			why = "is an empty name"
		}
		if why != "" {
			e.RefuseKey("%q %s; write %s", clip(e.Key), why, example)
		}
		if s, ok := e.Value.Literally(`"" for an empty value`); ok {
			m[e.Key] = s
		}
	}
	return m
}

var userForm = regexp.MustCompile(`^(?:[0-9]{1,10}|[a-z_][a-z0-9_.-]{0,31}\$?)(?::(?:[0-9]{1,10}|[a-z_][a-z0-9_.-]{0,31}\$?))?$`)

func readUser(v strict.Value) string {
	s, ok := v.TextOrInteger(`"1000"`)
	if ok && !userForm.MatchString(s) {
		v.Refuse("%q is no user; write a name or number, with or without a group: \"1000:1000\"", clip(s))
	}
	return s
}

func readPorts(v strict.Value) []string {
	const example = "[8080, 53/udp]"
	values, _ := v.Items(example)
	var ports []string
	for _, v := range values {
		s, ok := v.TextOrInteger(example)
		if !ok {
			continue
		}
		number, protocol, named := strings.Cut(s, "/")
		if !named {
			protocol = "tcp"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		switch {
		case err != nil || n == 0 || strconv.FormatUint(n, 10) != number:
			v.Refuse("%q is no port; write a number from 1 to 65535, as in %s", clip(s), example)
		case protocol != "tcp" && protocol != "udp" && protocol != "sctp":
			v.Refuse("%q names no protocol that images can have; write %s/tcp, %s/udp or %s/sctp", clip(s), number, number, number)
		default:
			ports = append(ports, number+"/"+protocol)
		}
	}
	return sortedSet(ports)
}

func readVolumes(v strict.Value) []string {
	values, _ := v.Items("[/var/lib/app]")
	var volumes []string
	for _, v := range values {
		if s, ok := readAbsolute(v, "/var/lib/app"); ok {
			if path.Clean(s) == "/" {
				v.Refuse("is the whole image; name a directory in it, such as /var/lib/app")
			}
			volumes = append(volumes, path.Clean(s))
		}
	}
	return sortedSet(volumes)
}

// signals are those of signal(7) on Linux; the real-time ones are counted from SIGRTMIN or SIGRTMAX.
var (
	signals = strings.Fields(`SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
		SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM
		SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS`)
	realTime = regexp.MustCompile(`^SIGRT(?:MIN(?:\+(?:[1-9]|[12][0-9]|30))?|MAX(?:-(?:[1-9]|[12][0-9]|30))?)$`)
)

func readSignal(v strict.Value) string {
	s, ok := v.TextOrInteger("SIGTERM")
	if !ok || realTime.MatchString(s) {
		return s
	}
	for _, known := range signals {
		if s == known {
			return s
		}
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= 64 && strconv.FormatUint(n, 10) == s {
		return s
	}
	advice := "write a name such as SIGTERM, or a number from 1 to 64"
	if near := strict.Nearest("SIG"+strings.TrimPrefix(strings.ToUpper(s), "SIG"), signals); near != "" {
		advice = "did you mean " + near + "?"
	}
	v.Refuse("%q is no signal; %s", clip(s), advice)
	return ""
}
