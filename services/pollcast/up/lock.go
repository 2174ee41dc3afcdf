package up

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// lock makes the state directory and locks it for this process: two NATS servers
// that write the same files corrupt the stream. The system frees the lock when
// the process ends, however it ends.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	l := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	switch held, err := l.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	case !held:
		return nil, fmt.Errorf("the state directory %s is in use by another pollcast up: stop that one, "+
			"or give this one a directory of its own with -state", dir)
	}
	return l.Close, nil
}
