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

// Asker asks the upstreams of one poll and judges their answers. Its fields do not
// change while the poll runs, so that its methods may be called by several goroutines.
type Asker struct {
	Topic     string // of the poll
	Index     int    // of the poll in its source, from 0
	Config    config.Poll
	Source    config.Source
	Upstreams *Upstreams
	Question  *jq.Question
	Shape     *jq.Shape
	// ReadHead reads the head of a sequence from an answer. It is nil unless the poll
	// follows a sequence.
	ReadHead func(context.Context, json.RawMessage) (int64, error)
	Ignore   []jq.Path // parts of a value that do not make it another value
	Bands    []jq.Band // numbers that may move within a band without making another value
	Log      *slog.Logger
	// MaxPayload returns the length of the longest value that NATS takes, in bytes, or
	// 0 while it is not known. size is that of the value in question.
	MaxPayload func(size int) int64
	// Stood returns for how long the process has stood still since it started.
	Stood func() time.Duration

	// Calls waits for the calls to upstreams. A call that lost against a hedge may end
	// after its tick.
	Calls    sync.WaitGroup
	panicked sync.Once // a panic was logged
}

// KeyTopic returns the topic of a key, given by its token.
func (a *Asker) KeyTopic(token string) string { return a.Topic + "." + token }
