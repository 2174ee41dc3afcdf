package config

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Auth holds the credentials of a source: bearer, basic or none.
type Auth struct {
	Bearer config.Secret `yaml:"bearer" doc:"token, sent as Authorization: Bearer; write ${NAME} to take it from the environment"`
	Basic  Basic         `yaml:"basic" doc:"user name and password, sent as Authorization: Basic"`
}

// Basic is HTTP's basic authentication (RFC 7617).
type Basic struct {
	Username string        `yaml:"username" doc:"user name; it holds no colon"`
	Password config.Secret `yaml:"password" doc:"password; write ${NAME} to take it from the environment"`
}

// TLS names the authorities that a source trusts, and its client certificate. The files
// are read again when they change.
type TLS struct {
	CA         string `yaml:"ca" doc:"PEM file of the authorities to trust, instead of the system's"`
	Cert       string `yaml:"cert" doc:"PEM file of the client certificate, for upstreams that want one"`
	Key        string `yaml:"key" doc:"PEM file of its key, not encrypted"`
	ServerName string `yaml:"serverName" doc:"name the upstream's certificate must have, if not the host of its URL"`
}

// Files returns the settings as package source takes them.
func (t TLS) Files() source.CertificateFiles {
	return source.CertificateFiles{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
}

func (a Auth) check(headers map[string]config.Secret, report func(path, problem, fix string)) {
	bearer, basic := !a.Bearer.IsZero(), a.Basic.Username != "" || !a.Basic.Password.IsZero()
	if bearer && basic {
		report("auth", "bearer and basic both say who asks", "keep one of them")
	}
	for name := range headers {
		if (bearer || basic) && http.CanonicalHeaderKey(name) == "Authorization" {
			report("auth", "headers has "+name+" as well", "keep one of them")
		}
	}
	if problem, _ := headerProblem("Authorization", a.Bearer.Reveal()); problem != "" {
		report("auth.bearer", problem, "remove it; look at the end of the token")
	}
	switch {
	case basic && a.Basic.Username == "":
		report("auth.basic.username", "it is missing", "write whose password this is")
	case strings.ContainsFunc(a.Basic.Username, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f }):
		report("auth.basic.username", "it holds a colon or a control character", "write the name alone")
	}
}

// header returns the value of the header Authorization; "" for none.
func (a Auth) header() string {
	switch {
	case !a.Bearer.IsZero():
		return "Bearer " + a.Bearer.Reveal()
	case a.Basic.Username != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Basic.Username+":"+a.Basic.Password.Reveal()))
	}
	return ""
}

// check reports mistakes. It reads the files.
func (t TLS) check(encrypted bool, report func(path, problem, fix string)) {
	if t == (TLS{}) {
		return
	}
	if !encrypted {
		report("tls", "no upstream of the source is asked over TLS", "write https:// in upstreams (driver grpc: grpcs://), or remove it")
	}
	if strings.ContainsAny(t.ServerName, ":/ ") {
		report("tls.serverName", "it is no host name", "write the name alone, without scheme and port")
	}
	t.Files().Check(func(key, problem, fix string) { report("tls."+key, problem, fix) })
}

// Credentials returns the headers of every request, and the texts among them that no
// error text may hold.
func (s Source) Credentials() (header http.Header, secrets []string) {
	header = http.Header{"User-Agent": {"pollcast"}}
	for k, v := range s.Headers {
		header.Set(k, v.Reveal())
		secrets = append(secrets, v.Reveal())
	}
	if v := s.Auth.header(); v != "" {
		header.Set("Authorization", v)
		secrets = append(secrets, v, s.Auth.Basic.Password.Reveal())
	}
	return header, secrets
}
