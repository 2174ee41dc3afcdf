package web

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/pollcast/pollcast/services/poller/source"
)

// certificateDetail returns in an operator's words why the two ends do not trust
// each other; "" if err is about something else.
func certificateDetail(err error) string {
	if c, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return invalidDetail(c, time.Now())
	}
	if h, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the upstream's certificate is for %s, not for %s", owners(h.Certificate), h.Host)
	}
	if u, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if u.Cert == nil {
			return "the upstream's certificate is signed by an unknown authority"
		}
		return fmt.Sprintf("the upstream's certificate is signed by an unknown authority, %q", u.Cert.Issuer.String())
	}
	// An alert has a type that crypto/tls does not export.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return alertDetail(strings.TrimPrefix(op.Err.Error(), "tls: "))
	}
	return ""
}

func invalidDetail(c x509.CertificateInvalidError, now time.Time) string {
	if c.Reason != x509.Expired || c.Cert == nil {
		return "the upstream's certificate is not valid: " + strings.TrimPrefix(c.Error(), "x509: ")
	}
	whose := "the upstream's certificate"
	if c.Cert.IsCA {
		whose = fmt.Sprintf("the certificate of the authority %q", c.Cert.Subject.String())
	}
	if now.Before(c.Cert.NotBefore) {
		return whose + " is not valid before " + date(c.Cert.NotBefore)
	}
	return whose + " expired on " + date(c.Cert.NotAfter)
}

// owners lists the first few names of a certificate.
func owners(c *x509.Certificate) string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no host"
	case len(names) > 3:
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// alertDetail describes the alert by which a server ends a handshake (RFC 8446,
// 6.2). alert is crypto/tls's text for it.
func alertDetail(alert string) string {
	switch {
	case alert == "certificate required":
		return "the upstream wants a client certificate of an authority that it trusts"
	case strings.Contains(alert, "certificate"), alert == "access denied":
		return "the upstream does not accept our certificate (" + alert + ")"
	}
	return "the upstream refuses: " + alert
}

func date(t time.Time) string { return t.UTC().Format(source.DateFormat) }
