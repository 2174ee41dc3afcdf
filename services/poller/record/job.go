package record

import (
	"errors"
	"fmt"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
)

// Job is what a poll has to publish at one time. The order is: Fence, Changes or
// Steps, Fresh. So no freshness record confirms a value that is not stored.
type Job struct {
	Topic  string // of the poll
	Ignore []jq.Path
	// Changes are events of the poll's own topic and of its keys.
	Changes []*Change
	// Steps are events of the poll's own topic, in their order.
	Steps   []*Step
	Version uint64 // of the poll's own topic, before the first step
	Slot    time.Time
	// Fence, if not nil, is published before anything else. Then the stream is read,
	// with the keys if Keys is true, and nothing more is done.
	Fence *event.Freshness
	Keys  bool
	Fresh *event.Freshness // or nil
	// Circuits are those of the source when Fence or Fresh was made.
	Circuits []event.Circuit
	Place    *event.Place // of a walk when Fresh was made; or nil
	AsOf     time.Time    // when the value was last confirmed that the job is about
	Known    State
	Tenure   *lease.Tenure
}

// Change is an event of one topic: a value, or that there is none any more. The
// publisher writes the outcome into it.
type Change struct {
	Token  string       // last token of a key's topic; OwnTopic for the poll's own
	Event  *event.Event // without version and fence
	Digest jq.Digest
	Slot   time.Time
	Known  Copy // before and, when it was stored, after
	Taken  bool // the slot holds another value
}

// OwnTopic is the token of a poll's own topic. No key has an empty token.
const OwnTopic = ""

// Step is one event of a walk: a position, or that positions are taken back.
type Step struct {
	Event  *event.Event // without times, version and fence until it is published
	Sent   time.Time    // when the head was asked for, before it
	ID     string       // of the position, as JSON; "" if it has none
	Stored bool
}

// Why a job was not done.
var (
	// ErrAgain: the stream holds something else than was known. The State that comes
	// with it knows that, and the job is to be made again.
	ErrAgain = errors.New("stream has moved on")
	// ErrSlotTaken: an event of the same slot is stored, with another value.
	ErrSlotTaken = fmt.Errorf("%w: an event of this slot is stored already", ErrAgain)

	errRefused = errors.New("refused by the expected sequence")
	// errBusy: the stream is replicated and takes one message at a time under the
	// same expected sequence. Another message of this poller is under way.
	errBusy      = fmt.Errorf("%w: another message is on its way", errRefused)
	errDuplicate = errors.New("stored already")
)
