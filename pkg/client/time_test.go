package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// The tests of this file run on a virtual clock, over pipes in place of sockets.

func bubble(t *testing.T, f func(*testing.T, *stream, *gateway, *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		st, ln := newStream(), newPipes()
		f(t, st, serveGateway(t, st, ln), ln)
	})
}

// drain takes the present updates and returns those of one type.
func drain[T Update](s *Subscription) []T {
	synctest.Wait()
	var out []T
	for {
		select {
		case u, open := <-s.Updates():
			if !open {
				return out
			}
			if w, is := u.(T); is {
				out = append(out, w)
			}
			synctest.Wait() // the loop may have waited for room
		default:
			return out
		}
	}
}

// A connection with nothing but pings stays open, for 25 minutes and more.
func TestIdleConnectionLives(t *testing.T) {
	bubble(t, func(t *testing.T, st *stream, g *gateway, ln *pipes) {
		st.publish("host.cpu", 1)
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		for range 60 {
			time.Sleep(30 * time.Second)
			g.each(func(p *peer) { _ = p.conn.WriteControl(9, []byte("tick"), time.Now().Add(time.Second)) })
		}
		for _, u := range drain[*Connection](s) {
			if !u.Connected {
				t.Errorf("have %+v, want no loss", u)
			}
		}
		if have := g.accepted(); have != 1 {
			t.Errorf("have %d connections, want 1", have)
		}
	})
}

// A gateway that stops without closing is lost after 2 ping intervals and 10
// seconds, and everything is stale at once.
func TestSilentGateway(t *testing.T) {
	bubble(t, func(t *testing.T, st *stream, g *gateway, ln *pipes) {
		st.publish("host.cpu", 1)
		f := ok("host.cpu")
		f.MaxAgeMs = time.Hour.Milliseconds()
		st.fresh(f)
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		time.Sleep(69 * time.Second)
		drain[Update](s)
		if v, _ := c.Value("host.cpu"); v.Stale {
			t.Fatalf("have %+v, want fresh until the time is over", v)
		}
		time.Sleep(time.Second + time.Millisecond)
		us := drain[Update](s)
		if len(us) < 2 {
			t.Fatalf("have %v, want the loss", us)
		}
		if u, is := us[0].(*Connection); !is || u.Connected || !strings.Contains(u.Err.Error(), "silent for 1m10s") {
			t.Errorf("have %+v, want the loss", us[0])
		}
		if u, is := us[1].(*Freshness); !is || u.Reason != event.ConnectionLost {
			t.Errorf("have %+v, want connection_lost", us[1])
		}
	})
}

// A poll without a record for its maxAge is stale, within a second.
func TestPollerSilent(t *testing.T) {
	bubble(t, func(t *testing.T, st *stream, g *gateway, ln *pipes) {
		g.ping = 10 * time.Minute
		record := func() {
			f := ok("host.cpu")
			f.MaxAgeMs = 9000
			st.fresh(f)
		}
		st.publish("host.cpu", 1)
		record()
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		for range 4 { // renewed in time
			time.Sleep(3 * time.Second)
			record()
		}
		time.Sleep(5 * time.Second)
		st.publish("host.cpu", 2) // an event also ends the silence
		time.Sleep(9 * time.Second)
		for _, f := range drain[*Freshness](s) {
			if f.Stale {
				t.Fatalf("have %+v, want fresh", f)
			}
		}
		time.Sleep(time.Second)
		fs := drain[*Freshness](s)
		if len(fs) != 1 || fs[0].Reason != event.PollerSilent || !fs[0].Local || !fs[0].Changed ||
			fs[0].Detail != "no record for 9s" {
			t.Fatalf("have %+v, want poller_silent once", fs)
		}
		if v, _ := c.Value("host.cpu"); !v.Stale || v.Reason != event.PollerSilent || v.Age < 10*time.Second {
			t.Errorf("have %+v, want poller_silent", v)
		}
		time.Sleep(time.Minute)
		if fs := drain[*Freshness](s); len(fs) != 0 {
			t.Errorf("have %+v, want one report", fs)
		}
		record()
		if fs := drain[*Freshness](s); len(fs) != 1 || fs[0].Stale || !fs[0].Changed {
			t.Errorf("have %+v, want fresh again", fs)
		}
		// The silence of a stale poll changes nothing.
		f := ok("host.cpu")
		f.Stale, f.Reason, f.Breaker, f.MaxAgeMs = true, event.BreakerOpen, event.Open, 9000
		st.fresh(f)
		drain[*Freshness](s)
		time.Sleep(time.Minute)
		if fs := drain[*Freshness](s); len(fs) != 0 {
			t.Errorf("have %+v, want breaker_open to stay", fs)
		}
	})
}

