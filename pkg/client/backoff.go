package client

import (
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// maxHint bounds the time that a gateway can make a client wait.
	maxHint = 5 * time.Minute
	// overloadAttempt is the least attempt after a gateway has reported that it
	// is overloaded.
	overloadAttempt = 3
	// stable is how long a connection must have lived to count as a success.
	// Otherwise a gateway that accepts and closes would be dialled at full speed.
	stable = 5 * time.Second
)

// backoff returns how long to wait before an attempt (0 is the first). It is a
// random part, at least a tenth, of a time that doubles from 0.5 s to 30 s. The
// spread is wide so that the clients of a dead gateway do not reconnect at the
// same time.
func backoff(attempt int) time.Duration {
	d := maxBackoff
	if attempt < 6 {
		d = firstBackoff << max(attempt, 0)
	}
	return d/10 + rand.N(d*9/10)
}
