package poller

import (
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Pollers with different configurations: a source that only one of them has is
// polled by that one, however many it owns, and stays there; one that both have
// is polled by one of them, and by the other when that goes.
func TestSharesOfOtherSources(t *testing.T) {
	t.Parallel()
	const interval = 200 * time.Millisecond
	s, u := bustest.Start(t), newAsked(t)
	b := s.Config()
	b.LeaseTime = time.Second
	many := run(t, several(u.URL, interval, "both", "mine-1", "mine-2", "mine-3"), b)
	owns := func(p *running, names ...string) func() bool {
		return func() bool {
			for _, name := range names {
				if r := p.source(name); r == nil || !r.Owned() {
					return false
				}
			}
			return true
		}
	}
	pollertest.Eventually(t, "the first owns all", owns(many, "both", "mine-1", "mine-2", "mine-3"))
	few := run(t, several(u.URL, interval, "both", "yours"), b)
	pollertest.Eventually(t, "the second owns what only it has", owns(few, "yours"))
	pollertest.Eventually(t, "they know that they differ", func() bool {
		st := few.Status().Pollers
		return len(st) == 2 && (st[0].OtherSet || st[1].OtherSet)
	})
	from := time.Now()
	time.Sleep(4 * b.LeaseTime) // in which shares would be evened
	if n := moved("given", many, few); n > 0 {
		t.Errorf("%d sources were given away", n)
	}
	for _, name := range []string{"both", "mine-1", "mine-2", "mine-3", "yours"} {
		slots := u.since(from, interval)[name]
		for i := range slots[min(1, len(slots)):] {
			if slots[i+1] == slots[i] {
				t.Errorf("%s was asked twice in slot %d", name, slots[i])
			}
		}
		if len(slots) < 10 {
			t.Errorf("%s was asked %d times in %v", name, len(slots), time.Since(from))
		}
	}
	many.stop()
	pollertest.Eventually(t, "the second owns what it has", owns(few, "both", "yours"))
	if r := few.source("mine-1"); r != nil {
		t.Error("a source came from nowhere")
	}
}
