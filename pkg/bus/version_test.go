package bus

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// serverOf runs a server that sends the INFO of a NATS version and answers pings.
func serverOf(t *testing.T, version string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			const info = `INFO {"server_id":"S","version":%q,"headers":true,"max_payload":1048576,"jetstream":true}`
			_, _ = fmt.Fprintf(c, info+"\r\n", version)
			for lines := bufio.NewScanner(c); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "PING") {
					_, _ = fmt.Fprint(c, "PONG\r\n")
				}
			}
			_ = c.Close()
		}
	}()
	return "nats://" + ln.Addr().String()
}

func TestTooOld(t *testing.T) {
	n, err := NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	for version, old := range map[string]bool{
		"2.9.25": true, "2.10.29": true, "1.4.1": true, "2.11.9": true,
		"2.12.0": false, "2.12.0-preview.1": false, "2.15.2": false, "3.0.0": false, "": false, "dev": false,
	} {
		nc, err := nats.Connect(serverOf(t, version), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if !old {
			if err := recent(nc); err != nil {
				t.Errorf("%q: %v", version, err)
			}
			nc.Close()
			continue
		}
		_, look := State(t.Context(), js, n)
		_, make := EnsureStream(t.Context(), js, n, DefaultConfig())
		for _, err := range []error{look, make} {
			want := "the server is NATS " + version + ": it is too old, 2.12 or later is needed"
			if !errors.Is(err, ErrTooOld) || err.Error() != want {
				t.Errorf("%q: have %v, want %s", version, err, want)
			}
		}
		nc.Close()
	}
}
