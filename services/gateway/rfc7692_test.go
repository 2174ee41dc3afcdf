package gateway

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pollcast/pollcast/services/gateway/ws/wstest"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The cases of TestRFC7692 are written from RFC 7692, whose sections they name,
// as those of TestRFC6455 are.

// bomb is some KB that would be 32 MiB.
var bomb = sync.OnceValue(func() []byte { return wstest.Deflate(ask(7, 32<<20)) })

func rfc7692Cases() []rfcCase {
	frames := func(f ...[]byte) [][]byte { return f }
	m := ask(7, 5000)
	z := wstest.Deflate(m)
	whole := clientFrame(fin|rsv1|txt, z)
	bad := []byte(`{"id":5,"ping":{"x":"` + "\xff" + `"}}`)
	all := []rfcCase{
		{"6", "a compressed message", frames(whole), []string{text(7)}, staysOpen},
		{"6", "a message that is not compressed", frames(clientFrame(fin|txt, m)), []string{text(7)}, staysOpen},
		{"6", "one of each, twice", frames(whole, clientFrame(fin|txt, ask(1, 0)), whole, clientFrame(fin|txt, ask(2, 0))), []string{text(7), text(1), text(7), text(2)}, staysOpen},
		{"6.1", "one byte a write", split(whole), []string{text(7)}, staysOpen},
		{"6.1", "fragments", frames(clientFrame(rsv1|txt, z[:3]), clientFrame(cont, z[3:9]), clientFrame(fin|cont, z[9:])), []string{text(7)}, staysOpen},
		{"6.1", "fragments with a ping between", frames(clientFrame(rsv1|txt, z[:3]), clientFrame(fin|ping_, []byte("p")), clientFrame(fin|cont, z[3:])), []string{pong("p"), text(7)}, staysOpen},
		{"6.1", "fragments, the first and the last empty", frames(clientFrame(rsv1|txt, nil), clientFrame(cont, z), clientFrame(fin|cont, nil)), []string{text(7)}, staysOpen},
		{"6.1", "fragments, then a message that is not compressed", frames(clientFrame(rsv1|txt, z[:3]), clientFrame(fin|cont, z[3:]), clientFrame(txt, m[:9]), clientFrame(fin|cont, m[9:])), []string{text(7), text(7)}, staysOpen},
		{"6.1", "RSV1 on a fragment that is not the first", frames(clientFrame(rsv1|txt, z[:3]), clientFrame(fin|rsv1|cont, z[3:])), []string{closed(1002)}, ends},
		{"6.1", "RSV1 on a later fragment alone", frames(clientFrame(txt, m[:3]), clientFrame(fin|rsv1|cont, m[3:])), []string{closed(1002)}, ends},
		{"6", "RSV2 too", frames(clientFrame(fin|rsv1|0x20|txt, z)), []string{closed(1002)}, ends},
		{"7.2.3.5", "two blocks", frames(clientFrame(fin|rsv1|txt, slices.Concat(wstest.Deflate(m[:9]), []byte("\x00\x00\xff\xff"), wstest.Deflate(m[9:])))), []string{text(7)}, staysOpen},
		{"7.2.3.3", "a block without compression", frames(clientFrame(fin|rsv1|txt, slices.Concat([]byte{0, 18, 0, 0xff - 18, 0xff}, ask(7, 0), []byte{0}))), []string{text(7)}, staysOpen},
		{"7.2.3.4", "a block with BFINAL", frames(clientFrame(fin|rsv1|txt, append(wstest.DeflateFinal(m), 0))), []string{text(7)}, staysOpen},
		{"7.2.3.4", "blocks after one with BFINAL", frames(clientFrame(fin|rsv1|txt, append(wstest.DeflateFinal(m[:9]), wstest.Deflate(m[9:])...))), []string{text(7)}, staysOpen},
		{"7.2.3.4", "no end of blocks with BFINAL", frames(clientFrame(fin|rsv1|txt, bytes.Repeat([]byte{3, 0}, 30_000))), []string{closed(1007)}, ends},
		{"7.2.3.6", "an empty message", frames(clientFrame(fin|rsv1|txt, []byte{0})), []string{"error bad_frame"}, staysOpen},
		{"7.2.3.6", "an empty message of no bytes", frames(clientFrame(fin|rsv1|txt, nil)), []string{"error bad_frame"}, staysOpen},
		{"7.2.2", "what is no DEFLATE", frames(clientFrame(fin|rsv1|txt, []byte("\xff\xff\xff"))), []string{closed(1007)}, ends},
		{"7.2.2", "what is not compressed", frames(clientFrame(fin|rsv1|txt, m)), []string{closed(1007)}, ends},
		{"7.2.2", "half a message", frames(clientFrame(fin|rsv1|txt, z[:len(z)/2])), []string{closed(1007)}, ends},
		{"7.2.2", "a final block that is longer than the message", frames(clientFrame(fin|rsv1|txt, []byte{1, 2, 0, 0xff - 2, 0xff})), []string{closed(1007)}, ends},
		{"7.2.3.2", "the window of another message", frames(whole, clientFrame(fin|rsv1|txt, []byte{0x02, 0x13, 0x00, 0x00})), []string{text(7), closed(1007)}, ends},
		{"7.2.2", "text that is not UTF-8", frames(clientFrame(fin|rsv1|txt, wstest.Deflate(bad))), []string{closed(1007)}, ends},
		{"7.2.2", "binary where the subprotocol has text", frames(clientFrame(fin|rsv1|bin, z)), []string{"error bad_frame"}, staysOpen},
		{"7.2.2", "as long as may be", frames(clientFrame(fin|rsv1|txt, wstest.Deflate(ask(7, 64<<10)))), []string{text(7)}, staysOpen},
		{"7.2.2", "a byte more than may be", frames(clientFrame(fin|rsv1|txt, wstest.Deflate(ask(7, 64<<10+1)))), []string{closed(1009)}, ends},
		{"7.2.2", "a bomb", frames(clientFrame(fin|rsv1|txt, bomb())), []string{closed(1009)}, ends},
		{"7.2.2", "a bomb in fragments", frames(clientFrame(rsv1|txt, bomb()[:9]), clientFrame(fin|cont, bomb()[9:])), []string{closed(1009)}, ends},
		{"7.2.2", "a bomb of blocks with BFINAL", frames(clientFrame(fin|rsv1|txt, bytes.Repeat(wstest.DeflateFinal(ask(7, 10_000)), 10))), []string{closed(1009)}, ends},
	}
	for name, op := range map[string]byte{"ping": ping_, "pong": pong_, "close": clos} {
		all = append(all, rfcCase{"6", "RSV1 on a " + name, frames(clientFrame(fin|rsv1|op, nil)), []string{closed(1002)}, ends})
	}
	slices.SortFunc(all, func(a, b rfcCase) int { return strings.Compare(a.section+a.name, b.section+b.name) })
	return all
}

