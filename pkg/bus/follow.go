package bus

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Log receives what a Follower reads. All calls come from one goroutine.
type Log interface {
	// Reset begins another epoch of the stream: everything known of the earlier
	// one is void. Snapshot follows.
	Reset(epoch string)
	// Snapshot gives the last message per subject at position seq, in the
	// stream's order. The messages after seq come through Append.
	Snapshot(msgs []Message, seq uint64)
	// Append gives messages in the stream's order, each once. None is left out
	// except those that the stream no longer holds. seq is the position reached,
	// which may be higher than that of the last message. late means that they
	// were read back and may be old; otherwise they were just republished.
	Append(msgs []Message, seq uint64, late bool)
	// Current means that the stream was just read and holds nothing after the
	// position.
	Current()
	// Connected reports whether the stream can be read, and if not, why.
	Connected(ok bool, why string)
}

// Bounds of a Follower.
const (
	// followBuffer is how many live messages may wait for the reader. Beyond it
	// the client library drops messages. That is a gap, which is read back.
	followBuffer = 16384
	followBatch  = 256
	// checkEvery is how often the position is compared with the stream's. This
	// finds a loss that no later message shows, and a server that hangs.
	checkEvery   = 2 * time.Second
	retryEvery   = 250 * time.Millisecond // while the stream cannot be read
	checkTimeout = time.Second
	readTimeout  = 10 * time.Second
	// rewindAfter is for how long the stream must report fewer messages than were
	// read from it before it counts as set back. A former leader that was cut off
	// or frozen reports that for a moment, and so does a new leader that still
	// catches up.
	rewindAfter = 5 * time.Second
)

// errBehind means that the server that answers for the stream reports fewer
// messages than were read already.
var errBehind = errors.New("NATS is behind what was read from it")

// Follower reads the stream as one ordered log without gaps. It reads the
// republished messages, and reads back by direct get what is missing between
// them. It needs no consumer.
type Follower struct {
	Conn   *Conn
	Names  Names
	Log    Log
	Logger *slog.Logger

	live  chan *nats.Msg
	epoch string
	seq   uint64    // the position: everything up to it was given to Log
	heard time.Time // when the last live message came
	ahead time.Time // since when the stream reports fewer messages than seq; zero: it does not
	up    bool      // as last given to Log
	why   string    // as last given to Log
	batch []Message
}

// Run follows until ctx ends and returns nil then. It returns an error only when
// it cannot subscribe.
func (f *Follower) Run(ctx context.Context) error {
	f.live = make(chan *nats.Msg, followBuffer)
	changes, unwatch := f.Conn.Changed()
	defer unwatch()
	unsubscribe, err := f.Conn.ChanSubscribe(f.Names.LiveAll(), f.live)
	if err != nil {
		return err
	}
	defer unsubscribe()
	f.why = "starting"

	check := time.NewTimer(0)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			if f.Conn.IsConnected() {
				f.check(ctx)
			} else {
				f.connected(false, "connection to NATS lost")
			}
		case <-check.C:
			f.check(ctx)
			if f.up {
				check.Reset(checkEvery)
			} else {
				check.Reset(retryEvery)
			}
		case m := <-f.live:
			f.take(ctx, m)
		}
	}
}

// check compares the position with the stream's, reads what is missing, and
// finds out whether the stream can be read.
func (f *Follower) check(ctx context.Context) {
	if err := f.catchUp(ctx); err != nil {
		if ctx.Err() != nil {
			return
		}
		if f.up && f.Conn.IsConnected() && time.Since(f.heard) < checkEvery {
			return // records still come: a change of leader, for example
		}
		f.connected(false, whyText(err))
		f.Conn.ServerUseless(err)
		return
	}
	f.Conn.ServerUseful()
	f.Log.Current()
	f.connected(true, "")
}

func whyText(err error) string {
	switch {
	case errors.Is(err, ErrNoStream):
		return ErrNoStream.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "NATS does not answer"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return "JetStream does not answer"
	}
	return err.Error()
}

