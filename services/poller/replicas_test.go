package poller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
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
	if x.sources[0].Owned() == y.sources[0].Owned() {
		t.Fatalf("owned: %v and %v", x.sources[0].Owned(), y.sources[0].Owned())
	}
	owner, standby := x, y
	if y.sources[0].Owned() {
		owner, standby = y, x
	}
	if err := standby.Ready(); err != nil {
		t.Errorf("the standby is not ready: %v", err)
	}
	if have := standby.Status().Sources[0]; have.Owner != owner.owner || have.Owned {
		t.Errorf("the standby says %+v", have)
	}

	// Cut off from NATS, the owner stops by its own clock, and the other starts.
	owner.nc.Load().Close()
	f := w.fresh("another fence", func(f *event.Freshness) bool { return f.Fence > e.Fence })
	if f.Stale && f.Reason != event.PollerSilent {
		t.Errorf("takeover: %+v", f)
	}
	eventually(t, "the first owner stops", func() bool { return !owner.sources[0].Owned() })
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
	eventually(t, "third stands by", func() bool { return third.Status().Sources[0].Owner == standby.owner })
	from := time.Now()
	standby.stop()
	eventually(t, "the third takes over", func() bool { return third.sources[0].Owned() })
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
	nc, js, names := s.JetStream()
	m := newRecordMetrics()
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Hour, repair: func(context.Context) error { return nil }}
	polls, breaker, err := pub.readSource(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	old := &tenure{fence: 0, start: time.Now()}
	old.renewed(old.start, time.Hour)
	var st stored
	st.learn(polls["host.system.status"], nil)
	seq := polls["host.system.status"].freshSeq
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	w.fresh("a newer record", func(*event.Freshness) bool { return true })
	late := job{
		topic: "host.system.status", known: st, tenure: old, slot: time.Now(),
		event: &event.Event{Topic: "host.system.status", Poll: "host.system.status", Data: []byte(`"late"`), AsOf: time.Now(), ChangedAt: time.Now()},
	}
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errFenced) {
		t.Errorf("late event: %v, want %v", err, errFenced)
	}
	late.event, late.fresh = nil, &event.Freshness{Poll: late.topic, CheckedAt: time.Now()}
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errFenced) {
		t.Errorf("late freshness: %v, want %v", err, errFenced)
	}
	old.ends.Store(0)
	if _, err := pub.put(t.Context(), late); !errors.Is(err, errExpired) {
		t.Errorf("after the lease: %v, want %v", err, errExpired)
	}
	if seq == 0 || breaker.Seq != 0 {
		t.Errorf("read back freshness at %d and breaker at %d", seq, breaker.Seq)
	}
	if !p.sources[0].Owned() {
		t.Error("the owner gave up")
	}

	// The other way round: somebody with a newer lease has spoken. The owner
	// stops, and comes back with a still newer one.
	fence := p.sources[0].tenure.Load().fence
	for {
		last, err := pub.last(t.Context(), names.InFresh(late.topic))
		if err != nil {
			t.Fatal(err)
		}
		newer := &tenure{fence: fence + 1000, start: time.Now()}
		newer.renewed(newer.start, time.Hour)
		late.known, late.tenure = stored{guard: last.Seq}, newer
		late.fresh = &event.Freshness{Poll: late.topic, CheckedAt: time.Now(), Stale: true, Reason: event.Timeout}
		if _, err = pub.put(t.Context(), late); err == nil {
			break
		} else if !errors.Is(err, errAgain) {
			t.Fatal(err)
		}
	}
	w.fresh("the owner is back above", func(f *event.Freshness) bool { return f.Fence == fence+1001 && !f.Stale })
	if !strings.Contains(p.log.String(), "another poller owns the source by now") {
		t.Error("no log line about the loss")
	}
}

