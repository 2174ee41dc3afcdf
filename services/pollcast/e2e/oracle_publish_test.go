package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// counter is an upstream whose answers are numbered and all differ.
type counter struct {
	*httptest.Server
	n      atomic.Int64
	frozen atomic.Bool

	mu   sync.Mutex
	rng  *rand.Rand
	keys []string
	last map[string]json.RawMessage // by method; the answers after it was stopped
}

func newCounter(t testing.TB, seed uint64) *counter {
	c := &counter{rng: rand.New(rand.NewPCG(seed, 1)), last: map[string]json.RawMessage{},
		keys: []string{"a", "b/c", "d"}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

// sources returns the configuration of its polls: one that changes at every tick,
// one that changes sometimes, one whose keys come and go.
func (c *counter) sources() string {
	return fmt.Sprintf(`
    up:
      upstreams: ["%s/"]
      breaker: {openFor: 1s}
      polls:
        count: {method: count, interval: 200ms}
        slow: {method: slow, interval: 500ms}
        items: {method: items, interval: 300ms, each: ".[]", key: ".id"}
`, c.URL)
}

func (c *counter) serve(w http.ResponseWriter, r *http.Request) {
	var req struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, req.ID, c.result(req.Method))
}

func (c *counter) result(method string) json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.last[method]; last != nil && c.frozen.Load() {
		return last
	}
	n := c.n.Add(1)
	out := json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))
	switch method {
	case "slow":
		out = json.RawMessage(fmt.Sprintf(`{"n":%d}`, n/40))
	case "items":
		if c.rng.IntN(8) == 0 { // a key is added or removed
			key := string('a' + rune(c.rng.IntN(8)))
			if i := slices.Index(c.keys, key); i >= 0 {
				c.keys = slices.Delete(c.keys, i, i+1)
			} else {
				c.keys = append(c.keys, key)
			}
		}
		items := make([]map[string]any, 0, len(c.keys))
		for i, key := range c.keys {
			if c.rng.IntN(3) > 0 {
				n += int64(i)
			}
			items = append(items, map[string]any{"id": key, "n": n / 3})
		}
		out, _ = json.Marshal(items) // strings and numbers always marshal
	}
	c.last[method] = out
	return out
}

// rush publishes directly into the stream, as a poller does, at a rate that no
// poll has. It tries again until every event is acknowledged.
type rush struct {
	t      testing.TB
	ledger *ledger
	names  bus.Names
	nc     *nats.Conn
	js     jetstream.JetStream

	finish atomic.Bool // publish the last value, and then only renew
	wg     sync.WaitGroup
	ended  sync.WaitGroup // topics that have not published their last value
	stop   context.CancelFunc

	mu   sync.Mutex
	last map[string]event.Freshness // that clients must have at the end
}

const (
	rushMaxAge  = 2 * time.Second
	rushRenewal = 500 * time.Millisecond
)

func rushTopic(i int) string { return fmt.Sprintf("rush.t%d.x", i) }

// newRush publishes rate events a second, spread over topics, until the test
// ends.
func newRush(t testing.TB, c *cluster, l *ledger, topics, rate int, seed uint64) *rush {
	t.Helper()
	names, err := bus.NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	f := &rush{t: t, ledger: l, names: names, nc: c.connect(t, admin), last: map[string]event.Freshness{}}
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	f.ended.Add(topics)
	for i := range topics {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		f.wg.Go(func() { f.publish(ctx, i, time.Second*time.Duration(topics)/time.Duration(rate), rng) })
	}
	t.Cleanup(func() {
		cancel()
		f.wg.Wait()
	})
	return f
}

