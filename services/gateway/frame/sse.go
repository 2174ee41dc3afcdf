package frame

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

// Server-sent events (WHATWG HTML, section 9.2) carry the frames of the JSON
// subprotocol, each as one event named after its key, to a client that only
// reads. An event's id is <epoch>:<seq>, so that the browser's Last-Event-ID
// resumes where it was. The connection is one of the engine's: the answer is
// written to the socket as it is, and ends with it.

// sseRetry is how long a browser waits before it connects again.
const sseRetry = 2 * time.Second

var Heartbeat = []byte(":\n\n")

// appendSSE appends a frame, of which b is the JSON, as one event.
func appendSSE(dst []byte, f *wire.ServerFrame, b []byte) []byte {
	name := ""
	switch {
	case f.Event != nil:
		name = "event"
		dst = fmt.Appendf(dst, "id: %s:%d\n", f.Event.Epoch, f.Event.Seq)
	case f.Fresh != nil:
		name = "fresh"
	case f.Breaker != nil:
		name = "breaker"
	case f.Welcome != nil:
		name = "welcome"
		dst = fmt.Appendf(dst, "retry: %d\n", sseRetry.Milliseconds())
	case f.Subscribed != nil:
		name = "subscribed"
	case f.GoAway != nil:
		name = "goaway"
	case f.Error != nil:
		name = "failure" // "error" is what a browser calls a lost connection
	}
	return fmt.Appendf(dst, "event: %s\ndata: %s\n\n", name, b) // JSON has no line breaks
}

// sseClose returns the event that stands for a close frame.
func sseClose(code wire.CloseCode, text string) []byte {
	return fmt.Appendf(nil, "event: close\ndata: %s\n\n", Marshal(struct {
		Code   wire.CloseCode `json:"code"`
		Reason string         `json:"reason"`
	}{code, text}))
}

func sseLen(b []byte) int { return bytes.Index(b, []byte("\n\n")) + 2 }

// sseSeq returns the sequence number of an event's id.
func sseSeq(b []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(b, []byte("id: "))
	if !ok {
		return 0, false
	}
	id, _, _ := bytes.Cut(rest, []byte{'\n'})
	since, err := ParseEventID(string(id))
	return since.Seq, err == nil
}

// ParseEventID reads <epoch>:<seq>.
func ParseEventID(id string) (wire.Since, error) {
	epoch, seq, ok := strings.Cut(id, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if !ok || err != nil || epoch == "" || len(epoch) > 64 {
		return wire.Since{}, errors.New("Last-Event-ID is not an id that this gateway gives: <epoch>:<seq>")
	}
	return wire.Since{Epoch: epoch, Seq: n}, nil
}
