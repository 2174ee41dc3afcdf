package poller

import (
	"context"
	"slices"
	"strings"
)

// A seat is one source's place in a running poller: its lease, and one runner
// after another that polls under it. A reload changes who sits there.
type seat struct {
	// Guarded by the poller's mu.
	end  context.CancelCauseFunc // of the runner's turn
	next *change                 // who comes then
	gone chan struct{}           // closed when the seat is empty for good
}

// change is what a reload wants of a seat: another runner, or nil for none.
type change struct {
	runner *runner
	done   chan struct{} // closed when the runner sits
}

// list is the sources by name, at this moment.
func (p *Poller) list() []*runner {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sources)
}

// others is what is known of other pollers; nil before Run knows the bucket.
func (p *Poller) others() *replicas {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crew
}

// seatAll starts every source.
func (p *Poller) seatAll(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seats, p.ctx = map[string]*seat{}, ctx
	for _, r := range p.sources {
		p.sit(ctx, r)
	}
}

// unseat waits for every source; nobody sits down any more.
func (p *Poller) unseat() {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	p.seated.Wait()
}

// sit starts a source, with mu held.
func (p *Poller) sit(ctx context.Context, r *runner) {
	l := newLease(p.kv, r.name, p.owner, p.host, p.options.NATS.LeaseTime, r.log, p.repair)
	l.complain = p.complain
	l.crew, l.sources = p.crew, func() int { return len(p.list()) }
	s := &seat{gone: make(chan struct{})}
	p.seats[r.name] = s
	p.seated.Go(func() { p.occupy(ctx, s, r, l) })
}

// occupy runs what sits on a seat, one runner after the other, until ctx ends
// or a change leaves it empty.
func (p *Poller) occupy(ctx context.Context, s *seat, r *runner, l *lease) {
	defer close(s.gone)
	var t *tenure // that goes on from one runner to the next
	for {
		turn, end := context.WithCancelCause(ctx)
		p.mu.Lock()
		s.end = end
		if s.next != nil {
			end(s.next.cause())
		}
		p.mu.Unlock()
		t = r.run(turn, l, t, p.pub)
		end(nil)

		p.mu.Lock()
		c := s.next
		s.next = nil
		if c == nil || c.runner == nil {
			p.mu.Unlock()
			return
		}
		c.runner.inherit(r)
		p.replace(r, c.runner)
		p.mu.Unlock()
		r.close()
		r = c.runner
		close(c.done)
	}
}

func (c *change) cause() error {
	if c.runner == nil {
		return errRemoved
	}
	return errReplaced
}

// turn asks for a change of a seat, with mu held.
func (s *seat) turn(c *change) {
	s.next = c
	if s.end != nil {
		s.end(c.cause())
	}
}

// replace puts a runner into the list in another's place, with mu held; either
// may be nil.
func (p *Poller) replace(old, next *runner) {
	list := slices.DeleteFunc(slices.Clone(p.sources), func(r *runner) bool { return r == old })
	if next != nil {
		at, _ := slices.BinarySearchFunc(list, next, func(a, b *runner) int { return strings.Compare(a.name, b.name) })
		list = slices.Insert(list, at, next)
	}
	p.sources = list
}