func (f *Follower) catchUp(ctx context.Context) error {
	if !f.Conn.IsConnected() {
		return errors.New("connection to NATS lost")
	}
	// The subscription must reach the server before the position is read.
	// Otherwise a message between the two is missed until the next check.
	probe, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := f.Conn.NATS().FlushWithContext(probe); err != nil {
		return err
	}
	state, err := State(probe, f.Conn.JetStream(), f.Names)
	if err != nil {
		return err
	}
	if state.Epoch != f.epoch {
		return f.restart(ctx, state)
	}
	if state.LastSeq >= f.seq {
		f.ahead = time.Time{}
	} else if f.ahead.IsZero() {
		f.ahead = time.Now()
	} else if time.Since(f.ahead) > rewindAfter {
		return f.restart(ctx, state)
	}
	if !f.ahead.IsZero() {
		return errBehind
	}
	// The messages that wait in the channel may be all that is missing.
	for f.seq < state.LastSeq {
		select {
		case m := <-f.live:
			f.take(ctx, m)
			continue
		default:
		}
		return f.readBack(ctx, state.LastSeq)
	}
	return nil
}

// restart reads the last message of every subject, at the stream's position or
// a higher one, and goes on from there.
func (f *Follower) restart(ctx context.Context, state StreamState) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var msgs []Message
	at := state.LastSeq
	if at > 0 {
		var err error
		nc, js := f.Conn.NATS(), f.Conn.JetStream()
		at, err = f.Names.LastPerSubject(ctx, nc, js, f.Names.InAll(), state.LastSeq, func(m *nats.Msg) {
			if d, err := f.Names.Decode(m); err != nil {
				f.Logger.Warn("skipped a record that cannot be read", "error", err)
			} else {
				msgs = append(msgs, d)
			}
		})
		if err != nil {
			return err
		}
	}
	slices.SortFunc(msgs, func(a, b Message) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	f.epoch, f.seq, f.ahead = state.Epoch, at, time.Time{}
	f.Log.Reset(state.Epoch)
	f.Log.Snapshot(msgs, at)
	return nil
}

// take handles one live message and those that wait behind it.
func (f *Follower) take(ctx context.Context, m *nats.Msg) {
	f.batch = f.batch[:0]
	for {
		d, err := f.Names.Decode(m)
		switch {
		case d.Seq == 0 || d.Seq <= f.seq:
			// not from the stream, or read already
		case f.epoch == "":
			// before the first snapshot, which will include it
		case d.Seq > f.seq+1:
			f.flush(false)
			if gap := f.readBack(ctx, d.Seq); gap != nil {
				if ctx.Err() == nil {
					f.connected(false, whyText(gap)) // check will try again
				}
				return
			}
		default:
			if err != nil {
				f.Logger.Warn("skipped a record that cannot be read", "error", err)
			} else {
				f.batch = append(f.batch, d)
			}
			f.seq, f.heard = d.Seq, time.Now()
		}
		if len(f.batch) >= followBatch {
			break
		}
		select {
		case m = <-f.live:
			continue
		default:
		}
		break
	}
	f.flush(false)
}

func (f *Follower) flush(late bool) {
	if len(f.batch) > 0 {
		f.Log.Append(f.batch, f.seq, late)
		f.batch = f.batch[:0]
	}
}

// readBack reads the messages after the position, up to and including to.
func (f *Follower) readBack(ctx context.Context, to uint64) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f.Logger.Debug("reading back missed records", "from", f.seq+1, "to", to)
	f.batch = f.batch[:0]
	err := f.Names.Range(ctx, f.Conn.NATS(), f.Names.InAll(), f.seq+1, to, func(m *nats.Msg) {
		d, err := f.Names.Decode(m)
		if err != nil {
			f.Logger.Warn("skipped a record that cannot be read", "error", err)
		} else {
			f.batch = append(f.batch, d)
		}
		f.seq = max(f.seq, d.Seq)
		if len(f.batch) >= followBatch {
			f.flush(true)
		}
	})
	f.flush(true)
	if err != nil {
		return err
	}
	f.seq = max(f.seq, to)
	f.Log.Append(nil, f.seq, true)
	return nil
}

func (f *Follower) connected(ok bool, why string) {
	if ok != f.up || why != f.why {
		f.up, f.why = ok, why
		f.Log.Connected(ok, why)
	}
}
