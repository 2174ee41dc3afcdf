package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/wire"
)

// TestRFC6455Handshake: sections 4.1, 4.2 and 4.4.
func TestRFC6455Handshake(t *testing.T) {
	r := newRig(t, nil)
	replace := func(old, with string) string {
		if !strings.Contains(rfcRequest, old) {
			t.Fatalf("the request has no %q", old)
		}
		return strings.Replace(rfcRequest, old, with, 1)
	}
	const (
		upgrade    = "Upgrade: websocket\r\n"
		connection = "Connection: Upgrade\r\n"
		key        = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		version    = "Sec-WebSocket-Version: 13\r\n"
	)
	for _, tt := range []struct {
		section, name string
		request       string
		status        string
		header        map[string]string // what the answer has; "" for what it must not have
	}{
		{"1.3", "the example's key", rfcRequest, "101", map[string]string{
			"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
			"Sec-WebSocket-Protocol": "", "Sec-WebSocket-Extensions": "",
		}},
		{"4.2.1", "names and values in any case", strings.NewReplacer("Upgrade: websocket", "uPGRADE: WebSocket", "Connection: Upgrade", "CONNECTION: UPGRADE").Replace(rfcRequest), "101", nil},
		{"4.2.1", "Connection is a list", replace(connection, "Connection: keep-alive, Upgrade\r\n"), "101", nil},
		{"4.2.1", "Connection comes twice", replace(connection, "Connection: keep-alive\r\nConnection: Upgrade\r\n"), "101", nil},
		{"4.2.1", "Upgrade is a list", replace(upgrade, "Upgrade: h2c, websocket\r\n"), "101", nil},
		{"4.2.1", "headers that nobody knows", rfcRequest + "X-Who: me\r\nCookie: a=b; c=d\r\n", "101", nil},
		{"4.2.1", "the short path", replace("GET /v1/ws", "GET /ws"), "101", nil},
		{"4.2.1", "an address with everything", replace("GET /v1/ws", "GET http://example.com/v1/ws?topics=a.b,c.>"), "101", nil},
		{"4.1", "no GET", replace("GET", "POST"), "405", nil},
		{"4.1", "PUT", replace("GET", "PUT"), "405", nil},
		{"4.2.1", "HTTP/1.0", replace("HTTP/1.1", "HTTP/1.0"), "400", nil},
		{"4.2.1", "HTTP/0.9", replace(" HTTP/1.1", ""), "400", nil},
		{"4.2.1", "no Host", replace("Host: example.com\r\n", ""), "400", nil},
		{"4.2.1", "two Hosts", replace("Host: example.com\r\n", "Host: a\r\nHost: b\r\n"), "400", nil},
		{"4.2.1", "no Upgrade", replace(upgrade, ""), "426", map[string]string{"Upgrade": "websocket"}},
		{"4.2.1", "Upgrade to something else", replace(upgrade, "Upgrade: h2c\r\n"), "426", nil},
		{"4.2.1", "no Connection", replace(connection, ""), "426", nil},
		{"4.2.1", "Connection without Upgrade", replace(connection, "Connection: keep-alive\r\n"), "426", nil},
		{"4.2.1", "no key", replace(key, ""), "400", nil},
		{"4.2.1", "an empty key", replace(key, "Sec-WebSocket-Key:\r\n"), "400", nil},
		{"4.2.1", "a key that is no base64", replace(key, "Sec-WebSocket-Key: not base64 at all!!!\r\n"), "400", nil},
		{"4.2.1", "a key of 15 bytes", replace(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n"), "400", nil},
		{"4.2.1", "a key of 17 bytes", replace(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWU=\r\n"), "400", nil},
		{"4.2.1", "no version", replace(version, ""), "400", map[string]string{"Sec-WebSocket-Version": "13"}},
		{"4.4", "version 8", replace(version, "Sec-WebSocket-Version: 8\r\n"), "400", map[string]string{"Sec-WebSocket-Version": "13"}},
		{"4.4", "version 14", replace(version, "Sec-WebSocket-Version: 14\r\n"), "400", map[string]string{"Sec-WebSocket-Version": "13"}},
		{"4.4", "version 255", replace(version, "Sec-WebSocket-Version: 255\r\n"), "400", map[string]string{"Sec-WebSocket-Version": "13"}},
		{"4.2.2", "the subprotocol of text", rfcRequest + "Sec-WebSocket-Protocol: " + wire.ProtocolJSON + "\r\n", "101", map[string]string{"Sec-WebSocket-Protocol": wire.ProtocolJSON}},
		{"4.2.2", "the binary subprotocol", rfcRequest + "Sec-WebSocket-Protocol: " + wire.ProtocolProto + "\r\n", "101", map[string]string{"Sec-WebSocket-Protocol": wire.ProtocolProto}},
		{"4.2.2", "an unknown one and a known one", rfcRequest + "Sec-WebSocket-Protocol: chat, " + wire.ProtocolProto + "\r\n", "101", map[string]string{"Sec-WebSocket-Protocol": wire.ProtocolProto}},
		{"4.2.2", "subprotocols in two headers", rfcRequest + "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: " + wire.ProtocolJSON + "\r\n", "101", map[string]string{"Sec-WebSocket-Protocol": wire.ProtocolJSON}},
		{"4.2.2", "only unknown subprotocols", rfcRequest + "Sec-WebSocket-Protocol: chat, superchat\r\n", "400", nil},
		{"9.1", "an unknown extension", rfcRequest + "Sec-WebSocket-Extensions: x-everything; level=9\r\n", "101", map[string]string{"Sec-WebSocket-Extensions": ""}},
		{"9.1", "compression, which is off", rfcRequest + "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", "101", map[string]string{"Sec-WebSocket-Extensions": ""}},
		{"10.2", "a page of the same host", rfcRequest + "Origin: http://example.com\r\n", "101", nil},
		{"10.2", "a page of another host", rfcRequest + "Origin: http://evil.example\r\n", "403", nil},
		{"10.2", "a page without an origin of its own", rfcRequest + "Origin: null\r\n", "403", nil},
		{"4.2.1", "a line that is no header", rfcRequest + "no colon here\r\n", "400", nil},
	} {
		t.Run(tt.section+" "+tt.name, func(t *testing.T) {
			_, head := rfcDial(t, r.gw.Addr(), tt.request)
			status := strings.Fields(head)[1]
			if status != tt.status {
				t.Fatalf("have %q, want status %s", head, tt.status)
			}
			have := http.Header{}
			for line := range strings.SplitSeq(head, "\r\n") {
				if k, v, ok := strings.Cut(line, ":"); ok {
					have.Add(k, strings.TrimSpace(v))
				}
			}
			for k, want := range tt.header {
				if v := have.Get(k); v != want {
					t.Errorf("%s is %q, want %q", k, v, want)
				}
			}
		})
	}
}