// Several ways in which a publish can have gone wrong end in one event per
// change, with versions that count by one.
func TestPublish(t *testing.T) {
	s := bustest.Start(t)
	nc, js, names := s.JetStream()
	m := newRecordMetrics()
	pub := &publisher{nc: nc, js: js, names: names, metrics: m, keepDeleted: time.Hour, repair: func(context.Context) error { return nil }}
	ten := &tenure{fence: 5, start: time.Now()}
	ten.renewed(ten.start, time.Hour)
	slot := time.Now()
	at := stamp(slot)
	newJob := func(value string, known stored) job {
		d, err := digestOf([]byte(value), nil)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		return job{
			topic: "a.b", digest: d, slot: slot, known: known, tenure: ten,
			event: &event.Event{Topic: "a.b", Poll: "a.b", Data: []byte(value), AsOf: at, ChangedAt: at},
			fresh: &event.Freshness{Poll: "a.b", AsOf: at, CheckedAt: at, Breaker: event.Closed},
		}
	}
	st, err := pub.put(t.Context(), newJob("1", stored{}))
	if err != nil || st.version != 1 || !st.has || st.guard == 0 || st.fresh == nil {
		t.Fatalf("first: %+v, %v", st, err)
	}
	before := st

	// The acknowledgement of the event was lost: known is what was before it.
	anew := newJob("1", stored{guard: before.guard})
	anew.fence, anew.fresh = anew.fresh, nil
	st, err = pub.put(t.Context(), anew)
	if !errors.Is(err, errAgain) || !st.alone || st.version != 1 || !st.has || st.digest != before.digest || st.guard <= before.guard {
		t.Errorf("after a lost acknowledgement: %+v, %v", st, err)
	}
	before = st
	// The same slot again, by whoever does not know.
	st, err = pub.put(t.Context(), newJob("1", stored{guard: before.guard}))
	if !errors.Is(err, errAgain) || st.version != 1 || !st.has {
		t.Errorf("same slot, same value: %+v, %v", st, err)
	}
	// The same slot with another value.
	st, err = pub.put(t.Context(), newJob("2", before))
	if !errors.Is(err, errSlotTaken) || st.version != 1 {
		t.Errorf("same slot, other value: %+v, %v", st, err)
	}
	slot = slot.Add(time.Second)
	if st, err = pub.put(t.Context(), newJob("2", st)); err != nil || st.version != 2 {
		t.Errorf("next slot: %+v, %v", st, err)
	}
	// Somebody of our own fence has moved on.
	slot = slot.Add(time.Second)
	st, err = pub.put(t.Context(), newJob("3", before))
	if !errors.Is(err, errAgain) || st.version != 2 || st.guard == before.guard {
		t.Errorf("behind: %+v, %v", st, err)
	}
	if st, err = pub.put(t.Context(), newJob("3", st)); err != nil || st.version != 3 {
		t.Errorf("caught up: %+v, %v", st, err)
	}

	// The stream was made anew: the version goes on.
	if err := js.DeleteStream(t.Context(), names.Stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.EnsureStream(t.Context(), js, names, s.Config()); err != nil {
		t.Fatal(err)
	}
	slot = slot.Add(time.Second)
	st, err = pub.put(t.Context(), newJob("3", st))
	if !errors.Is(err, errAgain) || st.version != 3 || st.has || st.guard != 0 {
		t.Errorf("a new stream: %+v, %v", st, err)
	}
	if st, err = pub.put(t.Context(), newJob("3", st)); err != nil || st.version != 4 {
		t.Errorf("in the new stream: %+v, %v", st, err)
	}

	seq, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at}, 0, ten)
	if err != nil || seq == 0 {
		t.Fatalf("breaker: %d, %v", seq, err)
	}
	if again, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(1)}, 0, ten); !errors.Is(err, errAgain) || again != seq {
		t.Errorf("breaker with an old sequence: %d, %v; want %d", again, err, seq)
	}
	zombie := &tenure{fence: 4, start: time.Now()}
	zombie.renewed(zombie.start, time.Hour)
	if _, err := pub.putBreaker(t.Context(), &event.Breaker{Source: "a", At: at.Add(2)}, 0, zombie); !errors.Is(err, errFenced) {
		t.Errorf("breaker of an old owner: %v", err)
	}
}
