package poller

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

// asker asks the upstreams of one poll and judges what they answer. Its fields
// do not change while the poll runs.
type asker struct {
	topic     string
	index     int // of the poll in its source
	config    Poll
	source    Source
	upstreams *upstreams
	question  *question
	shape     *shape
	// readHead reads the head of a sequence out of an answer; nil: the poll follows none.
	readHead func(context.Context, json.RawMessage) (int64, error)
	ignore   []path
	bands    []band
	log      *slog.Logger
	// maxPayload is the longest value that NATS takes, in bytes; 0: not known.
	maxPayload func() int64
	// stood is for how long the process stood still so far.
	stood func() time.Duration

	calls    sync.WaitGroup // to upstreams; those that lost a race outlive their tick
	panicked sync.Once
}

// keyTopic is the topic of a key, given by its token.
func (a *asker) keyTopic(token string) string {
	if token == own {
		return a.topic
	}
	return a.topic + "." + token
}
