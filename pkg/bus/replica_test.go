package bus_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// A replica answers direct gets in place of the server, like a replica that lags:
// it holds the messages up to the position at, and nothing in its answer shows
// that there are more (NATS ADR-31).
type replica struct {
	t        *testing.T
	js       jetstream.JetStream
	at       atomic.Uint64
	requests atomic.Int64
}

func newReplica(t *testing.T, nc *nats.Conn, js jetstream.JetStream) *replica {
	t.Helper()
	s, err := js.Stream(t.Context(), names(t).Stream())
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.AllowDirect = false
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, js: js}
	sub, err := nc.Subscribe("$JS.API.DIRECT.GET."+names(t).Stream(), r.answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() }) // closed with its connection otherwise
	return r
}

// answer answers next_by_subj and multi_last for the filter that matches all.
func (r *replica) answer(req *nats.Msg) {
	r.requests.Add(1)
	var ask struct {
		Seq   uint64
		Multi []string `json:"multi_last"`
	}
	if err := json.Unmarshal(req.Data, &ask); err != nil {
		r.t.Error(err)
		return
	}
	s, err := r.js.Stream(r.t.Context(), names(r.t).Stream())
	if err != nil {
		return // the test has ended
	}
	say := func(m *nats.Msg) {
		if err := req.RespondMsg(m); err != nil {
			r.t.Error(err)
		}
	}
	at, sent := r.at.Load(), 0
	last := map[string]*nats.Msg{}
	for seq := max(1, ask.Seq); seq <= at; seq++ {
		raw, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			continue // deleted
		}
		m := nats.NewMsg("")
		m.Header, m.Data = raw.Header, raw.Data
		m.Header.Set("Nats-Subject", raw.Subject)
		m.Header.Set("Nats-Sequence", strconv.FormatUint(raw.Sequence, 10))
		m.Header.Set("Nats-Time-Stamp", raw.Time.Format(time.RFC3339Nano))
		if sent++; ask.Multi == nil {
			say(m)
		}
		last[raw.Subject] = m
	}
	end := nats.NewMsg("")
	end.Header.Set("Status", "204")
	end.Header.Set("Nats-Num-Pending", "0")
	switch {
	case sent == 0:
		end.Header.Set("Status", "404")
	case ask.Multi != nil:
		for _, m := range last {
			say(m)
		}
		end.Header.Set("Nats-UpTo-Sequence", strconv.FormatUint(at, 10))
	}
	say(end)
}

// A replica that lags behind the leader answers a snapshot. The messages that it
// lacks must not be missing.
func TestSnapshotOfALaggingReplica(t *testing.T) {
	s := bustest.Start(t)
	nc, js, _ := s.JetStream()
	for i := range 5 {
		publish(t, js, "a.b", i+1)
		publish(t, js, fmt.Sprintf("a.c%d", i), 1)
	}
	r := newReplica(t, nc, js)
	r.at.Store(6)
	rec := follow(t, s.Config())
	eventually(t, "a replica was asked", func() bool { return r.requests.Load() > 2 })
	rec.mu.Lock()
	if len(rec.epochs) > 0 {
		t.Errorf("a snapshot at %d of what a replica at 6 knows: %v", rec.last, rec.seqs)
	}
	rec.mu.Unlock()
	r.at.Store(10)
	rec.see(t, "the whole snapshot", func() bool { return fmt.Sprint(rec.seqs) == "[2 4 6 8 9 10]" && rec.last == 10 })
}

// A replica that lags behind the leader answers a range. The messages that it
// lacks come from the leader.
func TestRangeOfALaggingReplica(t *testing.T) {
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	for i := range 6 {
		publish(t, js, "a.b", i+1)
		publish(t, js, "a.c", i+1)
	}
	r := newReplica(t, nc, js)
	for _, at := range []uint64{0, 1, 7, 12} {
		r.at.Store(at)
		var have []uint64
		err := n.Range(t.Context(), nc, n.InAll(), 3, 11, func(m *nats.Msg) {
			d, err := n.Decode(m)
			if err != nil || d.Stored.IsZero() {
				t.Errorf("%+v, %v", d, err)
			}
			have = append(have, d.Seq)
		})
		if err != nil || fmt.Sprint(have) != "[3 4 5 6 7 8 9 10 11]" {
			t.Errorf("replica at %d: have %v, %v; want 3 to 11", at, have, err)
		}
	}
	// A message that the stream has deleted is not waited for.
	stream, err := js.Stream(t.Context(), n.Stream())
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{8, 11} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	have := 0
	if err := n.Range(t.Context(), nc, n.InAll(), 7, 11, func(*nats.Msg) { have++ }); err != nil || have != 3 {
		t.Errorf("have %d messages, %v; want 3", have, err)
	}
}

// On a real cluster, connected to a server that does not lead the stream.
func TestFollowOnACluster(t *testing.T) {
	c := bustest.StartCluster(t)
	js, n := c.Stream()
	publish(t, js, "a.b", 1)
	rec := follow(t, c.Replica(n))
	for i := range 50 {
		publish(t, js, "a.b", i+2)
		if i%10 == 0 {
			late := follow(t, c.Replica(n)) // sees at least what was acknowledged
			late.see(t, "a snapshot", func() bool { return len(late.epochs) > 0 })
			late.mu.Lock()
			if late.last < uint64(i+2) {
				t.Errorf("the snapshot is at %d, %d were stored before", late.last, i+2)
			}
			late.mu.Unlock()
		}
	}
	rec.see(t, "everything", func() bool { return rec.last == 51 })
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for i, seq := range rec.seqs {
		if seq != rec.seqs[0]+uint64(i) {
			t.Fatalf("a gap or a repetition: %v", rec.seqs)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
