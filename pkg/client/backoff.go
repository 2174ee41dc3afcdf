package client

import (
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// maxHint bounds how long a gateway can tell a client to wait.
	maxHint = 5 * time.Minute
	// overloadAttempt is the attempt that a client goes on with when the gateway
	// says that it is overloaded.
	overloadAttempt = 3
	// stable is how long a connection must have lived to count as a success.
	// Otherwise a gateway that accepts and closes would be asked at full speed.
	stable = 5 * time.Second
)

// backoff returns how long to wait before the attempt (0 is the first): a
// random part, but a tenth at least, of a time that doubles from 0.5 s to 30 s. The
// spread is wide so that the clients of a dead gateway do not come back at once.
func backoff(attempt int) time.Duration {
	d := maxBackoff
	if attempt < 6 {
		d = firstBackoff << max(attempt, 0)
	}
	return d/10 + rand.N(d*9/10)
}
