package gateway

import (
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// An intake is the follower's Log: it passes the stream's records to the hub. All
// calls come from one goroutine.
type intake struct {
	*hub.Hub
	records []hub.Record // reused
}

// Snapshot implements bus.Log.
func (in *intake) Snapshot(msgs []bus.Message, seq uint64) {
	in.Hub.Snapshot(in.convert(msgs), seq)
	in.records = nil // there may be very many
}

// Append implements bus.Log.
func (in *intake) Append(msgs []bus.Message, seq uint64, late bool) {
	in.Hub.Append(in.convert(msgs), seq, late)
	clear(in.records) // the values belong to the hub
}

func (in *intake) convert(msgs []bus.Message) []hub.Record {
	in.records = in.records[:0]
	for i := range msgs {
		m := &msgs[i]
		in.records = append(in.records, hub.Record{
			Seq: m.Seq, Stored: m.Stored, Event: m.Event, Fresh: m.Fresh, Breaker: m.Breaker,
		})
	}
	return in.records
}