// The age counts from the gateway's frames and grows by itself, whatever the
// gateway's clock shows.
func TestAge(t *testing.T) {
	bubble(t, func(t *testing.T, st *stream, g *gateway, ln *pipes) {
		g.ping = 10 * time.Minute
		skew := -3 * time.Hour
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		synctest.Wait()
		age := func(want time.Duration) {
			t.Helper()
			synctest.Wait()
			v, found := c.Value("host.cpu")
			if d := v.Age - want; !found || d < 0 || d > 5*time.Millisecond {
				t.Errorf("have age %v, want %v", v.Age, want)
			}
		}
		f := event.Freshness{Poll: "host.cpu", IntervalMs: 60_000, MaxAgeMs: 600_000}
		f.AsOf = time.Now().Add(skew - 2*time.Second)
		st.add(wire.Event{Topic: "host.cpu", Poll: "host.cpu", AsOf: f.AsOf, AgeMs: 2000}, 1)
		age(2 * time.Second)
		if ev := drain[*Event](s)[0]; ev.Age < 2*time.Second || ev.Age > 2005*time.Millisecond {
			t.Errorf("have age %v, want 2s", ev.Age)
		}
		time.Sleep(time.Minute)
		age(62 * time.Second)

		// A record that confirms the value makes it younger.
		f.AsOf = time.Now().Add(skew - time.Second)
		f.CheckedAt = time.Now().Add(skew)
		st.fresh(f)
		age(time.Second)
		time.Sleep(10 * time.Second)
		age(11 * time.Second)

		// The gateway's clock shows that a frame was queued for 20 s on its way.
		st.add(wire.Event{Topic: "host.cpu", Poll: "host.cpu", AsOf: time.Now().Add(skew - 21*time.Second), AgeMs: 1000}, 2)
		if v := drain[*Event](s); len(v) != 1 || v[0].Age < 20950*time.Millisecond {
			t.Errorf("have %v, want one event 21s old", v)
		}
		age(11 * time.Second) // it was confirmed 11 s ago

		// An older record changes nothing.
		f.Stale, f.Reason = true, event.Timeout
		st.fresh(f)
		time.Sleep(time.Second)
		age(12 * time.Second)
		if have, _ := c.Freshness("host.cpu"); !have.Stale || have.Age < 12*time.Second {
			t.Errorf("have %+v, want stale for 12s", have)
		}
	})
}

// Frames that waited behind a slow reader have their true age.
func TestAgeBehindSlowReader(t *testing.T) {
	bubble(t, func(t *testing.T, st *stream, g *gateway, ln *pipes) {
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{Buffer: 1})
		synctest.Wait()
		st.add(wire.Event{Topic: "host.cpu", Poll: "host.cpu", AsOf: time.Now().Add(-time.Millisecond), AgeMs: 1}, 0)
		synctest.Wait()
		for i := range 4 { // one in the channel, one with the loop, one with the reader, one in the pipe
			go st.add(wire.Event{Topic: "host.cpu", Poll: "host.cpu", AsOf: time.Now().Add(-time.Millisecond), AgeMs: 1}, i)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		evs := drain[*Event](s)
		if len(evs) != 5 {
			t.Fatalf("have %d events, want 5", len(evs))
		}
		for _, ev := range evs[3:] {
			if ev.Age < time.Second {
				t.Errorf("version %d: have age %v, want more than 1s", ev.Version, ev.Age)
			}
		}
		time.Sleep(time.Minute)
	})
}

