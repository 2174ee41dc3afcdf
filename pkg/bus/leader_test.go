package bus_test

import (
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// One message is read by subject or by number. A message that is no record still
// has its place in the stream.
func TestReadAtTheLeader(t *testing.T) {
	s := bustest.Start(t)
	nc, js, n := s.JetStream()
	if m, err := n.LastOn(t.Context(), nc, n.In("a.b")); err != nil || m.Seq != 0 {
		t.Errorf("an empty stream: %+v, %v", m, err)
	}
	publish(t, js, "a.b", 1)
	publish(t, js, "a.b", 2)
	if _, err := js.Publish(t.Context(), n.In("a.b"), []byte("no record")); err != nil {
		t.Fatal(err)
	}
	m, err := n.StoredAt(t.Context(), nc, 2)
	if err != nil || m.Seq != 2 || m.Event == nil || m.Event.Version != 2 || m.Stored.IsZero() {
		t.Errorf("message 2: %+v, %v", m, err)
	}
	if m, err := n.LastOn(t.Context(), nc, n.In("a.b")); err != nil || m.Seq != 3 || m.Event != nil {
		t.Errorf("the last message is no record: %+v, %v", m, err)
	}
	if m, err := n.StoredAt(t.Context(), nc, 4); err != nil || m.Seq != 0 {
		t.Errorf("a message that is not there: %+v, %v", m, err)
	}
	if err := js.DeleteStream(t.Context(), n.Stream()); err != nil {
		t.Fatal(err)
	}
	_, err = n.StoredAt(t.Context(), nc, 1)
	if err == nil || !strings.Contains(err.Error(), "get a message from the stream's leader") {
		t.Errorf("without a stream: error %v", err)
	}
}
