package config

import (
	"crypto/sha256"
	"os"
)

// FilesDigest returns a digest of the contents of the files that a source names, so that
// a reload notices a file that changed. A file that cannot be read counts as missing: the
// check of the setting that names it reports the error.
func (s Source) FilesDigest() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range []string{s.Descriptors, s.TLS.CA, s.TLS.Cert, s.TLS.Key} {
		var one [sha256.Size]byte
		if name != "" {
			if data, err := os.ReadFile(name); err == nil {
				one = sha256.Sum256(data)
			}
		}
		h.Write(one[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}
