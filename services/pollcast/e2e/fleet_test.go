package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleet is separate processes of each kind. A test may stop any of them.
type fleet struct {
	*testing.T
	stack    *stack
	hostrpc  *service
	pollers  []*service
	gateways []*service
	viewers  []*client // one on each gateway, from the start
}

// The fleet's polls: one whose value changes at every tick, and one whose value
// hardly ever changes.
const (
	busy, quiet   = "host.system.status", "host.storage.list"
	fleetInterval = 500 * time.Millisecond
	fleetMaxAge   = 3 * fleetInterval
)

// TestFleet kills one process after another and checks what clients see. The
// rules check every client's connection all the time, and the whole stream is
// read at the end.
func TestFleet(t *testing.T) {
	t.Parallel()
	host := freeAddr(t)
	f := &fleet{T: t, stack: newStack(t, fmt.Sprintf(`
    host:
      upstreams: ["http://%s/"]
      breaker: {openFor: 1s}
      polls:
        system.status: {method: system.status, interval: %[2]v}
        storage.list: {method: storage.list, interval: %[2]v}
`, host, fleetInterval))}
	for _, step := range []struct {
		name string
		run  func(*fleet)
	}{
		{"everything starts before NATS", func(f *fleet) { f.natsLast(host) }},
		{"the upstream stops for a while, and is killed", (*fleet).loseUpstream},
		{"the poller that owns the source is killed", (*fleet).killOwner},
		{"the poller that owns the source stops for a while", (*fleet).stopHolder},
		{"a gateway is killed", (*fleet).killGateway},
		{"NATS is killed and restarted", (*fleet).killNATS},
		{"the only poller stops for a while", (*fleet).stopOnlyPoller},
		{"the stream in the end", (*fleet).wantOneHistory},
	} {
		start := time.Now()
		step.run(f)
		if t.Failed() {
			t.Fatalf("step %q failed", step.name)
		}
		t.Logf("%s: %v", step.name, time.Since(start).Round(time.Millisecond))
	}
}

// natsLast starts everything in the worst order, NATS last: the order of start
// does not matter.
func (f *fleet) natsLast(host string) {
	f.gateways = []*service{f.stack.gateway(), f.stack.gateway()}
	f.pollers = []*service{f.stack.poller(), f.stack.poller()}
	f.hostrpc = f.stack.hostrpc(host)
	for _, v := range append(f.gateways, f.pollers...) {
		eventually(f, v.command.name+" is alive and reports that it is not ready", func() error {
			health, _, err := get("http://" + v.ops + "/healthz")
			if err != nil {
				return err
			}
			code, body, err := get("http://" + v.ops + "/readyz")
			if err == nil && (health != http.StatusOK || code != http.StatusServiceUnavailable ||
				!strings.HasPrefix(string(body), "not ready: ")) {
				err = fmt.Errorf("/healthz %d, /readyz %d %s", health, code, body)
			}
			return err
		})
	}
	if code, text, err := httpStatus(f.gateways[0].addr, "/v1/ws", nil); code != http.StatusServiceUnavailable ||
		!strings.HasPrefix(text, "not now: ") {
		f.Errorf("a client that comes before NATS got HTTP %d %q %v, want 503", code, text, err)
	}
	f.stack.nats.start()
	for _, v := range append(f.gateways, f.pollers...) {
		v.ready()
	}
	for _, gw := range f.gateways {
		f.viewers = append(f.viewers, dial(f, gw.addr, "/v1/ws?topics=host.>"))
	}
	f.wantFresh("after the start", time.Time{})
	if owner := f.holder(); owner < 0 || f.pollers[1-owner].owns() {
		f.Error("not exactly one poller owns the source")
	}
}

