package poll

import (
	"fmt"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/record"
)

// dropTooLong drops the values that NATS does not take any more: its max_payload
// was lowered after they were read. They would be sent again and again, and no
// freshness record before them. The poll begins anew with what the stream holds.
func (p *Poll) dropTooLong(err error, now time.Time) {
	fits := func(value []byte) bool {
		most := p.Host.Stream().MaxPayload(len(value))
		return most == 0 || int64(len(value)) <= most
	}
	if p.Follow == nil && p.Unstored() && !fits(p.Good.Value) {
		p.Good = record.LastGood{AsOf: p.left}
	}
	for token, k := range p.Keys {
		switch {
		case !k.unstored(p.Always) || fits(k.good.Value):
		case k.held.Version == 0:
			delete(p.Keys, token)
		default:
			k.good = record.LastGood{}
		}
	}
	p.Stored.Synced, p.renew = false, true
	p.markStale(event.BadResponse, fmt.Sprintf("NATS does not take the value: %v", err), now)
	p.retry.Fail(now)
	p.Host.Complain(err)
}
