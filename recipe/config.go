package recipe

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

func readConfig(v value) (c Config) {
	f, ok := v.fields("{entrypoint: [/opt/app/server]}",
		"entrypoint", "cmd", "env", "user", "workingDir", "ports", "volumes", "labels", "stopSignal")
	if !ok {
		return c
	}
	if v, ok := f.get("entrypoint"); ok {
		c.Entrypoint = readCommand(v)
	}
	if v, ok := f.get("cmd"); ok {
		c.Cmd = readCommand(v)
	}
	if v, ok := f.get("env"); ok {
		c.Env = readTextMap(v, `{PORT: "8080"}`, func(name string) string {
			if strings.ContainsAny(name, "= ") || hasControl(name) {
				return "is no name of an environment variable: it has =, a space or a control character"
			}
			return ""
		})
	}
	if v, ok := f.get("user"); ok {
		c.User = readUser(v)
	}
	if v, ok := f.get("workingDir"); ok {
		if s, ok := readAbsolute(v, "/opt/app"); ok {
			c.WorkingDir = path.Clean(s)
		}
	}
	if v, ok := f.get("ports"); ok {
		c.Ports = readPorts(v)
	}
	if v, ok := f.get("volumes"); ok {
		c.Volumes = readVolumes(v)
	}
	if v, ok := f.get("labels"); ok {
		c.Labels = readTextMap(v, `{org.example.team: shop}`, func(key string) string {
			if hasControl(key) {
				return "is no label: it has a control character"
			}
			return ""
		})
	}
	if v, ok := f.get("stopSignal"); ok {
		c.StopSignal = readSignal(v)
	}
	return c
}

// readCommand reads an exec-form command; a shell's words are the shell's to split.
func readCommand(v value) []string {
	const example = `["/opt/app/server", "--verbose"]`
	if v.node.Tag == "!!str" && !v.reader.refused[v.node] {
		v.refuse(`is text, and no shell would split it; write a list: ["/bin/sh", "-c", …] or %s`, example)
		return nil
	}
	words, at, _ := v.texts(example)
	if len(words) > 0 && words[0] == "" {
		at[0].refuse("is empty, but stands where the program is named; write its path")
	}
	if len(words) == 0 {
		return nil
	}
	return words
}

// readTextMap reads names and values, these as they are written: PORT: 8080 is "8080", and 1.10 stays 1.10.
func readTextMap(v value, example string, bad func(key string) string) map[string]string {
	f, ok := v.mapping(example)
	if !ok || len(f.entries) == 0 {
		return nil
	}
	m := make(map[string]string, len(f.entries))
	for _, e := range f.entries {
		why := bad(e.key)
		if e.key == "" {
			why = "is an empty name"
		}
		if why != "" {
			v.reader.refuse(e.at, v.path, "%q %s; write %s", clip(e.key), why, example)
		}
		if s, ok := e.value.literally(`"" for an empty value`); ok {
			m[e.key] = s
		}
	}
	return m
}

var userForm = regexp.MustCompile(`^(?:[0-9]{1,10}|[a-z_][a-z0-9_.-]{0,31}\$?)(?::(?:[0-9]{1,10}|[a-z_][a-z0-9_.-]{0,31}\$?))?$`)

func readUser(v value) string {
	s, ok := v.scalar(`"1000"`, "!!str", "!!int")
	if ok && !userForm.MatchString(s) {
		v.refuse("%q is no user; write a name or number, with or without a group: \"1000:1000\"", clip(s))
	}
	return s
}

func readPorts(v value) []string {
	const example = "[8080, 53/udp]"
	values, _ := v.items(example)
	var ports []string
	for _, v := range values {
		s, ok := v.scalar(example, "!!str", "!!int")
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
			v.refuse("%q is no port; write a number from 1 to 65535, as in %s", clip(s), example)
		case protocol != "tcp" && protocol != "udp" && protocol != "sctp":
			v.refuse("%q names no protocol that images can have; write %s/tcp, %s/udp or %s/sctp", clip(s), number, number, number)
		default:
			ports = append(ports, number+"/"+protocol)
		}
	}
	return sortedSet(ports)
}

func readVolumes(v value) []string {
	values, _ := v.items("[/var/lib/app]")
	var volumes []string
	for _, v := range values {
		if s, ok := readAbsolute(v, "/var/lib/app"); ok {
			if path.Clean(s) == "/" {
				v.refuse("is the whole image; name a directory in it, such as /var/lib/app")
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

func readSignal(v value) string {
	s, ok := v.scalar("SIGTERM", "!!str", "!!int")
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
	if near := nearest("SIG"+strings.TrimPrefix(strings.ToUpper(s), "SIG"), signals); near != "" {
		advice = "did you mean " + near + "?"
	}
	v.refuse("%q is no signal; %s", clip(s), advice)
	return ""
}
