package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// KeepDeletions is how long the stream keeps a deletion (its message's TTL). A
// reader that was away for longer cannot learn from the stream what was deleted.
const KeepDeletions = time.Hour

// duplicateWindow is how long the server remembers a Nats-Msg-Id.
const duplicateWindow = 2 * time.Minute

// StreamConfig is the configuration of the stream that holds every record. Once
// a record is stored, the stream republishes it on its live subject with
// Nats-Sequence in the headers.
//
// There is no MaxAge: a value that has not changed for a week is still the last
// good one. Deletions carry a TTL of their own.
func (n Names) StreamConfig(c Config) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.Stream(),
		Description:       "Pollcast: every event, freshness record and breaker transition",
		Subjects:          []string{n.InAll()},
		Storage:           jetstream.FileStorage,
		Replicas:          c.Replicas,
		Placement:         c.Placement.placement(),
		MaxMsgsPerSubject: int64(c.History),
		MaxBytes:          int64(c.MaxBytes),
		Discard:           jetstream.DiscardOld,
		Duplicates:        duplicateWindow,
		AllowDirect:       true,
		AllowMsgTTL:       true,
		AllowRollup:       true, // a deletion removes the earlier messages of its subject
		RePublish:         &jetstream.RePublish{Source: n.InAll(), Destination: n.LiveAll()},
	}
}

// EnsureStream creates the stream, or changes an existing one to the
// configuration. A stream that somebody else manages (nats.manage is false) is only
// compared. Pollers call it; gateways only read. The error wraps ErrTooOld if the
// server lacks what the stream needs, and ErrOtherPrefix if the stream of this name
// belongs to another prefix.
func EnsureStream(ctx context.Context, js jetstream.JetStream, n Names, c Config) (jetstream.Stream, error) {
	if err := recent(js.Conn()); err != nil {
		return nil, err
	}
	if !c.Manage {
		return n.checkStream(ctx, js, c)
	}
	// The stream is looked up first: NATS refuses to create one for lack of storage
	// before it notices that the stream exists.
	s, err := n.updateStream(ctx, js, c)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, n.StreamConfig(c))
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another poller was faster
		s, err = n.updateStream(ctx, js, c)
	}
	if errors.Is(err, ErrOtherPrefix) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("create or update stream %s: %w", n.Stream(), err)
	}
	return s, nil
}

// updateStream changes the stream to the configuration, if it is that of the
// prefix.
func (n Names) updateStream(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, n.Stream())
	if err != nil {
		return nil, err
	}
	if err := n.checkOwner(s.CachedInfo().Config); err != nil {
		return nil, err
	}
	return js.UpdateStream(ctx, n.StreamConfig(c))
}

// EnsureLeases creates the KV bucket of the leases, or changes an existing one to
// the configuration. An entry vanishes when it is not renewed for the lease time. A
// bucket that somebody else manages is only compared.
func EnsureLeases(ctx context.Context, js jetstream.JetStream, n Names, c Config) (jetstream.KeyValue, error) {
	if !c.Manage {
		return n.checkLeases(ctx, js, c)
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      n.LeaseBucket(),
		Description: "Pollcast: which poller owns which source",
		TTL:         c.LeaseTime,
		Replicas:    c.Replicas,
		Placement:   c.Placement.placement(),
		Storage:     jetstream.FileStorage, // a restart of NATS must not free every lease at once
	})
	if err != nil {
		return nil, fmt.Errorf("create or update bucket %s: %w", n.LeaseBucket(), err)
	}
	return kv, nil
}

// StreamState is what a reader needs to know of the stream.
type StreamState struct {
	// Epoch identifies the stream. A stream that was deleted and created again has
	// another epoch. Sequence numbers of two epochs must never be compared.
	Epoch             string
	FirstSeq, LastSeq uint64
	History           int64 // messages kept per subject; 0 or less means no limit
}

// ErrNoStream means that no poller has created the stream yet.
var ErrNoStream = errors.New("the stream does not exist yet; a poller creates it")

// errNoLeader means that the answer came from a server that knows no leader of
// the stream. What it answers may be old. (In NATS, jsStreamInfoRequest answers
// for a group without a leader.)
var errNoLeader = errors.New("the stream has no leader")

// State reads the stream's state. The error wraps ErrTooOld if the server lacks
// what reading the stream needs, and ErrOtherPrefix if the stream of this name
// belongs to another prefix.
func State(ctx context.Context, js jetstream.JetStream, n Names) (StreamState, error) {
	if err := recent(js.Conn()); err != nil {
		return StreamState{}, err
	}
	s, err := js.Stream(ctx, n.Stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return StreamState{}, fmt.Errorf("stream %s: %w", n.Stream(), ErrNoStream)
	}
	if err != nil {
		return StreamState{}, fmt.Errorf("look up stream %s: %w", n.Stream(), err)
	}
	info := s.CachedInfo()
	if err := n.checkOwner(info.Config); err != nil {
		return StreamState{}, err
	}
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return StreamState{}, errNoLeader
	}
	return stateOf(info), nil
}

func stateOf(i *jetstream.StreamInfo) StreamState {
	return StreamState{
		Epoch:    strconv.FormatInt(i.Created.UnixNano(), 36),
		FirstSeq: i.State.FirstSeq,
		LastSeq:  i.State.LastSeq,
		History:  i.Config.MaxMsgsPerSubject,
	}
}
