package config

import (
	"crypto/sha256"
	"os"
)

// filesDigest is of the contents of the files that a source names, so that a
// reload notices one that has changed under its name. A file that cannot be
// read is one that is empty: whoever needs it says so.
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
