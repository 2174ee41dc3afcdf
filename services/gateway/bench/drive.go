//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// patience is the longest time that events may take; after it the run fails.
const patience = time.Minute

// drive does the tasks on standard input until it ends.
func drive(ctx context.Context, natsURL, prefix string) error {
	if err := manyFiles(); err != nil {
		return err
	}
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(16_384))
	if err != nil {
		return err
	}
	names, err := bus.NewNames(prefix)
	if err != nil {
		return err
	}
	cs, err := newClients()
	if err != nil {
		return err
	}
	go cs.read()
	d := driver{js: js, names: names, clients: cs, versions: make([]uint64, manyTopics)}
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var t task
		if err := json.Unmarshal(in.Bytes(), &t); err != nil {
			return err
		}
		res, err := d.do(ctx, t)
		if err != nil {
			res.Error = err.Error()
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
	return nil
}

type driver struct {
	js       jetstream.JetStream
	names    bus.Names
	clients  *clients
	sets     bool
	versions []uint64 // by topic
	next     int      // topic
	seq      uint64
}

func (d *driver) do(ctx context.Context, t task) (turn, error) {
	switch {
	case t.Dial > 0:
		d.sets = t.Sets
		return turn{}, d.dial(t.Addr, t.Dial)
	case t.Listen > 0:
		return d.listen(t.Listen)
	default:
		return d.publish(ctx, t)
	}
}

// dial connects n more clients. The first tries again until the server listens.
func (d *driver) dial(addr string, n int) error {
	from := len(d.clients.conns)
	for i := range n {
		topics := everybody
		if d.sets {
			// The step between a client's topics differs: no two clients have the same
			// set, and every topic has the same number of clients.
			set := make([]string, setSize)
			for j := range set {
				k := from + i
				set[j] = topicName((k + j*(7+k/manyTopics)*131) % manyTopics)
			}
			topics = strings.Join(set, ",")
		}
		err := d.clients.add(addr, topics)
		for end := time.Now().Add(10 * time.Second); err != nil && i == 0 && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
			err = d.clients.add(addr, topics)
		}
		if err != nil {
			return err
		}
	}
	return d.clients.watch(from)
}

func topicName(i int) string { return fmt.Sprintf("bench.p.k%d", i) }

// reset sets all counters to zero.
func (d *driver) reset() {
	cs := d.clients
	cs.arrived.Store(0)
	cs.bytes.Store(0)
	cs.goal.Store(1 << 62)
	for i := range cs.late {
		cs.late[i].Store(0)
	}
	select {
	case <-cs.reached:
	default:
	}
}

func (d *driver) result(start time.Time) turn {
	out := turn{Frames: d.clients.arrived.Load(), Bytes: d.clients.bytes.Load(), Wall: time.Since(start)}
	for i := range d.clients.late {
		out.Late = append(out.Late, d.clients.late[i].Load())
	}
	return out
}

func (d *driver) listen(length time.Duration) (turn, error) {
	d.reset()
	start := time.Now()
	select {
	case err := <-d.clients.failed:
		return turn{}, err
	case <-time.After(length):
	}
	return d.result(start), nil
}

func (d *driver) publish(ctx context.Context, t task) (turn, error) {
	d.reset()
	per := int64(len(d.clients.conns))
	if d.sets {
		per = int64(len(d.clients.conns) * setSize / manyTopics)
	}
	start := time.Now()
	for b := range t.Bursts {
		for range t.Burst {
			if err := d.event(t.Framed); err != nil {
				return turn{}, err
			}
		}
		if t.Every > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(b+1) * t.Every)))
			continue
		}
		if err := d.wait(ctx, int64((b+1)*t.Burst)*per); err != nil {
			return turn{}, err
		}
	}
	err := d.wait(ctx, int64(t.Bursts*t.Burst)*per)
	return d.result(start), err
}

// wait waits until goal events have arrived.
func (d *driver) wait(ctx context.Context, goal int64) error {
	d.clients.goal.Store(goal)
	end := time.After(patience)
	for d.clients.arrived.Load() < goal {
		select {
		case <-d.clients.reached:
		case err := <-d.clients.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return fmt.Errorf("%d of %d frames arrived", d.clients.arrived.Load(), goal)
		}
	}
	return nil
}

// event publishes one event: of one topic or, with sets, of each one after another.
func (d *driver) event(framed bool) error {
	i := 0
	if d.sets {
		i, d.next = d.next, (d.next+1)%manyTopics
	}
	d.versions[i]++
	d.seq++
	now := time.Now().UTC()
	e := &event.Event{
		Topic: topicName(i), Poll: "bench.p", Key: fmt.Sprintf("k%d", i),
		Version: d.versions[i], ChangedAt: now, AsOf: now, Fence: 1,
		Data: fmt.Appendf(nil, `{"at":"%c%d","pad":"xxxxxxxxxxxxxxxxxxxx"}`, mark, now.UnixNano()),
	}
	m := d.names.EventMsg(e, time.Unix(0, int64(d.seq)*1e6))
	if framed { // so that every server writes the same bytes
		var err error
		if m.Data, err = json.Marshal(wire.ServerFrame{Event: &wire.Event{
			Topic: e.Topic, Seq: d.seq, Version: e.Version, Phase: wire.Live, ChangedAt: now, AsOf: now,
			Breaker: event.Closed, Key: e.Key, Poll: e.Poll, Data: e.Data,
		}}); err != nil {
			return err
		}
	}
	_, err := d.js.PublishMsgAsync(m)
	return err
}