// wantFresh waits until every viewer knows that both polls were answered after a
// time. It returns when the last viewer learnt it.
func (f *fleet) wantFresh(when string, after time.Time) (at time.Time) {
	f.Helper()
	for i, v := range f.viewers {
		for _, poll := range []string{busy, quiet} {
			v.back(0)
			fr := v.await(fmt.Sprintf("viewer %d: %s is fresh %s", i, poll, when), func(fr frame) bool {
				return isFresh(poll)(fr) && fr.Fresh.AsOf.After(after)
			})
			if fr.at.After(at) {
				at = fr.at
			}
		}
	}
	return at
}

// holder returns the index of the poller that holds the source's lease, or -1.
func (f *fleet) holder() int {
	f.Helper()
	for i, p := range f.pollers {
		if p.running() && p.owns() {
			return i
		}
	}
	return -1
}

// loseUpstream checks that every viewer is informed within an interval and the
// time of a call.
func (f *fleet) loseUpstream() {
	const within = fleetInterval + fleetInterval/10*8 + 500*time.Millisecond // the rest is for a busy machine
	places := f.skip()
	stopped := time.Now()
	f.hostrpc.signal(syscall.SIGSTOP)
	f.wantStale(places, "timeout", stopped, within)
	f.hostrpc.signal(syscall.SIGCONT)
	f.wantFresh("after the upstream went on", time.Now())

	places = f.skip()
	killed := time.Now()
	f.hostrpc.kill()
	f.wantStale(places, "upstream_error", killed, within)
	for i, v := range f.viewers {
		v.await(fmt.Sprintf("viewer %d: the breaker opens", i), breakerTo("host", "open"))
	}
	f.hostrpc = f.stack.hostrpc(f.hostrpc.addr)
	f.wantFresh("after the upstream was started again", time.Now())
}

func (f *fleet) killOwner() {
	owner := f.holder()
	killed := time.Now()
	f.pollers[owner].kill()
	took := f.wantFresh("from the other poller", killed).Sub(killed)
	f.Logf("the other poller took over after %v, the lease time is %v", took.Round(time.Millisecond), leaseTime)
	if took > 2*leaseTime {
		f.Errorf("the other poller took over after %v, want at most two lease times of %v", took, leaseTime)
	}
	if !f.pollers[1-owner].owns() {
		f.Error("the other poller does not say that it owns the source")
	}
	f.pollers[owner] = f.stack.poller()
	f.pollers[owner].ready()
	if f.pollers[owner].owns() {
		f.Error("a poller that came later took the source away from its owner")
	}
}

// stopHolder stops the lease holder without ending it: it does not know that it
// has lost the lease.
func (f *fleet) stopHolder() {
	owner := f.holder()
	zombie := f.pollers[owner]
	stopped := time.Now()
	zombie.signal(syscall.SIGSTOP)
	took := f.wantFresh("from the other poller", stopped).Sub(stopped)
	if took > 2*leaseTime {
		f.Errorf("the other poller took over after %v, want at most two lease times of %v", took, leaseTime)
	}
	zombie.signal(syscall.SIGCONT)
	eventually(f, "the zombie stands by", func() error {
		if !strings.Contains(zombie.logs(), "lease lost, polling stopped") || zombie.owns() {
			return errors.New("it still takes itself for the owner")
		}
		return nil
	})
	f.wantFresh("after the zombie woke", time.Now())
	if f.holder() != 1-owner {
		f.Error("the source went back to the zombie")
	}
}

