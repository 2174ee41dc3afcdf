package e2e

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// wantOneHistory reads everything that was ever published. Whichever poller
// published it, each topic's versions grow by one, each value was asked for later
// than the one before, and no message of an older lease holder follows one of a
// newer.
func (f *fleet) wantOneHistory() {
	nc := f.stack.nats.connect("poller")
	js, err := nc.JetStream()
	if err != nil {
		f.Fatal(err)
	}
	info, err := js.StreamInfo("POLLCAST")
	if err != nil {
		f.Fatal(err)
	}
	version, fence, asOf := map[string]uint64{}, map[string]uint64{}, map[string]time.Time{}
	ids := map[string]bool{}
	events := 0
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := js.GetMsg("POLLCAST", seq, nats.DirectGet())
		if err != nil {
			f.Fatalf("message %d: %v", seq, err)
		}
		number := func(name string) uint64 {
			n, err := strconv.ParseUint(m.Header.Get(name), 10, 64)
			if err != nil {
				f.Errorf("message %d: header %s: %v", seq, name, err)
			}
			return n
		}
		topic := strings.TrimPrefix(m.Subject, "pollcast.in.")
		if id := m.Header.Get("ce-id"); ids[id] {
			f.Errorf("message %d: id %s was there already", seq, id)
		} else {
			ids[id] = true
		}
		poll := strings.TrimSuffix(topic, "._fresh")
		if n := number("ce-fence"); n < fence[poll] {
			f.Errorf("message %d: %s of fence %d after one of fence %d", seq, topic, n, fence[poll])
		} else {
			fence[poll] = n
		}
		if m.Header.Get("ce-type") != "pollcast.event.v1" {
			continue
		}
		events++
		if v := number("ce-version"); v != version[topic]+1 {
			f.Errorf("message %d: %s has version %d after %d", seq, topic, v, version[topic])
		} else {
			version[topic] = v
		}
		at, err := time.Parse(time.RFC3339Nano, m.Header.Get("ce-asof"))
		if err != nil || !at.After(asOf[topic]) {
			f.Errorf("message %d: %s as of %v after %v: %v", seq, topic, at, asOf[topic], err)
		}
		asOf[topic] = at
	}
	for _, v := range append(append([]*service{f.hostrpc}, f.pollers...), f.gateways...) {
		if strings.Contains(strings.ToLower(v.logs()), "permissions violation") {
			f.Errorf("deploy/config/nats.conf does not let the %s do its work:\n%s", v.command.name, tail(v.logs(), 30))
		}
	}
	if owners := fence[busy]; events < 8 || owners < 3 {
		f.Errorf("%d events, the last of fence %d: the test did not test much", events, owners)
	}
}
