package poller

import (
	"cmp"
	"time"

	"github.com/pollcast/pollcast/services/poller/poll"
)

// dropped finds what the stream has dropped. It belongs to one goroutine.
type dropped struct {
	looked, said time.Time
	values       int // stored again and not said
}

// look has the polls store again what lies before the stream's first message.
func (d *dropped) look(p *Poller, first uint64) {
	now := time.Now()
	if now.Sub(d.looked) < cmp.Or(p.lookEvery, poll.DroppedEvery) {
		return
	}
	d.looked = now
	for _, s := range p.list() {
		if !s.Owned() {
			continue
		}
		for _, poll := range s.runner.Load().Polls {
			d.values += poll.StoreAgain(first, now)
		}
	}
	if d.values > 0 && now.Sub(d.said) >= poll.DroppedSaid {
		p.log.Warn("the stream is full and has dropped values that do not change; they are stored again. Raise nats.maxBytes", "values", d.values)
		d.said, d.values = now, 0
	}
}
