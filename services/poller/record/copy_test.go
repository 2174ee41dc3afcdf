package record

import (
	"testing"
)

// What lies at the stream's first message or after it is held.
func TestDrop(t *testing.T) {
	h := Copy{Has: true, seq: 5}
	for _, tt := range []struct {
		first uint64
		want  bool
	}{{1, false}, {5, false}, {6, true}, {7, false}} {
		if have := h.Drop(tt.first); have != tt.want {
			t.Errorf("dropped before %d: %v", tt.first, have)
		}
	}
	if h = (Copy{Has: true}); h.Drop(100) {
		t.Error("an event at a place that is not known is dropped")
	}
}
