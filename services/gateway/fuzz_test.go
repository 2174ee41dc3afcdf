package gateway

import (
	"bytes"
	"net/url"
	"slices"
	"testing"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// What a browser sends back is what it was given, or it is refused.
func FuzzLastEventID(f *testing.F) {
	for _, id := range []string{"E:1", "2026-11-22T10:00:00Z:7", ":1", "E:", "E", "", "E:-1", "E:18446744073709551615", "E:18446744073709551616", "a:b:3"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		since, err := parseEventID(id)
		if err != nil {
			return
		}
		b := appendSSE(nil, &wire.ServerFrame{Event: &wire.Event{Epoch: since.Epoch, Seq: since.Seq}}, []byte("{}"))
		if seq, ok := sseSeq(b); !bytes.ContainsAny([]byte(since.Epoch), "\r\n") && (!ok || seq != since.Seq) {
			t.Errorf("%q was taken for %+v, whose own id reads as %d %v", id, since, seq, ok)
		}
	})
}

// Whatever stands behind the ?, the topics are few, different and not empty, or
// there is an error.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"topics=a.b,c.>", "topics=", "topics=,,", "topics=a&topics=b,a", "topics=%00", "topics=a%2Cb", "x=1", "topics=%zz", "topics=a;topics=b"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, _ := url.ParseQuery(raw) // as net/http does: what is wrong is left out
		topics, err := topicsParam(q)
		if err != nil {
			return
		}
		if q.Has("topics") != (len(topics) > 0) {
			t.Errorf("%q: have %q, and no error", raw, topics)
		}
		sorted := slices.Sorted(slices.Values(topics))
		if len(slices.Compact(sorted)) != len(topics) || slices.Contains(topics, "") {
			t.Errorf("%q: have %q, with doubles or empty ones", raw, topics)
		}
		ok := true
		for _, p := range topics {
			ok = ok && topic.CheckPattern(p) == nil
		}
		if ok {
			topic.Canonical(topics) // takes whatever was checked
		}
	})
}
