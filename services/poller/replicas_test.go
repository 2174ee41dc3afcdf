package poller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/pollertest"
	"github.com/pollcast/pollcast/services/poller/record"
)

func TestTwoPollers(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	b := s.Config()
	b.LeaseTime = time.Second
	c := oneSource(u.URL, 200*time.Millisecond, time.Hour)
	w := watch(t, s)
	x, y := run(t, c, b), run(t, c, b)
	e := w.event()
	time.Sleep(time.Second)
	if x.sources.list()[0].Owned() == y.sources.list()[0].Owned() {
		t.Fatalf("owned: %v and %v", x.sources.list()[0].Owned(), y.sources.list()[0].Owned())
	}
	owner, standby := x, y
	if y.sources.list()[0].Owned() {
		owner, standby = y, x
	}
	if err := standby.Ready(); err != nil {
		t.Errorf("the standby is not ready: %v", err)
	}
	if have := standby.Status().Sources[0]; have.Owner != owner.owner || have.Owned {
		t.Errorf("the standby says %+v", have)
	}

	// Cut off from NATS, the owner stops by its own clock, and the other starts.
	owner.link.conn.Load().Close()
	f := w.fresh("another fence", func(f *event.Freshness) bool { return f.Fence > e.Fence })
	if f.Stale && f.Reason != event.PollerSilent {
		t.Errorf("takeover: %+v", f)
	}
	pollertest.Eventually(t, "the first owner stops", func() bool { return !owner.sources.list()[0].Owned() })
	u.change()
	if e2 := w.event(); e2.Version != e.Version+1 || e2.Fence != f.Fence {
		t.Errorf("event of the new owner: %+v after %+v", e2, e)
	}
	calls := u.count()
	time.Sleep(time.Second)
	if n := u.count() - calls; n > 6 {
		t.Errorf("%d calls in a second, want 5", n)
	}

	// A clean stop hands over at once: long before the lease would end.
	third := run(t, c, b)
	pollertest.Eventually(t, "third stands by", func() bool { return third.Status().Sources[0].Owner == standby.owner })
	from := time.Now()
	standby.stop()
	pollertest.Eventually(t, "the third takes over", func() bool { return third.sources.list()[0].Owned() })
	if took := time.Since(from); took > 900*time.Millisecond {
		t.Errorf("handing over took %v", took)
	}
}

// What an owner sends after a newer one has spoken is refused, even while the
// value stands still.
func TestZombieIsRefused(t *testing.T) {
	s, u := bustest.Start(t), newRPC(t)
	w := watch(t, s)
	p := run(t, oneSource(u.URL, 100*time.Millisecond, time.Hour), s.Config())
	w.event()
	_, _, names := s.JetStream()
	m := record.NewMetrics()
	pub := &record.Publisher{Conn: s.Bus(), Names: names, Metrics: m, KeepDeleted: time.Hour, Repair: func(context.Context) error { return nil }}
	polls, breaker, err := pub.ReadSource(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	old := &lease.Tenure{Fence: 0, Start: time.Now()}
	old.Renewed(old.Start, time.Hour)
	var st record.State
	st.Learn(polls["host.system.status"])
	seq := polls["host.system.status"].FreshSeq
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	late := record.Job{
		Topic: "host.system.status", Known: st, Tenure: old,
		Changes: []*record.Change{{Slot: time.Now(), Event: &event.Event{Topic: "host.system.status", Poll: "host.system.status", Data: []byte(`"late"`), AsOf: time.Now(), ChangedAt: time.Now()}}},
	}
	if _, err := pub.Put(t.Context(), late); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("late event: %v, want %v", err, lease.ErrFenced)
	}
	late.Changes, late.Fresh = nil, &event.Freshness{Poll: late.Topic, CheckedAt: time.Now()}
	if _, err := pub.Put(t.Context(), late); !errors.Is(err, lease.ErrFenced) {
		t.Errorf("late freshness: %v, want %v", err, lease.ErrFenced)
	}
	old.Renewed(old.Start, 0)
	if _, err := pub.Put(t.Context(), late); !errors.Is(err, lease.ErrExpired) {
		t.Errorf("after the lease: %v, want %v", err, lease.ErrExpired)
	}
	if seq == 0 || breaker.Seq != 0 {
		t.Errorf("read back freshness at %d and breaker at %d", seq, breaker.Seq)
	}
	if !p.sources.list()[0].Owned() {
		t.Error("the owner gave up")
	}

	// The other way round: somebody with a newer lease has spoken. The owner
	// stops, and comes back with a still newer one.
	fence := p.sources.list()[0].tenure.Load().Fence
	for {
		last, err := pub.Last(t.Context(), names.InFresh(late.Topic))
		if err != nil {
			t.Fatal(err)
		}
		newer := &lease.Tenure{Fence: fence + 1000, Start: time.Now()}
		newer.Renewed(newer.Start, time.Hour)
		late.Known, late.Tenure = record.State{Guard: last.Seq}, newer
		late.Fresh = &event.Freshness{Poll: late.Topic, CheckedAt: time.Now(), Stale: true, Reason: event.Timeout}
		if _, err = pub.Put(t.Context(), late); err == nil {
			break
		} else if !errors.Is(err, record.ErrAgain) {
			t.Fatal(err)
		}
	}
	w.fresh("the owner is back above", func(f *event.Freshness) bool { return f.Fence == fence+1001 && !f.Stale })
	if !strings.Contains(p.log.String(), "another poller holds the lease now") {
		t.Error("no log line about the loss")
	}
}
