package ask

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
)

// asker asks the upstreams of one poll and judges what they answer. Its fields
// do not change while the poll runs.
type Asker struct {
	Topic     string
	Index     int // of the poll in its source
	Config    config.Poll
	Source    config.Source
	Upstreams *Upstreams
	Question  *jq.Question
	Shape     *jq.Shape
	// readHead reads the head of a sequence out of an answer; nil: the poll follows none.
	ReadHead func(context.Context, json.RawMessage) (int64, error)
	Ignore   []jq.Path
	Bands    []jq.Band
	Log      *slog.Logger
	// maxPayload is the longest value that NATS takes, in bytes; 0: not known.
	MaxPayload func() int64
	// stood is for how long the process stood still so far.
	Stood func() time.Duration

	Calls    sync.WaitGroup // to upstreams; those that lost a race outlive their tick
	panicked sync.Once
}

// keyTopic is the topic of a key, given by its token.
func (a *Asker) KeyTopic(token string) string {
	if token == OwnTopic {
		return a.Topic
	}
	return a.Topic + "." + token
}

// own is the token under which a poll's own topic stands among its keys, when
// the poll had no keys in an earlier configuration. No key has an empty token.
const OwnTopic = ""
