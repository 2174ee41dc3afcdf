package bus

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// ErrTooOld means that the NATS server lacks what Pollcast needs: a direct get of
// many subjects at once and messages with a TTL (ADR-31 and ADR-43, NATS 2.11),
// atomic batches and messages at a time (ADR-50 and ADR-51, NATS 2.12).
var ErrTooOld = errors.New("it is too old, 2.12 or later is needed")

// recent returns an error that wraps ErrTooOld if the server to which the
// connection leads now is too old.
func recent(nc *nats.Conn) error {
	version := nc.ConnectedServerVersion() // empty while there is no connection
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 {
		return nil
	}
	if major > 2 || major == 2 && minor >= 12 {
		return nil
	}
	return fmt.Errorf("the server is NATS %s: %w", version, ErrTooOld)
}