// killGateway checks that the gateway's client resumes at the other one.
func (f *fleet) killGateway() {
	v := f.viewers[0]
	welcome := v.seen(func(fr frame) bool { return fr.Welcome != nil })[0].Welcome
	f.gateways[0].kill()
	if code := v.closeCode(); code != -1 {
		f.Errorf("a killed gateway sent a close frame with %d", code)
	}
	events := v.seen(func(fr frame) bool { return fr.Event != nil })
	seq := events[len(events)-1].Event.Seq
	last := v.seen(anyEvent(busy))
	version := last[len(last)-1].Event.Version

	var again *client
	for i := 0; again == nil; i++ {
		addr := f.gateways[i%2].addr
		c, err := tryDial(f, addr, "/v1/ws")
		if again = c; err != nil && i > 0 {
			f.Fatalf("the other gateway: %v", err)
		}
	}
	again.send(fmt.Sprintf(`{"id":7,"subscribe":{"topics":["host.>"],"since":{"seq":%d,"epoch":%q}}}`, seq,
		welcome.Epoch))
	answer := again.await("an answer", func(fr frame) bool { return fr.ID == 7 })
	var subscribed struct{ Subscribed struct{ Resumed bool } }
	if err := json.Unmarshal([]byte(answer.raw), &subscribed); err != nil || !subscribed.Subscribed.Resumed {
		f.Errorf("not resumed: %s", answer.raw)
	}
	next := again.await("the next event", anyEvent(busy)).Event
	if next.Version != version+1 {
		f.Errorf("the other gateway went on with version %d after %d", next.Version, version)
	}
	f.viewers[0] = again
	f.wantFresh("at the other gateway", time.Time{})

	f.gateways[0] = f.stack.gatewayAt(f.gateways[0].addr)
	f.gateways[0].ready()
	f.viewers = append(f.viewers, dial(f, f.gateways[0].addr, "/v1/ws?topics=host.>"))
}

// killNATS checks that everything is stale at once, with its reason, that no
// client loses its connection, and that everything is fresh again with NATS.
func (f *fleet) killNATS() {
	places := f.skip()
	killed := time.Now()
	f.stack.nats.process.kill()
	f.wantStale(places, "bus_disconnected", killed, fleetMaxAge+time.Second)
	for _, gw := range f.gateways {
		late := dial(f, gw.addr, "/v1/ws?topics=host.>")
		if e := late.await("the last value without NATS", anyEvent(busy)).Event; e.Phase != "snapshot" || !e.Stale ||
			e.Reason != "bus_disconnected" {
			f.Errorf("a client that comes while NATS is away got %+v", e)
		}
		if code, body, err := get("http://" + gw.ops + "/readyz"); err != nil || code != http.StatusServiceUnavailable {
			f.Errorf("/readyz without NATS: HTTP %d %s %v, want 503", code, body, err)
		}
		f.viewers = append(f.viewers, late)
	}
	f.stack.nats.start()
	f.wantFresh("after NATS returned", time.Now())
	for _, v := range append(f.gateways, f.pollers...) {
		v.ready()
	}
}

// stopOnlyPoller checks that a silent poller makes its polls stale.
func (f *fleet) stopOnlyPoller() {
	owner := f.holder()
	if code := f.pollers[1-owner].end(syscall.SIGTERM); code != 0 {
		f.Errorf("a poller that stood by ended with exit code %d", code)
	}
	only := f.pollers[owner]
	places := f.skip()
	stopped := time.Now()
	only.signal(syscall.SIGSTOP)
	f.wantStale(places, "poller_silent", stopped, fleetMaxAge+time.Second)
	only.signal(syscall.SIGCONT)
	f.wantFresh("after the poller went on", time.Now())
}

// wantStale checks that every viewer learns within a time that both polls are
// stale, and why.
func (f *fleet) wantStale(places []int, reason string, since time.Time, within time.Duration) {
	f.Helper()
	for i, v := range f.viewers {
		for _, poll := range []string{busy, quiet} {
			v.back(places[i])
			fr := v.await(fmt.Sprintf("viewer %d: %s is stale", i, poll), isStale(poll))
			if d := fr.at.Sub(since); fr.Fresh.Reason != reason || d > within {
				f.Errorf("viewer %d: want %s within %v, have after %v: %s", i, reason, within, d, fr.raw)
			}
		}
	}
}

// skip makes every viewer ignore its frames so far.
func (f *fleet) skip() (places []int) {
	for _, v := range f.viewers {
		places = append(places, v.skip())
	}
	return places
}
