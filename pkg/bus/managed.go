package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a stream or a bucket that is not as Pollcast needs it.
var (
	// ErrOtherPrefix means that the stream of this name stores the subjects of
	// another prefix. Such a stream is never altered.
	ErrOtherPrefix = errors.New("it belongs to another prefix or program; choose another nats.prefix")
	// ErrManaged means that somebody else manages the stream or the bucket
	// (nats.manage is false), and that it lacks something.
	ErrManaged = errors.New("whoever manages it has to change that (nats.manage is false)")
)

// Placement is where in a cluster of clusters the stream and the bucket are.
type Placement struct {
	Cluster string   `yaml:"cluster" doc:"name of the cluster; empty: where the first poller is connected"`
	Tags    []string `yaml:"tags" doc:"tags that the servers must have (server_tags)"`
}

// placement is nil where nothing is configured.
func (p Placement) placement() *jetstream.Placement {
	if p.Cluster == "" && len(p.Tags) == 0 {
		return nil
	}
	return &jetstream.Placement{Cluster: p.Cluster, Tags: p.Tags}
}

// checkOwner refuses a stream that stores other subjects than those of the prefix,
// such as those of a prefix that differs in case. A mirror stores no subjects of its
// own.
func (n Names) checkOwner(c jetstream.StreamConfig) error {
	if c.Mirror != nil || slices.ContainsFunc(c.Subjects, func(s string) bool { return covers(s, n.InAll()) }) {
		return nil
	}
	return fmt.Errorf("stream %s stores %s and not %s: %w",
		n.Stream(), strings.Join(c.Subjects, ", "), n.InAll(), ErrOtherPrefix)
}

// covers reports whether a pattern matches each subject that another pattern
// matches.
func covers(pattern, other string) bool {
	p, o := strings.Split(pattern, "."), strings.Split(other, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return true
		case i >= len(o), o[i] == ">", token != "*" && token != o[i]:
			return false
		}
	}
	return len(p) == len(o)
}

// checkStream compares the stream with what is needed, without altering it.
func (n Names) checkStream(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, n.Stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s does not exist: %w", n.Stream(), ErrManaged)
	}
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", n.Stream(), err)
	}
	have := s.CachedInfo().Config
	if err := n.checkOwner(have); err != nil {
		return nil, err
	}
	if lacks := n.lacks(have, n.StreamConfig(c)); len(lacks) > 0 {
		return nil, fmt.Errorf("stream %s: %s: %w", n.Stream(), strings.Join(lacks, "; "), ErrManaged)
	}
	return s, nil
}

// lacks returns what a stream lacks, one text for each difference. Size, age on
// disk, copies, place and description are for the manager to choose.
func (n Names) lacks(have, want jetstream.StreamConfig) (lacks []string) {
	need := func(ok bool, format string, args ...any) {
		if !ok {
			lacks = append(lacks, fmt.Sprintf(format, args...))
		}
	}
	need(have.Mirror == nil, "it is a mirror, which takes no records")
	need(!have.Sealed, "it is sealed")
	need(!have.NoAck, "it acknowledges nothing (no_ack)")
	need(have.Retention == jetstream.LimitsPolicy, "its retention is %v, needed is limits", have.Retention)
	need(have.Discard == jetstream.DiscardOld, "it discards new messages, needed is discard old")
	need(have.MaxAge == 0, "messages vanish after %v (max_age), needed is no limit", have.MaxAge)
	need(have.SubjectTransform == nil, "it transforms subjects")
	need(have.AllowDirect, "it takes no direct gets (allow_direct)")
	need(have.AllowMsgTTL, "its messages have no TTL (allow_msg_ttl)")
	need(have.AllowRollup, "it takes no rollups (allow_rollup_hdrs)")
	need(have.AllowAtomicPublish || !want.AllowAtomicPublish, "it takes no batches (allow_atomic)")
	need(have.AllowMsgSchedules || !want.AllowMsgSchedules, "it takes no schedules (allow_msg_schedules)")
	need(have.Duplicates >= want.Duplicates, "it knows duplicates for %v, needed are %v (duplicate_window)",
		have.Duplicates, want.Duplicates)
	need(have.MaxMsgsPerSubject <= 0 || have.MaxMsgsPerSubject >= want.MaxMsgsPerSubject,
		"it keeps %d messages per subject, nats.history is %d (max_msgs_per_subject)",
		have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	r := have.RePublish
	need(r != nil && !r.HeadersOnly && r.Source == want.RePublish.Source && r.Destination == want.RePublish.Destination,
		"it does not republish %s on %s", want.RePublish.Source, want.RePublish.Destination)
	return lacks
}

// checkLeases compares the bucket of the leases with what is needed, without
// altering it.
func (n Names) checkLeases(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	fail := func(err error) (jetstream.KeyValue, error) {
		return nil, fmt.Errorf("bucket %s: %w", n.LeaseBucket(), err)
	}
	kv, err := js.KeyValue(ctx, n.LeaseBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return fail(fmt.Errorf("it does not exist: %w", ErrManaged))
	}
	if err != nil {
		return fail(err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return fail(err)
	}
	if ttl := status.TTL(); ttl != c.LeaseTime {
		return fail(fmt.Errorf("entries vanish after %v (0s: never), nats.leaseTime is %v: %w",
			ttl, c.LeaseTime, ErrManaged))
	}
	return kv, nil
}
