package hub

import (
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
)

// What a client is owed may be incomplete where another's is not.
func TestStretchLacks(t *testing.T) {
	ev := func(seq uint64, topic string, version uint64, deleted bool) Event {
		return Event{&event.Event{Topic: topic, Version: version, Deleted: deleted}, seq}
	}
	var flood []Event
	for i := range uint64(20) {
		flood = append(flood, ev(100+i, "a.x", 1+i, false))
	}
	for name, tt := range map[string]struct {
		s     Stretch
		later []Event
		topic string
		from  uint64 // the first position that can be resumed; 0: none
	}{
		"complete":            {s: Stretch{To: 200, Depth: 64, Events: flood}, topic: "a.x", from: 1},
		"trimmed":             {s: Stretch{To: 200, Trimmed: 90, Events: flood}, topic: "a.x", from: 90},
		"too far":             {s: Stretch{To: 200, TooFar: 99, Events: flood}, topic: "a.x", from: 99},
		"depth":               {s: Stretch{To: 200, Depth: 16, Events: flood}, topic: "a.x", from: 106}, // 13 of 14
		"depth, other topic":  {s: Stretch{To: 200, Depth: 16, Events: flood}, topic: "a.y", from: 1},
		"depth, with later":   {s: Stretch{To: 200, Depth: 16, Events: flood}, later: []Event{ev(201, "a.x", 21, false)}, topic: "a.x", from: 107},
		"any depth":           {s: Stretch{To: 200, Events: flood}, topic: "a.x", from: 1},
		"flood later":         {s: Stretch{To: 90, Depth: 16}, later: flood, topic: "a.x"},
		"jump":                {s: Stretch{To: 200, Events: []Event{ev(10, "a.x", 1, false), ev(20, "a.x", 3, false), ev(30, "a.x", 4, false)}}, topic: "a.x", from: 20},
		"jump to later":       {s: Stretch{To: 200, Events: []Event{ev(10, "a.x", 1, false)}}, later: []Event{ev(201, "a.x", 3, false)}, topic: "a.x"},
		"jump to deletion":    {s: Stretch{To: 200, Events: []Event{ev(10, "a.x", 1, false), ev(20, "a.x", 3, true)}}, topic: "a.x", from: 1},
		"deleted later":       {s: Stretch{To: 200, Events: []Event{ev(10, "a.x", 1, false), ev(20, "a.x", 3, false)}}, later: []Event{ev(201, "a.x", 9, true)}, topic: "a.x", from: 1},
		"history has gone on": {s: Stretch{To: 200}, later: []Event{}, topic: "a.x", from: 1},
	} {
		h := history{max: 100, maxBytes: 1 << 20}
		h.restart(tt.s.To)
		for _, p := range tt.later {
			h.add(p)
		}
		if !tt.s.check(&h) {
			t.Errorf("%s: cannot be checked", name)
			continue
		}
		first := uint64(0)
		for seq := tt.s.To; seq > 0 && tt.s.Lacks(seq, []string{tt.topic}) == ""; seq-- {
			first = seq
		}
		if tt.from == 0 {
			tt.from = first // looked at below
			if tt.s.Lacks(tt.s.To-1, []string{tt.topic}) == "" {
				t.Errorf("%s: who has seen all but the last can be resumed", name)
			}
		}
		if first != tt.from {
			t.Errorf("%s: can be resumed from %d on, want %d", name, first, tt.from)
		}
	}
	h := history{max: 1, maxBytes: 1 << 20}
	h.restart(300)
	if s := (Stretch{To: 200}); s.check(&h) {
		t.Error("checked without the history in between")
	}
}
