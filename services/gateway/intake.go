package gateway

import "github.com/pollcast/pollcast/pkg/bus"

// intake makes changes of the hub from the stream's records. It is the
// follower's Log: all calls come from one goroutine.
type intake struct{ *hub }

// Reset implements bus.Log. Clients that were told another epoch's positions
// must start over, so their connections are ended.
func (in intake) Reset(epoch string) {
	in.mu.Lock()
	first := in.epoch == ""
	in.epoch, in.seq = epoch, 0
	in.clear()
	for _, f := range in.feeds { // keep their connections' references until they leave
		clear(f.topics)
		clear(f.polls)
		clear(f.srcs)
	}
	clear(in.feeds)
	clear(in.wild)
	in.mu.Unlock()
	if !first {
		in.log.Warn("the stream was made anew; every client must start over", "epoch", epoch)
		in.onReset()
	}
}

// Snapshot implements bus.Log.
func (in intake) Snapshot(msgs []bus.Message, seq uint64) {
	in.take(msgs, seq, true, false)
	in.mu.Lock()
	in.history.restart(seq) // last values only: what was between them is not here
	topics, polls := len(in.topics), len(in.polls)
	in.mu.Unlock()
	in.log.Info("read the stream", "topics", topics, "polls", polls, "seq", seq)
}

// Append implements bus.Log.
func (in intake) Append(msgs []bus.Message, seq uint64, late bool) { in.take(msgs, seq, late, true) }

func (in intake) take(msgs []bus.Message, seq uint64, late, ordered bool) {
	now := in.now()
	shrunk := in.shrunk(msgs)
	in.mu.Lock()
	defer in.mu.Unlock()
	if !late {
		in.lived = now
	}
	for i := range msgs {
		if in.ready = nil; shrunk != nil {
			in.ready = shrunk[i]
		}
		heard := now
		if age := now.Sub(msgs[i].Stored); late && age > 0 {
			heard = now.Add(-age)
		}
		in.apply(&msgs[i], heard, now)
		// Here it waits, but for memory, not for clients: those who hold most are
		// closed before there is more to hold. The position must be true meanwhile.
		if ordered && in.budget.over() {
			in.seq = msgs[i].Seq
			in.mu.Unlock()
			in.onShort()
			in.mu.Lock()
		}
		if !late {
			in.metrics.behind.Observe(max(0, now.Sub(msgs[i].Stored).Seconds()))
		}
	}
	in.seq, in.ready = seq, nil
	in.metrics.records.Add(float64(len(msgs)))
}

// Current implements bus.Log.
func (in intake) Current() {
	in.mu.Lock()
	in.proved = in.lived
	in.mu.Unlock()
}

// Connected implements bus.Log.
func (in intake) Connected(ok bool, why string) {
	in.mu.Lock()
	changed, known := in.busDown == ok, in.epoch != ""
	in.busDown, in.why = !ok, why
	in.retell(in.now())
	in.mu.Unlock()
	switch {
	case ok && changed:
		in.log.Info("the stream can be read")
	case !ok && !known:
		in.log.Info("waiting for the stream", "why", why)
	case !ok && changed:
		in.log.Warn("the stream cannot be read; every value is stale now", "why", why)
	case !ok:
		in.log.Warn("the stream still cannot be read", "why", why)
	}
}
