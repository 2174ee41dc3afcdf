package source_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

func TestCertificateFiles(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	cert, key := authority.Now("client").Files()
	_, otherKey := authority.Now("client").Files()
	day := 24 * time.Hour
	oldCert, oldKey := authority.Issue(time.Now().Add(-2*day), time.Now().Add(-day), "client").Files()
	newCert, newKey := authority.Issue(time.Now().Add(day), time.Now().Add(2*day), "client").Files()
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	text := file("text", "hello")
	broken := file("broken", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n")
	locked := file("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n")
	for _, tt := range []struct {
		files source.CertificateFiles
		want  string // "" for good
	}{
		{source.CertificateFiles{}, ""},
		{source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key, ServerName: "x"}, ""},
		{source.CertificateFiles{CA: filepath.Join(dir, "none")}, "ca: " + dir + "/none: there is no such file"},
		{source.CertificateFiles{CA: dir}, "ca: " + dir + ": it is a directory"},
		{source.CertificateFiles{CA: text}, "ca: " + text + ": it holds no PEM certificate"},
		{source.CertificateFiles{CA: broken}, "it holds a broken certificate"},
		{source.CertificateFiles{CA: oldCert}, "ca: " + oldCert + ": the certificate expired on 20"},
		{source.CertificateFiles{Cert: cert}, "key: a certificate stands without its key"},
		{source.CertificateFiles{Key: key}, "cert: a key stands without its certificate"},
		{source.CertificateFiles{Cert: key, Key: cert}, "it holds no PEM certificate"},
		{source.CertificateFiles{Cert: cert, Key: cert}, "key: " + cert + ": it holds no PEM key"},
		{source.CertificateFiles{Cert: cert, Key: text}, "it holds no PEM key"},
		{source.CertificateFiles{Cert: cert, Key: locked}, "the key is encrypted"},
		{source.CertificateFiles{Cert: cert, Key: dir + "/none"}, "key: " + dir + "/none: there is no such file"},
		{source.CertificateFiles{Cert: cert, Key: otherKey}, "it is not the key of " + cert},
		{source.CertificateFiles{Cert: oldCert, Key: oldKey}, "cert: " + oldCert + ": the certificate expired on 20"},
		{source.CertificateFiles{Cert: newCert, Key: newKey}, "the certificate is not valid before 20"},
	} {
		have := ""
		tt.files.Check(func(key, problem, fix string) {
			if fix == "" {
				t.Errorf("%s: no fix", key)
			}
			have += key + ": " + problem
		})
		if (tt.want == "") != (have == "") || !strings.Contains(have, tt.want) {
			t.Errorf("%+v:\nhave %s\nwant %s", tt.files, have, tt.want)
		}
		if _, err := source.NewCertificates(tt.files, nil); (err == nil) != (tt.want == "") {
			t.Errorf("%+v: NewCertificates returns %v", tt.files, err)
		}
	}
}
