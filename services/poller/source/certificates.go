package source

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// CertificateFiles are a source's TLS settings. All may be empty.
type CertificateFiles struct {
	CA         string // PEM; the authorities to trust, instead of the system's
	Cert, Key  string // PEM; the client certificate, for upstreams that ask for one
	ServerName string // the name in the upstream's certificate; empty: the URL's host
}

// maxCertificateFile bounds a file that is read, in bytes.
const maxCertificateFile = 4 << 20

// checkEvery is the shortest time between two checks of the files.
const checkEvery = time.Second

// Certificates are read from files, and again when a file changes, so that a
// certificate is rotated without a restart. All methods may be called from
// several goroutines at once. A nil *Certificates has no settings.
type Certificates struct {
	files  CertificateFiles
	notice func(text string, err error)

	mu      sync.Mutex
	checked time.Time
	seen    [3]version
	current *tls.Config
	changes int // of current, so far
}

var noCertificates = &tls.Config{MinVersion: tls.VersionTLS12}

// version shows whether a file has changed.
type version struct {
	modified time.Time
	size     int64
}

// NewCertificates reads the files. notice, if set, is called when they were read
// again, or with the reason why they cannot be read; it must not block. The error
// names the file. Without any settings NewCertificates returns nil.
func NewCertificates(files CertificateFiles, notice func(text string, err error)) (*Certificates, error) {
	if files == (CertificateFiles{}) {
		return nil, nil
	}
	c := &Certificates{files: files, notice: notice, checked: time.Now(), seen: files.versions()}
	var err error
	files.check(time.Now(), func(key, problem, _ string) {
		err = errors.Join(err, fmt.Errorf("tls.%s: %s", key, problem))
	})
	if err != nil {
		return nil, err
	}
	c.current, err = files.load()
	return c, err
}

// Current returns the settings for a new connection, which the caller must not
// change, and a number that grows with every change of the files.
func (c *Certificates) Current() (settings *tls.Config, changes int) {
	if c == nil {
		return noCertificates, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= checkEvery {
		c.checked = now
		c.reload()
	}
	return c.current, c.changes
}

// reload reads the files if they changed. Files that cannot be used change
// nothing, for example a certificate whose key is not written yet.
func (c *Certificates) reload() {
	seen := c.files.versions()
	if seen == c.seen {
		return
	}
	c.seen = seen
	settings, err := c.files.load()
	text := "certificate files changed; the old ones stay in use"
	if err == nil {
		text = "certificate files changed and are in use"
		c.current = settings
		c.changes++
	}
	if c.notice != nil {
		c.notice(text, err)
	}
}

func (f CertificateFiles) versions() (all [3]version) {
	for i, name := range []string{f.CA, f.Cert, f.Key} {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			all[i] = version{info.ModTime(), info.Size()}
		}
	}
	return all
}

// load returns the settings that the files hold.
func (f CertificateFiles) load() (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		all, err := readCertificates(f.CA)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = x509.NewCertPool()
		for _, cert := range all {
			settings.RootCAs.AddCert(cert)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %s", f.Cert, f.Key, fileProblem(err))
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

// Check reports the mistakes in the files, by the keys of the source's tls.
func (f CertificateFiles) Check(report func(key, problem, fix string)) { f.check(time.Now(), report) }

func (f CertificateFiles) check(now time.Time, report func(key, problem, fix string)) {
	if f.CA != "" {
		all, err := readCertificates(f.CA)
		switch problem := validity(all, now); {
		case err != nil:
			report("ca", err.Error(), "name a file of PEM certificates")
		case problem != "":
			report("ca", f.CA+": "+problem, "put the authority's present certificate there")
		}
	}
	switch {
	case f.Cert == "" && f.Key == "":
		return
	case f.Cert == "":
		report("cert", "a key stands without its certificate", "name the certificate's file")
		return
	case f.Key == "":
		report("key", "a certificate stands without its key", "name the key's file")
		return
	}
	all, err := readCertificates(f.Cert)
	switch {
	case err != nil:
		report("cert", err.Error(), "name a file of PEM certificates, our own first")
	case validity(all[:1], now) != "":
		report("cert", f.Cert+": "+validity(all[:1], now), "put a certificate there that is valid now")
	}
	bad := err != nil
	if problem := keyProblem(f.Key); problem != "" {
		report("key", problem, "name the PEM file of the certificate's key, not encrypted")
		bad = true
	}
	if !bad {
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			report("key", f.Key+": it is not the key of "+f.Cert, "name the certificate and the key that belong together")
		}
	}
}

// readCertificates reads a PEM file of one certificate or more.
func readCertificates(name string) ([]*x509.Certificate, error) {
	data, err := ReadFile(name, maxCertificateFile)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: it holds a broken certificate", name)
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: it holds no PEM certificate", name)
	}
	return all, nil
}

// validity returns why none of the certificates is valid now, or "".
func validity(all []*x509.Certificate, now time.Time) string {
	problem := ""
	for _, cert := range all {
		switch {
		case now.After(cert.NotAfter):
			problem = "the certificate expired on " + date(cert.NotAfter)
		case now.Before(cert.NotBefore):
			problem = "the certificate is not valid before " + date(cert.NotBefore)
		default:
			return ""
		}
	}
	return problem
}

func keyProblem(name string) string {
	data, err := ReadFile(name, maxCertificateFile)
	if err != nil {
		return err.Error()
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			return name + ": the key is encrypted"
		case bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")):
			return ""
		}
	}
	return name + ": it holds no PEM key"
}

// DateFormat is how messages write the dates of certificates, which are in UTC.
const DateFormat = "2006-01-02 15:04 UTC"

func date(t time.Time) string { return t.UTC().Format(DateFormat) }
