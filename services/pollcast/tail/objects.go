package tail

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/pollcast/pollcast/pkg/client"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire"
)

// objects prints an object per line: the gateway's frames (proto/pollcast/v1),
// and the client's own updates, which are marked.
type objects struct {
	out io.Writer
	buf bytes.Buffer
	enc *json.Encoder
}

func newObjects(out io.Writer) *objects {
	o := &objects{out: out}
	o.enc = json.NewEncoder(&o.buf)
	o.enc.SetEscapeHTML(false)
	return o
}

// object has the keys of a server frame and those of the client's own updates.
type object struct {
	Local      bool             `json:"local,omitempty"`
	Event      *wire.Event      `json:"event,omitempty"`
	Fresh      *event.Freshness `json:"fresh,omitempty"`
	Breaker    *event.Breaker   `json:"breaker,omitempty"`
	Gap        *gap             `json:"gap,omitempty"`
	Resumed    *resumed         `json:"resumed,omitempty"`
	Connection *connection      `json:"connection,omitempty"`
}

type gap struct {
	Topic  string `json:"topic"`
	After  uint64 `json:"after"`
	Before uint64 `json:"before"`
	Missed uint64 `json:"missed"`
}

type resumed struct {
	Complete bool   `json:"complete"`
	Reason   string `json:"reason"`
}

type connection struct {
	Connected bool   `json:"connected"`
	Gateway   string `json:"gateway,omitempty"`
	ID        string `json:"connection,omitempty"`
	Moved     bool   `json:"moved,omitempty"`
	Error     string `json:"error,omitempty"`
	RetryInMs int64  `json:"retryInMs,omitempty"`
}

func (o *objects) print(u client.Update) error {
	var v object
	switch u := u.(type) {
	case *client.Event:
		v.Event = &u.Event
	case *client.Freshness:
		v.Local, v.Fresh = u.Local, &u.Freshness
	case *client.Breaker:
		v.Breaker = &u.Breaker
	case *client.Gap:
		v.Local, v.Gap = true, &gap{u.Topic, u.After, u.Before, u.Missed()}
	case *client.Resumed:
		v.Local, v.Resumed = true, &resumed{u.Complete, u.Reason}
	case *client.Connection:
		v.Local, v.Connection = true, &connection{
			Connected: u.Connected, Gateway: u.Gateway, ID: u.ID, Moved: u.Moved, RetryInMs: u.RetryIn.Milliseconds(),
		}
		if u.Err != nil {
			v.Connection.Error = u.Err.Error()
		}
	default:
		return nil
	}
	o.buf.Reset()
	if err := o.enc.Encode(&v); err != nil {
		return err
	}
	_, err := o.out.Write(o.buf.Bytes())
	return err
}