// publish publishes the numbered values of one topic.
func (f *rush) publish(ctx context.Context, i int, pause time.Duration, rng *rand.Rand) {
	topic, version, renewed := rushTopic(i), uint64(0), time.Time{}
	e := &rushSeq{rush: f, topic: topic}
	fr := event.Freshness{Poll: topic, Breaker: event.Closed, IntervalMs: rushRenewal.Milliseconds(),
		MaxAgeMs: rushMaxAge.Milliseconds(), Fence: 1}
	over := false
	for ctx.Err() == nil {
		now := time.Now().UTC()
		if !over {
			over = f.finish.Load()
			version++
			data := fmt.Sprintf(`{"n":%d,"pad":"%0*d","last":%t}`, version, rng.IntN(300), version, over)
			ev := &event.Event{Topic: topic, Poll: topic, Data: json.RawMessage(data), Version: version, ChangedAt: now,
				AsOf: now, Fence: 1}
			e.put(ctx, f.names.EventMsg(ev, now), version)
			fr.AsOf = now
			if over {
				fr.Stale = i%2 == 1
				if fr.Stale {
					fr.Reason = event.UpstreamError
				}
			}
		}
		if over || now.Sub(renewed) >= rushRenewal {
			renewed, fr.CheckedAt = now, now
			if e.renew(ctx, &fr) && f.note(topic, fr) && over {
				f.ended.Done()
			}
		}
		if over {
			sleep(ctx, rushRenewal)
		} else {
			sleep(ctx, pause/2+time.Duration(rng.Int64N(int64(pause))))
		}
	}
}

// note records the last freshness and reports whether it is the first one after
// the end.
func (f *rush) note(topic string, fr event.Freshness) (first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first = !f.last[topic].AsOf.Equal(fr.AsOf)
	f.last[topic] = fr
	return first
}

// end makes every topic publish its last value and returns when all are stored.
// Their freshness is renewed until the test ends.
func (f *rush) end() {
	f.finish.Store(true)
	done := make(chan struct{})
	go func() {
		f.ended.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(clusterPatience):
		f.t.Fatalf("the publishers could not store their last values within %v", clusterPatience)
	}
}

// rushSeq stores the events of one topic, each once.
type rushSeq struct {
	*rush
	topic string
	last  uint64 // sequence number of the last event
	fresh uint64 // sequence number of the last freshness record
}

// renew stores a freshness record and tries as often as necessary. A delayed one
// must not come after a newer event or record: it is refused once another one is
// stored.
func (e *rushSeq) renew(ctx context.Context, fr *event.Freshness) bool {
	m, err := e.names.FreshMsg(fr, nil)
	if err != nil {
		e.t.Errorf("freshness of %s: %v", e.topic, err)
		return false
	}
	for ; ctx.Err() == nil; sleep(ctx, 50*time.Millisecond) {
		send, cancel := context.WithTimeout(ctx, 2*time.Second)
		got, err := e.js.PublishMsg(send, m, jetstream.WithExpectLastSequencePerSubject(e.fresh))
		cancel()
		if err == nil {
			e.fresh = got.Sequence
			return true
		}
		if seq, _, ok := e.lastOf(ctx, m.Subject); ok {
			e.fresh = seq
		}
	}
	return false
}

// put stores an event and tries as often as necessary. Each attempt names the
// event that it follows: after a delayed attempt the next one fails, and the
// stream shows whether the event was stored.
func (e *rushSeq) put(ctx context.Context, m *nats.Msg, version uint64) {
	for ctx.Err() == nil {
		send, cancel := context.WithTimeout(ctx, 2*time.Second)
		got, err := e.js.PublishMsg(send, m, jetstream.WithExpectLastSequencePerSubject(e.last))
		cancel()
		if err == nil {
			e.last = got.Sequence
			e.ledger.publisherKnows(e.last, ack{e.topic, version})
			return
		}
		if e.stored(ctx, m.Subject, version) {
			return
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// stored reports whether the stream has the event.
func (e *rushSeq) stored(ctx context.Context, subject string, version uint64) bool {
	seq, data, ok := e.lastOf(ctx, subject)
	if !ok {
		return false
	}
	var value struct{ N uint64 }
	if err := json.Unmarshal(data, &value); err != nil {
		e.t.Errorf("what the stream holds of %s: %v: %s", subject, err, data)
		return false
	}
	e.last = seq
	return value.N == version
}

// lastOf reads the last message of a subject from the stream's leader.
func (e *rushSeq) lastOf(ctx context.Context, subject string) (seq uint64, data []byte, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	body, _ := json.Marshal(map[string]string{"last_by_subj": subject}) // strings always marshal
	reply, err := e.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.POLLCAST", body)
	if err != nil {
		return 0, nil, false
	}
	var answer struct {
		Error   *jetstream.APIError
		Message struct {
			Seq  uint64
			Data []byte
		}
	}
	if json.Unmarshal(reply.Data, &answer) != nil || answer.Error != nil {
		return 0, nil, false
	}
	return answer.Message.Seq, answer.Message.Data, true
}
