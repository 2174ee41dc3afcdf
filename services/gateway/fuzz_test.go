package gateway

import (
	"bytes"
	"fmt"
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

// Where a breach is found does not depend on how the bytes came in.
func FuzzInbound(f *testing.F) {
	f.Add(clientFrame(fin|txt, ask(1, 300)), uint8(3))
	f.Add(wideFrame(fin|txt, ask(1, 0), 8), uint8(1))
	f.Add(append(clientFrame(fin|ping_, nil), clientFrame(fin|clos, []byte{3})...), uint8(7))
	f.Add(slices.Concat(clientFrame(txt, ask(1, 0)[:3]), clientFrame(fin|ping_, nil), clientFrame(fin|cont, ask(1, 0)[3:])), uint8(2))
	f.Add(clientFrame(fin|rsv1|txt, squeeze(ask(1, 3000))), uint8(0x85))
	f.Add(slices.Concat(clientFrame(rsv1|txt, squeeze(ask(1, 300))[:7]), clientFrame(fin|cont, squeeze(ask(1, 300))[7:])), uint8(0x83))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		deflate := step&0x80 != 0
		step &= 0x7f
		const most = 1 << 10
		hear := func(pieces [][]byte) (heard []string, held int, err error) {
			in := inbound{deflate: deflate}
			for _, p := range pieces {
				err = in.feed(bytes.Clone(p), most, func(op byte, body []byte) bool {
					if len(body) > most {
						t.Errorf("%x: a message of %d bytes, with %d at most", b, len(body), most)
					}
					heard = append(heard, fmt.Sprintf("%x %x", op, body))
					return op != closeMessage
				})
				if err != nil || in.over {
					return heard, 0, err
				}
				held = max(held, len(in.part)+len(in.begun))
			}
			return heard, held, nil
		}
		want, held, wantErr := hear([][]byte{b})
		have, _, err := hear(slices.Collect(slices.Chunk(b, max(1, int(step)))))
		if !slices.Equal(have, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%x: in one piece %q, then %v; in pieces of %d: %q, then %v", b, want, wantErr, step, have, err)
		}
		if held > 2*most+14 {
			t.Errorf("%x: %d bytes are held, with messages of %d at most", b, held, most)
		}
	})
}
