package ask

import (
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/source"
)

// contact is an upstream that a round asks, once or several times.
type contact struct {
	up       *Upstream
	permit   breaker.Permit  // of the first call
	ended    bool            // the last call has ended
	failure  *source.Failure // of the last call; nil while it runs, and after a value
	good     bool            // it gave the value
	reported bool            // the circuit has its result
}

// report ends the round for the upstream's circuit. It does nothing the second time. A
// call that was cancelled, because another upstream was faster or the poller stops,
// counts as none.
func (c *contact) report() {
	if c.reported {
		return
	}
	c.reported = true
	circuit := c.up.Circuit
	switch f := c.failure; {
	case c.good:
		circuit.End(c.permit, breaker.Success, false, "")
	case !c.ended, f == nil, f.Again:
		circuit.End(c.permit, breaker.Abandoned, false, "")
	case f.Counts:
		circuit.End(c.permit, breaker.Failure, f.Reason == event.Timeout, f.Detail)
	default:
		// The request is wrong, or the value is too long for NATS, but the upstream
		// answers: for its circuit that is a success.
		circuit.End(c.permit, breaker.Success, false, "")
	}
}