const deflateOffer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"

func TestRFC7692(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Compression, c.FrameRate = true, 100_000 })
	for _, tt := range rfc7692Cases() {
		t.Run(tt.section+" "+tt.name, func(t *testing.T) { tt.ask(t, r.gw.Addr(), rfcRequest+deflateOffer) })
	}
	t.Run("6 RSV1 where nothing was negotiated", func(t *testing.T) {
		rfcCase{send: [][]byte{clientFrame(fin|rsv1|txt, wstest.Deflate(ask(7, 0)))}, want: []string{closed(1002)}, end: ends}.run(t, r.gw.Addr())
	})
	eventually(t, "every connection is gone", func() bool { return testutil.ToFloat64(r.gw.server.metrics.connections) == 0 })
}

func TestRFC7692Handshake(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Compression = true })
	const name = "Sec-WebSocket-Extensions: "
	for offer, want := range map[string]bool{
		"permessage-deflate":                                                          true,
		"permessage-deflate; client_max_window_bits":                                  true,
		"permessage-deflate; client_max_window_bits=9":                                true,
		`permessage-deflate;client_max_window_bits="10" ; client_no_context_takeover`: true,
		"permessage-deflate; server_no_context_takeover; client_no_context_takeover":  true,
		"permessage-bzip2, permessage-deflate":                                        true,
		"permessage-bzip2\r\n" + name + "permessage-deflate":                          true,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":           true, // 7.1: by preference
		"":                                  false,
		"permessage-bzip2":                  false,
		"Permessage-Deflate":                false,
		`x; y="a, permessage-deflate, b"`:   false,
		`x; y="a\", permessage-deflate, b"`: false,
		"permessage-deflate; server_max_window_bits=10":                      false, // 7.1.2.1
		"permessage-deflate; server_max_window_bits=15":                      false, // the answer would have to name it
		"permessage-deflate; server_max_window_bits":                         false,
		"permessage-deflate; client_max_window_bits=7":                       false, // 7.1.2.2
		"permessage-deflate; client_max_window_bits=16":                      false,
		"permessage-deflate; client_max_window_bits=010":                     false,
		"permessage-deflate; client_max_window_bits=":                        false,
		"permessage-deflate; client_max_window_bits; client_max_window_bits": false, // 7.1
		"permessage-deflate; server_no_context_takeover=1":                   false, // 7.1.1.1
		"permessage-deflate; client_no_context_takeover=true":                false, // 7.1.1.2
		"permessage-deflate; unknown":                                        false, // 7.1
		"permessage-deflate;":                                                false,
	} {
		p, head := rfcDial(t, r.gw.Addr(), rfcRequest+name+offer+"\r\n")
		accepted := strings.Contains(head, "\r\n"+name+"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 101 ") || accepted != want || strings.Contains(head, "Extensions") != want {
			t.Errorf("offer %q: have %q, want accepted %v", offer, head, want)
		}
		if have := p.next(); have != text(0) {
			t.Errorf("offer %q: first frame: %s", offer, have)
		}
		p.conn.Close()
	}
}
