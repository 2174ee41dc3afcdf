package poller

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/throttle"
)

const (
	// droppedEvery is the time between two checks of what the stream has dropped.
	droppedEvery = 10 * time.Second
	// droppedLogEvery is the shortest time between two log lines about that.
	droppedLogEvery = 5 * time.Minute
)

// droppedValues has values stored again that a full stream has dropped. It belongs to
// one goroutine.
type droppedValues struct {
	sources func() []*supervisor
	every   time.Duration // between two checks; 0: droppedEvery
	log     *slog.Logger

	checkedAt time.Time
	values    int // stored again since the last log line
	line      throttle.Gate
}

// check has the polls store again those values that lie before the first message of
// the stream.
func (d *droppedValues) check(stream bus.StreamState) {
	now := time.Now()
	if now.Sub(d.checkedAt) < cmp.Or(d.every, droppedEvery) {
		return
	}
	d.checkedAt = now
	for _, s := range d.sources() {
		if !s.Owned() {
			continue
		}
		for _, p := range s.runner.Load().Polls {
			d.values += p.StoreAgain(stream.FirstSeq, now)
		}
	}
	if d.values > 0 && d.line.Pass(now, droppedLogEvery) > 0 {
		d.log.Warn("the stream is full and has dropped values that do not change; they are stored again. "+
			"Raise nats.maxBytes", "values", d.values)
		d.values = 0
	}
}
