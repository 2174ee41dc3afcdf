package poll

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/record"
)

// newTestPoll makes a poll of a source without upstreams, whose host is nobody.
func newTestPoll(t *testing.T, c config.Poll) *Poll {
	t.Helper()
	c.Interval = time.Hour
	source := config.Source{Polls: map[string]config.Poll{"p": c}}
	shape, bad := c.Shape()
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	return New(Options{
		Asker: &ask.Asker{
			Topic: "s.p", Config: c.WithDefaults(source), Source: source, Upstreams: new(ask.Upstreams), Shape: shape,
			Log: slog.New(slog.DiscardHandler),
		},
		Host: nobody{}, Schedule: config.NewSchedule("s.p", time.Hour), Counts: new(history.Counts), Lines: new(history.Lines),
	})
}

type nobody struct{ Host }

func (nobody) Complain(error) {}
func (nobody) StreamAnew()    {}

// recovered is what the stream holds of the poll: a value on the poll's own topic.
func recovered(value string, version uint64, at time.Time) record.Recovered {
	return record.Recovered{
		Event: &event.Event{
			Topic: "s.p", Poll: "s.p", Data: []byte(value), Version: version, AsOf: at, ChangedAt: at, Fence: 3,
		},
		Fresh: &event.Freshness{Poll: "s.p", AsOf: at, CheckedAt: at, Fence: 3}, FreshSeq: version,
	}
}

// What a new lease holder restores may come from a replica that lags behind: the old
// value must not be published as a new one.
func TestLaggingReplica(t *testing.T) {
	p := newTestPoll(t, config.Poll{})
	now := clock.Stamp(time.Now())
	p.Resume(recovered("1", 5, now.Add(-time.Minute)))
	own := p.state.topics.byToken[record.OwnTopic]
	if own.unpublished(false) || string(own.good.Value) != "1" {
		t.Fatalf("restored %s, unpublished %v", own.good.Value, own.unpublished(false))
	}
	st := p.state.outbox.state
	st.Learn(recovered("2", 6, now)) // what a refused publish reads at the leader
	p.state.settle(new(record.Job), st, record.ErrAgain)
	if own.unpublished(false) || string(own.good.Value) != "2" || !p.state.trust.asOf.Equal(now) || own.copy.Version != 6 {
		t.Errorf("after the second look: %s as of %v, unpublished %v, version %d",
			own.good.Value, p.state.trust.asOf, own.unpublished(false), own.copy.Version)
	}
	// A value of our own that was confirmed later stays, and is published.
	own.good.Take([]byte("3"), jq.Digest{3}, now.Add(time.Second), now, "u", false)
	st.Learn(recovered("4", 7, now))
	p.state.settle(new(record.Job), st, record.ErrAgain)
	if !own.unpublished(false) || string(own.good.Value) != "3" {
		t.Errorf("our own: %s, unpublished %v", own.good.Value, own.unpublished(false))
	}
}

// A value that was not confirmed for maxAge is stale, however often the poll is taken
// up: a reload renews no freshness.
func TestResumeConfirmsNothing(t *testing.T) {
	p := newTestPoll(t, config.Poll{MaxAge: 2 * time.Hour})
	now := time.Now()
	p.Resume(recovered("1", 5, clock.Stamp(now.Add(-time.Hour))))
	for _, tt := range []struct {
		age   time.Duration
		stale bool
	}{{time.Hour, false}, {119 * time.Minute, false}, {121 * time.Minute, true}} {
		p.state.topics.byToken[record.OwnTopic].good.AsOf = now.Add(-tt.age)
		p.state.trust.checkedAt = clock.Stamp(now) // by the reload before
		p.Resume(record.Recovered{})
		if s := p.state.trust; s.stale != tt.stale || tt.stale && s.reason != event.PollerSilent {
			t.Errorf("confirmed %v ago: stale %v, %s (%s)", tt.age, s.stale, s.reason, s.detail)
		}
	}
}

// reading is an answer with keys.
func reading(at time.Time, keys ...string) ask.Reading {
	r := ask.Reading{Sent: at, Slot: at, Up: &ask.Upstream{Name: "u"}}
	for _, key := range keys {
		it := ask.FinishedItem{}
		it.Key, it.Token, it.Value = key, key, json.RawMessage(`1`)
		r.Items = append(r.Items, it)
	}
	return r
}

// A key that vanishes while its first event is under way is deleted when that is
// stored, and its versions go on when it comes back.
func TestKeyVanishesWhilePublished(t *testing.T) {
	p := newTestPoll(t, config.Poll{Each: ".[]", Key: "."})
	now := time.Now()
	p.Resume(record.Recovered{})
	p.state.kind.take(reading(now, "a", "ghost"))
	first := p.state.topics.changes(now)
	p.state.topics.begin(first)

	p.state.kind.take(reading(now.Add(time.Second), "a"))
	p.state.topics.forgetGone(now)
	for _, c := range first { // stored meanwhile
		c.Known.Version, c.Known.Has, c.Known.Digest = 1, !c.Event.Deleted, c.Digest
	}
	p.state.topics.settle(first, now)

	deletion := p.state.topics.changes(now)
	if len(deletion) != 1 || deletion[0].Token != "ghost" || !deletion[0].Event.Deleted || deletion[0].Known.Version != 1 {
		t.Fatalf("changes after the key vanished: %+v", deletion)
	}
	p.state.topics.begin(deletion)
	p.state.kind.take(reading(now.Add(2*time.Second), "a", "ghost")) // it is back
	deletion[0].Known.Version, deletion[0].Known.Has = 2, false
	p.state.topics.settle(deletion, now)
	if back := p.state.topics.changes(now); len(back) != 1 || back[0].Event.Deleted || back[0].Known.Version != 2 {
		t.Errorf("changes after the key came back: %+v", back)
	}
}

// Whoever adds a field to a poll decides here what a reload does with it.
func TestInheritKnowsEveryField(t *testing.T) {
	inherited := []string{"attempts", "lines", "ticks", "trust", "topics", "kind", "outbox", "last", "ran", "unchanged"}
	own := []string{"Asker", "Schedule", "schedule", "host", "counts", "session", "woken", "mu", "state"}
	for _, of := range []reflect.Type{reflect.TypeFor[Poll](), reflect.TypeFor[state]()} {
		for field := range of.Fields() {
			if !slices.Contains(slices.Concat(inherited, own), field.Name) {
				t.Errorf("Inherit does not know the field %s of %s", field.Name, of)
			}
		}
	}
	// What it inherits as a whole, it inherits with every field.
	old, next := newTestPoll(t, config.Poll{}), newTestPoll(t, config.Poll{MaxAge: 5 * time.Hour})
	now := clock.Stamp(time.Now())
	old.Resume(recovered("1", 5, now))
	old.state.trust.failures, old.state.ticks.skipped, old.state.ran = 3, 4, true
	old.state.last = lastTick{"ok", now, time.Second}
	next.Inherit(old)
	if next.state.trust != old.state.trust || !reflect.DeepEqual(next.state.outbox, old.state.outbox) || next.state.last != old.state.last ||
		next.state.ticks.skipped != 4 || next.state.ticks.slot != old.state.ticks.slot || !next.state.ran || next.Topics() != 1 {
		t.Errorf("inherited %+v %+v %+v", &next.state.trust, &next.state.outbox, next.state.ticks)
	}
}
