package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// TLS is which servers a connection trusts, and which certificate it shows. The
// files are read again for each connection.
type TLS struct {
	CA             string `yaml:"ca" doc:"PEM file of the authorities to trust, instead of the system's"`
	Cert           string `yaml:"cert" doc:"PEM file of the client certificate, for servers that want one"`
	Key            string `yaml:"key" doc:"PEM file of its key, not encrypted"`
	ServerName     string `yaml:"serverName" doc:"name each server's certificate must have, if not the host of its URL"`
	HandshakeFirst bool   `yaml:"handshakeFirst" doc:"the servers begin with the TLS handshake (handshake_first)"`
}

// options are those of a connection. With any setting, the connection is refused
// where the server does not speak TLS.
func (t TLS) options() []nats.Option {
	if t == (TLS{}) {
		return nil
	}
	opts := []nats.Option{secure(t.ServerName)}
	if t.CA != "" {
		opts = append(opts, nats.RootCAs(t.CA))
	}
	if t.Cert != "" {
		opts = append(opts, nats.ClientCert(t.Cert, t.Key))
	}
	if t.HandshakeFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts
}

// secure requires TLS. serverName is the name that a certificate must have; empty
// means the host of the URL.
func secure(serverName string) nats.Option {
	return func(o *nats.Options) error {
		o.Secure = true
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.TLSConfig.ServerName = serverName
		return nil
	}
}

// check reads the files.
func (t TLS) check(urls string, report func(path, problem, fix string)) {
	if t == (TLS{}) {
		return
	}
	if slices.ContainsFunc(strings.Split(urls, ","), func(u string) bool {
		return strings.HasPrefix(strings.TrimSpace(u), "ws:")
	}) {
		report("tls", "a server in url is asked over ws://, which has no TLS", "write wss://, or remove it")
	}
	if strings.ContainsAny(t.ServerName, ":/ ") {
		report("tls.serverName", "it is no host name", "write the name alone, without scheme and port")
	}
	if t.CA != "" {
		if data, err := os.ReadFile(t.CA); err != nil {
			report("tls.ca", fileText(t.CA, err), "name a file of PEM certificates")
		} else if !x509.NewCertPool().AppendCertsFromPEM(data) {
			report("tls.ca", t.CA+": it holds no certificate", "name a file of PEM certificates")
		}
	}
	switch {
	case t.Cert == "" && t.Key == "":
	case t.Key == "":
		report("tls.key", "the key of the certificate is missing", "name the PEM file of the key")
	case t.Cert == "":
		report("tls.cert", "the certificate of the key is missing", "name the PEM file of the certificate")
	default:
		if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
			report("tls.cert", fileText(t.Cert+", "+t.Key, err), "name a PEM certificate and its key, not encrypted")
		}
	}
}

// fileText is an error of a file, which names it once.
func fileText(name string, err error) string {
	if cause, ok := errors.AsType[*os.PathError](err); ok {
		name, err = cause.Path, cause.Err
	}
	return fmt.Sprintf("%s: %v", name, err)
}
