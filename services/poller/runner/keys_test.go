package runner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// values is what the events of a stage say by now, topic by topic.
func (s *stage) values() map[string]string {
	events, _ := s.said()
	out := map[string]string{}
	for _, e := range events {
		if out[e.Topic] = fmt.Sprintf("%d %s", e.Version, e.Data); e.Deleted {
			out[e.Topic] = fmt.Sprintf("%d deleted", e.Version)
		}
	}
	return out
}

func (s *stage) wantValues(when string, want map[string]string) {
	s.Helper()
	have := s.values()
	for topic := range have {
		if short, ok := strings.CutPrefix(topic, s.r.Name+"."); ok {
			have[short] = have[topic]
			delete(have, topic)
		}
	}
	if !maps.Equal(have, want) {
		s.Errorf("%s: have %v, want %v", when, have, want)
	}
}

func TestPollKeys(t *testing.T) {
	var a pollertest.Answers
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"d": {
		Interval: time.Second, Method: "d", Each: ".[]", Key: ".n", MaxKeys: 3, Ignore: []string{"t"},
	}}}, a.Answer)
	a.Set(`[{"n":"a","v":1},{"n":"/b","v":1}]`)
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(3 * time.Second)
		s.wantValues("first", map[string]string{"d.a": `1 {"n":"a","v":1}`, "d.%2Fb": `1 {"n":"/b","v":1}`})
		events, fresh := s.said()
		for _, e := range events {
			if e.Poll != s.r.Polls[0].Topic || e.Topic == e.Poll || e.Key != "a" && e.Key != "/b" {
				t.Errorf("event %+v", e)
			}
		}
		if f := fresh[len(fresh)-1]; f.Poll != s.r.Polls[0].Topic || f.Stale || f.AsOf.IsZero() {
			t.Errorf("freshness %+v", f)
		}
		if st := s.r.Polls[0].Status(); st.Keys != 2 || st.Unpublished {
			t.Errorf("status %+v", st)
		}
		a.Set(`[{"n":"/b","v":1,"t":5},{"n":"a","v":2}]`)
		time.Sleep(time.Second)
		s.wantValues("one changed", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `1 {"n":"/b","v":1}`})
		a.Set(`[{"n":"a","v":2}]`)
		time.Sleep(2 * time.Second)
		s.wantValues("one gone", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `2 deleted`})
		a.Set(`[{"n":"a","v":2},{"n":"/b","v":1}]`)
		time.Sleep(time.Second)
		s.wantValues("it is back", map[string]string{"d.a": `2 {"n":"a","v":2}`, "d.%2Fb": `3 {"n":"/b","v":1}`})

		asOf := s.last(0).AsOf
		before := len(s.values())
		a.Set(`[1,2,3,4]`)
		time.Sleep(20 * time.Second)
		s.wantLast("not what was expected", 0, true, event.BadResponse, event.Closed, 20)
		if f := s.last(0); !strings.Contains(f.Detail, "item 1: key: expected an object") && !strings.Contains(f.Detail, "more than 3 items") {
			t.Errorf("detail %q", f.Detail)
		} else if f.AsOf.After(asOf.Add(2 * time.Second)) {
			t.Errorf("as of %v, want about %v", f.AsOf, asOf)
		}
		if len(s.values()) != before {
			t.Error("events of a bad answer")
		}
		a.Set(`[]`)
		time.Sleep(time.Second)
		s.wantLast("empty is an answer", 0, false, "", event.Closed, 0)
		s.wantValues("all gone", map[string]string{"d.a": `3 deleted`, "d.%2Fb": `4 deleted`})
		time.Sleep(poll.KeepDeleted + 2*time.Second)
		p := s.r.Polls[0]
		if n := p.Status().Keys; n != 0 {
			t.Errorf("%d keys left", n)
		}
	})
	if n := s.r.Polls[0].Topics(); n != 0 {
		t.Errorf("%d keys remembered for ever", n)
	}
}

func TestPollEmitAlways(t *testing.T) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a", Emit: "always"}}},
		func(context.Context, string, string) (string, error) { return `1`, nil })
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(time.Minute)
		events, _ := s.said()
		if n := len(events); n < 59 || n > 62 {
			t.Fatalf("%d events in 60 readings", n)
		}
		first, last := events[0], events[len(events)-1]
		if last.Version != uint64(len(events)) || !last.ChangedAt.Equal(first.ChangedAt) || last.AsOf.Sub(first.AsOf) < 58*time.Second {
			t.Errorf("last event %+v, first %+v", last, first)
		}
	})
}

func TestPollDeadband(t *testing.T) {
	n := 0
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a", Deadband: map[string]float64{"cpu": 2}}}},
		func(context.Context, string, string) (string, error) {
			n++
			return fmt.Sprintf(`{"cpu":%d}`, n), nil
		})
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(30 * time.Second)
		events, _ := s.said()
		var have []string
		for _, e := range events[:4] {
			have = append(have, string(e.Data))
		}
		if want := []string{`{"cpu":1}`, `{"cpu":4}`, `{"cpu":7}`, `{"cpu":10}`}; !slices.Equal(have, want) {
			t.Errorf("events %v, want %v", have, want)
		}
		if f := s.last(0); time.Since(f.AsOf) > 1100*time.Millisecond || f.Stale {
			t.Errorf("freshness %+v", f)
		}
	})
}

func TestPollMustAdvance(t *testing.T) {
	var a pollertest.Answers
	a.Set(`{"h":1}`)
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {
		Interval: time.Second, Method: "a", MustAdvance: config.MustAdvance{Path: ".h", Within: 5 * time.Second},
	}}}, a.Answer)
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(4 * time.Second)
		s.wantLast("in time", 0, false, "", event.Closed, 0)
		time.Sleep(4 * time.Second)
		s.wantLast("stands still", 0, true, event.NotAdvancing, event.Closed, 0)
		if f := s.last(0); time.Since(f.AsOf) > 4*time.Second || !strings.Contains(f.Detail, "more than 5s") {
			t.Errorf("record %+v", f)
		}
		a.Set(`{"h":2}`)
		time.Sleep(time.Second)
		s.wantLast("advances", 0, false, "", event.Closed, 0)
	})
	if n := strings.Count(s.logs.String(), "value is stale"); n != 1 {
		t.Errorf("%d lines about staleness, want 1", n)
	}
}

// A panic in an expression is its poll's failure.
func TestPollExpressionPanics(t *testing.T) {
	s := newStage(t, config.Source{Polls: map[string]config.Poll{"a": {Interval: time.Second, Method: "a", Each: ".[]", Key: "."}}},
		func(context.Context, string, string) (string, error) { return `[1]`, nil })
	s.r.Polls[0].Shape.Key = &jq.Expression{Name: "key"} // without code
	synctest.Test(t, func(t *testing.T) {
		s.T = t
		s.start()
		defer s.end()
		time.Sleep(20 * time.Second)
		if f := s.last(0); f.Reason != event.BadResponse || f.Breaker != event.Closed || !strings.HasPrefix(f.Detail, "panic: ") {
			t.Errorf("record %+v", f)
		}
	})
}