// A gateway that cannot be reached is dialled less and less often, for ever.
func TestBackoffWhileUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		c := connect(t, Options{URL: "ws://x", backoff: backoff,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials = append(dials, time.Now())
				return nil, errors.New("no route")
			}})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		time.Sleep(2 * time.Hour)
		if us := drain[*Connection](s); len(us) != 1 || us[0].Connected || !strings.Contains(us[0].Err.Error(), "no route") {
			t.Errorf("have %+v, want one report of the failure", us)
		}
		for i := range dials[1:] {
			d := dials[i+1].Sub(dials[i])
			limit := time.Duration(math.Min(float64(30*time.Second), float64(500*time.Millisecond)*math.Pow(2, float64(i))))
			if d < limit/10 || d > limit {
				t.Errorf("attempt %d after %v, want %v to %v", i+1, d, limit/10, limit)
			}
		}
		if n := len(dials); n < 2*3600/30 {
			t.Errorf("have %d attempts in 2 hours", n)
		}
	})
}

// A gateway that accepts and closes at once does not reset the backoff. The time
// that a gateway asks for is obeyed.
func TestBackoffHints(t *testing.T) {
	bubble(t, func(t *testing.T, _ *stream, g *gateway, ln *pipes) {
		connect(t, Options{URL: "ws://x", DialContext: ln.dial, backoff: backoff})
		end := time.Now().Add(10 * time.Minute)
		for time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
			g.hangUp(wire.CloseGoingAway)
		}
		// The waits are between 3 s and 30 s.
		if have := g.accepted(); have < 20 || have > 100 {
			t.Errorf("have %d connections in 10 minutes", have)
		}
	})
	bubble(t, func(t *testing.T, _ *stream, g *gateway, ln *pipes) {
		var asked atomic.Int32
		g.hooks(func(w http.ResponseWriter, _ *http.Request) bool {
			if asked.Add(1) > 1 {
				return true
			}
			w.Header().Set("Retry-After", "120")
			http.Error(w, "full", http.StatusServiceUnavailable)
			return false
		}, nil)
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial, backoff: backoff})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		time.Sleep(119 * time.Second)
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times within Retry-After", n)
		}
		time.Sleep(2 * time.Second)
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times after Retry-After, want 2", n)
		}
		if us := drain[*Connection](s); len(us) != 2 || !strings.Contains(us[0].Err.Error(), "503") || !us[1].Connected {
			t.Errorf("have %v, want 503 and then the connection", us)
		}
	})
}

// The client moves at the time that the gateway gave, also when the gateway
// closed before.
func TestGoAwayHint(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("closed early: %v", early), func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *stream, g *gateway, ln *pipes) {
				connect(t, Options{URL: "ws://x", DialContext: ln.dial, backoff: backoff})
				time.Sleep(10 * time.Second)
				g.send(&wire.ServerFrame{GoAway: &wire.GoAway{Reason: "draining", ReconnectAfterMs: 20_000}})
				if early {
					time.Sleep(5 * time.Second)
					g.hangUp(wire.CloseRestart)
					time.Sleep(14900 * time.Millisecond)
				} else {
					time.Sleep(19900 * time.Millisecond)
				}
				if have := g.accepted(); have != 1 {
					t.Errorf("have %d connections before the time, want 1", have)
				}
				time.Sleep(200 * time.Millisecond)
				if have := g.accepted(); have != 2 {
					t.Errorf("have %d connections after the time, want 2", have)
				}
			})
		})
	}
}

