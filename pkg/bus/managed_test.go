package bus_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// streamConfig reads the configuration of the stream.
func streamConfig(t *testing.T, js jetstream.JetStream) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), names(t).Stream())
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// A stream that stores the subjects of another prefix is refused and not altered:
// two deployments would change it to and fro.
func TestAnotherPrefixIsRefused(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"Pollcast.in.>", "orders.>", "pollcast.in.a.>"} {
		s := bustest.Start(t)
		js, err := jetstream.New(s.Connect())
		if err != nil {
			t.Fatal(err)
		}
		other := jetstream.StreamConfig{Name: "POLLCAST", Subjects: []string{subject}}
		if _, err := js.CreateStream(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		before, unmanaged := streamConfig(t, js), s.Config()
		unmanaged.Manage = false
		_, ensure := bus.EnsureStream(t.Context(), js, names(t), s.Config())
		_, compare := bus.EnsureStream(t.Context(), js, names(t), unmanaged)
		_, read := bus.State(t.Context(), js, names(t))
		want := "stream POLLCAST stores " + subject + " and not pollcast.in.>: it belongs to another prefix"
		for _, err := range []error{ensure, compare, read} {
			if !errors.Is(err, bus.ErrOtherPrefix) || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: have %v, want %s", subject, err, want)
			}
		}
		if now := streamConfig(t, js); !reflect.DeepEqual(now, before) {
			t.Errorf("%s: the stream was altered: %+v", subject, now)
		}
	}
}

// A stream and a bucket that somebody else manages are compared with what is needed.
// Each difference is reported, and nothing is altered.
func TestAManagedStreamIsNotAltered(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	js, err := jetstream.New(s.Connect())
	if err != nil {
		t.Fatal(err)
	}
	n, c := names(t), s.Config()
	c.Manage = false
	ensure := func() error {
		_, err := bus.EnsureStream(t.Context(), js, n, c)
		return err
	}
	err = ensure()
	if !errors.Is(err, bus.ErrManaged) || !strings.Contains(err.Error(), "stream POLLCAST does not exist") {
		t.Errorf("no stream: %v", err)
	}
	for _, tt := range []struct {
		change func(*jetstream.StreamConfig)
		want   []string // none: it is good
	}{
		{func(c *jetstream.StreamConfig) {
			c.Description, c.MaxBytes, c.MaxMsgsPerSubject, c.Storage = "ours", 1<<20, -1, jetstream.MemoryStorage
			c.Subjects = append(c.Subjects, "other")
		}, nil},
		{func(c *jetstream.StreamConfig) { c.AllowDirect = false }, []string{"it takes no direct gets (allow_direct)"}},
		{func(c *jetstream.StreamConfig) { c.AllowRollup = false }, []string{"it takes no rollups"}},
		{func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false }, []string{"its messages have no TTL"}},
		{func(c *jetstream.StreamConfig) { c.RePublish = nil }, []string{
			"it does not republish pollcast.in.> on pollcast.live.>",
		}},
		{func(c *jetstream.StreamConfig) { c.RePublish.HeadersOnly = true }, []string{"it does not republish"}},
		{func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }, []string{"needed is discard old"}},
		{func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, []string{"its retention is Interest"}},
		{func(c *jetstream.StreamConfig) { c.NoAck = true }, []string{"it acknowledges nothing"}},
		{func(c *jetstream.StreamConfig) {
			c.MaxMsgsPerSubject, c.MaxAge, c.Duplicates = 8, time.Hour, time.Second
		}, []string{
			"it keeps 8 messages per subject, nats.history is 64", "messages vanish after 1h0m0s",
			"it knows duplicates for 1s, needed are 2m0s",
		}},
	} {
		_ = js.DeleteStream(t.Context(), n.Stream()) // there is none at first
		config := n.StreamConfig(c)
		tt.change(&config)
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		before, err := streamConfig(t, js), ensure()
		if (err == nil) != (tt.want == nil) || err != nil && !errors.Is(err, bus.ErrManaged) {
			t.Errorf("want %q, have %v", tt.want, err)
		}
		for _, want := range tt.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("want %s, have %v", want, err)
			}
		}
		if now := streamConfig(t, js); !reflect.DeepEqual(now, before) {
			t.Errorf("the stream was altered: %+v", now)
		}
	}
}

// The bucket of the leases is compared in the same way.
func TestAManagedBucketIsNotAltered(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	js, err := jetstream.New(s.Connect())
	if err != nil {
		t.Fatal(err)
	}
	n, c := names(t), s.Config()
	c.Manage = false
	for _, tt := range []struct {
		ttl  time.Duration // -1: there is no bucket
		want string
	}{
		{-1, "bucket pollcast_leases: it does not exist"},
		{0, "entries vanish after 0s (0s: never), nats.leaseTime is 10s"},
		{time.Minute, "entries vanish after 1m0s"},
		{c.LeaseTime, ""},
	} {
		if tt.ttl >= 0 {
			_ = js.DeleteKeyValue(t.Context(), n.LeaseBucket()) // there is none at first
			config := jetstream.KeyValueConfig{Bucket: n.LeaseBucket(), TTL: tt.ttl}
			if _, err := js.CreateKeyValue(t.Context(), config); err != nil {
				t.Fatal(err)
			}
		}
		_, err := bus.EnsureLeases(t.Context(), js, n, c)
		reported := errors.Is(err, bus.ErrManaged) && strings.Contains(err.Error(), tt.want)
		if tt.want == "" && err != nil || tt.want != "" && !reported {
			t.Errorf("ttl %v: have %v, want %q", tt.ttl, err, tt.want)
		}
	}
}

// The stream and the bucket are placed as configured, and a changed configuration
// changes them.
func TestPlacement(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t)
	_, js, n := s.JetStream()
	c := s.Config()
	c.Placement = bus.Placement{Tags: []string{"ssd"}}
	c.Check(func(path, problem, fix string) { t.Errorf("%s: %s", path, problem) })
	if _, err := bus.EnsureStream(t.Context(), js, n, c); err != nil {
		t.Fatal(err)
	}
	if have := streamConfig(t, js).Placement; have == nil || len(have.Tags) != 1 || have.Tags[0] != "ssd" {
		t.Errorf("the stream's placement is %+v", have)
	}
	if _, err := bus.EnsureLeases(t.Context(), js, n, c); err != nil {
		t.Fatal(err)
	}
	bucket, err := js.Stream(t.Context(), "KV_"+n.LeaseBucket())
	if err != nil {
		t.Fatal(err)
	}
	if have := bucket.CachedInfo().Config.Placement; have == nil || len(have.Tags) != 1 {
		t.Errorf("the bucket's placement is %+v", have)
	}
	report := ""
	c.Manage = false
	c.Check(func(path, problem, fix string) { report += path + ": " + problem })
	if !strings.Contains(report, "placement: pollers do not place a stream that they do not manage") {
		t.Errorf("the check reports %q", report)
	}
}

// A poller that starts again finds its stream, also on a server whose storage holds
// no second one: NATS compares a new stream with the free storage before its name.
func TestTheStreamFillsTheStorage(t *testing.T) {
	t.Parallel()
	c := bus.DefaultConfig()
	s := bustest.StartLimited(t, int64(c.MaxBytes)+1<<20)
	js, err := jetstream.New(s.Connect())
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"the first time", "again"} {
		if _, err := bus.EnsureStream(t.Context(), js, names(t), s.Config()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}
