package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// options are apt.conf's settings by lower-case name: "acquire::http::proxy".
type options map[string]string

// readOptions asks apt-config for the settings below root. A machine without apt has none.
func readOptions(ctx context.Context, root string) (options, error) {
	program, err := exec.LookPath("apt-config")
	if err != nil {
		return options{}, nil
	}
	cmd := exec.CommandContext(ctx, program, "dump")
	if root != "/" {
		// Dir has to be known before the files are read, and -o comes after.
		dir, err := os.MkdirTemp("", "bakefarm-apt-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		name := filepath.Join(dir, "apt.conf")
		if err := os.WriteFile(name, []byte("Dir "+strconv.Quote(root)+";\n"), 0o600); err != nil {
			return nil, err
		}
		cmd.Env = append(os.Environ(), "APT_CONFIG="+name)
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	return parseOptions(string(out)), nil
}

// parseOptions reads lines such as: Acquire::http::Proxy "http://proxy:3128";
func parseOptions(text string) options {
	o := options{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ";"), " ")
		if unquoted, err := strconv.Unquote(value); ok && err == nil {
			o[strings.ToLower(name)] = unquoted
		}
	}
	return o
}

// checkValidUntil is what apt.conf says, for sources that say nothing.
func (o options) checkValidUntil() bool {
	value, ok := o["acquire::check-valid-until"]
	return !ok || value == "" || isTrue(value)
}

// proxy finds the proxy for a request: apt's for the host, apt's for the scheme, the environment's.
func (o options) proxy(req *http.Request) (*url.URL, error) {
	schemes := []string{req.URL.Scheme}
	if req.URL.Scheme == "https" {
		schemes = append(schemes, "http") // apt uses http's proxy where https has none
	}
	for _, scheme := range schemes {
		key := "acquire::" + scheme + "::proxy"
		for _, name := range []string{key + "::" + strings.ToLower(req.URL.Hostname()), key} {
			switch value := o[name]; {
			case value == "":
			case strings.EqualFold(value, "direct"), value == "false":
				return nil, nil
			default:
				u, err := url.Parse(value)
				if err != nil || u.Host == "" {
					return nil, fmt.Errorf("apt.conf: %s: %.100q is no proxy such as http://proxy.example:3128", name, redact(value))
				}
				return u, nil
			}
		}
	}
	return http.ProxyFromEnvironment(req)
}

// tlsOptions are the options of apt-transport-https(1) that are honoured, in general and for single hosts.
var tlsOptions = []string{"cainfo", "sslcert", "sslkey", "verify-peer", "verify-host"}

// tlsOption finds what is set for a host, else in general. apt reads host-specific options as it documents them
// (Acquire::https::CAInfo::host) and as it names them inside (Acquire::https::host::CAInfo).
func (o options) tlsOption(name, host string) string {
	const key = "acquire::https::"
	if host != "" {
		for _, full := range []string{key + name + "::" + host, key + host + "::" + name} {
			if value := o[full]; value != "" {
				return value
			}
		}
	}
	return o[key+name]
}

// tlsHosts lists the hosts that have options of their own, sorted.
func (o options) tlsHosts() []string {
	var hosts []string
	for full := range o {
		rest, ok := strings.CutPrefix(full, "acquire::https::")
		first, second, two := strings.Cut(rest, "::")
		switch {
		case !ok || !two:
		case slices.Contains(tlsOptions, first):
			hosts = append(hosts, second)
		case slices.Contains(tlsOptions, second):
			hosts = append(hosts, first)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// tlsConfig trusts the system's authorities, or only those of CAInfo, and shows the client certificate SslCert, for a host
// or (host "") for all that have no options of their own.
func (o options) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, name := range []string{"verify-peer", "verify-host"} {
		if value := o.tlsOption(name, host); value != "" && !isTrue(value) {
			// The administrator's word, as for apt. What comes is still verified by signatures and digests.
			config.InsecureSkipVerify = true
		}
	}
	if name := o.tlsOption("cainfo", host); name != "" {
		raw, err := readConfigFile(name)
		if err != nil {
			return nil, fmt.Errorf("apt.conf: Acquire::https::CaInfo: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("apt.conf: Acquire::https::CaInfo: %s has no PEM certificates", name)
		}
	}
	if cert := o.tlsOption("sslcert", host); cert != "" {
		key := o.tlsOption("sslkey", host)
		if key == "" {
			key = cert
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("apt.conf: Acquire::https::SslCert and SslKey: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