// A gateway that does not answer a subscribe frame or sends no welcome is left.
func TestDumbGateway(t *testing.T) {
	bubble(t, func(t *testing.T, _ *stream, g *gateway, ln *pipes) {
		g.hooks(nil, func(*peer, *wire.ClientFrame) bool { return true })
		c := connect(t, Options{URL: "ws://x", DialContext: ln.dial})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		time.Sleep(requestTimeout + time.Second)
		us := drain[*Connection](s)
		if len(us) < 2 || us[1].Connected || !strings.Contains(us[1].Err.Error(), "did not answer within 15s") {
			t.Errorf("have %+v, want it to be left", us)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, Options{URL: "ws://x", DialContext: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			t.Cleanup(func() { b.Close() })
			go func() {
				for buf := make([]byte, 1024); ; { // reads and answers nothing
					if _, err := b.Read(buf); err != nil {
						return
					}
				}
			}()
			return a, nil
		}})
		s := subscribe(t, c, "host.>", SubscribeOptions{})
		time.Sleep(dialTimeout + time.Second)
		us := drain[*Connection](s)
		if len(us) != 1 || !strings.Contains(us[0].Err.Error(), "no answer within 10s") {
			t.Errorf("have %+v, want the timeout", us)
		}
	})
}

func TestClock(t *testing.T) {
	start := time.Now()
	gw := func(d time.Duration) time.Time { // the gateway's clock when d has passed; it is an hour behind
		return start.Add(d - time.Hour).Round(0)
	}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	c := newClock(start, 30*time.Millisecond)
	check := func(what string, have time.Time, now, want time.Duration) {
		t.Helper()
		if d := at(now).Sub(have) - want; d < 0 || d > 2*time.Millisecond {
			t.Errorf("%s: have age %v, want %v", what, at(now).Sub(have), want)
		}
	}
	if _, known := c.local(at(0), gw(0)); known {
		t.Error("the clock is known before anything was heard")
	}
	const slack = 30 * time.Millisecond
	check("first frame, 500 ms under way", c.event(at(time.Second), gw(0), 500), time.Second, 500*time.Millisecond+slack)
	check("a faster frame", c.event(at(2*time.Second), gw(1900*time.Millisecond), 90), 2*time.Second,
		90*time.Millisecond+slack)
	check("a queued frame", c.event(at(20*time.Second), gw(9*time.Second), 1000), 20*time.Second,
		11*time.Second-10*time.Millisecond-9*time.Millisecond+slack)
	c.roundTrip(4 * time.Millisecond)
	check("less slack", c.event(at(21*time.Second), gw(20*time.Second), 1000), 21*time.Second,
		time.Second+4*time.Millisecond)
	if b, known := c.local(at(30*time.Second), gw(25*time.Second)); !known {
		t.Error("the clock is not known")
	} else {
		check("a gateway's time", b, 30*time.Second, 5*time.Second+4*time.Millisecond)
	}
	if b, _ := c.local(at(30*time.Second), gw(time.Hour)); b.After(at(30 * time.Second)) {
		t.Error("a value was confirmed in the future")
	}
	// A poller whose clock runs ahead shows nothing about the gateway's clock.
	check("age 0", c.event(at(31*time.Second), gw(time.Hour), 0), 31*time.Second, 4*time.Millisecond)
	check("still right", c.event(at(32*time.Second), gw(31*time.Second), 1000), 32*time.Second,
		time.Second+4*time.Millisecond)
	for _, asOf := range []time.Time{{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2100, 12, 31, 0, 0, 0, 0, time.UTC)} {
		for _, ms := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
			fresh := newClock(start, 0)
			for range 2 {
				if b := fresh.event(at(time.Second), asOf, ms); b.After(at(time.Second)) {
					t.Errorf("asOf %v, age %d: confirmed in the future", asOf, ms)
				}
			}
		}
	}
	// The gateway's clock drifts by a second a day and nothing looks old.
	day := newClock(start, 0)
	for i := range 24 * 60 {
		local := time.Duration(i) * time.Minute
		g := gw(local - local*time.Second/(24*time.Hour))
		b := day.event(at(local), g, 1)
		if age := at(local).Sub(b); age > 10*time.Millisecond {
			t.Fatalf("after %v: have age %v, want 1ms", local, age)
		}
	}
}

func TestBackoff(t *testing.T) {
	for attempt := range 100 {
		want := min(500*time.Millisecond<<min(attempt, 10), 30*time.Second)
		for range 100 {
			if have := backoff(attempt); have < want/10 || have > want {
				t.Fatalf("attempt %d: have %v, want %v to %v", attempt, have, want/10, want)
			}
		}
	}
}
